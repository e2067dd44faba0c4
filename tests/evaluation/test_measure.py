"""Distances in a network's features."""

from __future__ import annotations

import numpy as np
import pytest

from kinema.evaluation.measure import DIRECTIONS, feature_distances
from kinema.metrics.statistics import real_floor


@pytest.mark.parametrize("clips", [64, 200])
def test_the_floor_of_the_default_distance_is_that_of_other_real_clips(clips: int) -> None:
    rng = np.random.default_rng(0)

    def drawn() -> np.ndarray:
        return rng.normal(size=(clips, 300)) * 3 * np.arange(1, 301) ** -0.7

    reference = drawn()
    distance = feature_distances("imagenet", reference)[0]
    assert distance.names == ("FD imagenet",) and distance.floor_of is not None
    floor = distance.floor_scale * float(real_floor(distance.floor_of, reference, splits=10))
    others = [feature_distances("imagenet", one)[0].of(one, drawn()) for one in (drawn() for _ in range(10))]
    assert floor == pytest.approx(np.mean(others), rel=0.2)


def test_the_default_distance_is_of_means_in_all_dimensions_and_few_covariances() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(100, 60)) * np.linspace(9, 1, 60)
    of = feature_distances("imagenet", reference)[0].of
    shifted = reference + np.eye(60)[59] * 2
    assert of(reference, reference.copy()) == 0
    assert of(reference, shifted) == pytest.approx(4)
    assert feature_distances("kinema", reference)[0].of(reference, shifted) == pytest.approx(4)
    assert DIRECTIONS["imagenet"] * 2 + 2 == 64
