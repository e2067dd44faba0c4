"""Nearest training clips: copies are near 0, whenever they begin and blurred or not, and new clips at about 1."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kinema.metrics.memorisation import BLOCK, nearest, thumbnails, typical_distance


def videos(seed: int, count: int, frames: int = 40) -> np.ndarray:
    """Smooth noise that changes in time, [count, frames, 32, 32, 3]."""
    noise = np.random.default_rng(seed).normal(size=(count, frames, 32, 32, 3))
    smooth = gaussian_filter(noise, (0, 3, 6, 6, 0))
    return (128 + 30 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


def windows(seed: int, count: int) -> np.ndarray:
    return thumbnails(videos(seed, count, 8))


TRAINING = videos(0, 60)
SMALL = thumbnails(TRAINING)


@pytest.fixture(scope="module")
def unit() -> float:
    return typical_distance(nearest(windows(1, 80), SMALL).distances)


def test_copies_are_near_0_and_new_clips_about_1(unit) -> None:
    copies = np.stack([TRAINING[7, 5:13], TRAINING[59, 32:40], TRAINING[0, :8]])
    found = nearest(thumbnails(copies), SMALL)
    assert not found.distances.any()
    assert found.videos.tolist() == [7, 59, 0] and found.starts.tolist() == [5, 32, 0]
    noisy = copies + np.random.default_rng(2).normal(0, 8, copies.shape)
    blurred = gaussian_filter(copies, (0, 0, 1.5, 1.5, 0))
    for changed in (noisy.clip(0, 255).astype(np.uint8), blurred):
        found = nearest(thumbnails(changed), SMALL)
        assert found.videos.tolist() == [7, 59, 0] and (found.distances < 0.2 * unit).all()
    new = nearest(windows(3, 80), SMALL).distances / unit
    assert np.median(new) == pytest.approx(1, abs=0.1) and new.min() > 0.5


def test_the_nearest_is_that_of_all_stretches(monkeypatch) -> None:
    clips = windows(4, 5)
    stretches = np.stack([video[first : first + 8] for video in SMALL for first in range(33)]).astype(float)
    squares = np.square(clips[:, None].astype(float) - stretches).mean((2, 3, 4, 5))
    found = nearest(clips, SMALL)
    np.testing.assert_allclose(found.distances, np.sqrt(squares.min(1)), rtol=1e-6)
    assert (found.videos * 33 + found.starts).tolist() == squares.argmin(1).tolist()
    monkeypatch.setattr("kinema.metrics.memorisation.BLOCK", 7)
    assert all(np.array_equal(a, b) for a, b in zip(found, nearest(clips, SMALL), strict=True))
    assert BLOCK > 33


def test_other_groups_only() -> None:
    clips, files = SMALL[:10, 3:11], np.arange(60)
    assert not nearest(clips, SMALL).distances.any()
    other = nearest(clips, SMALL, (files[:10], files))
    assert (other.distances > 5).all() and (other.videos != files[:10]).all()


def test_where_there_is_no_typical_distance() -> None:
    alone = nearest(SMALL[:3, :8], SMALL[:1], (np.zeros(3, int), np.zeros(1, int)))
    assert np.isinf(alone.distances).all() and alone.videos.tolist() == [-1] * 3
    assert np.isnan(typical_distance(alone.distances))
    assert np.isnan(typical_distance(nearest(SMALL[:3, :8], SMALL).distances))  # held-out clips that were trained on
    assert np.isinf(nearest(SMALL[:1, :8], SMALL[:2, :7]).distances).all()  # videos that are too short
