"""The motion control score: high for real clips, low for wrong labels, chance for clips without motion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kinema import run
from kinema.metrics.control import MotionClassifier, motion_control, train_classifier
from kinema.worlds.shape_motion import ShapeMotion

PLACE = run.start("cpu")


@pytest.fixture(scope="module")
def world() -> ShapeMotion:
    return ShapeMotion(frames=6, height=16, width=16)


@pytest.fixture(scope="module")
def classifier(world: ShapeMotion) -> MotionClassifier:
    return train_classifier(world, PLACE, steps=60, batch=16)


def test_real_clips_are_read_right_and_swapped_labels_wrong(world: ShapeMotion, classifier: MotionClassifier) -> None:
    clips = world.batch(0, 40, seed=1)  # another seed than that of training
    assert clips.given.label is not None
    right = motion_control(classifier, clips.frames, clips.given.label, PLACE)
    wrong = motion_control(classifier, clips.frames, 1 - clips.given.label, PLACE)
    assert right.mean() > 0.9
    torch.testing.assert_close(right + wrong, torch.ones(40))


def test_the_motion_counts_and_not_the_pictures(world: ShapeMotion, classifier: MotionClassifier) -> None:
    clips = world.batch(0, 40, seed=1)
    assert clips.given.label is not None
    backwards = motion_control(classifier, clips.frames.flip(1), clips.given.label, PLACE)
    still = motion_control(classifier, clips.frames[:, :1].expand(-1, 6, -1, -1, -1), clips.given.label, PLACE)
    forwards = motion_control(classifier, clips.frames, clips.given.label, PLACE)
    assert still.mean() < forwards.mean() and backwards.mean() <= forwards.mean()


def test_the_same_seed_gives_the_same_classifier(world: ShapeMotion) -> None:
    one, other = (train_classifier(world, PLACE, steps=2, batch=4) for _ in range(2))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_clips_without_labels_are_refused(world: ShapeMotion) -> None:
    world = ShapeMotion(frames=6, height=16, width=16)
    world.facts = replace(world.facts, classes=())
    with pytest.raises(ValueError, match="no labels"):
        train_classifier(world, PLACE)
