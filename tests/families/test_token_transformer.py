"""Tokens are learned exactly, drawn as they were learned, and drawn alike with a cache and without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from kinema.families.token_transformer import TokenTransformer, TokenTransformerConfig, TokenTransformerSampling
from kinema.families.video_vae import VideoVAEConfig
from kinema.family import Facts
from kinema.nn.transformer import Caches
from kinema.run import Run
from kinema.sample import caption, stream
from kinema.tokens import nats
from kinema.types import Batch, Conditions, Noise
from kinema.worlds.shape_motion import ShapeMotion

SMALL = TokenTransformerConfig(hidden=16, depth=2, heads=2)
LEVELS = (4, 5, 3)
V, N = 3, 3  # of the smallest
MODES = pytest.mark.parametrize("mode", ["autoregressive", "masked"])
STEPS = TokenTransformerSampling(steps=3)


def built(config: TokenTransformerConfig, coded: VideoVAEConfig, facts: Facts) -> TokenTransformer:
    """A model with random weights that tells its inputs apart."""
    torch.manual_seed(0)
    family = replace(config, coded=coded).fitted(facts).build().eval()
    for parameter in family.generator.network.parameters():
        if parameter.ndim > 1:
            parameter.data *= 2
    for parameter in family.generator.codec.parameters():
        if parameter.ndim > 1:
            parameter.data *= 2
    return family


def smallest(**settings: Any) -> TokenTransformer:
    """A model of N tokens in time, of V values."""
    return built(replace(SMALL, **settings), VideoVAEConfig(space=8, time=1, hidden=4, levels=(V,)), Facts(N, 8, 8))


def small(**settings: Any) -> TokenTransformer:
    """A model of clips of 9 frames, 16x32, as 3x4x8 tokens of 60 values, with two classes."""
    coded = VideoVAEConfig(space=4, time=4, hidden=4, levels=LEVELS)
    return built(replace(SMALL, **settings), coded, Facts(9, 16, 32, classes=("up", "left")))


def cost(family: TokenTransformer) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The cross-entropies of a model's tokens, told nothing."""

    @torch.no_grad()
    def of(tokens: Tensor, hidden: Tensor | None = None) -> Tensor:
        told = family._told(None, None, len(tokens))
        return nats(family.generator.network(tokens, *told, hidden), tokens)

    return of


def clips(count: int, frames: int = 9) -> Tensor:
    return ShapeMotion(frames, 16, 32).batch(0, count, seed=1).frames


def drawn(family: TokenTransformer, noise: Noise, frames: int = 9, given: Conditions = Conditions()) -> Tensor:
    return torch.cat(list(stream(family, Run(torch.device("cpu"), torch.float32), noise, frames, given)), 1)


