"""Nearest training clips: copies are at 0, new clips at about 1."""

from __future__ import annotations

import numpy as np
import pytest

from kinema.metrics.memorisation import nearest, typical_distance


def draw(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16))


TRAINING, HELD_OUT = draw(0, 600), draw(1, 80)


def test_copies_are_near_0_and_new_clips_about_1() -> None:
    unit = typical_distance(TRAINING, np.arange(600), HELD_OUT)
    copies = TRAINING[[5, 599]] + 0.01 * draw(2, 2)
    found = nearest(copies, TRAINING)
    assert found.indices.tolist() == [5, 599] and (found.distances / unit < 0.05).all()
    assert np.array_equal(nearest(TRAINING[:3], TRAINING).distances, np.zeros(3))
    new = nearest(draw(3, 200), TRAINING).distances / unit
    assert np.median(new) == pytest.approx(1, abs=0.1) and new.min() > 0.4


def test_the_nearest_is_that_of_all_pairs_whatever_the_block() -> None:
    clips = draw(4, 520)
    pairs = np.linalg.norm(clips[:, None] - TRAINING[None], axis=-1)
    found = nearest(clips, TRAINING)
    np.testing.assert_allclose(found.distances, pairs.min(1))
    assert np.array_equal(found.indices, pairs.argmin(1))


def test_without_held_out_clips_files_are_compared_with_other_files() -> None:
    """Windows of one file are alike, and would make the typical distance too small."""
    files = np.repeat(np.arange(100), 4)
    windows = draw(5, 100)[files] + 0.01 * draw(6, 400)
    between = typical_distance(windows, files, None)
    assert between == pytest.approx(typical_distance(windows[::4], files[::4], None), rel=0.05)
    assert between > 10 * typical_distance(windows, np.arange(400), None)


def test_where_there_is_no_typical_distance() -> None:
    assert np.isnan(typical_distance(TRAINING, np.zeros(600, int), None))  # one file
    assert np.isnan(typical_distance(TRAINING, np.arange(600), TRAINING[:5]))  # held-out clips that were trained on
    with pytest.raises(ValueError, match="no training clips"):
        nearest(HELD_OUT, TRAINING[:0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        nearest(HELD_OUT * np.nan, TRAINING)
