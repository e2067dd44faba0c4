"""TGAN: the critic's weights are clipped in time, and known pixels are explained by the latents that draw them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinema.families.tgan import TGANConfig
from kinema.family import Facts, Family
from kinema.run import Run
from kinema.sample import stream
from kinema.train import Experiment, TrainConfig, Trainer
from kinema.types import Conditions, Noise
from kinema.worlds.shape_motion import ShapeMotion

RUN = Run(torch.device("cpu"), torch.float32)
KNOWN = 3  # of 8 frames


def trainer(**settings: object) -> Trainer:
    config = TGANConfig(**{"latent": 8, "path": 6, "ngf": 4, "ngf_path": 8, "ndf": 8} | settings)
    return Trainer(Experiment(config, train=TrainConfig(batch=8, lr=1e-3, average=0.0)), ShapeMotion(8, 16, 16), RUN)


@pytest.fixture(scope="module")
def family() -> Family:
    """A tiny model after a brief training."""
    trained = trainer(loss="hinge", norm="none")
    for _ in range(60):
        trained.advance()
    return trained.family


def clips(family: Family, noise: Noise, given: Conditions, run: Run = RUN) -> Tensor:
    return torch.cat(list(stream(family, run, noise, 8, given)), 1)


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
def test_the_search_explains_frames_that_it_can_draw(family: Family, precision: torch.dtype) -> None:
    run = Run(torch.device("cpu"), precision)
    label = torch.tensor([0, 1, 0, 1])
    wanted = clips(family, Noise((100, 101, 102, 103)), Conditions(label=label), run)
    drawn = clips(family, Noise((0, 1, 2, 3)), Conditions(label=label), run)
    found = clips(family, Noise((0, 1, 2, 3)), first_frames(wanted, label), run)
    assert error(found, wanted) < 0.2 * error(drawn, wanted)


def test_the_search_comes_nearer_to_real_frames(family: Family) -> None:
    batch = ShapeMotion(8, 16, 16).batch(1000, 4, seed=0)
    assert batch.given.label is not None
    noise = Noise((0, 1, 2, 3))
    drawn = clips(family, noise, Conditions(label=batch.given.label))
    found = clips(family, noise, first_frames(batch.frames, batch.given.label))
    assert error(found, batch.frames) < 0.7 * error(drawn, batch.frames)


def test_a_seed_means_a_future(family: Family) -> None:
    label = torch.tensor([1, 1, 1])
    wanted = clips(family, Noise((100,)), Conditions(label=label[:1])).expand(3, -1, -1, -1, -1)
    given = first_frames(wanted, label)
    found = clips(family, Noise((0, 1, 0)), given)
    torch.testing.assert_close(found[0], found[2], atol=1e-3, rtol=0)
    torch.testing.assert_close(clips(family, Noise((0, 1, 0)), given), found, atol=0, rtol=0)
    torch.testing.assert_close(clips(family, Noise((1,)), given[1:2])[0], found[1], atol=1e-3, rtol=0)
    assert (found[0] - found[1])[KNOWN:].abs().max() > 0.01


def test_what_is_not_known_is_not_looked_at(family: Family) -> None:
    label = torch.tensor([0])
    frames = clips(family, Noise((100,)), Conditions(label=label))
    mask = torch.zeros(1, 8, 1, 16, 16, dtype=torch.bool)
    mask[:, 2:7, :, :8] = True  # the upper half of five frames in the middle
    hidden = frames.where(mask, torch.nan)
    found = clips(family, Noise((0,)), Conditions(label=label, known=hidden, mask=mask))
    plain = clips(family, Noise((0,)), Conditions(label=label))
    assert found.isfinite().all()
    wrong = [(x - frames).where(mask, 0).square().sum() for x in (found, plain)]
    assert wrong[0] < 0.2 * wrong[1]


def test_where_nothing_is_known_nothing_changes(family: Family) -> None:
    label = torch.tensor([0])
    plain = clips(family, Noise((0,)), Conditions(label=label))
    assert torch.equal(clips(family, Noise((0,)), first_frames(plain, label, 0)), plain)


def test_a_clip_of_which_nothing_is_known_is_not_changed_by_others(family: Family) -> None:
    label = torch.tensor([0, 0])
    plain = clips(family, Noise((0, 1)), Conditions(label=label))
    given = first_frames(plain.flip(0), label)
    assert given.mask is not None
    given.mask[1] = False
    found = clips(family, Noise((0, 1)), given)
    torch.testing.assert_close(found[1], plain[1], atol=1e-4, rtol=0)


def test_known_frames_may_be_fewer_than_are_drawn(family: Family) -> None:
    label = torch.tensor([0])
    wanted = clips(family, Noise((100,)), Conditions(label=label))
    whole = first_frames(wanted, label)
    assert whole.known is not None and whole.mask is not None
    short = Conditions(label=label, known=whole.known[:, :KNOWN], mask=whole.mask[:, :KNOWN])
    torch.testing.assert_close(clips(family, Noise((0,)), short), clips(family, Noise((0,)), whole), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 9, 3, 16, 16), (1, 8, 3, 16, 32)])
def test_known_frames_of_other_sizes_are_refused(family: Family, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="give at most 8 of 16x16"):
        clips(family, Noise((0,)), first_frames(torch.zeros(shape), torch.tensor([0])))


def test_a_batch_of_one_clip_is_refused() -> None:
    alone = trainer()
    batch = alone.source.batch(0, 1, seed=0)
    with pytest.raises(ValueError, match=r"raise --train\.batch"):
        alone.turns[0].loss(batch, torch.Generator())


def test_the_network_is_the_papers() -> None:
    with torch.device("meta"):
        generator = TGANConfig().fitted(Facts(16, 64, 64)).build().generator
    temporal = [tuple(p.shape) for p in generator.temporal.parameters() if p.ndim == 3]
    assert temporal == [(100, 512, 1), (512, 256, 4), (256, 128, 4), (128, 128, 4), (128, 100, 4)]
    assert generator.of_clip[0].weight.shape == generator.of_frame[0].weight.shape == (256 * 4 * 4, 100)
    image = [tuple(p.shape) for p in generator.image.parameters() if p.ndim == 4]
    assert image == [(512, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 32, 4, 4), (3, 32, 3, 3)]
