"""Latent DiT: its training tasks, its sampling in windows, and both in a codec's latents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.conditions.audio import SAMPLE_RATE
from kinema.conditions.encoder import EncodedConditions, RawConditions
from kinema.conditions.labels import LabelEncoder
from kinema.diffusion import tasks
from kinema.diffusion.paths import Parameterisation, Path, coefficients, expand_like, target
from kinema.diffusion.solvers import Solver
from kinema.diffusion.times import shifted
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiT, LatentDiTConfig, LatentDiTSampling, model
from kinema.families.latent_dit.network import Network
from kinema.families.latent_dit.sampling import MAX_CONTEXT_NOISE, PARTLY, WindowSampler
from kinema.presets import preset
from kinema.runtime.device import Runtime
from kinema.sampling.model import load, stream
from kinema.training import checkpoint
from kinema.training.loop import Trainer
from kinema.types import Batch, ClipSpec, Conditions, Seeds, TrainStep
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import load_codec

TINY = LatentDiTConfig(patch=(1, 8), shift=1.0, hidden=16, depth=2, heads=2, sampling=LatentDiTSampling(steps=3))
SPEC = ClipSpec(6, 16, 16)
LABELLED = replace(SPEC, classes=("up", "left"))
CPU = Runtime(torch.device("cpu"), torch.float32)


def dit(spec: ClipSpec = SPEC, **settings: Any) -> LatentDiT:
    """A tiny model whose weights all have an effect, as after training; with the weights of its codec."""
    torch.manual_seed(0)
    config = replace(TINY, **settings)
    weights = None
    if config.codec is not None:
        values, weights = load_codec(config.codec)
        config = config.with_codec(values, spec)
    family = config.fitted(spec).build()
    if weights is not None:
        assert family.codec is not None
        family.codec.load_inference_state(weights)
    for parameter in family.generator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return family.eval()


def draw(
    family: LatentDiT, frames: int = 6, conditions: Conditions = Conditions(), seeds: tuple[int, ...] = (0,)
) -> Tensor:
    return torch.cat(list(stream(family, CPU, Seeds(seeds), frames, conditions)), 1)


def clips(count: int, frames: int, height: int = 16, width: int = 16) -> Tensor:
    return ShapeMotion(frames, height, width).batch(0, count, seed=1).to(CPU.device).frames


def known_frames(frames: Tensor, *which: int) -> Conditions:
    """Conditions in which these frames are known."""
    mask = torch.zeros_like(frames[:, :, :1], dtype=torch.bool)
    mask[:, list(which)] = True
    return Conditions(known=torch.where(mask, frames, torch.nan), mask=mask)  # what is not known is not read


@dataclass(frozen=True)
class Call:
    """The inputs of one call of the network."""

    x: Tensor
    clean: Tensor
    levels: Tensor
    encoded: EncodedConditions
    has_first_frame_latent: bool


def labels(family: LatentDiT, call: Call) -> Tensor:
    """The labels that the network was called with, where there is no other condition."""
    encoded = call.encoded
    if isinstance(encoded, RawConditions):  # in training
        encoded = family.generator.conditions(encoded.conditions, encoded.frames, len(call.x), encoded.dropped)
    return nearest_label(family.generator, encoded)


def nearest_label(network: Network, encoded: EncodedConditions) -> Tensor:
    encoder = network.conditions.encoders["label"]
    assert isinstance(encoder, LabelEncoder)
    return torch.cdist(encoded.groups[:, 0].detach(), encoder.embed.weight.detach()).argmin(1)


@contextmanager
def recorded(family: LatentDiT) -> Iterator[list[Call]]:
    """The calls of the network, as they come."""
    calls = []

    def record(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], __: Tensor) -> None:
        calls.append(Call(*inputs, **named))

    handle = family.generator.register_forward_hook(record, with_kwargs=True)
    yield calls
    handle.remove()


# Training


def losses(family: LatentDiT, batch: Batch, seed: int | TrainStep) -> tuple[Tensor, Call]:
    """A training step's loss and its call of the network."""
    with recorded(family) as calls:
        loss, _ = family._loss(batch, seed if isinstance(seed, TrainStep) else TrainStep.from_seed(seed))
    (call,) = calls
    return loss, call


@pytest.mark.parametrize("patch", [(1, 8), (2, 4)])
def test_the_loss_is_over_cells_that_are_not_known(patch: tuple[int, int]) -> None:
    family, batch = dit(patch=patch, shift=20.0), Batch(clips(8, 6))
    outputs: list[Tensor] = []
    family.generator.register_forward_hook(lambda *call: outputs.append(call[-1]))
    for seed in range(4):
        loss, call = losses(family, batch, seed)
        levels = call.levels[..., None, None, None]
        missing = ~call.clean & (levels > 0.2)  # above the levels of context frames, which the loss leaves out
        x0 = batch.frames
        assert torch.equal(call.x[call.clean.expand_as(x0)], x0[call.clean.expand_as(x0)])
        velocity = (call.x - x0) / levels  # of what lies that far on the way from x0 to its noise
        error = (outputs[-1] - velocity).square().mean(2, True)[missing].mean()
        torch.testing.assert_close(loss, error, rtol=1e-3, atol=1e-4)
        (gradient,) = torch.autograd.grad(loss, outputs[-1])
        assert not gradient[~missing.expand_as(x0)].any() and gradient[missing.expand_as(x0)].all()