def tokens_of(family: TokenTransformer, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return family.generator.network.fsq.tokens(family.codec.encode(frames)[0])


EVERY = torch.tensor(list(product(range(V), repeat=N)))  # [27, 3]
MASKS = torch.tensor(list(product((False, True), repeat=N)))[1:]  # [7, 3]


def test_the_likelihood_of_all_sequences_is_one() -> None:
    likelihood = (-cost(smallest())(EVERY, None).sum(1)).exp()
    assert likelihood.sum().item() == pytest.approx(1, abs=1e-5)
    assert likelihood.max() > 2 * likelihood.min()  # not all alike


def test_the_autoregressive_loss_is_the_likelihood() -> None:
    family = smallest(dropout=0.0)
    codes = family.generator.network.fsq.codes(EVERY[:, :, None, None])
    loss, scalars = family._loss(Batch(torch.empty(27, 0, 3, 8, 8), latents=codes), torch.Generator())
    torch.testing.assert_close(loss, cost(family)(EVERY, None).mean())
    assert scalars["bits"].item() == pytest.approx(loss.item() / math.log(2))


def bound(of: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
    """The bound of every sequence: the mean over hidden tokens, numbers of them as probable and masks of a number."""
    each = torch.stack([of(EVERY, mask.expand(27, -1))[:, mask].mean(1) for mask in MASKS], 1)  # [27, 7]
    many = MASKS.sum(1)
    return N * torch.stack([each[:, many == count].mean(1) for count in range(1, N + 1)], 1).mean(1)


def test_the_bound_is_one() -> None:
    """Against the likelihood of an order of drawing that is chosen at random, summed over all orders."""
    of = cost(smallest(mode="masked"))
    likelihood = torch.zeros(27)
    for order in permutations(range(N)):
        hidden, log = torch.ones(N, dtype=torch.bool), torch.zeros(27)
        for place in order:
            log -= of(EVERY, hidden.expand(27, -1))[:, place]
            hidden[place] = False
        likelihood += log.exp() / math.factorial(N)
    assert likelihood.sum().item() == pytest.approx(1, abs=1e-5)
    gap = bound(of) + likelihood.log()
    assert gap.min() > -1e-5 and gap.max() < 1


def test_the_masked_loss_estimates_the_bound() -> None:
    """Of a model that has learned a little, so that it costs the more the more is hidden."""
    family, still = smallest(mode="masked", dropout=0.0), torch.arange(V)[:, None].expand(-1, N)
    codes = family.generator.network.fsq.codes(still.repeat(8, 1)[:, :, None, None])
    learn(family, Batch(torch.empty(24, 0, 3, 8, 8), latents=codes), 30, 1e-2)
    of, many = cost(family), Batch(torch.empty(9600, 0, 3, 8, 8), latents=codes.repeat(400, 1, 1, 1, 1))
    with torch.no_grad():
        loss, scalars = family._loss(many, torch.Generator().manual_seed(0))
    each = torch.stack([of(still, mask.expand(V, -1))[:, mask].mean() for mask in MASKS])
    of_numbers = torch.stack([each[MASKS.sum(1) == count].mean() for count in range(1, N + 1)])
    u = (torch.arange(100_000) + 0.5) / 100_000
    share = (N * (math.pi / 2 * u).cos()).ceil().long().bincount(minlength=N + 1)[1:] / len(u)
    assert (share * of_numbers).sum() > 1.2 * of_numbers.mean()
    assert scalars["bits"].item() * math.log(2) == pytest.approx(of_numbers.mean().item(), rel=0.02)
    assert loss.item() == pytest.approx((share * of_numbers).sum().item(), rel=0.02)


def test_captions_and_videos_have_positions_of_their_own() -> None:
    network = small(text=5).generator.network  # 7 tokens of a caption, and a label and 3x4x8 of a video
    caption_first, video_first = network.reading.tolist(), network.writing.tolist()
    assert caption_first[:7] == [[k, k, k] for k in range(7)] and caption_first[7] == [7, 7, 7]
    assert (caption_first[8], caption_first[-1]) == ([8, 8, 8], [10, 11, 15])
    assert (video_first[0], video_first[1], video_first[96]) == ([0, 0, 0], [1, 1, 1], [3, 4, 8])
    assert video_first[97:] == [[k, k, k] for k in range(9, 16)]


def test_tokens_are_drawn_as_often_as_is_likely() -> None:
    family, draws = smallest(), 3000
    likelihood = (-cost(smallest())(EVERY, None).sum(1)).exp()
    with torch.inference_mode():
        window = torch.empty(draws, 0, 1, dtype=torch.int64)
        told = family._told(None, None, draws)
        found = torch.cat(list(family._one_by_one(window, window, told, Noise(tuple(range(draws))))), 1)
    counts = (found[..., 0] * torch.tensor([9, 3, 1])).sum(1).bincount(minlength=27)
    expected = draws * likelihood
    assert ((counts - expected).square() / expected).sum() < 54.1  # chi-square, 26 degrees of freedom: 0.1 %


def recomputing(family: TokenTransformer, seen: list[Tensor]) -> Callable[..., tuple[Tensor, Any]]:
    """The transformer's `extend` by `forward` of all inputs so far; `seen` gets what it gives."""
    transformer = family.generator.network.transformer

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
    transformer = family.generator.network.transformer
    cached: list[Tensor] = []
    original = transformer.extend

    def extend(x: Tensor, positions: Tensor, cache: Caches | None) -> tuple[Tensor, Caches]:
        out, cache = original(x, positions, cache)
        cached.append(out[:, -1])
        return out, cache

    given = Conditions(text=("über",)) if family.config.text else Conditions(label=torch.tensor([1]))
    monkeypatch.setattr(transformer, "extend", extend)
    fast = drawn(family, Noise((3,)), 13, given)
    plain: list[Tensor] = []
    monkeypatch.setattr(transformer, "extend", recomputing(family, plain))
    slow = drawn(family, Noise((3,)), 13, given)
    assert len(cached) == len(plain) == (3 + 1) * 32  # two windows, of which the second goes on
    torch.testing.assert_close(torch.stack(cached), torch.stack(plain), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


@MODES
def test_guidance_of_one_is_none_and_another_is_the_formula(mode: str) -> None:
    family, other = (small(mode=mode, sampling=STEPS) for _ in range(2))
    given, noise = Conditions(label=torch.tensor([0])), Noise((0,))
    other.sampling = replace(STEPS, guidance=1.0)
    plain = drawn(family, noise, 9, given)
    assert torch.equal(plain, drawn(other, Noise((0,)), 9, given))
    other.sampling = replace(STEPS, guidance=6.0)
    assert not torch.equal(plain, drawn(other, Noise((0,)), 9, given))
    told, free = torch.randn(2, 3, 60), torch.randn(2, 3, 60)
    torch.testing.assert_close(other._narrowed(torch.cat([told, free])), free + 6 * (told - free))
    other.sampling = replace(STEPS, guidance=0.0)
    nothing = small(mode=mode, sampling=STEPS)
    unconditional = [drawn(other, Noise((0,)), 9, Conditions(label=torch.tensor([k]))) for k in (0, 1)]
    assert torch.equal(*unconditional)  # told apart by nothing
    none = torch.tensor([2])
    window = torch.empty(1, 0, 32, dtype=torch.int64)
    with torch.inference_mode():
        noise = Noise((0,))
        draw = nothing._one_by_one if mode == "autoregressive" else nothing._at_once
        tokens = torch.cat(list(draw(window, window, nothing._told(none, None, 1), noise)), 1)
        expected, _ = nothing.codec.decode(nothing.generator.network.fsq.codes(tokens.unflatten(2, (4, 8))))
    torch.testing.assert_close(unconditional[0], expected, atol=1e-5, rtol=0)


def test_guidance_that_was_not_learned_is_refused() -> None:
    family = small(dropout=0.0, sampling=TokenTransformerSampling(guidance=2.0))
    with pytest.raises(ValueError, match="guidance needs labels"):
        drawn(family, Noise((0,)))
    with pytest.raises(ValueError, match="guidance needs labels"):
        next(smallest(sampling=TokenTransformerSampling(guidance=2.0)).generate(Conditions(), 3, Noise((0,))))


@MODES
def test_long_videos_go_on_in_windows(mode: str) -> None:
    family = small(mode=mode, sampling=STEPS)
    chunks = list(stream(family, Run(torch.device("cpu"), torch.float32), Noise((0, 1)), 31))
    lengths = [1, *[4] * 7, 2] if mode == "autoregressive" else [9, *[4] * 5, 2]  # 2 of 3 latents are carried over
    assert [chunk.shape[1] for chunk in chunks] == lengths
    longer = drawn(family, Noise((0, 1)), 40)
    torch.testing.assert_close(longer[:, :31], torch.cat(chunks, 1), atol=1e-5, rtol=0)


def test_given_frames_are_gone_on_from() -> None:
    family, frames = small(), clips(2, 9)
    for count in (1, 5, 9):
        given = Conditions().beginning(frames[:, :count])
        made = drawn(family, Noise((0, 1)), 17, given)
        with torch.no_grad():
            own, _ = family.codec.decode(family.codec.encode(frames[:, :count])[0])
        torch.testing.assert_close(made[:, :count], own, atol=1e-5, rtol=0)
        other = drawn(family, Noise((2, 3)), 17, given)
        assert torch.equal(other[:, :count], made[:, :count]) and not torch.equal(other[:, count:], made[:, count:])
    long = Conditions().beginning(clips(2, 17))
    few = drawn(family, Noise((0, 1)), 3, long)
    with torch.no_grad():
        own, _ = family.codec.decode(family.codec.encode(clips(2, 17))[0])
    torch.testing.assert_close(few, own[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(drawn(family, Noise((0, 1)), 21, long)[:, :17], own, atol=1e-5, rtol=0)


def test_what_is_given_is_in_the_cache() -> None:
    """The tokens drawn after given ones are those that are likeliest given them."""
    family = small(sampling=TokenTransformerSampling(top_k=1))
    frames, network = clips(1, 5), family.generator.network
    tokens = tokens_of(family, frames).flatten(1)
    label = torch.tensor([1])
    for _ in range(32):
        with torch.no_grad():
            told = family._told(label, None, 1)
            padded = torch.cat([tokens, tokens[:, :1]], 1)  # the last is not seen
            tokens = torch.cat([tokens, network(padded, *told)[:, -1:].argmax(-1)], 1)
    with torch.no_grad():
        expected, _ = family.codec.decode(network.fsq.codes(tokens.reshape(1, 3, 4, 8)))
    made = drawn(family, Noise((0,)), 9, Conditions(label=label).beginning(frames))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_frames_that_are_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="7 frames are not 1 and groups of 4: give 5 or 9"):
        drawn(small(), Noise((0,)), 9, Conditions().beginning(clips(1, 7)))
    mask = torch.zeros(1, 9, 1, 16, 32, dtype=torch.bool)
    mask[:, 8] = True
    with pytest.raises(ValueError, match="TokenTransformer can only go on from the first frames"):
        drawn(small(), Noise((0,)), 9, Conditions(known=clips(1), mask=mask))


def test_masked_models_fill_in() -> None:
    family, frames = small(mode="masked", sampling=STEPS), clips(1)
    whole = tokens_of(family, frames)

    def known(mask: Tensor) -> Tensor:
        with torch.no_grad():
            return family._known(Conditions(known=frames, mask=mask.expand(1, 9, 1, 16, 32)), 1).unflatten(2, (4, 8))

    times = torch.arange(9)[:, None, None, None]
    assert torch.equal(known(times >= 0), whole)
    last = known(times >= 6)  # of the last group, frame 5 is not given
    assert (last == -1).all()
    last = known(times >= 5)
    assert (last[:, :2] == -1).all() and (last[:, 2] >= 0).all()
    region = torch.zeros(1, 1, 16, 32, dtype=torch.bool)
    region[..., :9, 5:] = True  # two rows of cells, but for two columns
    cells = known(region) >= 0
    assert cells[:, :, :2, 2:].all() and cells.sum() == 3 * 2 * 6

    given = Conditions(known=frames, mask=(times >= 5).expand(1, 9, 1, 16, 32))
    a, b = (drawn(family, Noise((seed,)), 9, given) for seed in (0, 1))
    assert not torch.equal(a, b)
    everything = Conditions(known=frames, mask=(times >= 0).expand(1, 9, 1, 16, 32))
    with torch.no_grad():
        own, _ = family.codec.decode(family.codec.encode(frames)[0])
    torch.testing.assert_close(drawn(family, Noise((0,)), 9, everything), own, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="resize the frames"):
        drawn(family, Noise((0, 1)), 9, everything)


def learn(family: TokenTransformer, batch: Batch, steps: int, lr: float) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW(family.generator.network.parameters(), lr, betas=(0.9, 0.95))
    found = []
    for step in range(steps):
        loss, scalars = family._loss(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append({name: value.item() for name, value in scalars.items()})
    return found


@MODES
def test_it_learns(mode: str) -> None:
    """Tokens that stand still: two thirds of them are known from those before."""
    family = built(
        replace(SMALL, mode=mode, hidden=32), VideoVAEConfig(space=8, time=1, hidden=4, levels=(V,)), Facts(3, 8, 8)
    )
    codes = family.generator.network.fsq.codes(torch.arange(3).repeat(8)[:, None, None, None].expand(-1, 3, 1, 1))
    first = learn(family, Batch(torch.empty(24, 0, 3, 8, 8), latents=codes), 60, 1e-2)[0]
    many = Batch(torch.empty(4800, 0, 3, 8, 8), latents=codes.repeat(200, 1, 1, 1, 1))
    with torch.no_grad():
        _, scalars = family._loss(many, torch.Generator().manual_seed(0))
    assert first["bits"] > 1.2
    assert scalars["bits"].item() == pytest.approx(math.log2(3) / 3, abs=0.05)


CAPTIONS = ("red up", "blü", "", "a green")


def test_captions_are_learned_and_read_back(cpu: Run) -> None:
    family = small(text=7, hidden=32)
    tokens = torch.randint(60, (4, 3, 4, 8), generator=torch.Generator().manual_seed(0))
    codes = family.generator.network.fsq.codes(tokens).repeat(
        2, 1, 1, 1, 1
    )  # one half has its caption before, one after
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
        made = [drawn(family, Noise((0,)), 9, Conditions(text=(text,))) for text in ("up", "left", "")]
        assert not torch.equal(made[0], made[1])
        assert torch.equal(made[2], drawn(family, Noise((0,))))  # nothing said
        with pytest.raises(ValueError, match="2 captions for 1 clips"):
            drawn(family, Noise((0,)), 9, Conditions(text=("up", "left")))


def test_the_captions_ends_count_once() -> None:
    family = small(text=6, dropout=0.0)
    text = ("abcdefgh", "abc", "abc", "abcdefgh")
    batch = Batch(clips(4), Conditions(text=text))
    _, scalars = family._loss(batch, torch.Generator())
    network, tokens = family.generator.network, tokens_of(family, batch.frames).flatten(1)
    with torch.no_grad():
        told = family._told(None, text, 4)
        video, words = network.captioned(tokens[2:], told[1][2:])
        costs = nats(words, told[1][2:, 1:])
        expected = (costs[0, :4].sum() + costs[1].sum()) / (4 + 7)
        of_video = torch.cat([nats(network(tokens[:2], told[0][:2], told[1][:2]), tokens[:2]), nats(video, tokens[2:])])
    assert scalars["caption_bits"].item() == pytest.approx(expected.item() / math.log(2), rel=1e-5)
    assert scalars["bits"].item() == pytest.approx(of_video.mean().item() / math.log(2), rel=1e-5)


@pytest.mark.parametrize("text", [0, 8])
def test_what_is_told_is_left_out_at_times(text: int) -> None:
    label, said = torch.tensor([0, 1, 1, 0]), ("up", "left", "left", "up")
    losses = []
    for dropout, asked in ((0.0, (label, said)), (1 - 1e-9, (None, None))):
        family = small(text=text, dropout=dropout)
        given = Conditions(text=said, label=label)
        _, scalars = family._loss(Batch(clips(4), given), torch.Generator())
        with torch.no_grad():
            label_told, text_told = family._told(None if text else asked[0], asked[1], 4)
            tokens = tokens_of(family, clips(4)).flatten(1)
            half = 2 if text else 4  # the others' captions, after the video, are never left out
            costs = nats(family.generator.network(tokens[:half], label_told[:half], text_told[:half]), tokens[:half])
            if text:
                after = family.generator.network.captioned(tokens[2:], family._told(None, said, 4)[1][2:])[0]
                costs = torch.cat([costs, nats(after, tokens[2:])])
        assert scalars["bits"].item() == pytest.approx(costs.mean().item() / math.log(2), rel=1e-5)
        losses.append(scalars["bits"].item())
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("settings", [{}, {"text": 7, "mode": "masked"}])
def test_models_that_write_no_captions(settings: dict[str, Any], cpu: Run) -> None:
    with pytest.raises(ValueError, match=r"writes no captions: train one in .* --family\.text 64"):
        caption(small(**settings), cpu, clips(1))


def test_a_source_without_captions_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no captions to read: give each one in metadata\.csv"):
        small(text=7)._loss(Batch(clips(2)), torch.Generator())
    with pytest.raises(ValueError, match=r"raise --train\.batch to 2"):
        small(text=7)._loss(Batch(clips(1), Conditions(text=("a",))), torch.Generator())


def test_latents_at_hand_are_those_of_the_frames() -> None:
    family = small()
    latents, _ = family.codec.encode(clips(2))
    a, _ = family._loss(Batch(clips(2)), torch.Generator().manual_seed(0))
    b, _ = family._loss(Batch(torch.empty(2, 0, 3, 16, 32), latents=latents), torch.Generator().manual_seed(0))
    torch.testing.assert_close(a, b)


def test_a_trained_codec_is_begun_with(tiny_codec: Callable[..., str]) -> None:
    path = tiny_codec(LEVELS)
    facts = Facts(13, 16, 32)  # longer clips than the codec was trained on
    config = replace(SMALL, codec=path).fitted(facts)
    assert config.coded is not None and (config.coded.levels, config.coded.frames, config.categories) == (LEVELS, 13, 0)
    assert config.fitted(facts) == config
    family = config.build()
    before = family.codec.generator.state_dict()["encoder.first.weight"].clone()
    family.begin()
    assert not torch.equal(family.codec.generator.state_dict()["encoder.first.weight"], before)


def test_a_codec_is_needed_and_it_must_make_tokens(tiny_codec: Callable[..., str]) -> None:
    with pytest.raises(
        ValueError, match=r"needs a codec that makes tokens: train one with .* --family\.levels 8 5 5 5"
    ):
        SMALL.fitted(Facts(9, 16, 32))
    with pytest.raises(ValueError, match=r"needs a codec that makes tokens: train one"):
        replace(SMALL, codec=tiny_codec()).fitted(Facts(9, 16, 32))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"steps": 0}, {"confidence": -1.0}],
)
def test_sampling_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="token-transformer: "):
        TokenTransformerSampling(**settings)
    with pytest.raises(ValueError, match="token-transformer: "):
        TokenTransformerConfig(dropout=1.0)


def test_a_single_frame_is_drawn_alone() -> None:
    family = built(SMALL, VideoVAEConfig(space=8, hidden=4, levels=LEVELS), Facts(1, 16, 16))
    assert family.longest == 1
    assert drawn(family, Noise((0,)), 1).shape == (1, 1, 3, 16, 16)
