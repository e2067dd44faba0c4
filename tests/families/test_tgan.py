"""TGAN: the critic's singular values are clipped, and known pixels are met by a search for latents."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kinema.experiment import Experiment, TrainConfig
from kinema.families.tgan import TGANConfig, bound_slope_, clip_singular_values_
from kinema.family import Family
from kinema.nn.critic import critic_of_clips
from kinema.runtime.device import Runtime
from kinema.sampling.model import stream
from kinema.training.loop import Trainer
from kinema.types import ClipSpec, Conditions, Seeds, TrainStep
from kinema.worlds.shape_motion import ShapeMotion

CPU = Runtime(torch.device("cpu"), torch.float32)
KNOWN = 3  # of 8 frames


def trainer(**settings: object) -> Trainer:
    config = TGANConfig(**{"latent": 8, "path": 6, "ngf": 4, "ngf_path": 8, "ndf": 8} | settings)
    return Trainer(Experiment(config, train=TrainConfig(batch=8, lr=1e-3, ema_decay=0.0)), ShapeMotion(8, 16, 16), CPU)


@pytest.fixture(scope="module")
def family() -> Family:
    """A tiny model after a brief training."""
    trained = trainer(loss="hinge", norm="none")
    for _ in range(60):
        trained.advance()
    return trained.family


def clips(family: Family, seeds: Seeds, conditions: Conditions, runtime: Runtime = CPU) -> Tensor:
    return torch.cat(list(stream(family, runtime, seeds, 8, conditions)), 1)


def first_frames(frames: Tensor, label: Tensor, count: int = KNOWN) -> Conditions:
    mask = torch.zeros_like(frames[:, :, :1], dtype=torch.bool)
    mask[:, :count] = True
    return Conditions(label=label, known=frames, mask=mask)


def error(drawn: Tensor, wanted: Tensor) -> float:
    return (drawn - wanted)[:, :KNOWN].square().mean().item()


def largest(trained: Trainer) -> list[float]:
    weights = [p.detach() for p in trained.family.get_submodule("critic").parameters() if p.ndim > 1]
    return [torch.linalg.matrix_norm(weight.flatten(1), 2).item() for weight in weights]


def test_singular_values_are_clipped_at_every_fifth_turn() -> None:
    trained = trainer()
    for turn in range(1, 11):
        trained.advance()
        assert (max(largest(trained)) <= 1 + 1e-4) == (turn % 5 == 0), turn


def test_clipping_can_be_left_out() -> None:
    trained = trainer(clip_every=0)
    for _ in range(5):
        trained.advance()
    assert max(largest(trained)) > 1.01


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_search_finds_frames_that_the_model_can_make(family: Family, precision: torch.dtype) -> None:
    runtime = Runtime(torch.device("cpu"), precision)
    label = torch.tensor([0, 1, 0, 1])
    wanted = clips(family, Seeds((100, 101, 102, 103)), Conditions(label=label), runtime)
    drawn = clips(family, Seeds((0, 1, 2, 3)), Conditions(label=label), runtime)
    found = clips(family, Seeds((0, 1, 2, 3)), first_frames(wanted, label), runtime)
    assert error(found, wanted) < 0.2 * error(drawn, wanted)


def test_the_search_comes_nearer_to_real_frames(family: Family) -> None:
    batch = ShapeMotion(8, 16, 16).batch(1000, 4, seed=0).to(CPU.device)
    assert batch.conditions.label is not None
    seeds = Seeds((0, 1, 2, 3))
    drawn = clips(family, seeds, Conditions(label=batch.conditions.label))
    found = clips(family, seeds, first_frames(batch.frames, batch.conditions.label))
    assert error(found, batch.frames) < 0.7 * error(drawn, batch.frames)


def test_a_seed_is_one_continuation(family: Family) -> None:
    label = torch.tensor([1, 1, 1])
    wanted = clips(family, Seeds((100,)), Conditions(label=label[:1])).expand(3, -1, -1, -1, -1)
    conditions = first_frames(wanted, label)
    found = clips(family, Seeds((0, 1, 0)), conditions)
    torch.testing.assert_close(found[0], found[2], atol=1e-3, rtol=0)
    torch.testing.assert_close(clips(family, Seeds((0, 1, 0)), conditions), found, atol=0, rtol=0)
    torch.testing.assert_close(clips(family, Seeds((1,)), conditions[1:2])[0], found[1], atol=1e-3, rtol=0)
    assert (found[0] - found[1])[KNOWN:].abs().max() > 0.01


def test_unknown_pixels_are_not_read(family: Family) -> None:
    label = torch.tensor([0])
    frames = clips(family, Seeds((100,)), Conditions(label=label))
    mask = torch.zeros(1, 8, 1, 16, 16, dtype=torch.bool)
    mask[:, 2:7, :, :8] = True  # the upper half of five frames in the middle
    known = frames.where(mask, torch.nan)
    found = clips(family, Seeds((0,)), Conditions(label=label, known=known, mask=mask))
    plain = clips(family, Seeds((0,)), Conditions(label=label))
    assert found.isfinite().all()
    wrong = [(x - frames).where(mask, 0).square().sum() for x in (found, plain)]
    assert wrong[0] < 0.2 * wrong[1]


def test_an_empty_mask_is_no_condition(family: Family) -> None:
    label = torch.tensor([0])
    plain = clips(family, Seeds((0,)), Conditions(label=label))
    assert torch.equal(clips(family, Seeds((0,)), first_frames(plain, label, 0)), plain)


def test_a_clip_without_known_pixels_is_not_changed_by_others(family: Family) -> None:
    label = torch.tensor([0, 0])
    plain = clips(family, Seeds((0, 1)), Conditions(label=label))
    conditions = first_frames(plain.flip(0), label)
    assert conditions.mask is not None
    conditions.mask[1] = False
    found = clips(family, Seeds((0, 1)), conditions)
    torch.testing.assert_close(found[1], plain[1], atol=1e-4, rtol=0)


def test_known_may_be_shorter_than_the_clip(family: Family) -> None:
    label = torch.tensor([0])
    wanted = clips(family, Seeds((100,)), Conditions(label=label))
    full = first_frames(wanted, label)
    assert full.known is not None and full.mask is not None
    short = Conditions(label=label, known=full.known[:, :KNOWN], mask=full.mask[:, :KNOWN])
    torch.testing.assert_close(clips(family, Seeds((0,)), short), clips(family, Seeds((0,)), full), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((1, 9, 3, 16, 16), "known is 9 frames, and TGAN makes 8: give at most as many"),
        ((1, 8, 3, 16, 32), "TGAN makes 1 clips of 16x16 here, but known is"),
        ((2, 8, 3, 16, 16), "give one clip and mask for each seed"),
    ],
)
def test_known_of_another_size_count_or_length_is_an_error(family: Family, shape: tuple[int, ...], says: str) -> None:
    for count in (KNOWN, 0):  # where the mask is empty too
        conditions = first_frames(torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64), count)
        with pytest.raises(ValueError, match=says):
            next(family.generate(conditions, 8, Seeds((0,))))


def test_a_batch_of_one_clip_is_an_error() -> None:
    single = trainer()
    batch = single.source.batch(0, 1, seed=0).to(CPU.device)
    with pytest.raises(ValueError, match=r"raise --train\.batch"):
        single.turns[0].loss(batch, TrainStep.from_seed(0))


def test_the_network_is_the_papers() -> None:
    with torch.device("meta"):
        generator = TGANConfig().fitted(ClipSpec(16, 64, 64)).build().generator
    temporal = [tuple(p.shape) for p in generator.temporal.parameters() if p.ndim == 3]
    assert temporal == [(100, 512, 1), (512, 256, 4), (256, 128, 4), (128, 128, 4), (128, 100, 4)]
    assert generator.of_clip[0].weight.shape == generator.of_frame[0].weight.shape == (256 * 4 * 4, 100)
    image = [tuple(p.shape) for p in generator.image.parameters() if p.ndim == 4]
    assert image == [(512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 32, 4, 4), (3, 32, 3, 3)]


# Clipping against the singular value decomposition that defines it


def singular_values(weight: Tensor) -> Tensor:
    """Singular values, largest first."""
    return torch.linalg.svdvals(weight.detach().flatten(1).double())


LAYERS = {
    "linear-wide": lambda: nn.Linear(40, 12),
    "linear-tall": lambda: nn.Linear(12, 40),
    "conv2d": lambda: nn.Conv2d(5, 8, 4),
    "conv3d": lambda: nn.Conv3d(3, 16, 4),
    "one-row": lambda: nn.Conv3d(16, 1, 4),
}


@pytest.fixture(params=LAYERS)
def weight(request: pytest.FixtureRequest) -> Tensor:
    """A layer's weight whose singular values are spread evenly from 0.1 to 3, or one of 3."""
    torch.manual_seed(0)
    weight = LAYERS[request.param]().weight.detach()
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    spread = torch.linspace(3, 0.1, len(s))
    return ((u * spread) @ v).view_as(weight)


