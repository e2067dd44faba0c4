"""The latent DiT: what it is told in training is what sampling tells it, in pixels and in a codec's latents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from kinema import checkpoint, flow
from kinema.conditions import incomplete
from kinema.conditions.audio import RATE
from kinema.conditions.listener import Heard
from kinema.families import latent_dit
from kinema.families.latent_dit import CONTEXT, LatentDiT, LatentDiTConfig, LatentDiTSampling
from kinema.families.video_vae import VideoVAEConfig
from kinema.family import Facts
from kinema.presets import preset
from kinema.run import Run
from kinema.sample import load, stream
from kinema.train import Experiment, TrainConfig, Trainer
from kinema.types import Batch, Conditions, Noise
from kinema.worlds.shape_motion import ShapeMotion

TINY = LatentDiTConfig(patch=(1, 8), shift=1.0, hidden=16, depth=2, heads=2, sampling=LatentDiTSampling(steps=3))
FACTS = Facts(6, 16, 16)
LABELLED = replace(FACTS, classes=("up", "left"))
CPU = Run(torch.device("cpu"), torch.float32)


def dit(facts: Facts = FACTS, **settings: Any) -> LatentDiT:
    """A tiny instance in which everything tells, as after training."""
    torch.manual_seed(0)
    family = replace(TINY, **settings).fitted(facts).build()
    for parameter in family.generator.network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return family.eval()


def draw(family: LatentDiT, frames: int = 6, given: Conditions = Conditions(), seeds: tuple[int, ...] = (0,)) -> Tensor:
    return torch.cat(list(stream(family, CPU, Noise(seeds), frames, given)), 1)


def clips(count: int, frames: int, height: int = 16, width: int = 16) -> Tensor:
    return ShapeMotion(frames, height, width).batch(0, count, seed=1).frames


def known(frames: Tensor, *which: int) -> Conditions:
    """Some of these frames, given as a whole."""
    mask = torch.zeros_like(frames[:, :, :1], dtype=torch.bool)
    mask[:, list(which)] = True
    return Conditions(known=torch.where(mask, frames, torch.nan), mask=mask)  # what is not known is not read


@dataclass(frozen=True)
class Call:
    """What the network was told once."""

    x: Tensor
    given: Tensor
    levels: Tensor
    heard: Heard
    alone: bool


def labels(family: LatentDiT, call: Call) -> Tensor:
    """The labels that were told, where nothing else can be."""
    network = family.generator.network
    assert network.listener.label is not None
    return torch.cdist(call.heard.moments[:, 0].detach(), network.listener.label.weight.detach()).argmin(1)


@contextmanager
def overheard(family: LatentDiT) -> Iterator[list[Call]]:
    """The calls of the network, as they come."""
    calls = []

    def listen(_: nn.Module, words: tuple[Any, ...], named: dict[str, Any], __: Tensor) -> None:
        calls.append(Call(*words, **named))

    handle = family.generator.network.register_forward_hook(listen, with_kwargs=True)
    yield calls
    handle.remove()


# Training


def losses(family: LatentDiT, batch: Batch, seed: int) -> tuple[Tensor, Call]:
    """A training step's loss and what it told the network."""
    with overheard(family) as calls:
        loss, _ = family._loss(batch, torch.Generator().manual_seed(seed))
    (call,) = calls
    return loss, call


@pytest.mark.parametrize("patch", [(1, 8), (2, 4)])
def test_the_loss_is_of_what_is_not_given(patch: tuple[int, int]) -> None:
    family, batch = dit(patch=patch, shift=20.0), Batch(clips(8, 6))
    told: list[Tensor] = []
    family.generator.network.register_forward_hook(lambda *words: told.append(words[-1]))
    for seed in range(4):
        loss, call = losses(family, batch, seed)
        levels = call.levels[..., None, None, None]
        missing = ~call.given & (levels > 0.2)  # these clips' levels are above those of context, of which none is asked
        x0 = batch.frames
        assert torch.equal(call.x[call.given.expand_as(x0)], x0[call.given.expand_as(x0)])
        velocity = (call.x - x0) / levels  # of what lies that far on the way from x0 to its noise
        error = (told[-1] - velocity).square().mean(2, True)[missing].mean()
        torch.testing.assert_close(loss, error, rtol=1e-3, atol=1e-4)
        (gradient,) = torch.autograd.grad(loss, told[-1])
        assert not gradient[~missing.expand_as(x0)].any() and gradient[missing.expand_as(x0)].all()