def drawn_tasks(**settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    return dit(**settings)._task(torch.zeros(4000, 6, 3, 4, 4), torch.Generator().manual_seed(0))


def test_in_training_frames_at_both_ends_or_a_region_are_known() -> None:
    clean, levels, _ = drawn_tasks(patch=(1, 1))
    known = clean.flatten(2).all(2)  # [B, T]
    some = clean.flatten(2).any(2)
    region = some.all(1)
    assert region.float().mean().item() == pytest.approx(0.15, abs=0.03)
    first, last = known[~region, 0], known[~region, -1]
    assert first.float().mean().item() == pytest.approx(0.3 * 5 / 6 / 2, abs=0.02)  # half are noised instead
    assert 0.035 < last.float().mean() < 0.08
    assert (first & last).any() and not known[~region].all(1).any()
    missing = ~known[~region]
    assert (missing.int().diff(dim=1) == 1).sum(1).max() == 1  # they are one stretch
    assert {*missing.sum(1).tolist()} == {1, 2, 3, 4, 5, 6}
    shares = clean[region & ~known.any(1), 0].float().mean((1, 2, 3))
    assert shares.min() < 0.1 and shares.max() > 0.9
    assert not levels[known].any() and levels[~known].all()


def test_context_rate_is_a_share_of_the_usual() -> None:
    usual, less, nothing = (
        (~drawn_tasks(context_rate=share)[2]).flatten(1).any(1).float().mean().item() for share in (1.0, 0.4, 0.0)
    )
    assert 0.4 < usual < 0.55
    assert less == pytest.approx(0.4 * usual, abs=0.03) and nothing == 0
    with pytest.raises(ValueError, match=r"rate is .*: it must be 0 to 1"):
        dit(context_rate=1.5)


def test_training_noises_a_clip_as_one_or_each_frame_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in ("START", "END", "REGION"):
        monkeypatch.setattr(tasks, share, 0.0)
    clean, levels, asked = drawn_tasks(patch=(1, 1))
    assert not clean.any() and asked.all()
    same = (levels == levels[:, :1]).all(1)
    assert same.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert levels.logit().mean().abs() < 0.03
    _, noisier, _ = drawn_tasks(patch=(1, 1), shift=3.0)
    torch.testing.assert_close(noisier, shifted(levels, 3.0))


def test_staggered_training_clips_have_more_noise_in_later_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    for share in ("START", "END", "REGION"):
        monkeypatch.setattr(tasks, share, 0.0)
    _, levels, asked = drawn_tasks(patch=(1, 1), staggered_rate=1.0, shift=2.0)
    assert (levels.diff(dim=1) >= 0).all()
    clean, noise = levels == 0, levels == 1
    assert torch.equal(asked[:, :, 0, 0, 0], ~clean)  # the loss leaves out frames that are done
    assert not clean[:, -1].all() and 0.2 < clean[:, 0].float().mean() < 0.8 and 0.2 < noise[:, -1].float().mean() < 0.8
    _, levels, _ = drawn_tasks(patch=(1, 1), staggered_rate=0.4)
    grows = (levels.diff(dim=1) >= 0).all(1) & (levels[:, -1] > levels[:, 0])
    assert grows.float().mean().item() == pytest.approx(0.4, abs=0.03)


def test_in_training_some_known_frames_are_noised(monkeypatch: pytest.MonkeyPatch) -> None:
    for share, value in {"START": 1.0, "END": 0.0, "REGION": 0.0}.items():
        monkeypatch.setattr(tasks, share, value)
    monkeypatch.setattr(model, "FORCED", 0.0)
    cells, levels, asked = drawn_tasks(patch=(1, 1))
    clean, context = cells.flatten(2).all(2), levels != levels[:, -1:]  # the last frame is never known here
    assert not levels[clean].any()
    assert torch.equal(asked.flatten(2).all(2), ~context) and torch.equal(asked.flatten(2).any(2), ~context)
    noised = context & ~clean
    assert noised.any(1).float().mean().item() == pytest.approx(5 / 12, abs=0.03)
    assert not (noised & clean.any(1, keepdim=True)).any()
    first = levels[noised[:, 0], 0]
    assert first.max() < MAX_CONTEXT_NOISE and first.mean().item() == pytest.approx(MAX_CONTEXT_NOISE / 2, abs=0.01)
    assert all(
        len(set(clip[frames].tolist())) == 1 for clip, frames in zip(levels, noised, strict=True) if frames.any()
    )


def test_latents_of_a_token_share_their_level() -> None:
    clean, levels, _ = drawn_tasks(patch=(2, 1))
    assert torch.equal(levels[:, ::2], levels[:, 1::2])
    known = clean.flatten(2).all(2)
    half = known[:, 0] & ~known[:, 1]
    assert half.any() and levels[half, 0].all()  # where a part of a token's time is known it is only marked
    assert not levels[:, 0][known[:, 0] & known[:, 1]].any()


def test_labels_are_dropped_at_the_rate() -> None:
    family = dit(LABELLED, dropout=0.25)
    label = torch.tensor([0, 1] * 200)
    labelled, unlabelled = (Batch(torch.zeros(400, 6, 3, 16, 16), Conditions(label=x)) for x in (label, None))
    used = labels(family, losses(family, labelled, 0)[1])
    assert (used == 2).float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert torch.equal(used[used != 2], label[used != 2])
    assert (labels(family, losses(family, unlabelled, 0)[1]) == 2).all()


def coloured(generator: torch.Generator) -> Batch:
    """Clips of one colour, each of its channels bright or dark; the label is the red one's."""
    bright = torch.randint(2, (16, 3), generator=generator)
    frames = (0.6 * (2 * bright - 1))[:, None, :, None, None].expand(-1, 4, -1, 8, 8)
    return Batch(frames, Conditions(label=bright[:, 0]))


def test_it_learns_labels_and_to_continue() -> None:
    torch.manual_seed(0)
    family = replace(TINY, hidden=32, shift=3.0).fitted(replace(LABELLED, frames=4, height=8, width=8)).build()
    optimizer = torch.optim.AdamW(family.generator.parameters(), 5e-3)
    for step in range(200):
        generator = torch.Generator().manual_seed(step)
        loss, _ = family._loss(coloured(generator), TrainStep(step, generator, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    family.sampling = LatentDiTSampling(steps=20)
    truth, seeds = coloured(torch.Generator().manual_seed(7)), tuple(range(16))
    colour = truth.frames.mean((3, 4))  # [B, T, 3]
    made = draw(family.eval(), 4, truth.conditions, seeds).mean((3, 4))
    assert ((made[..., 0] > 0) == (colour[..., 0] > 0)).float().mean() > 0.9
    for which in (0, 3):
        conditions = replace(known_frames(truth.frames, which), label=truth.conditions.label)
        made = draw(family, 6, conditions, seeds).mean((3, 4))  # two windows
        assert ((made > 0) == (colour[:, :1] > 0)).float().mean() > 0.9


# Sampling


class Oracle(Network):
    """A network that knows the one clip there is, in [-0.5, 0.5] in every window."""

    def __init__(self, family: LatentDiT, x0: Tensor) -> None:
        nn.Module.__init__(self)
        self.config, self.x0 = family.config, x0
        self.conditions, self.patches = family.generator.conditions, family.generator.patches

    def forward(self, x: Tensor, clean: Tensor, levels: Tensor, encoded: EncodedConditions, first: bool) -> Tensor:
        at = coefficients(self.config.path, expand_like(levels, x))
        eps = (x - at.alpha * self.x0) / at.sigma.clamp(min=1e-6)
        return target(self.config.parameterisation, self.config.path, self.x0.expand_as(x), eps, levels)


@pytest.mark.parametrize("path", get_args(Path))
@pytest.mark.parametrize("parameterisation", get_args(Parameterisation))
def test_a_network_that_knows_the_clip_samples_it(path: Path, parameterisation: Parameterisation) -> None:
    family, x0 = dit(path=path, parameterisation=parameterisation), clips(1, 1)[0] / 2
    family.generator = Oracle(family, x0)
    family.sampling = replace(family.sampling, solver="ddim", context_noise=0.1)
    torch.testing.assert_close(draw(family, 9), x0.expand(1, 9, -1, -1, -1), rtol=0, atol=1e-3)


def test_staggered_frames_begin_one_after_the_other() -> None:
    family = dit()
    family.sampling = replace(family.sampling, steps=4, stagger=0.5, overlap=0.5)
    with recorded(family) as calls:
        made = draw(family, 9, known_frames(clips(1, 6), 0))
    first, then = calls[:12], calls[12:]  # 4 steps, and 2 more for each sampled frame after the first
    assert len(then) == 4 + 2 * 2  # three of its frames are context
    for number, call in enumerate(first):
        done = [min(max(1 - (number - 2 * k) / 4, 0), 1) for k in range(5)]
        torch.testing.assert_close(call.levels[0], torch.tensor([0.0, *done]))
    assert not any(call.levels[:, :3].any() for call in then) and (then[0].levels[0, 3:] == 1).all()
    assert made.isfinite().all()
    with pytest.raises(ValueError, match=r"stagger is .*: it must be 0 to 1"):
        LatentDiTSampling(stagger=1.5)


class Labelled(Oracle):
    """A network to which clips with the label "up" are bright, those with "left" dark, and all others grey."""

    def forward(self, x: Tensor, clean: Tensor, levels: Tensor, encoded: EncodedConditions, first: bool) -> Tensor:
        self.x0 = torch.tensor([0.5, -0.5, 0.0])[nearest_label(self, encoded)][:, None, None, None, None]
        return super().forward(x, clean, levels, encoded, first)


@pytest.mark.parametrize("parameterisation", get_args(Parameterisation))
def test_the_candidate_that_fits_its_conditions_is_kept(
    parameterisation: Parameterisation, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = dit(LABELLED, parameterisation=parameterisation)
    family.generator = Labelled(family, torch.empty(0))
    family.sampling = replace(family.sampling, candidates=4)
    levels = torch.tensor([0.05, -0.4, 0.45, -0.1, 0.05, -0.4, 0.45, -0.1])
    drawn = levels[:, None, None, None, None].expand(-1, 6, 3, 16, 16)
    monkeypatch.setattr(WindowSampler, "_sample", lambda *_: drawn)
    made = draw(family, 6, Conditions(label=torch.tensor([0, 1])), (0, 1))
    assert made.flatten(1).mean(1).tolist() == pytest.approx([0.45, -0.4])


@pytest.mark.parametrize(("nearly", "wrong"), [(0.3, -0.5), (0.45, 1.5)])  # as for another label, and as for none
def test_a_candidate_is_as_wrong_as_its_worst_place(
    monkeypatch: pytest.MonkeyPatch, nearly: float, wrong: float
) -> None:
    family = dit(LABELLED)
    family.generator = Labelled(family, torch.empty(0))
    family.sampling = replace(family.sampling, candidates=2)
    good, bad = torch.full((6, 3, 16, 16), nearly), torch.full((6, 3, 16, 16), 0.5)  # "up" is 0.5
    bad[2, :, :8, :8] = wrong  # one token of 24
    for order in ([good, bad], [bad, good]):
        monkeypatch.setattr(WindowSampler, "_sample", lambda *_, order=order: torch.stack(order))
        assert torch.equal(draw(family, 6, Conditions(label=torch.tensor([0])))[0], good)


def test_candidates_keep_known_frames_and_a_clip_its_seed() -> None:
    family, frames = dit(LABELLED), clips(2, 6)
    family.sampling = replace(family.sampling, candidates=3)
    conditions = replace(known_frames(frames, 0, 5), label=torch.tensor([0, 1]))
    with recorded(family) as calls:
        made = draw(family, 6, conditions, (0, 1))
    assert torch.equal(made[:, [0, 5]], frames[:, [0, 5]])
    sixfold = frames[:, 0].repeat_interleave(3, 0)
    assert {len(call.x) for call in calls} == {6, 12}  # the score takes one call with and without conditions
    assert all(torch.equal(call.x[:, 0], sixfold.repeat(len(call.x) // 6, 1, 1, 1)) for call in calls)
    torch.testing.assert_close(draw(family, 6, conditions[1:], (1,)), made[1:])
    assert draw(family, 15, conditions, (0, 1)).isfinite().all()  # in windows
    unconditional = dit()
    single = draw(unconditional)
    unconditional.sampling = family.sampling
    assert torch.equal(draw(unconditional), single)


@pytest.mark.parametrize("which", [(0,), (0, 1, 2), (5,), (0, 5), (2, 3)])
@pytest.mark.parametrize("patch", [(1, 8), (2, 4)])
def test_known_frames_are_kept_and_decide_the_others(which: tuple[int, ...], patch: tuple[int, int]) -> None:
    family, frames = dit(patch=patch), clips(2, 6)
    with recorded(family) as calls:
        made = draw(family, 6, known_frames(frames, *which), (0, 1))
    assert torch.equal(made[:, which], frames[:, which])
    others = [k for k in range(6) if k not in which]
    assert not torch.equal(draw(family, 6, known_frames(-frames, *which), (0, 1))[:, others], made[:, others])
    complete = {k for k in which if {k - k % patch[0], k - k % patch[0] + patch[0] - 1} <= {*which}}
    for call in calls:
        assert call.clean[:, which].all() and not call.clean[:, others].any()
        assert torch.equal(call.x[:, which], frames[:, which])
        assert all(bool((call.levels[:, k] == 0).all()) == (k in complete) for k in range(6))


def test_known_pixels_are_kept_exactly() -> None:
    family, frames = dit(), clips(2, 5) / 2  # sampled pixels are clamped to -1 and 1
    mask = torch.rand(2, 5, 1, 16, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[1, 3] = True  # masks may differ from clip to clip
    everywhere = mask.expand_as(frames)
    conditions = Conditions(known=torch.where(mask, frames, torch.nan), mask=mask)
    made = draw(family, 9, conditions, (0, 1))
    assert torch.equal(made[:, :5][everywhere], frames[everywhere])
    assert not torch.isclose(made[:, :5][~everywhere], frames[~everywhere]).any()
    single = draw(family, 9, conditions[1:], (1,))
    torch.testing.assert_close(single[0], made[1])
    torch.testing.assert_close(draw(family, 3, conditions, (0, 1)), made[:, :3])


@pytest.mark.parametrize("candidates", [1, 2])
def test_ddpm_and_stagger_give_a_seed_its_clip_in_any_batch(candidates: int) -> None:
    """Clips with other known frames take other numbers of steps; noise must not depend on who is beside them."""
    family, frames = dit(LABELLED), clips(3, 15) / 2
    family.sampling = LatentDiTSampling(
        steps=3, solver="ddpm", stagger=0.5, context_noise=0.1, guidance=2.0, candidates=candidates
    )
    mask = torch.zeros(3, 15, 1, 16, 16, dtype=torch.bool)
    mask[0, :4] = True
    mask[1, [0, 7, 14], :, :8] = True  # the third clip has no known pixels
    conditions = Conditions(label=torch.tensor([0, 1, 0]), known=frames, mask=mask)
    seeds = Seeds((3, 4, 5))

    def sample(some: slice) -> Tensor:
        return torch.cat(list(stream(family, CPU, seeds[some], 15, conditions[some])), 1)

    together = sample(slice(3))
    assert torch.equal(sample(slice(3)), together)  # a Seeds is a value: used again, it gives the same
    for clip in range(3):
        torch.testing.assert_close(sample(slice(clip, clip + 1))[0], together[clip], atol=1e-4, rtol=0)


def test_an_empty_mask_is_no_condition() -> None:
    family = dit()
    mask = torch.zeros(1, 4, 1, 16, 16, dtype=torch.bool)
    assert torch.equal(draw(family, 6, Conditions(known=clips(1, 4), mask=mask)), draw(family))


@pytest.mark.parametrize(("overlap", "kept"), [(0.5, 3), (0.01, 1), (0.7, 4), (0.99, 5)])
def test_windows_begin_with_the_last_frames_of_those_before(overlap: float, kept: int) -> None:
    family = dit()
    family.sampling = replace(family.sampling, overlap=overlap)
    with recorded(family) as calls:
        made = draw(family, 14, seeds=(0, 1))
    windows = calls[::3]
    assert len(windows) == 1 + -(-8 // (6 - kept))
    assert not windows[0].clean.any()
    for number, window in enumerate(windows[1:], 1):
        begin = number * (6 - kept)
        assert window.clean[:, :kept].all() and not window.clean[:, kept:].any()
        assert not window.levels[:, :kept].any()
        assert torch.equal(window.x[:, :kept], made[:, begin : begin + kept])


def test_windows_reach_known_frames_further_on() -> None:
    family, frames = dit(), clips(1, 12)
    made = draw(family, 12, known_frames(frames, 0, 8, 11))
    assert torch.equal(made[:, (0, 8, 11)], frames[:, (0, 8, 11)])


def test_context_noise_is_the_level_of_the_context_frames() -> None:
    family, frames = dit(), clips(1, 6)
    family.sampling = replace(family.sampling, context_noise=0.1)
    with recorded(family) as calls:
        made = draw(family, 9, known_frames(frames, 0, 5))
    window = calls[3]
    torch.testing.assert_close(window.levels[0, :3], torch.tensor([0.1, 0.1, 0.0]))  # known frames are clean
    assert torch.equal(window.x[:, 2], frames[:, 5])
    assert window.clean[:, 2].all() and not window.clean[:, :2].any()
    noise = (window.x[:, :2] - 0.9 * made[:, 3:5]) / 0.1
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    assert all(torch.equal(call.x[:, :2], window.x[:, :2]) for call in calls[4:])


def test_guidance_of_1_is_none() -> None:
    family, conditions = dit(LABELLED), Conditions(label=torch.tensor([1]))

    def drawn(**settings: Any) -> tuple[Tensor, list[int]]:
        family.sampling = replace(TINY.sampling, **settings)
        with recorded(family) as calls:
            return draw(family, conditions=conditions), [int(label) for call in calls for label in labels(family, call)]

    plain, used = drawn()
    assert used == [1, 1, 1]
    outside, used = drawn(guidance=3.0, interval=(0.0, 0.1))
    assert used == [1, 1, 1] and torch.equal(outside, plain)
    guided, used = drawn(guidance=3.0)
    assert used == [1, 2] * 3 and not torch.equal(guided, plain)


@pytest.mark.parametrize("solver", get_args(Solver))
def test_every_solver_samples(solver: Solver) -> None:
    family = dit()
    family.sampling = replace(family.sampling, solver=solver, steps=4)
    with recorded(family) as calls:
        made = draw(family, 9, known_frames(clips(1, 6), 0, 5), (3,))
    assert made.isfinite().all() and made.abs().max() <= 1
    assert len(calls) == 2 * (7 if solver == "heun" else 4)  # two windows; Heun's last step is Euler's
    assert torch.equal(draw(family, 9, known_frames(clips(1, 6), 0, 5), (3,)), made)


def test_a_model_of_single_frames_cannot_continue() -> None:
    assert dit(replace(SPEC, frames=1)).max_frames == 1
    assert dit(replace(SPEC, frames=2)).max_frames is None
    assert dit(replace(SPEC, frames=2), patch=(2, 8)).max_frames == 2


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
    return dit(ClipSpec(9, 16, 32), codec=codec, patch=(1, 2))


def test_a_run_has_the_codecs_weights_and_leaves_them_alone(codec: str) -> None:
    run, (_, weights) = trainer(codec), load_codec(codec)
    assert run.family.codec is not None
    own = run.family.codec.inference_state()
    assert any(not torch.equal(own[name], weights[name]) for name in weights)
    run.begin()
    run.advance()
    torch.testing.assert_close(run.family.codec.inference_state(), weights, rtol=0, atol=0)
    assert not any("critic" in name for name in run.family.state_dict())
    frozen = {id(parameter) for parameter in run.family.codec.parameters()}
    assert not any(parameter.requires_grad for parameter in run.family.codec.parameters())
    assert not run.family.codec.training and run.family.generator.training  # after a step of training
    for module in (run.family.generator, run.average.module, *(turn.module for turn in run.turns)):
        assert not frozen & {id(parameter) for parameter in module.parameters()}
    state = run.state()
    assert state.codec is not None
    assert not any("codec" in name for name in (*state.generator, *state.training))


def test_a_codec_may_come_from_a_model_with_one_in_it(codec: str, tmp_path: FilePath) -> None:
    run = trainer(codec)
    run.begin()
    checkpoint.save_step(tmp_path, run.state())
    other = trainer(str(tmp_path))
    other.begin()
    assert run.family.codec is not None and other.family.codec is not None
    assert other.family.codec.config == run.family.codec.config
    torch.testing.assert_close(other.family.codec.inference_state(), load_codec(codec)[1], rtol=0, atol=0)


def test_a_checkpoint_is_complete_without_the_codecs_run(codec: str, tmp_path: FilePath) -> None:
    copy = shutil.copytree(codec, tmp_path / "codec")
    run = trainer(str(copy))
    run.begin()
    run.advance()
    checkpoint.save_step(tmp_path / "run", run.state())
    shutil.rmtree(copy)
    loaded = load(tmp_path / "run", CPU)
    with run.averaged() as family:
        chunks = [torch.cat(list(stream(f, CPU, Seeds((0,)), 12)), 1) for f in (loaded.family, family)]
    assert torch.equal(*chunks)
    resumed = Trainer(loaded.experiment, run.source, CPU)
    resumed.restore(checkpoint.load(tmp_path / "run"))
    resumed.advance()
    run.advance()
    torch.testing.assert_close(resumed.family.state_dict(), run.family.state_dict(), rtol=0, atol=0)


def test_cached_latents_give_the_loss_of_their_frames(latent: LatentDiT) -> None:
    frames = clips(2, 9, 16, 32)
    with torch.no_grad():
        latents = latent.codec.encode(frames)[0]  # pyright: ignore[reportOptionalMemberAccess]
    latent.train()
    loss, call = losses(latent, Batch(frames), 3)
    torch.testing.assert_close(losses(latent, Batch(frames[:, :0], latents=latents), 3)[0], loss, rtol=0, atol=0)
    assert loss.requires_grad and not call.x.requires_grad


def length_and_first(call: Call) -> tuple[int, bool]:
    return call.x.shape[1], call.has_first_frame_latent


def test_later_windows_have_no_latent_of_a_single_frame(latent: LatentDiT) -> None:
    batch = Batch(clips(1, 9, 16, 32))
    assert {length_and_first(losses(latent, batch, seed)[1]) for seed in range(20)} == {(3, True), (2, False)}
    with recorded(latent) as calls:
        draw(latent, 17)
    assert [length_and_first(call) for call in calls[::3]] == [(3, True), (2, False), (2, False)]


def test_all_ranks_train_on_later_windows_in_the_same_steps(latent: LatentDiT) -> None:
    """It decides whether `first_frame` has a gradient, so it must not depend on the rank's own generator."""
    batch, kinds = Batch(clips(1, 9, 16, 32)), []
    for shared in range(20):
        steps = [
            TrainStep(0, torch.Generator().manual_seed(own), torch.Generator().manual_seed(shared)) for own in range(3)
        ]
        calls = [losses(latent, batch, step)[1] for step in steps]
        assert len({call.has_first_frame_latent for call in calls}) == 1
        assert not torch.equal(calls[0].x, calls[1].x)
        kinds.append(calls[0].has_first_frame_latent)
    assert {*kinds} == {True, False}


@pytest.mark.parametrize("frames", [1, 5])
def test_clips_of_one_group_cannot_be_continued(codec: str, frames: int) -> None:
    family = dit(ClipSpec(frames, 16, 32), codec=codec, patch=(1, 2))
    assert family.max_frames == frames
    calls = [losses(family, Batch(clips(1, frames, 16, 32)), seed)[1] for seed in range(8)]
    assert {length_and_first(call) for call in calls} == {(1 + frames // 4, True)}
    assert draw(family, frames).shape == (1, frames, 3, 16, 32)


def test_the_windows_of_a_long_clip_are_decoded_as_one_video(
    latent: LatentDiT, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows, original = [], WindowSampler.windows
    monkeypatch.setattr(WindowSampler, "windows", lambda *inputs: (windows.append(w) or w for w in original(*inputs)))
    made = draw(latent, 20)
    assert made.shape == (1, 20, 3, 16, 32) and len(windows) > 2
    with torch.no_grad():
        decoded = latent.codec.decode(torch.cat(windows, 1))[0]  # pyright: ignore[reportOptionalMemberAccess]
    torch.testing.assert_close(made, decoded[:, :20])


def test_known_frames_come_back_as_the_codec_decodes_them(latent: LatentDiT) -> None:
    frames = clips(2, 9, 16, 32)
    codec = latent.codec
    assert codec is not None
    with torch.no_grad():
        coded = codec.decode(codec.encode(frames)[0])[0]
    torch.testing.assert_close(draw(latent, 9, known_frames(frames, *range(5)), (0, 1))[:, :5], coded[:, :5])
    torch.testing.assert_close(draw(latent, 9, known_frames(frames, *range(9)), (0, 1)), coded)
    assert not torch.isclose(draw(latent, 9, known_frames(frames, *range(4)), (0, 1))[:, 1:4], coded[:, 1:4]).all()


def test_a_latent_is_known_where_all_its_pixels_are(latent: LatentDiT) -> None:
    frames = clips(1, 9, 16, 32)
    mask = torch.ones(1, 8, 1, 16, 32, dtype=torch.bool)  # the last group is never complete
    mask[0, 0, 0, 5, 9] = False  # of the first frame, and of cell (1, 2)
    mask[0, 4, 0, 12:] = False  # of the second group, and the last row of cells
    latents, share = latent._known(Conditions(known=frames[:, :8], mask=mask), 1, CPU.device)
    assert latents.shape == (1, 3, 3, 4, 8) and share.shape == (1, 3, 1, 4, 8)
    wanted = torch.ones(3, 4, 8)
    wanted[0, 1, 2], wanted[1, 3], wanted[2] = 15 / 16, 3 / 4, 3 / 4
    torch.testing.assert_close(share[0, :, 0], wanted)


def test_sampling_begins_at_a_group_of_which_some_frames_are_known(latent: LatentDiT) -> None:
    frames = clips(1, 9, 16, 32)
    with recorded(latent) as calls:
        draw(latent, 9, known_frames(frames, 0, 8))
    levels = torch.stack([call.levels[0] for call in calls])  # [calls, L]
    assert not levels[:, 0].any() and levels[0, 1] == 1
    torch.testing.assert_close(levels[:, 2], levels[:, 1].clamp(max=PARTLY))
    codec = latent.codec
    assert codec is not None
    still = frames[:, [0, 0, 0, 0, 0, 8, 8, 8, 8]]  # each as at the nearest time at which it is known
    with torch.no_grad():
        latents = codec.encode(still)[0]
    share = latents.new_full((), 1 - PARTLY)
    noise = (calls[0].x - share * latents)[0, 2] / PARTLY
    assert abs(noise.mean()) < 0.3 and 0.7 < noise.std() < 1.3


# Errors


@pytest.mark.parametrize(
    ("settings", "spec", "says"),
    [
        (
            {"patch": (2, 8)},
            ClipSpec(5, 16, 16),
            "5 latents in time, which make no tokens of 2: make --family.patch 1 8",
        ),
        ({}, ClipSpec(6, 20, 16), "multiples of 8, not 20 and 16: choose others with --data.height"),
        ({"hidden": 20, "heads": 3}, SPEC, "width of 20 in 3 heads"),
    ],
)
def test_settings_that_do_not_fit_the_clips_are_errors(settings: dict[str, Any], spec: ClipSpec, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(TINY, **settings).fitted(spec).build()


@pytest.mark.parametrize(
    "settings", [{"patch": (0, 1)}, {"depth": 0}, {"shift": 0.0}, {"dropout": 1.0}], ids=lambda s: next(iter(s))
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} is "):
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
def test_sampling_settings_out_of_range_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(settings))} is "):
        replace(LatentDiTSampling(), **settings)


@pytest.mark.parametrize(("spec", "settings"), [(SPEC, {}), (LABELLED, {"dropout": 0.0})])
def test_guidance_needs_labels_that_were_dropped_in_training(spec: ClipSpec, settings: dict[str, Any]) -> None:
    family = dit(spec, **settings)
    family.sampling = replace(family.sampling, guidance=2.0)
    with pytest.raises(ValueError, match="make guidance 1"):
        draw(family)


def test_candidates_need_labels_that_were_dropped_in_training() -> None:
    family = dit(LABELLED, dropout=0.0)
    family.sampling = replace(family.sampling, candidates=2)
    with pytest.raises(ValueError, match="trained with label dropped, which candidates needs: make candidates 1"):
        draw(family)


@pytest.mark.parametrize(
    ("frames", "mask"), [((2, 1, 3, 16, 16), (2, 1, 1, 16, 16)), ((1, 1, 3, 8, 16), (1, 1, 1, 8, 16))]
)
def test_known_frames_of_other_shapes_are_errors(frames: tuple[int, ...], mask: tuple[int, ...]) -> None:
    conditions = Conditions(known=torch.zeros(frames), mask=torch.ones(mask, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"LatentDiT makes 1 clips of 16x16 here, but known is .*: resize the frames"):
        draw(dit(), 6, conditions)


def test_a_codec_of_tokens_is_an_error(tmp_path: FilePath) -> None:
    tokens = VideoVAEConfig(space=4, levels=(4, 5, 3), hidden=4)
    checkpoint.save_step(tmp_path, Trainer(Experiment(tokens), ShapeMotion(9, 16, 32), CPU).state())
    with pytest.raises(ValueError, match=r"makes tokens: train one without --family\.levels"):
        trainer(str(tmp_path))


def test_a_missing_codec_is_named(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="nowhere: no model there"):
        trainer("nowhere")
    with pytest.raises(ValueError, match=r"runs/codec: no model there.*kinema train"):
        Trainer(preset("latent-dit", "latent"), ShapeMotion(17, 64, 64), CPU)


# Conditions


def coloured_clips(generator: torch.Generator, clips: int = 16) -> Batch:
    """Frames of one colour: its red by the text, its green by the label, its blue by the sound and then by actions."""
    bright = torch.randint(2, (clips, 2), generator=generator)
    loud = torch.randint(2, (clips, 1), generator=generator).expand(-1, 4)
    done = torch.randint(2, (clips, 1, 1), generator=generator).expand(-1, 4, -1)
    blue = torch.where(torch.arange(4) < 2, loud, done[..., 0])
    colour = torch.stack([*bright[:, :, None].expand(-1, -1, 4).unbind(1), blue], 2)  # [B, T, 3]
    time = torch.arange(2000) / SAMPLE_RATE
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
def conditional() -> LatentDiT:
    """A tiny model that has learned four conditions."""
    torch.manual_seed(0)
    spec = ClipSpec(4, 8, 8, 8.0, ("dark", "green"), ("dark", "red"), 1, True)
    family = replace(TINY, hidden=32, shift=3.0).fitted(spec).build()
    optimizer = torch.optim.AdamW(family.generator.parameters(), 5e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "DROPPED_BESIDE_TEXT", 0.1)  # to be quick
        for step in range(400):
            generator = torch.Generator().manual_seed(step)
            loss, _ = family._loss(coloured_clips(generator), TrainStep(step, generator, generator))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return family.eval()


@pytest.mark.parametrize("name", ["text", "label", "audio", "actions"])
def test_the_true_condition_lowers_the_loss_and_decides_the_clip(conditional: LatentDiT, name: str) -> None:
    batch = coloured_clips(torch.Generator().manual_seed(999), 64)
    turned = batch.conditions.select([(clip + 1) % 64 for clip in range(64)])
    wrong = replace(batch, conditions=replace(batch.conditions, **{name: getattr(turned, name)}))
    with torch.no_grad():
        right, shuffled = (
            sum(float(conditional._loss(clips, TrainStep.from_seed(seed))[0]) for seed in range(8))
            for clips in (batch, wrong)
        )
    assert right < shuffled  # of the same noise
    conditional.sampling = LatentDiTSampling(steps=16)
    made = draw(conditional, 4, wrong.conditions, tuple(range(64))).mean((3, 4)) > 0
    truth = batch.frames.mean((3, 4)) > 0
    channel, times = {
        "text": (0, slice(4)),
        "label": (1, slice(4)),
        "audio": (2, slice(2)),
        "actions": (2, slice(2, 4)),
    }[name]
    followed = coloured_clips(torch.Generator().manual_seed(999), 64).frames.mean((3, 4)).roll(-1, 0) > 0
    assert (made[:, times, channel] == followed[:, times, channel]).float().mean() > 0.7  # chance is half
    others = [c for c in range(2) if c != channel]
    assert (made[:, :, others] == truth[:, :, others]).float().mean() > 0.9


def test_words_that_are_not_read_are_reported() -> None:
    family = dit(replace(SPEC, words=("a", "ball")))
    assert family.unread_text("a " * 48) == ""
    assert family.unread_text("a " * 47 + "big red ball") == "red ball"
    assert family.unknown_words("a big ball") == ("big",)
    assert dit().unread_text("a " * 100) == "" and dit().unknown_words("big") == ()
    text = ("a " * 48, "a " * 48 + "ball")
    made = draw(family, 6, Conditions(text=text), (0, 0))
    assert torch.equal(made[0], made[1])  # as they are not read
