"""Curves of long clips: the same in chunks as at once, and summed up by seconds."""

from __future__ import annotations

import numpy as np
import pytest
from rollout import CURVES, drift, each_second

from kinema.metrics.statistics import mean_interval

CLIPS = np.random.default_rng(0).integers(0, 256, (4, 12, 8, 6, 3), np.uint8)


@pytest.mark.parametrize("sizes", [(1,) * 12, (5, 4, 3), (11, 1)])
def test_chunks_give_what_the_whole_gives(sizes: tuple[int, ...]) -> None:
    whole = drift([CLIPS])
    parts = drift(iter(np.split(CLIPS, np.cumsum(sizes)[:-1], 1)))
    for name in CURVES:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-6)
    assert np.isnan(whole.motion[:, 0]).all() and np.isfinite(whole.motion[:, 1:]).all()


def test_colour_is_the_distance_from_real_clips() -> None:
    real, tinted = np.full((2, 3, 4, 4, 3), 90, np.uint8), np.full((1, 2, 4, 4, 3), 90, np.uint8)
    real[0], tinted[..., 0], tinted[..., 1] = 110, 103, 104  # the mean of real ones is 100
    np.testing.assert_allclose(drift([tinted]).beside(drift([real]))["colour"], np.full((1, 2), 125**0.5))


def test_seconds_are_means_over_their_frames_with_intervals_over_clips() -> None:
    curve = np.random.default_rng(0).random((6, 11))
    curve[:, 0] = np.nan
    found = each_second(curve, fps=4)
    assert found.shape == (3, 3)
    for second, (first, last) in enumerate([(1, 4), (4, 8), (8, 11)]):
        np.testing.assert_allclose(found[second], mean_interval(curve[:, first:last].mean(1)))
    halves = each_second(curve, fps=2.5)  # seconds of 3, 2, 3, 2 and 1 frames
    np.testing.assert_allclose(halves[1:, 0], [curve[:, a:b].mean() for a, b in ((3, 5), (5, 8), (8, 10), (10, 11))])