def test_clipping_is_that_of_the_decomposition(weight: Tensor) -> None:
    u, s, v = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    expected = ((u * s.clamp(max=1)) @ v).float().view_as(weight)
    clip_singular_values_(weight)
    torch.testing.assert_close(weight, expected, atol=2e-6, rtol=0)
    assert singular_values(weight).max() <= 1 + 1e-5


def test_smaller_singular_values_do_not_change(weight: Tensor) -> None:
    small = weight / 3.01
    before = small.clone()
    clip_singular_values_(small)
    assert torch.equal(small, before)


def test_a_weight_keeps_its_memory_layout() -> None:
    weight = torch.randn(16, 3, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    contiguous = weight.clone(memory_format=torch.contiguous_format)
    clip_singular_values_(weight)
    clip_singular_values_(contiguous)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(weight, contiguous, atol=1e-6, rtol=0)


def test_all_layers_of_a_critic_are_clipped() -> None:
    torch.manual_seed(0)
    critic = critic_of_clips(3, 4, 8, 16, 16, "batch")
    for parameter in critic.parameters():
        parameter.data.mul_(5)
    scales = [norm for norm in critic.norms if isinstance(norm, nn.BatchNorm3d)]
    for norm in scales:
        nn.init.uniform_(norm.running_var, 0.1, 4)
        norm.weight.data[:2] = torch.tensor([-1.0, 0.05])
    wanted = [norm.weight.clone() for norm in scales]
    bound_slope_(critic)
    for convolution in critic.convolutions:
        assert singular_values(convolution.weight).max() <= 1 + 1e-5
    for norm, weight in zip(scales, wanted, strict=True):
        deviation = norm.running_var.sqrt()
        torch.testing.assert_close(norm.weight.detach(), weight.minimum(deviation).maximum(0.01 * deviation))
        assert (norm.weight.detach()[2:] == deviation[2:]).all()  # 5 is more than any deviation seen