def tasks(**settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    return dit(**settings)._task(torch.zeros(4000, 6, 3, 4, 4), torch.Generator().manual_seed(0))


def test_training_gives_frames_at_both_ends_and_regions_of_all() -> None:
    given, levels, _ = tasks(patch=(1, 1))
    whole = given.flatten(2).all(2)  # [B, T]
    some = given.flatten(2).any(2)
    region = some.all(1)
    assert region.float().mean().item() == pytest.approx(0.15, abs=0.03)
    first, last = whole[~region, 0], whole[~region, -1]
    assert first.float().mean().item() == pytest.approx(0.3 * 5 / 6 / 2, abs=0.02)  # half are noised instead
    assert 0.035 < last.float().mean() < 0.08
    assert (first & last).any() and not whole[~region].all(1).any()
    missing = ~whole[~region]
    assert (missing.int().diff(dim=1) == 1).sum(1).max() == 1  # they are one stretch
    assert {*missing.sum(1).tolist()} == {1, 2, 3, 4, 5, 6}
    shares = given[region & ~whole.any(1), 0].float().mean((1, 2, 3))
    assert shares.min() < 0.1 and shares.max() > 0.9
    assert not levels[whole].any() and levels[~whole].all()


def test_training_gives_less_where_words_matter_more() -> None:
    usual, less, nothing = (
        (~tasks(completing=share)[2]).flatten(1).any(1).float().mean().item() for share in (1.0, 0.4, 0.0)
    )
    assert 0.4 < usual < 0.55
    assert less == pytest.approx(0.4 * usual, abs=0.03) and nothing == 0
    with pytest.raises(ValueError, match=r"completing and rolling must be in \[0, 1\]"):
        dit(completing=1.5)


def test_training_noises_a_clip_as_one_or_each_frame_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in ("START", "END", "REGION"):
        monkeypatch.setattr(incomplete, share, 0.0)
    given, levels, asked = tasks(patch=(1, 1))
    assert not given.any() and asked.all()
    same = (levels == levels[:, :1]).all(1)
    assert same.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert levels.logit().mean().abs() < 0.03
    _, shifted, _ = tasks(patch=(1, 1), shift=3.0)
    torch.testing.assert_close(shifted, flow.shifted(levels, 3.0))


def test_training_on_rolling_clips_noises_later_frames_more(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in ("START", "END", "REGION"):
        monkeypatch.setattr(incomplete, share, 0.0)
    _, levels, asked = tasks(patch=(1, 1), rolling=1.0, shift=2.0)
    assert (levels.diff(dim=1) >= 0).all()
    clean, noise = levels == 0, levels == 1
    assert torch.equal(asked[:, :, 0, 0, 0], ~clean)  # what is done is not asked for
    assert not clean[:, -1].all() and 0.2 < clean[:, 0].float().mean() < 0.8 and 0.2 < noise[:, -1].float().mean() < 0.8
    _, levels, _ = tasks(patch=(1, 1), rolling=0.4)
    grows = (levels.diff(dim=1) >= 0).all(1) & (levels[:, -1] > levels[:, 0])
    assert grows.float().mean().item() == pytest.approx(0.4, abs=0.03)


def test_training_noises_some_of_the_frames_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for share, value in {"START": 1.0, "END": 0.0, "REGION": 0.0}.items():
        monkeypatch.setattr(incomplete, share, value)
    monkeypatch.setattr(latent_dit, "FORCED", 0.0)
    given, levels, asked = tasks(patch=(1, 1))
    clean, context = given.flatten(2).all(2), levels != levels[:, -1:]  # the last frame is never given here
    assert not levels[clean].any()
    assert torch.equal(asked.flatten(2).all(2), ~context) and torch.equal(asked.flatten(2).any(2), ~context)
    noised = context & ~clean
    assert noised.any(1).float().mean().item() == pytest.approx(5 / 12, abs=0.03)
    assert not (noised & clean.any(1, keepdim=True)).any()
    first = levels[noised[:, 0], 0]
    assert first.max() < CONTEXT and first.mean().item() == pytest.approx(CONTEXT / 2, abs=0.01)
    assert all(len(set(clip[told].tolist())) == 1 for clip, told in zip(levels, noised, strict=True) if told.any())


def test_latents_of_a_token_share_their_level() -> None:
    given, levels, _ = tasks(patch=(2, 1))
    assert torch.equal(levels[:, ::2], levels[:, 1::2])
    whole = given.flatten(2).all(2)
    half = whole[:, 0] & ~whole[:, 1]
    assert half.any() and levels[half, 0].all()  # a part of a token's time that is given is marked, no more
    assert not levels[:, 0][whole[:, 0] & whole[:, 1]].any()


def test_labels_are_left_out_now_and_then() -> None:
    family = dit(LABELLED, dropout=0.25)
    label = torch.tensor([0, 1] * 200)
    given, silent = (Batch(torch.zeros(400, 6, 3, 16, 16), Conditions(label=x)) for x in (label, None))
    told = labels(family, losses(family, given, 0)[1])
    assert (told == 2).float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert torch.equal(told[told != 2], label[told != 2])
    assert (labels(family, losses(family, silent, 0)[1]) == 2).all()


def coloured(generator: torch.Generator) -> Batch:
    """Clips of one colour, each of its channels bright or dark; the label is the red one's."""
    bright = torch.randint(2, (16, 3), generator=generator)
    frames = (0.6 * (2 * bright - 1))[:, None, :, None, None].expand(-1, 4, -1, 8, 8)
    return Batch(frames, Conditions(label=bright[:, 0]))


def test_it_learns_what_labels_mean_and_to_go_on() -> None:
    torch.manual_seed(0)
    family = replace(TINY, hidden=32, shift=3.0).fitted(replace(LABELLED, frames=4, height=8, width=8)).build()
    optimizer = torch.optim.AdamW(family.generator.network.parameters(), 5e-3)
    for step in range(200):
        generator = torch.Generator().manual_seed(step)
        loss, _ = family._loss(coloured(generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    family.sampling = LatentDiTSampling(steps=20)
    truth, seeds = coloured(torch.Generator().manual_seed(7)), tuple(range(16))
    colour = truth.frames.mean((3, 4))  # [B, T, 3]
    made = draw(family.eval(), 4, truth.given, seeds).mean((3, 4))
    assert ((made[..., 0] > 0) == (colour[..., 0] > 0)).float().mean() > 0.9
    for which in (0, 3):
        given = replace(known(truth.frames, which), label=truth.given.label)
        made = draw(family, 6, given, seeds).mean((3, 4))  # two windows
        assert ((made > 0) == (colour[:, :1] > 0)).float().mean() > 0.9


# Sampling


class Oracle(nn.Module):
    """What a network would tell that knows the one clip there is, [-0.5, 0.5] in every window."""

    def __init__(self, family: LatentDiT, x0: Tensor) -> None:
        super().__init__()
        self.config, self.x0 = family.config, x0
        self.listener, self.patches = family.generator.network.listener, family.generator.network.patches

    def forward(self, x: Tensor, given: Tensor, levels: Tensor, heard: Heard, alone: bool) -> Tensor:
        at = flow.coefficients(self.config.path, flow.trailing(levels, x))
        eps = (x - at.alpha * self.x0) / at.sigma.clamp(min=1e-6)
        return flow.target(self.config.parameterisation, self.config.path, self.x0.expand_as(x), eps, levels)


@pytest.mark.parametrize("path", get_args(flow.Path))
@pytest.mark.parametrize("parameterisation", get_args(flow.Parameterisation))
def test_who_knows_the_clip_draws_it(path: flow.Path, parameterisation: flow.Parameterisation) -> None:
    family, x0 = dit(path=path, parameterisation=parameterisation), clips(1, 1)[0] / 2
    family.generator.network = Oracle(family, x0)  # pyright: ignore[reportAttributeAccessIssue]
    family.generator.register_parameter("device", nn.Parameter(torch.empty(0)))
    family.sampling = replace(family.sampling, solver="ddim", context_noise=0.1)
    torch.testing.assert_close(draw(family, 9), x0.expand(1, 9, -1, -1, -1), rtol=0, atol=1e-3)


def test_frames_that_lag_begin_one_after_the_other() -> None:
    family = dit()
    family.sampling = replace(family.sampling, steps=4, lag=0.5, overlap=0.5)
    with overheard(family) as calls:
        made = draw(family, 9, known(clips(1, 6), 0))
    first, then = calls[:12], calls[12:]  # 4 steps, and 2 more for each frame after the first that is drawn
    assert len(then) == 4 + 2 * 2  # of three frames that are given three
    for number, call in enumerate(first):
        done = [min(max(1 - (number - 2 * k) / 4, 0), 1) for k in range(5)]
        torch.testing.assert_close(call.levels[0], torch.tensor([0.0, *done]))
    assert not any(call.levels[:, :3].any() for call in then) and (then[0].levels[0, 3:] == 1).all()
    assert made.isfinite().all()
    with pytest.raises(ValueError, match="lag in 0 to 1"):
        LatentDiTSampling(lag=1.5)


class Reader(Oracle):
    """What a network would tell that takes "up" for bright clips and "left" for dark ones, and else for grey ones."""

    def forward(self, x: Tensor, given: Tensor, levels: Tensor, heard: Heard, alone: bool) -> Tensor:
        assert self.listener.label is not None
        label = torch.cdist(heard.moments[:, 0], self.listener.label.weight).argmin(1)
        self.x0 = torch.tensor([0.5, -0.5, 0.0])[label][:, None, None, None, None]
        return super().forward(x, given, levels, heard, alone)


@pytest.mark.parametrize("parameterisation", get_args(flow.Parameterisation))
def test_of_candidates_the_one_is_kept_that_what_was_told_explains(
    parameterisation: flow.Parameterisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = dit(LABELLED, parameterisation=parameterisation)
    family.generator.network = Reader(family, torch.empty(0))  # pyright: ignore[reportAttributeAccessIssue]
    family.generator.register_parameter("device", nn.Parameter(torch.empty(0)))
    family.sampling = replace(family.sampling, candidates=4)
    levels = torch.tensor([0.05, -0.4, 0.45, -0.1, 0.05, -0.4, 0.45, -0.1])
    drawn = levels[:, None, None, None, None].expand(-1, 6, 3, 16, 16)
    monkeypatch.setattr(family, "_draw", lambda *told: drawn)
    made = draw(family, 6, Conditions(label=torch.tensor([0, 1])), (0, 1))
    assert made.flatten(1).mean(1).tolist() == pytest.approx([0.45, -0.4])


@pytest.mark.parametrize(("nearly", "wrong"), [(0.3, -0.5), (0.45, 1.5)])  # as if told otherwise, and as never seen
def test_a_candidate_is_as_wrong_as_its_worst_place(
    monkeypatch: pytest.MonkeyPatch, nearly: float, wrong: float
) -> None:
    family = dit(LABELLED)
    family.generator.network = Reader(family, torch.empty(0))  # pyright: ignore[reportAttributeAccessIssue]
    family.generator.register_parameter("device", nn.Parameter(torch.empty(0)))
    family.sampling = replace(family.sampling, candidates=2)
    good, bad = torch.full((6, 3, 16, 16), nearly), torch.full((6, 3, 16, 16), 0.5)  # told of 0.5
    bad[2, :, :8, :8] = wrong  # one token of 24
    for order in ([good, bad], [bad, good]):
        monkeypatch.setattr(family, "_draw", lambda *told, order=order: torch.stack(order))
        assert torch.equal(draw(family, 6, Conditions(label=torch.tensor([0])))[0], good)


def test_candidates_keep_what_is_given_and_a_clip_its_seed() -> None:
    family, frames = dit(LABELLED), clips(2, 6)
    family.sampling = replace(family.sampling, candidates=3)
    given = replace(known(frames, 0, 5), label=torch.tensor([0, 1]))
    with overheard(family) as calls:
        made = draw(family, 6, given, (0, 1))
    assert torch.equal(made[:, [0, 5]], frames[:, [0, 5]])
    sixfold = frames[:, 0].repeat_interleave(3, 0)
    assert {len(call.x) for call in calls} == {6, 12}  # the judge asks with and without what is told in one call
    assert all(torch.equal(call.x[:, 0], sixfold.repeat(len(call.x) // 6, 1, 1, 1)) for call in calls)
    torch.testing.assert_close(draw(family, 6, given[1:], (1,)), made[1:])
    assert draw(family, 15, given, (0, 1)).isfinite().all()  # window by window
    told_nothing = dit()
    alone = draw(told_nothing)
    told_nothing.sampling = family.sampling
    assert torch.equal(draw(told_nothing), alone)


@pytest.mark.parametrize("which", [(0,), (0, 1, 2), (5,), (0, 5), (2, 3)])
@pytest.mark.parametrize("patch", [(1, 8), (2, 4)])
def test_given_frames_come_back_and_decide_the_others(which: tuple[int, ...], patch: tuple[int, int]) -> None:
    family, frames = dit(patch=patch), clips(2, 6)
    with overheard(family) as calls:
        made = draw(family, 6, known(frames, *which), (0, 1))
    assert torch.equal(made[:, which], frames[:, which])
    others = [k for k in range(6) if k not in which]
    assert not torch.equal(draw(family, 6, known(-frames, *which), (0, 1))[:, others], made[:, others])
    whole = {k for k in which if {k - k % patch[0], k - k % patch[0] + patch[0] - 1} <= {*which}}
    for call in calls:
        assert call.given[:, which].all() and not call.given[:, others].any()
        assert torch.equal(call.x[:, which], frames[:, which])
        assert all(bool((call.levels[:, k] == 0).all()) == (k in whole) for k in range(6))


def test_known_pixels_are_kept_exactly() -> None:
    family, frames = dit(), clips(2, 5) / 2  # what is drawn may be cut to -1 and 1
    mask = torch.rand(2, 5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[1, 3] = True  # masks may differ from clip to clip
    everywhere = mask.expand_as(frames)
    given = Conditions(known=torch.where(mask, frames, torch.nan), mask=mask)
    made = draw(family, 9, given, (0, 1))
    assert torch.equal(made[:, :5][everywhere], frames[everywhere])
    assert not torch.isclose(made[:, :5][~everywhere], frames[~everywhere]).any()
    alone = draw(family, 9, given[1:], (1,))
    torch.testing.assert_close(alone[0], made[1])
    torch.testing.assert_close(draw(family, 3, given, (0, 1)), made[:, :3])


def test_nothing_known_is_nothing_given() -> None:
    family = dit()
    mask = torch.zeros(1, 4, 1, 16, 16, dtype=torch.bool)
    assert torch.equal(draw(family, 6, Conditions(known=clips(1, 4), mask=mask)), draw(family))


@pytest.mark.parametrize(("overlap", "kept"), [(0.5, 3), (0.01, 1), (0.7, 4), (0.99, 5)])
def test_windows_begin_with_the_last_frames_of_those_before(overlap: float, kept: int) -> None:
    family = dit()
    family.sampling = replace(family.sampling, overlap=overlap)
    with overheard(family) as calls:
        made = draw(family, 14, seeds=(0, 1))
    windows = calls[::3]
    assert len(windows) == 1 + -(-8 // (6 - kept))
    assert not windows[0].given.any()
    for number, window in enumerate(windows[1:], 1):
        begin = number * (6 - kept)
        assert window.given[:, :kept].all() and not window.given[:, kept:].any()
        assert not window.levels[:, :kept].any()
        assert torch.equal(window.x[:, :kept], made[:, begin : begin + kept])


def test_windows_reach_what_is_given_further_on() -> None:
    family, frames = dit(), clips(1, 12)
    made = draw(family, 12, known(frames, 0, 8, 11))
    assert torch.equal(made[:, (0, 8, 11)], frames[:, (0, 8, 11)])


def test_context_noise_is_told_as_the_level_of_the_frames() -> None:
    family, frames = dit(), clips(1, 6)
    family.sampling = replace(family.sampling, context_noise=0.1)
    with overheard(family) as calls:
        made = draw(family, 9, known(frames, 0, 5))
    window = calls[3]
    torch.testing.assert_close(window.levels[0, :3], torch.tensor([0.1, 0.1, 0.0]))  # what a caller gives is clean
    assert torch.equal(window.x[:, 2], frames[:, 5]) and window.given[:, 2].all() and not window.given[:, :2].any()
    noise = (window.x[:, :2] - 0.9 * made[:, 3:5]) / 0.1
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    assert all(torch.equal(call.x[:, :2], window.x[:, :2]) for call in calls[4:])


def test_guidance_of_1_is_none() -> None:
    family, given = dit(LABELLED), Conditions(label=torch.tensor([1]))

    def drawn(**settings: Any) -> tuple[Tensor, list[int]]:
        family.sampling = replace(TINY.sampling, **settings)
        with overheard(family) as calls:
            return draw(family, given=given), [int(label) for call in calls for label in labels(family, call)]

    plain, told = drawn()
    assert told == [1, 1, 1]
    outside, told = drawn(guidance=3.0, interval=(0.0, 0.1))
    assert told == [1, 1, 1] and torch.equal(outside, plain)
    guided, told = drawn(guidance=3.0)
    assert told == [1, 2] * 3 and not torch.equal(guided, plain)


@pytest.mark.parametrize("solver", get_args(flow.Solver))
def test_every_solver_draws(solver: flow.Solver) -> None:
    family = dit()
    family.sampling = replace(family.sampling, solver=solver, steps=4)
    with overheard(family) as calls:
        made = draw(family, 9, known(clips(1, 6), 0, 5), (3,))
    assert made.isfinite().all() and made.abs().max() <= 1
    assert len(calls) == 2 * (7 if solver == "heun" else 4)  # two windows; Heun's last step is Euler's
    assert torch.equal(draw(family, 9, known(clips(1, 6), 0, 5), (3,)), made)


def test_a_model_of_single_frames_has_nothing_to_go_on_from() -> None:
    assert dit(replace(FACTS, frames=1)).longest == 1
    assert dit(replace(FACTS, frames=2)).longest is None
    assert dit(replace(FACTS, frames=2), patch=(2, 8)).longest == 2


# A codec


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of video-vae for clips of 9 frames, 16x32, as 3x4x8 latents."""
    config = VideoVAEConfig(space=4, time=4, channels=3, hidden=4, adversarial=0.1, ndf=2)
    trainer = Trainer(Experiment(config, train=TrainConfig(batch=4)), ShapeMotion(9, 16, 32), CPU)
    for _ in range(3):
        trainer.advance()
    folder = tmp_path_factory.mktemp("codec")
    checkpoint.save_step(folder, trainer.state())
    return str(folder)


def trainer(codec: str) -> Trainer:
    config = replace(TINY, codec=codec, patch=(1, 2))
    return Trainer(Experiment(config, train=TrainConfig(batch=2)), ShapeMotion(9, 16, 32), CPU)


@pytest.fixture
def latent(codec: str) -> LatentDiT:
    family = dit(Facts(9, 16, 32), codec=codec, patch=(1, 2))
    family.begin()
    return family


def test_a_run_begins_with_the_weights_of_its_codec_and_keeps_them(codec: str) -> None:
    run, (_, weights) = trainer(codec), checkpoint.load_generator(codec)
    assert run.family.codec is not None
    own = run.family.codec.generator.state_dict()
    assert any(not torch.equal(own[name], weights[name]) for name in weights)
    run.begin()
    run.advance()
    for generator in (run.family.generator, run.average):
        for name, value in weights.items():
            assert torch.equal(generator.state_dict()[f"codec.generator.{name}"], value), name
    assert not any("critic" in name for name in run.family.state_dict())
    assert not run.family.codec.training and run.family.generator.get_submodule("network").training


def test_a_codec_may_come_from_a_model_with_one_in_it(codec: str, tmp_path: Path) -> None:
    run = trainer(codec)
    run.begin()
    checkpoint.save_step(tmp_path, run.state())
    other = trainer(str(tmp_path))
    other.begin()
    assert run.family.codec is not None and other.family.codec is not None
    assert other.family.codec.config == run.family.codec.config
    weights = other.family.codec.generator.state_dict()
    torch.testing.assert_close(weights, checkpoint.load_generator(codec)[1], rtol=0, atol=0)


def test_a_checkpoint_is_complete_without_the_codecs_run(codec: str, tmp_path: Path) -> None:
    copy = shutil.copytree(codec, tmp_path / "codec")
    run = trainer(str(copy))
    run.begin()
    run.advance()
    checkpoint.save_step(tmp_path / "run", run.state())
    shutil.rmtree(copy)
    model = load(tmp_path / "run", CPU)
    with run.averaged() as family:
        chunks = [torch.cat(list(stream(f, CPU, Noise((0,)), 12)), 1) for f in (model.family, family)]
    assert torch.equal(*chunks)
    resumed = Trainer(model.experiment, run.source, CPU)
    resumed.restore(checkpoint.load(tmp_path / "run"))
    resumed.advance()
    run.advance()
    torch.testing.assert_close(resumed.family.state_dict(), run.family.state_dict(), rtol=0, atol=0)


def test_latents_at_hand_are_what_frames_would_be_coded_as(latent: LatentDiT) -> None:
    frames = clips(2, 9, 16, 32)
    with torch.no_grad():
        latents = latent.generator.codec.encode(frames)[0]  # pyright: ignore[reportOptionalMemberAccess]
    latent.train()
    seen, told = losses(latent, Batch(frames), 3)
    torch.testing.assert_close(losses(latent, Batch(frames[:, :0], latents=latents), 3)[0], seen, rtol=0, atol=0)
    assert seen.requires_grad and not told.x.requires_grad


def test_windows_further_on_have_no_frame_coded_alone(latent: LatentDiT) -> None:
    trained = {
        (call.x.shape[1], call.alone) for _, call in (losses(latent, Batch(clips(1, 9, 16, 32)), s) for s in range(20))
    }
    with overheard(latent) as calls:
        draw(latent, 17)
    assert trained == {(3, True), (2, False)}
    assert [(call.x.shape[1], call.alone) for call in calls[::3]] == [(3, True), (2, False), (2, False)]


@pytest.mark.parametrize("frames", [1, 5])
def test_a_codecs_clip_of_one_group_has_nothing_to_go_on_from(codec: str, frames: int) -> None:
    family = dit(Facts(frames, 16, 32), codec=codec, patch=(1, 2))
    assert family.longest == frames
    calls = [losses(family, Batch(clips(1, frames, 16, 32)), seed)[1] for seed in range(8)]
    assert {(call.x.shape[1], call.alone) for call in calls} == {(1 + frames // 4, True)}
    assert draw(family, frames).shape == (1, frames, 3, 16, 32)


def test_a_long_clip_is_decoded_as_one(latent: LatentDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    windows, drawn = [], latent._windows
    monkeypatch.setattr(latent, "_windows", lambda *words: (windows.append(w) or w for w in drawn(*words)))
    made = draw(latent, 20)
    assert made.shape == (1, 20, 3, 16, 32) and len(windows) > 2
    with torch.no_grad():
        whole = latent.generator.codec.decode(torch.cat(windows, 1))[0]  # pyright: ignore[reportOptionalMemberAccess]
    torch.testing.assert_close(made, whole[:, :20])


def test_known_frames_come_back_as_the_codec_gives_them(latent: LatentDiT) -> None:
    frames = clips(2, 9, 16, 32)
    codec = latent.codec
    assert codec is not None
    with torch.no_grad():
        coded = codec.decode(codec.encode(frames)[0])[0]
    torch.testing.assert_close(draw(latent, 9, known(frames, *range(5)), (0, 1))[:, :5], coded[:, :5])
    torch.testing.assert_close(draw(latent, 9, known(frames, *range(9)), (0, 1)), coded)
    assert not torch.isclose(draw(latent, 9, known(frames, *range(4)), (0, 1))[:, 1:4], coded[:, 1:4]).all()


def test_a_latent_is_given_where_all_its_pixels_are(latent: LatentDiT) -> None:
    frames = clips(1, 9, 16, 32)
    mask = torch.ones(1, 8, 1, 16, 32, dtype=torch.bool)  # the last group is never whole
    mask[0, 0, 0, 5, 9] = False  # of the first frame, and of cell (1, 2)
    mask[0, 4, 0, 12:] = False  # of the second group, and the last row of cells
    latents, share = latent._known(Conditions(known=frames[:, :8], mask=mask), 1, CPU.device)
    assert latents.shape == (1, 3, 3, 4, 8) and share.shape == (1, 3, 1, 4, 8)
    wanted = torch.ones(3, 4, 8)
    wanted[0, 1, 2], wanted[1, 3], wanted[2] = 15 / 16, 3 / 4, 3 / 4
    torch.testing.assert_close(share[0, :, 0], wanted)


def test_drawing_begins_at_a_group_of_which_some_frames_are_given(latent: LatentDiT) -> None:
    frames = clips(1, 9, 16, 32)
    with overheard(latent) as calls:
        draw(latent, 9, known(frames, 0, 8))
    levels = torch.stack([call.levels[0] for call in calls])  # [calls, L]
    assert not levels[:, 0].any() and levels[0, 1] == 1
    torch.testing.assert_close(levels[:, 2], levels[:, 1].clamp(max=latent_dit.PARTLY))
    codec = latent.codec
    assert codec is not None
    still = frames[:, [0, 0, 0, 0, 0, 8, 8, 8, 8]]  # each as at the nearest time at which it is given
    with torch.no_grad():
        latents = codec.encode(still)[0]
    share = latents.new_full((), 1 - latent_dit.PARTLY)
    noise = (calls[0].x - share * latents)[0, 2] / latent_dit.PARTLY
    assert abs(noise.mean()) < 0.3 and 0.7 < noise.std() < 1.3


# What is refused


@pytest.mark.parametrize(
    ("settings", "facts", "says"),
    [
        ({"patch": (2, 8)}, Facts(5, 16, 16), "5 latents in time, which make no tokens of 2: make --family.patch 1 8"),
        ({}, Facts(6, 20, 16), "multiples of 8, not 20 and 16: choose others with --data.height"),
        ({"codec": "nowhere"}, FACTS, "nowhere: no checkpoint there"),
        ({"hidden": 20, "heads": 3}, FACTS, "width of 20 in 3 heads"),
    ],
)
def test_settings_that_do_not_fit_the_clips_are_refused(settings: dict[str, Any], facts: Facts, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(TINY, **settings).fitted(facts).build()


@pytest.mark.parametrize(
    "settings", [{"patch": (0, 1)}, {"depth": 0}, {"shift": 0.0}, {"dropout": 1.0}], ids=lambda s: next(iter(s))
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"latent-dit: .*{next(iter(settings))}"):
        LatentDiTConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"candidates": 0},
        {"shift": 0.0},
        {"interval": (0.6, 0.4)},
        {"interval": (0.0, 2.0)},
        {"context_noise": 0.3},
        {"overlap": 1.0},
    ],
    ids=lambda s: next(iter(s)),
)
def test_sampling_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"latent-dit: .*{next(iter(settings))}"):
        replace(LatentDiTSampling(), **settings)


@pytest.mark.parametrize(("facts", "settings"), [(FACTS, {}), (LABELLED, {"dropout": 0.0})])
def test_guidance_wants_labels_that_were_left_out(facts: Facts, settings: dict[str, Any]) -> None:
    family = dit(facts, **settings)
    family.sampling = replace(family.sampling, guidance=2.0)
    with pytest.raises(ValueError, match="make guidance 1"):
        draw(family)


def test_candidates_want_labels_that_were_left_out() -> None:
    family = dit(LABELLED, dropout=0.0)
    family.sampling = replace(family.sampling, candidates=2)
    with pytest.raises(ValueError, match="trained with label left out, which candidates needs: make candidates 1"):
        draw(family)


@pytest.mark.parametrize(
    ("frames", "mask"), [((2, 1, 3, 16, 16), (2, 1, 1, 16, 16)), ((1, 1, 3, 8, 16), (1, 1, 1, 8, 16))]
)
def test_frames_of_other_shapes_are_refused(frames: tuple[int, ...], mask: tuple[int, ...]) -> None:
    given = Conditions(known=torch.zeros(frames), mask=torch.ones(mask, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"LatentDiT makes 1 clips of 16x16 here, but known is .*: resize the frames"):
        draw(dit(), 6, given)


def test_a_codec_of_tokens_is_refused(tmp_path: Path) -> None:
    tokens = VideoVAEConfig(space=4, levels=(4, 5, 3), hidden=4)
    run = Trainer(Experiment(tokens), ShapeMotion(9, 16, 32), CPU)
    checkpoint.save_step(tmp_path, run.state())
    with pytest.raises(ValueError, match=r"makes tokens: train one without --family\.levels"):
        replace(TINY, codec=str(tmp_path)).fitted(Facts(9, 16, 32))


def test_the_preset_for_latents_says_what_it_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"runs/codec: no checkpoint there .*kinema train"):
        preset("latent-dit", "latent").family.fitted(Facts(17, 64, 64))


# What it is told


def told_clips(generator: torch.Generator, clips: int = 16) -> Batch:
    """Frames of one colour: its red by the text, its green by the label, its blue by the sound and then by actions."""
    bright = torch.randint(2, (clips, 2), generator=generator)
    loud = torch.randint(2, (clips, 1), generator=generator).expand(-1, 4)
    done = torch.randint(2, (clips, 1, 1), generator=generator).expand(-1, 4, -1)
    blue = torch.where(torch.arange(4) < 2, loud, done[..., 0])
    colour = torch.stack([*bright[:, :, None].expand(-1, -1, 4).unbind(1), blue], 2)  # [B, T, 3]
    time = torch.arange(2000) / RATE
    waves = loud[:, :, None] * (0.5 * torch.sin(2 * torch.pi * 440 * time))
    return Batch(
        (0.6 * (2.0 * colour - 1))[..., None, None].expand(-1, -1, -1, 8, 8),
        Conditions(
            text=tuple(("dark", "red")[value] for value in bright[:, 0].tolist()),
            label=bright[:, 1],
            audio=waves.flatten(1),
            actions=2.0 * done - 1,
        ),
    )


@pytest.fixture(scope="module")
def listening() -> LatentDiT:
    """A tiny model that has learned what it is told."""
    torch.manual_seed(0)
    facts = Facts(4, 8, 8, 8.0, ("dark", "green"), ("dark", "red"), 1, True)
    family = replace(TINY, hidden=32, shift=3.0).fitted(facts).build()
    optimizer = torch.optim.AdamW(family.generator.network.parameters(), 5e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_dit, "UNHEARD", 0.1)  # to be quick
        for step in range(400):
            generator = torch.Generator().manual_seed(step)
            loss, _ = family._loss(told_clips(generator), generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return family.eval()


@pytest.mark.parametrize("name", ["text", "label", "audio", "actions"])
def test_a_right_condition_lowers_the_loss_and_decides_what_is_drawn(listening: LatentDiT, name: str) -> None:
    batch = told_clips(torch.Generator().manual_seed(999), 64)
    turned = batch.given.in_turn([(clip + 1) % 64 for clip in range(64)])
    wrong = replace(batch, given=replace(batch.given, **{name: getattr(turned, name)}))
    with torch.no_grad():
        right, shuffled = (
            sum(float(listening._loss(given, torch.Generator().manual_seed(seed))[0]) for seed in range(8))
            for given in (batch, wrong)
        )
    assert right < shuffled  # of the same noise
    listening.sampling = LatentDiTSampling(steps=16)
    made = draw(listening, 4, wrong.given, tuple(range(64))).mean((3, 4)) > 0
    truth = batch.frames.mean((3, 4)) > 0
    channel, times = {
        "text": (0, slice(4)),
        "label": (1, slice(4)),
        "audio": (2, slice(2)),
        "actions": (2, slice(2, 4)),
    }[name]
    followed = told_clips(torch.Generator().manual_seed(999), 64).frames.mean((3, 4)).roll(-1, 0) > 0
    assert (made[:, times, channel] == followed[:, times, channel]).float().mean() > 0.7  # chance is half
    others = [c for c in range(2) if c != channel]
    assert (made[:, :, others] == truth[:, :, others]).float().mean() > 0.9
