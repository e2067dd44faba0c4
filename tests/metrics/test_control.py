"""Control scores: high for real clips, low for wrong labels, chance for clips that do not show what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from kinema import run
from kinema.metrics.control import MotionClassifier, label_control, motion_control, train_classifier
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


def clips_of(rng: np.random.Generator, classes: Sequence[str]) -> np.ndarray:
    """Features of clips of 40 dimensions, of which the first says the class, a little."""
    features = rng.standard_normal((len(classes), 40))
    features[:, 0] += [3.0 * (name == "left") for name in classes]
    return features


def test_features_are_read_as_their_classes() -> None:
    rng = np.random.default_rng(0)
    classes, asked = ["left", "up"] * 60, ["up", "left", "left", "up"] * 25
    right, real = label_control(clips_of(rng, classes), classes, np.arange(120), clips_of(rng, asked), asked)
    assert right.mean() > 0.85 and real.mean() > 0.8
    others = label_control(
        clips_of(rng, classes), classes, np.arange(120), clips_of(rng, asked), asked[1:] + asked[:1]
    )[0]
    assert abs(others.mean() - 0.5) < 0.1  # half of the clips were told the class that they are not of


def test_real_clips_are_read_by_those_of_other_files() -> None:
    rng = np.random.default_rng(0)
    files = np.repeat(np.arange(30), 4)  # each file's windows are the same but for a little, and say nothing else
    features = rng.standard_normal((30, 40))[files] + 0.01 * rng.standard_normal((120, 40))
    classes = [["left", "up"][int(file)] for file in rng.integers(2, size=30)[files]]
    right, real = label_control(features, classes, files, features, classes)
    assert right.mean() > 0.9 and real.mean() < 0.75


def test_clips_without_a_class_do_not_count() -> None:
    rng = np.random.default_rng(0)
    classes = ["left", "up", ""] * 30
    features = clips_of(rng, classes)
    right, real = label_control(features, classes, np.arange(90), features, classes)
    assert np.isnan(right[2::3]).all() and np.isnan(real[2::3]).all() and np.isfinite(right[::3]).all()
