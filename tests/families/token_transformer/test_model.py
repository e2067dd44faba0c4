"""Token transformer: its losses are likelihoods, its samples follow them, and the cache changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.config import to_dict
from kinema.experiment import Experiment
from kinema.families.token_transformer.model import TokenTransformer, TokenTransformerConfig, TokenTransformerSampling
from kinema.families.token_transformer.tokens import token_nll
from kinema.nn.transformer import Caches
from kinema.runtime.device import Runtime
from kinema.sampling.model import caption, stream
from kinema.training.latents import BLOCK, SEED, LatentSource
from kinema.training.loop import Trainer
from kinema.types import Batch, ClipSpec, Conditions, Seeds, TrainStep
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import load_codec

CPU = Runtime(torch.device("cpu"), torch.float32)
SMALL = TokenTransformerConfig(hidden=16, depth=2, heads=2)
LEVELS = (4, 5, 3)
V, N = 3, 3  # of the smallest
MODES = pytest.mark.parametrize("mode", ["autoregressive", "masked"])
STEPS = TokenTransformerSampling(steps=3)


def built(config: TokenTransformerConfig, codec: VideoVAEConfig, spec: ClipSpec) -> TokenTransformer:
    """A model with random weights, large enough for inputs to have an effect."""
    torch.manual_seed(0)
    fitted = config.with_codec({"name": "video-vae", **to_dict(codec)}, spec).fitted(spec)
    family = fitted.build().eval()
    assert isinstance(family, TokenTransformer)
    for parameter in family.parameters():
        if parameter.ndim > 1:
            parameter.data *= 2
    return family


def smallest(**settings: Any) -> TokenTransformer:
    """A model of N tokens in time, of V values."""
    return built(replace(SMALL, **settings), VideoVAEConfig(space=8, time=1, hidden=4, levels=(V,)), ClipSpec(N, 8, 8))


def small(**settings: Any) -> TokenTransformer:
    """A model of clips of 9 frames, 16x32, as 3x4x8 tokens of 60 values, with two classes."""
    codec = VideoVAEConfig(space=4, time=4, hidden=4, levels=LEVELS)
    return built(replace(SMALL, **settings), codec, ClipSpec(9, 16, 32, classes=("up", "left")))


def cost(family: TokenTransformer) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The cross-entropies of tokens, without conditions."""

    @torch.no_grad()
    def of(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return token_nll(family.generator(tokens, *family._inputs(None, None, len(tokens)), mask)[0], tokens)

    return of


def clips(count: int, frames: int = 9) -> Tensor:
    return ShapeMotion(frames, 16, 32).batch(0, count, seed=1).to(CPU.device).frames


def sample(
    family: TokenTransformer,
    seeds: Seeds,
    frames: int = 9,
    conditions: Conditions = Conditions(),
    runtime: Runtime = CPU,
) -> Tensor:
    return torch.cat(list(stream(family, runtime, seeds, frames, conditions)), 1)


def tokens_of(family: TokenTransformer, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return family.generator.fsq.tokens(family.codec.encode(frames)[0])


EVERY = torch.tensor(list(product(range(V), repeat=N)))  # [27, 3]
MASKS = torch.tensor(list(product((False, True), repeat=N)))[1:]  # [7, 3]


def test_the_likelihood_of_all_sequences_is_one() -> None:
    likelihood = (-cost(smallest())(EVERY, None).sum(1)).exp()
    assert likelihood.sum().item() == pytest.approx(1, abs=1e-5)
    assert likelihood.max() > 2 * likelihood.min()  # not all alike


def test_the_autoregressive_loss_is_the_likelihood() -> None:
    family = smallest(dropout=0.0)
    codes = family.generator.fsq.codes(EVERY[:, :, None, None])
    loss, scalars = family._loss(Batch(torch.empty(27, 0, 3, 8, 8), latents=codes), TrainStep.from_seed(0))
    torch.testing.assert_close(loss, cost(family)(EVERY, None).mean())
    assert scalars["bits"].item() == pytest.approx(loss.item() / math.log(2))


def bound(of: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
    """The bound of every sequence: the mean over masked tokens; all their numbers, and masks of a number, as likely."""
    each = torch.stack([of(EVERY, mask.expand(27, -1))[:, mask].mean(1) for mask in MASKS], 1)  # [27, 7]
    many = MASKS.sum(1)
    return N * torch.stack([each[:, many == count].mean(1) for count in range(1, N + 1)], 1).mean(1)


def test_the_bound_is_a_bound() -> None:
    """Against the likelihood under a random order of sampling, summed over all orders."""
    of = cost(smallest(mode="masked"))
    likelihood = torch.zeros(27)
    for order in permutations(range(N)):
        mask, log = torch.ones(N, dtype=torch.bool), torch.zeros(27)
        for place in order:
            log -= of(EVERY, mask.expand(27, -1))[:, place]
            mask[place] = False
        likelihood += log.exp() / math.factorial(N)
    assert likelihood.sum().item() == pytest.approx(1, abs=1e-5)
    gap = bound(of) + likelihood.log()
    assert gap.min() > -1e-5 and gap.max() < 1


def test_the_masked_loss_estimates_the_bound() -> None:
    """For a model that has learned a little, whose cost grows with the number of masked tokens."""
    family, still = smallest(mode="masked", dropout=0.0), torch.arange(V)[:, None].expand(-1, N)
    codes = family.generator.fsq.codes(still.repeat(8, 1)[:, :, None, None])
    learn(family, Batch(torch.empty(24, 0, 3, 8, 8), latents=codes), 30, 1e-2)
    of, many = cost(family), Batch(torch.empty(9600, 0, 3, 8, 8), latents=codes.repeat(400, 1, 1, 1, 1))
    with torch.no_grad():
        loss, scalars = family._loss(many, TrainStep.from_seed(0))
    each = torch.stack([of(still, mask.expand(V, -1))[:, mask].mean() for mask in MASKS])
    of_numbers = torch.stack([each[MASKS.sum(1) == count].mean() for count in range(1, N + 1)])
    u = (torch.arange(100_000) + 0.5) / 100_000
    share = (N * (math.pi / 2 * u).cos()).ceil().long().bincount(minlength=N + 1)[1:] / len(u)
    assert (share * of_numbers).sum() > 1.2 * of_numbers.mean()
    assert scalars["bits"].item() * math.log(2) == pytest.approx(of_numbers.mean().item(), rel=0.02)
    assert loss.item() == pytest.approx((share * of_numbers).sum().item(), rel=0.02)


def test_captions_and_videos_have_positions_of_their_own() -> None:
    network = small(text=5).generator  # 7 tokens of a caption, and a label and 3x4x8 of a video
    caption_first, video_first = network.text_first.tolist(), network.text_last.tolist()
    assert caption_first[:7] == [[k, k, k] for k in range(7)] and caption_first[7] == [7, 7, 7]
    assert (caption_first[8], caption_first[-1]) == ([8, 8, 8], [10, 11, 15])
    assert (video_first[0], video_first[1], video_first[96]) == ([0, 0, 0], [1, 1, 1], [3, 4, 8])
    assert video_first[97:] == [[k, k, k] for k in range(9, 16)]


def test_tokens_are_sampled_by_their_likelihood() -> None:
    family, draws = smallest(), 3000
    likelihood = (-cost(smallest())(EVERY, None).sum(1)).exp()
    with torch.inference_mode():
        window = torch.empty(draws, 0, 1, dtype=torch.int64)
        inputs, noise = family._inputs(None, None, draws), Seeds(tuple(range(draws))).stream("tokens")
        found = torch.cat(list(family._autoregressive(window, window, inputs, noise, draws, lambda: None)), 1)
    counts = (found[..., 0] * torch.tensor([9, 3, 1])).sum(1).bincount(minlength=27)
    expected = draws * likelihood
    assert ((counts - expected).square() / expected).sum() < 54.1  # chi-square, 26 degrees of freedom: 0.1 %


def recomputing(family: TokenTransformer, seen: list[Tensor]) -> Callable[..., tuple[Tensor, Any]]:
    """The transformer's `extend` by `forward` of all inputs so far; `seen` gets its outputs."""
    transformer = family.generator.transformer

    def extend(x: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        inputs, places = (
            (x, positions) if cache is None else (torch.cat([cache[0], x], 1), torch.cat([cache[1], positions]))
        )
        out = transformer(inputs, places)[:, -x.shape[1] :]
        seen.append(out[:, -1])
        return out, (inputs, places)

    return extend


@pytest.mark.parametrize("settings", [{}, {"text": 5}, {"sampling": TokenTransformerSampling(guidance=2.5, top_k=40)}])
def test_the_cache_changes_nothing(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    family = small(**settings)
    transformer = family.generator.transformer
    cached: list[Tensor] = []
    original = transformer.extend

    def extend(x: Tensor, positions: Tensor, cache: Caches | None) -> tuple[Tensor, Caches]:
        out, cache = original(x, positions, cache)
        cached.append(out[:, -1])
        return out, cache

    conditions = Conditions(text=("über",)) if family.config.text else Conditions(label=torch.tensor([1]))
    monkeypatch.setattr(transformer, "extend", extend)
    fast = sample(family, Seeds((3,)), 13, conditions)
    plain: list[Tensor] = []
    monkeypatch.setattr(transformer, "extend", recomputing(family, plain))
    slow = sample(family, Seeds((3,)), 13, conditions)
    assert len(cached) == len(plain) == (3 + 1) * 32  # two windows, of which the second continues the first
    torch.testing.assert_close(torch.stack(cached), torch.stack(plain), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


@MODES
def test_guidance_of_one_is_none_and_another_is_the_formula(mode: str) -> None:
    family, other = (small(mode=mode, sampling=STEPS) for _ in range(2))
    conditions, seeds = Conditions(label=torch.tensor([0])), Seeds((0,))
    other.sampling = replace(STEPS, guidance=1.0)
    plain = sample(family, seeds, 9, conditions)
    assert torch.equal(plain, sample(other, seeds, 9, conditions))
    other.sampling = replace(STEPS, guidance=6.0)
    assert not torch.equal(plain, sample(other, seeds, 9, conditions))
    conditional, free = torch.randn(2, 3, 60), torch.randn(2, 3, 60)
    torch.testing.assert_close(other._filtered(torch.cat([conditional, free])), free + 6 * (conditional - free))
    other.sampling = replace(STEPS, guidance=0.0)
    unconditional = [sample(other, seeds, 9, Conditions(label=torch.tensor([k]))) for k in (0, 1)]
    assert torch.equal(*unconditional)  # the label has no effect
    none, window = torch.tensor([2]), torch.empty(1, 0, 32, dtype=torch.int64)
    with torch.inference_mode():
        draw = family._autoregressive if mode == "autoregressive" else family._masked
        inputs, noise = family._inputs(none, None, 1), seeds.stream("tokens", 0)
        tokens = torch.cat(list(draw(window, window, inputs, noise, 1, lambda: None)), 1)
        expected, _ = family.codec.decode(family.generator.fsq.codes(tokens.unflatten(2, (4, 8))))
    torch.testing.assert_close(unconditional[0], expected, atol=1e-5, rtol=0)


def test_guidance_without_dropped_conditions_is_an_error() -> None:
    family = small(dropout=0.0, sampling=TokenTransformerSampling(guidance=2.0))
    with pytest.raises(ValueError, match="guidance needs labels"):
        sample(family, Seeds((0,)))
    with pytest.raises(ValueError, match="guidance needs labels"):
        next(smallest(sampling=TokenTransformerSampling(guidance=2.0)).generate(Conditions(), 3, Seeds((0,))))


@MODES
def test_long_videos_are_sampled_in_windows(mode: str) -> None:
    family = small(mode=mode, sampling=STEPS)
    chunks = list(stream(family, CPU, Seeds((0, 1)), 31))
    lengths = [1, *[4] * 7, 2] if mode == "autoregressive" else [9, *[4] * 5, 2]  # 2 of 3 latents are context
    assert [chunk.shape[1] for chunk in chunks] == lengths
    longer = sample(family, Seeds((0, 1)), 40)
    torch.testing.assert_close(longer[:, :31], torch.cat(chunks, 1), atol=1e-5, rtol=0)


def test_known_first_frames_are_continued() -> None:
    family, frames = small(), clips(2, 9)
    for count in (1, 5, 9):
        conditions = Conditions().with_first_frames(frames[:, :count])
        made = sample(family, Seeds((0, 1)), 17, conditions)
        with torch.no_grad():
            own, _ = family.codec.decode(family.codec.encode(frames[:, :count])[0])
        torch.testing.assert_close(made[:, :count], own, atol=1e-5, rtol=0)
        other = sample(family, Seeds((2, 3)), 17, conditions)
        assert torch.equal(other[:, :count], made[:, :count]) and not torch.equal(other[:, count:], made[:, count:])
    long = Conditions().with_first_frames(clips(2, 17))
    few = sample(family, Seeds((0, 1)), 3, long)
    with torch.no_grad():
        own, _ = family.codec.decode(family.codec.encode(clips(2, 17))[0])
    torch.testing.assert_close(few, own[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(sample(family, Seeds((0, 1)), 21, long)[:, :17], own, atol=1e-5, rtol=0)


def test_known_tokens_are_in_the_cache() -> None:
    """The tokens sampled after known ones are the likeliest ones given them."""
    family = small(sampling=TokenTransformerSampling(top_k=1))
    frames, network = clips(1, 5), family.generator
    tokens = tokens_of(family, frames).flatten(1)
    label = torch.tensor([1])
    for _ in range(32):
        with torch.no_grad():
            padded = torch.cat([tokens, tokens[:, :1]], 1)  # the last has no effect
            logits, _ = network(padded, *family._inputs(label, None, 1))
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    with torch.no_grad():
        expected, _ = family.codec.decode(network.fsq.codes(tokens.reshape(1, 3, 4, 8)))
    made = sample(family, Seeds((0,)), 9, Conditions(label=label).with_first_frames(frames))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_frames_that_are_no_complete_groups_are_errors() -> None:
    with pytest.raises(ValueError, match="7 frames are not 1 and groups of 4: give 5 or 9"):
        sample(small(), Seeds((0,)), 9, Conditions().with_first_frames(clips(1, 7)))
    mask = torch.zeros(1, 9, 1, 16, 32, dtype=torch.bool)
    mask[:, 8] = True
    with pytest.raises(ValueError, match="TokenTransformer can only go on from the first frames"):
        sample(small(), Seeds((0,)), 9, Conditions(known=clips(1), mask=mask))


def test_masked_models_fill_in_unknown_pixels() -> None:
    family, frames = small(mode="masked", sampling=STEPS), clips(1)
    expected = tokens_of(family, frames)

    def known(mask: Tensor) -> Tensor:
        with torch.no_grad():
            return family._known(Conditions(known=frames, mask=mask.expand(1, 9, 1, 16, 32)), 1).unflatten(2, (4, 8))

    times = torch.arange(9)[:, None, None, None]
    assert torch.equal(known(times >= 0), expected)
    last = known(times >= 6)  # of the last group, frame 5 is not known
    assert (last == -1).all()
    last = known(times >= 5)
    assert (last[:, :2] == -1).all() and (last[:, 2] >= 0).all()
    region = torch.zeros(1, 1, 16, 32, dtype=torch.bool)
    region[..., :9, 5:] = True  # two rows of cells, but for two columns
    cells = known(region) >= 0
    assert cells[:, :, :2, 2:].all() and cells.sum() == 3 * 2 * 6

    conditions = Conditions(known=frames, mask=(times >= 5).expand(1, 9, 1, 16, 32))
    a, b = (sample(family, Seeds((seed,)), 9, conditions) for seed in (0, 1))
    assert not torch.equal(a, b)
    everything = Conditions(known=frames, mask=(times >= 0).expand(1, 9, 1, 16, 32))
    with torch.no_grad():
        own, _ = family.codec.decode(family.codec.encode(frames)[0])
    torch.testing.assert_close(sample(family, Seeds((0,)), 9, everything), own, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="resize the frames"):
        sample(family, Seeds((0, 1)), 9, everything)


def learn(family: TokenTransformer, batch: Batch, steps: int, lr: float) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW(family.generator.parameters(), lr, betas=(0.9, 0.95))
    found = []
    for step in range(steps):
        loss, scalars = family._loss(batch, TrainStep.from_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append({name: value.item() for name, value in scalars.items()})
    return found


@MODES
def test_it_learns(mode: str) -> None:
    """Clips of one token in all frames: two thirds of the tokens follow from those before."""
    family = built(
        replace(SMALL, mode=mode, hidden=32), VideoVAEConfig(space=8, time=1, hidden=4, levels=(V,)), ClipSpec(3, 8, 8)
    )
    codes = family.generator.fsq.codes(torch.arange(3).repeat(8)[:, None, None, None].expand(-1, 3, 1, 1))
    first = learn(family, Batch(torch.empty(24, 0, 3, 8, 8), latents=codes), 60, 1e-2)[0]
    many = Batch(torch.empty(4800, 0, 3, 8, 8), latents=codes.repeat(200, 1, 1, 1, 1))
    with torch.no_grad():
        _, scalars = family._loss(many, TrainStep.from_seed(0))
    assert first["bits"] > 1.2
    assert scalars["bits"].item() == pytest.approx(math.log2(3) / 3, abs=0.05)


CAPTIONS = ("red up", "blü", "", "a green")


def test_captions_are_learned_and_read_back(cpu: Runtime) -> None:
    family = small(text=7, hidden=32)
    tokens = torch.randint(60, (4, 3, 4, 8), generator=torch.Generator().manual_seed(0))
    codes = family.generator.fsq.codes(tokens).repeat(2, 1, 1, 1, 1)  # one half has its caption before, one after
    learn(family, Batch(torch.empty(8, 0, 3, 16, 32), Conditions(text=CAPTIONS * 2), codes), 50, 5e-3)
    frames = clips(4)
    family.codec.encode = lambda *_: (codes[:4], ())  # pyright: ignore[reportAttributeAccessIssue]
    assert caption(family, cpu, frames) == CAPTIONS
    assert caption(family, cpu, frames[:, :9]) == CAPTIONS
    with pytest.raises(ValueError, match="clips of 5 frames cannot be read: give 9"):
        caption(family, cpu, frames[:, :5])


def test_a_caption_decides() -> None:
    for mode in ("autoregressive", "masked"):
        family = small(text=9, mode=mode, sampling=STEPS)
        assert family.accepts == {"text", "known", "mask"}
        made = [sample(family, Seeds((0,)), 9, Conditions(text=(text,))) for text in ("up", "left", "")]
        assert not torch.equal(made[0], made[1])
        assert torch.equal(made[2], sample(family, Seeds((0,))))  # an empty caption is none
        with pytest.raises(ValueError, match="2 captions for 1 clips"):
            sample(family, Seeds((0,)), 9, Conditions(text=("up", "left")))


def test_the_end_of_a_caption_counts_once() -> None:
    family = small(text=6, dropout=0.0)
    text = ("abcdefgh", "abc", "abc", "abcdefgh")
    batch = Batch(clips(4), Conditions(text=text))
    _, scalars = family._loss(batch, TrainStep.from_seed(0))
    network, tokens = family.generator, tokens_of(family, batch.frames).flatten(1)
    with torch.no_grad():
        label, words = family._inputs(None, text, 4)
        video, of_words = network(tokens[2:], label[2:], words[2:], caption=True)
        assert of_words is not None
        costs = token_nll(of_words, words[2:, 1:])
        expected = (costs[0, :4].sum() + costs[1].sum()) / (4 + 7)
        before = network(tokens[:2], label[:2], words[:2])[0]
        of_video = torch.cat([token_nll(before, tokens[:2]), token_nll(video, tokens[2:])])
    assert scalars["caption_bits"].item() == pytest.approx(expected.item() / math.log(2), rel=1e-5)
    assert scalars["bits"].item() == pytest.approx(of_video.mean().item() / math.log(2), rel=1e-5)


@pytest.mark.parametrize("text", [0, 8])
def test_conditions_are_dropped_at_the_rate(text: int) -> None:
    label, captions = torch.tensor([0, 1, 1, 0]), ("up", "left", "left", "up")
    losses = []
    for dropout, used in ((0.0, (label, captions)), (0.999999, (None, None))):
        family = small(text=text, dropout=dropout)
        conditions = Conditions(text=captions, label=label)
        _, scalars = family._loss(Batch(clips(4), conditions), TrainStep.from_seed(0))
        with torch.no_grad():
            labels, words = family._inputs(None if text else used[0], used[1], 4)
            tokens = tokens_of(family, clips(4)).flatten(1)
            half = 2 if text else 4  # the others' captions come after the video and are never dropped
            costs = token_nll(family.generator(tokens[:half], labels[:half], words[:half])[0], tokens[:half])
            if text:
                none, words = family._inputs(None, captions, 4)
                after = family.generator(tokens[2:], none[2:], words[2:], caption=True)[0]
                costs = torch.cat([costs, token_nll(after, tokens[2:])])
        assert scalars["bits"].item() == pytest.approx(costs.mean().item() / math.log(2), rel=1e-5)
        losses.append(scalars["bits"].item())
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("settings", [{}, {"text": 7, "mode": "masked"}])
def test_captions_of_a_model_that_writes_none_are_an_error(settings: dict[str, Any], cpu: Runtime) -> None:
    with pytest.raises(ValueError, match=r"writes no captions: train one in .* --family\.text 64"):
        caption(small(**settings), cpu, clips(1))


def test_a_source_without_captions_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no captions to read: give each one in metadata\.csv"):
        small(text=7)._loss(Batch(clips(2)), TrainStep.from_seed(0))
    with pytest.raises(ValueError, match=r"raise --train\.batch to 2"):
        small(text=7)._loss(Batch(clips(1), Conditions(text=("a",))), TrainStep.from_seed(0))


BF16 = Runtime(CPU.device, torch.bfloat16)


@contextmanager
def trained_tokens(family: TokenTransformer) -> Iterator[list[Tensor]]:
    """The tokens [B, N] that the network is called with."""
    tokens: list[Tensor] = []
    handle = family.generator.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))
    yield tokens
    handle.remove()


@MODES
def test_tokens_of_training_are_those_of_sampling_under_bf16(mode: str) -> None:
    """A code that bfloat16 has rounded may be another token, which sampling, in float32, would not see."""
    family, frames = small(mode=mode, sampling=STEPS), clips(8)
    with torch.no_grad(), BF16.autocast():
        rounded = family.generator.fsq.tokens(family.codec.encode(frames)[0]).flatten(1)
    exact = tokens_of(family, frames).flatten(1)
    assert not torch.equal(rounded, exact)  # else nothing is tested here
    with trained_tokens(family) as tokens, BF16.autocast():
        family._loss(Batch(frames), TrainStep.from_seed(0))
    assert torch.equal(tokens[0], exact)
    with torch.no_grad(), BF16.autocast(), family._exact():
        known = family._known(Conditions().with_first_frames(frames), 8).flatten(1)
    assert torch.equal(known, exact)
    everything = Conditions().with_first_frames(frames)
    in_bf16, in_float32 = (sample(family, Seeds(tuple(range(8))), 13, everything, runtime) for runtime in (BF16, CPU))
    torch.testing.assert_close(in_bf16, in_float32, rtol=0, atol=0)


@pytest.mark.parametrize("runtime", [CPU, BF16])
def test_cached_latents_are_the_tokens_of_their_frames(runtime: Runtime) -> None:
    family, source = small(), ShapeMotion(9, 16, 32)
    cached = LatentSource(source, family.codec, runtime, 8)
    frames = source.batch(0, BLOCK, seed=SEED).to(CPU.device).frames[:8]
    with trained_tokens(family) as tokens, runtime.autocast():
        family._loss(cached.batch(0, 8, seed=0).to(CPU.device), TrainStep.from_seed(0))
    mine, theirs = (sorted(row.tolist() for row in rows) for rows in (tokens[0], tokens_of(family, frames).flatten(1)))
    assert mine == theirs


def test_the_end_of_a_caption_that_is_not_read_is_reported() -> None:
    family = small(text=5)
    assert family.unread_text("über") == "" and family.unread_text("abcdefg") == "fg"
    assert family.unread_text("abcdü") == ""  # half of a letter is cut off: what is left is no text


def test_a_run_begins_with_a_trained_codec(tiny_codec: Callable[..., str]) -> None:
    path = tiny_codec(LEVELS)
    # of longer clips than the codec was trained on
    trainer = Trainer(Experiment(replace(SMALL, codec=path)), ShapeMotion(13, 16, 32), CPU)
    config, family = trainer.experiment.family, trainer.family
    assert isinstance(config, TokenTransformerConfig) and isinstance(family, TokenTransformer)
    codec = config.codec_settings
    assert isinstance(codec, VideoVAEConfig) and (codec.levels, codec.frames) == (LEVELS, 13)
    assert config.fitted(trainer.spec) == config
    trainer.begin()
    torch.testing.assert_close(family.codec.inference_state(), load_codec(path)[1], rtol=0, atol=0)


def test_a_codec_is_needed_and_it_must_make_tokens(tiny_codec: Callable[..., str]) -> None:
    with pytest.raises(
        ValueError, match=r"needs a codec that makes tokens: train one with .* --family\.levels 8 5 5 5"
    ):
        SMALL.fitted(ClipSpec(9, 16, 32))
    with pytest.raises(ValueError, match=r"needs a codec that makes tokens: train one"):
        Trainer(Experiment(replace(SMALL, codec=tiny_codec())), ShapeMotion(9, 16, 32), CPU)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"steps": 0}, {"confidence": -1.0}],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} is .*: it must be "):
        TokenTransformerSampling(**settings)
    with pytest.raises(ValueError, match="dropout is 1: it must be 0 to"):
        TokenTransformerConfig(dropout=1.0)


def test_a_model_of_single_frames_samples_them() -> None:
    family = built(SMALL, VideoVAEConfig(space=8, hidden=4, levels=LEVELS), ClipSpec(1, 16, 16))
    assert family.max_frames == 1
    assert sample(family, Seeds((0,)), 1).shape == (1, 1, 3, 16, 16)
