"""The transformer: its masks, its first outputs, and a cache that gives what one forward pass gives."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from kinema.nn.attention import AttentionAxis
from kinema.nn.rotary import grid, rotary_table
from kinema.nn.transformer import AttentionKind, Block, Causal, Transformer

FRAMES, CELLS = 3, 4
POSITIONS = grid(FRAMES, 2, 2)
TIME = POSITIONS[:, 0]
EARLIER = TIME[:, None] >= TIME
MODES: dict[str, tuple[AttentionKind, Causal, Tensor]] = {  # and which token may depend on which
    "full": ("full", None, torch.ones(12, 12).bool()),
    "full-frames": ("full", "frames", EARLIER),
    "full-tokens": ("full", "tokens", torch.ones(12, 12).bool().tril()),
    "factorised": ("factorised", None, torch.ones(12, 12).bool()),
    "factorised-frames": ("factorised", "frames", EARLIER),
}
mode = pytest.mark.parametrize(("kind", "causal", "sees"), MODES.values(), ids=MODES)
causal_mode = pytest.mark.parametrize(
    ("kind", "causal", "sees"), [v for v in MODES.values() if v[1]], ids=[k for k, v in MODES.items() if v[1]]
)


def awake(module: nn.Module) -> nn.Module:
    """The module with random values in the place of parameters that are zero at first."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return module


def tiny(kind: AttentionKind, causal: Causal, conditioned: bool = True, depth: int = 2) -> Transformer:
    torch.manual_seed(0)
    transformer = awake(Transformer(16, depth, 2, kind, causal, conditioned))
    assert isinstance(transformer, Transformer)
    return transformer


@mode
def test_tokens_depend_on_those_they_may_attend_to(kind: AttentionKind, causal: Causal, sees: Tensor) -> None:
    transformer, x, condition = tiny(kind, causal), torch.randn(1, 12, 16), torch.randn(1, FRAMES, 16)
    jacobian = torch.autograd.functional.jacobian(lambda *a: transformer(a[0], POSITIONS, a[1], FRAMES), (x, condition))
    on_tokens, on_conditions = (j.abs().sum((0, 2, 3, 5)) > 0 for j in jacobian)  # [12, 12] and [12, FRAMES]
    assert torch.equal(on_tokens, sees)
    assert torch.equal(on_conditions, sees.unflatten(1, (FRAMES, CELLS)).any(2))


@causal_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_the_future_does_not_leak(
    kind: AttentionKind, causal: Causal, sees: Tensor, dtype: torch.dtype, training: bool
) -> None:
    transformer, condition = tiny(kind, causal), torch.randn(2, FRAMES, 16)
    x = torch.randn(2, 12, 16)
    other, other_condition = x.clone(), condition.clone()
    other[:, -CELLS:], other_condition[:, -1:] = 50 * torch.randn(2, CELLS, 16), torch.randn(2, 1, 16)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32), torch.set_grad_enabled(training):
        before = transformer(x, POSITIONS, condition, FRAMES)
        after = transformer(other, POSITIONS, other_condition, FRAMES)
    assert torch.equal(before[:, :-CELLS], after[:, :-CELLS])
    assert not torch.equal(before[:, -CELLS:], after[:, -CELLS:])


CHUNKS: list[tuple[AttentionKind, Causal, list[int]]] = [
    ("full", "tokens", [1] * 12),
    ("full", "tokens", [5, *[1] * 7]),  # after a text
    ("full", "tokens", [4, 4, 4]),
    ("full", "frames", [4, 4, 4]),
    ("full", "frames", [8, 4]),
    ("full", "frames", [4, 8]),
    ("factorised", "frames", [4, 4, 4]),
    ("factorised", "frames", [8, 4]),
    ("factorised", "frames", [4, 8]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "causal", "sizes"), CHUNKS)
