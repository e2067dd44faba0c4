"""Control of labels: high where clips show what was requested, chance where they do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kinema.metrics.control import label_control


def clips_of(rng: np.random.Generator, classes: Sequence[str]) -> np.ndarray:
    """Features [N, 40] of which the first depends on the class."""
    features = rng.standard_normal((len(classes), 40))
    features[:, 0] += [3.0 * (name == "left") for name in classes]
    return features


def test_features_are_classified() -> None:
    rng = np.random.default_rng(0)
    classes, requested = ["left", "up"] * 60, ["up", "left", "left", "up"] * 25
    right, real = label_control(clips_of(rng, classes), classes, np.arange(120), clips_of(rng, requested), requested)
    assert right.mean() > 0.85 and real.mean() > 0.8
    others = label_control(
        clips_of(rng, classes), classes, np.arange(120), clips_of(rng, requested), requested[1:] + requested[:1]
    )[0]
    assert abs(others.mean() - 0.5) < 0.1  # half of the clips are of another class than requested


def test_real_clips_are_classified_by_those_of_other_files() -> None:
    rng = np.random.default_rng(0)
    files = np.repeat(np.arange(30), 4)  # a file's windows are nearly equal, and independent of the class
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
