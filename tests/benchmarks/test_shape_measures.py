"""Shape Motion's own measures: the colour of its shape, and a classifier of its motion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from shape_measures import MotionClassifier, motion_control, shape_colour, train_classifier
from torch import Tensor

from kinema.metrics.acd import acd
from kinema.runtime.device import detect_runtime
from kinema.worlds.shape_motion import ShapeMotion

RUNTIME = detect_runtime("cpu")


def square(*colours: tuple[float, float, float], side: int = 6, edge: float = 1.0) -> Tensor:
    """A clip [1, T, 3, 16, 16]: a square that wanders, its outermost ring dimmed to `edge`, a colour a frame."""
    rgb = torch.zeros(1, len(colours), 3, 16, 16)
    for t, colour in enumerate(colours):
        corner = 1 + t
        body = torch.full((side, side), edge)
        body[1:-1, 1:-1] = 1
        rgb[0, t, :, corner : corner + side, corner : corner + side] = torch.tensor(colour)[:, None, None] * body
    return rgb / 127.5 - 1


def test_a_kept_colour_scores_zero() -> None:
    clip = square((40.0, 90.0, 200.0), (40.0, 90.0, 200.0), (40.0, 90.0, 200.0))
    assert acd(shape_colour(clip)).item() == pytest.approx(0, abs=1e-3)


def test_two_colours_by_hand() -> None:
    # Frames A, A, B: of the three pairs two differ, by the length of (30, 40, 0), which is 50.
    clip = square((100.0, 50.0, 20.0), (100.0, 50.0, 20.0), (130.0, 90.0, 20.0))
    assert acd(shape_colour(clip)).item() == pytest.approx(50 * 2 / 3, rel=1e-4)


def test_dim_edges_do_not_change_the_colour() -> None:
    clip = torch.cat([square((200.0, 80.0, 40.0), edge=edge) for edge in (0.3, 0.6, 1.0)], dim=1)
    torch.testing.assert_close(shape_colour(clip)[0], torch.tensor([[200.0, 80.0, 40.0]] * 3), atol=1e-2, rtol=0)


def test_dark_shapes_and_specks_are_shapes() -> None:
    torch.testing.assert_close(
        shape_colour(square((6.0, 4.0, 0.0)))[0, 0], torch.tensor([6.0, 4.0, 0.0]), atol=1e-3, rtol=0
    )
    speck = shape_colour(square((60.0, 90.0, 30.0), side=2))[0, 0]
    torch.testing.assert_close(speck, torch.tensor([60.0, 90.0, 30.0]), atol=1e-2, rtol=0)


def test_an_empty_frame_is_a_black_shape() -> None:
    clip = square((0.0, 0.0, 0.0), (120.0, 160.0, 0.0))
    torch.testing.assert_close(shape_colour(clip)[0, 0], torch.zeros(3))
    assert acd(shape_colour(clip)).item() == pytest.approx(200, rel=1e-4)


def test_real_clips_score_zero_though_they_move() -> None:
    frames = ShapeMotion(frames=32).batch(0, 32, seed=0).to(RUNTIME.device).frames
    assert acd(shape_colour(frames)).amax().item() < 1e-2
    mixed = torch.cat([frames[:16, :16], frames[16:, :16]], dim=1)  # the content changes half-way
    assert acd(shape_colour(mixed)).mean().item() > 10


@pytest.fixture(scope="module")
def world() -> ShapeMotion:
    return ShapeMotion(frames=6, height=16, width=16)


@pytest.fixture(scope="module")
def classifier(world: ShapeMotion) -> MotionClassifier:
    return train_classifier(world, RUNTIME, steps=60, batch=16)


def test_real_clips_are_classified_and_swapped_labels_are_not(world: ShapeMotion, classifier: MotionClassifier) -> None:
    clips = world.batch(0, 40, seed=1).to(RUNTIME.device)  # not the seed of training
    assert clips.conditions.label is not None
    right = motion_control(classifier, clips.frames, clips.conditions.label, RUNTIME)
    wrong = motion_control(classifier, clips.frames, 1 - clips.conditions.label, RUNTIME)
    assert right.mean() > 0.9
    torch.testing.assert_close(right + wrong, torch.ones(40))


def test_the_motion_counts_and_not_the_pictures(world: ShapeMotion, classifier: MotionClassifier) -> None:
    clips = world.batch(0, 40, seed=1).to(RUNTIME.device)
    assert clips.conditions.label is not None
    backwards = motion_control(classifier, clips.frames.flip(1), clips.conditions.label, RUNTIME)
    still = motion_control(classifier, clips.frames[:, :1].expand(-1, 6, -1, -1, -1), clips.conditions.label, RUNTIME)
    forwards = motion_control(classifier, clips.frames, clips.conditions.label, RUNTIME)
    assert still.mean() < forwards.mean() and backwards.mean() <= forwards.mean()


def test_the_same_seed_gives_the_same_classifier(world: ShapeMotion) -> None:
    one, other = (train_classifier(world, RUNTIME, steps=2, batch=4) for _ in range(2))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_clips_without_labels_raise(world: ShapeMotion) -> None:
    world = ShapeMotion(frames=6, height=16, width=16)
    world.spec = replace(world.spec, classes=())
    with pytest.raises(ValueError, match="no labels"):
        train_classifier(world, RUNTIME)