def test_extending_a_cache_equals_one_forward(
    kind: AttentionKind, causal: Causal, sizes: list[int], dtype: torch.dtype
) -> None:
    transformer = tiny(kind, causal, conditioned=causal == "frames", depth=4).eval()
    x, condition = torch.randn(2, 12, 16), torch.randn(2, FRAMES, 16) if causal == "frames" else None
    cache, pieces, begin = None, [], 0
    with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
        whole = transformer(x, POSITIONS, condition, FRAMES)
        for size in sizes:
            chunk, given = slice(begin, begin + size), None
            if condition is not None:
                given = condition[:, begin // CELLS : (begin + size) // CELLS]
                transformer.extend(torch.randn(2, size, 16), POSITIONS[chunk], cache, given, size // CELLS)  # a trial
            piece, cache = transformer.extend(x[:, chunk], POSITIONS[chunk], cache, given, size // CELLS)
            pieces.append(piece)
            begin += size
    error = (torch.cat(pieces, 1) - whole).abs()
    assert error.max() < (1e-5 if dtype == torch.float32 else 0.15)
    assert error.mean() < (1e-6 if dtype == torch.float32 else 0.02)


def test_local_convolutions_see_the_neighbours_of_their_frame() -> None:
    frames, height, width = 2, 3, 4
    x = torch.randn(1, frames * height * width, 16, generator=torch.Generator().manual_seed(0))
    positions = grid(frames, height, width)
    transformer = Transformer(16, 1, 2, local_conv=True)
    block = transformer.blocks[0]
    assert isinstance(block, Block) and block.local_conv is not None
    with torch.no_grad():
        block.attention.out.weight.zero_()  # so that only the convolution mixes tokens
        block.attention.out.bias.zero_()
        before = transformer(x, positions, frames=frames, height=height)
        other = x.clone()
        other[:, 5, :3] += 1  # row 1, column 1 of the first frame
        assert changed(before, transformer(other, positions, frames=frames, height=height)) == {5}  # it starts at zero
        block.local_conv.weight.fill_(0.1)
        before = transformer(x, positions, frames=frames, height=height)
        seen = changed(before, transformer(other, positions, frames=frames, height=height))
    assert seen == {0, 1, 2, 4, 5, 6, 8, 9, 10}


def changed(before: Tensor, after: Tensor) -> set[int]:
    """The tokens that differ."""
    return set(((before - after).abs().amax(2)[0] > 1e-6).nonzero().flatten().tolist())


def test_a_transformer_that_is_not_causal_cannot_extend() -> None:
    with pytest.raises(ValueError, match="build the transformer causal"):
        tiny("full", None).extend(torch.randn(1, 12, 16), POSITIONS, None, torch.randn(1, 1, 16))


@pytest.mark.parametrize("over", ["all", "space", "time"])
def test_a_conditioned_block_begins_as_the_identity(over: AttentionAxis) -> None:
    x, condition = torch.randn(2, 12, 16), torch.randn(2, FRAMES, 16)
    transformer = Transformer(16, 2, 2, "full" if over == "all" else "factorised", conditioned=True)
    block = transformer.blocks[transformer.overs.index(over)]
    table, modulation = rotary_table(POSITIONS, 8), torch.zeros(2, FRAMES, 6 * 16)
    assert torch.equal(block(x, table, None, FRAMES, modulation)[0], x)
    assert not torch.equal(awake(block)(x, table, None, FRAMES, modulation)[0], x)
    expected = nn.functional.layer_norm(x, (16,))
    torch.testing.assert_close(
        Transformer(16, 2, 2, conditioned=True)(x, POSITIONS, condition), expected, atol=1e-6, rtol=0
    )


def test_conditioning_is_the_papers() -> None:
    """Figure 3 of arXiv 2212.09748, for one token, which attends to itself alone; section 2.3 of arXiv 2310.00426."""
    transformer = tiny("full", None, depth=1)
    (block,) = transformer.blocks
    assert isinstance(block, Block) and block.modulation is not None and transformer.modulation is not None
    x, condition = torch.randn(2, 1, 16), torch.randn(2, 1, 16)
    norm, c = nn.LayerNorm(16, elementwise_affine=False), condition * condition.sigmoid()
    shared, last = transformer.modulation(c).split((6 * 16, 2 * 16), -1)
    b1, g1, a1, b2, g2, a2 = (shared + block.modulation).chunk(6, -1)
    h = x + a1 * block.attention.out(((1 + g1) * norm(x) + b1) @ block.attention.qkv.weight[32:].T)
    h = h + a2 * block.mlp((1 + g2) * norm(h) + b2)
    b, g = last.chunk(2, -1)
    actual = transformer(x, torch.zeros(1, 3), condition)
    torch.testing.assert_close(actual, (1 + g) * norm(h) + b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["full", "factorised"])
def test_a_condition_applies_to_its_group(kind: AttentionKind) -> None:
    transformer, x = tiny(kind, None), torch.randn(2, 12, 16)
    of_frames, of_all = torch.randn(2, FRAMES, 16), torch.randn(2, 1, 16)
    for condition, of_tokens in (
        (of_frames, of_frames.repeat_interleave(CELLS, 1)),
        (of_all, of_all.expand(-1, 12, -1)),
    ):
        grouped, each = (transformer(x, POSITIONS, c, FRAMES) for c in (condition, of_tokens))
        torch.testing.assert_close(grouped, each, atol=1e-5, rtol=0)


@mode
@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_reaches_all_parameters(
    kind: AttentionKind, causal: Causal, sees: Tensor, conditioned: bool, dtype: torch.dtype
) -> None:
    transformer = tiny(kind, causal, conditioned)
    condition = torch.randn(2, FRAMES, 16) if conditioned else None
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = transformer(torch.randn(2, 12, 16).to(dtype), POSITIONS, condition, FRAMES)
    assert out.dtype == torch.float32
    (out * torch.randn_like(out)).sum().backward()
    assert [n for n, p in transformer.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("depth", [2, 32])
def test_what_blocks_add_keeps_its_scale_with_depth(depth: int) -> None:
    torch.manual_seed(0)
    transformer, seen = Transformer(64, depth, 4), []
    transformer.norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    transformer(torch.randn(2, 64, 64), grid(4, 4, 4))
    assert 1.0 < seen[0].std() < 1.6


def test_settings_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="an even depth"):
        Transformer(16, 3, 2, "factorised")
    with pytest.raises(ValueError, match="causal in frames or not at all"):
        Transformer(16, 2, 2, "factorised", "tokens")


COMPILED = """
import sys
import torch
from kinema.nn.rotary import grid
from kinema.nn.transformer import Transformer

try:
    torch.compile(lambda x: x + 1)(torch.ones(2))
except Exception as error:
    sys.exit(f"nothing can be compiled here: {type(error).__name__}")
x, positions, condition = torch.randn(2, 12, 16), grid(3, 2, 2), torch.randn(2, 3, 16)
for kind, causal in (("full", "frames"), ("factorised", "frames")):
    transformer = Transformer(16, 2, 2, kind, causal, conditioned=True)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    compiled = torch.compile(transformer, fullgraph=True)
    for player in (transformer, compiled):
        player.zero_grad()
        out = player(x, positions, condition, 3)
        out.square().sum().backward()
        results = out.detach(), transformer.blocks[0].attention.gain.grad
        if player is transformer:
            expected = results
    torch.testing.assert_close(results, expected, atol=1e-4, rtol=1e-4)
"""


@pytest.mark.slow
def test_it_compiles() -> None:
    """In a process of its own, as the checks of shapes under pytest are not what users compile."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    if done.stderr.startswith("nothing can be compiled here"):
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
