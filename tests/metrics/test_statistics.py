"""Intervals, extrapolation, floors and tests where the truth is known, by formula or by simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch

from kinema.metrics.frechet import frechet_distance
from kinema.metrics.statistics import extrapolated_distance, half_interval, mean_interval, paired_test, real_floor


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() - b.mean())


def gaussian(
    rng: np.random.Generator, count: int, dimensions: int, shift: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    return rng.normal(shift, scale, (count, dimensions))


def distance(dimensions: int, shift: float, scale: float) -> float:
    """Between a standard Gaussian and one that is shifted and scaled in each dimension."""
    return dimensions * (shift**2 + (scale - 1) ** 2)


def test_the_interval_of_a_mean_is_that_of_a_bootstrap_by_hand() -> None:
    values = np.random.default_rng(0).normal(size=30)
    value, low, high = mean_interval(values, level=0.9, seed=3)
    picks = np.random.default_rng(3).integers(30, size=(2000, 30))
    np.testing.assert_allclose((value, low, high), (values.mean(), *np.quantile(values[picks].mean(1), [0.05, 0.95])))
    assert mean_interval(torch.from_numpy(values), level=0.9, seed=3) == (value, low, high)
    assert mean_interval(values, level=0.5)[1] > low


def test_the_interval_of_a_mean_covers() -> None:
    rng = np.random.default_rng(1)
    found = [mean_interval(rng.exponential(size=40)) for _ in range(200)]
    assert 0.88 <= np.mean([low <= 1 <= high for _, low, high in found]) <= 0.98


def test_groups_of_a_mean_are_resampled_together() -> None:
    values = np.random.default_rng(2).normal(size=40)
    files = np.array([f"file {number}" for number in range(40)]).repeat(5)
    repeated = mean_interval(values.repeat(5), groups=files)
    spread = repeated[2] - repeated[1]
    _, low, high = mean_interval(values)
    assert spread == pytest.approx(high - low, rel=0.1)
    _, low, high = mean_interval(values.repeat(5))
    assert high - low < 0.6 * spread
    uneven = mean_interval(np.array([1.0, 1, 1, 5]), groups=np.array([0, 0, 0, 1]))
    assert uneven[0] == 2 and uneven[1:] == (1, 5)
    with pytest.raises(ValueError, match="at least 2"):
        mean_interval(values, groups=np.zeros(40))


@pytest.mark.parametrize("count", [5, 8, 40])
def test_the_half_interval_of_a_mean_is_students(count: int) -> None:
    a = gaussian(np.random.default_rng(0), count, 1)
    value, low, high = half_interval(lambda x, _: float(x.mean()), (a, a), splits=1000)
    expected = scipy.stats.t.interval(0.95, count - 1, a.mean(), scipy.stats.sem(a[:, 0]))
    assert value == a.mean()
    # an odd number's halves are not quite halves: 4 % too wide for 5
    np.testing.assert_allclose([low - value, high - value], np.array(expected) - value, rtol=0.08)


def test_the_half_interval_covers() -> None:
    rng = np.random.default_rng(1)

    def once() -> tuple[np.ndarray, np.ndarray]:
        return gaussian(rng, 60, 4), gaussian(rng, 60, 4, 0.5, 1.2)

    truth = np.mean([frechet_distance(*once()) for _ in range(400)])
    assert truth > 1.1 * distance(4, 0.5, 1.2)  # biased
    found = [half_interval(frechet_distance, once(), splits=20) for _ in range(60)]
    assert 0.85 <= np.mean([low <= truth <= high for _, low, high in found]) <= 1
    spread = np.std([value for value, _, _ in found])
    assert np.mean([high - low for _, low, high in found]) < 1.4 * (2 * 2 * spread)  # and is not merely wide


def test_groups_are_the_units_of_halves() -> None:
    rng = np.random.default_rng(2)
    a, b = gaussian(rng, 30, 2), gaussian(rng, 24, 2)
    single = half_interval(mean_difference, (a, b))
    copies = a.repeat(9, 0), b.repeat(9, 0)
    names = np.array([f"file {number}" for number in range(30)]).repeat(9), np.arange(24).repeat(9)
    _, low, high = half_interval(mean_difference, copies, names)
    assert high - low == pytest.approx(single[2] - single[1], rel=0.15)  # the draws are not the same
    _, low, high = half_interval(mean_difference, copies)
    assert high - low == pytest.approx((single[2] - single[1]) / 3, rel=0.15)


def test_ids_in_two_sets_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    a = gaussian(rng, 50, 1)
    b = a + gaussian(rng, 50, 1, scale=0.1)
    ids, order = np.arange(50), rng.permutation(50)
    value, low, high = half_interval(mean_difference, (a, b[order]), (ids, ids[order]), splits=500)
    expected = scipy.stats.t.interval(0.95, 49, (a - b).mean(), scipy.stats.sem((a - b)[:, 0]))
    np.testing.assert_allclose([value, low, high], [(a - b).mean(), *expected], atol=0.003)


def test_differences_of_distances_share_the_reference() -> None:
    rng = np.random.default_rng(6)

    def of(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a.mean(0) - b.mean(0)) ** 2).sum())

    def difference(x1: np.ndarray, x2: np.ndarray, reference: np.ndarray) -> float:
        return of(x1, reference) - of(x2, reference)

    reference = gaussian(rng, 30, 2)
    a1, a2 = gaussian(rng, 400, 2, shift=3.5), gaussian(rng, 400, 2, shift=3)
    value, low, high = half_interval(difference, (a1, a2, reference))
    assert value == pytest.approx(of(a1, reference) - of(a2, reference))
    _, low1, high1 = half_interval(of, (a1, reference))
    assert high - low < 0.4 * (high1 - low1)  # most of the noise of one was the reference's
    a2 = a1 + gaussian(rng, 400, 2, scale=0.01)
    ids = np.arange(400)
    _, low, high = half_interval(difference, (a1, a2, reference))
    _, low_paired, high_paired = half_interval(difference, (a1, a2, reference), (ids, ids, None))
    assert high_paired - low_paired < 0.1 * (high - low)


def test_the_interval_of_a_difference_of_distances_covers() -> None:
    rng = np.random.default_rng(7)

    def once() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return gaussian(rng, 60, 3, 0.6), gaussian(rng, 60, 3, 0.3), gaussian(rng, 60, 3)

    def difference(x1: np.ndarray, x2: np.ndarray, reference: np.ndarray) -> float:
        return frechet_distance(x1, reference) - frechet_distance(x2, reference)

    truth = 3 * (0.6**2 - 0.3**2)  # equal covariances at equal numbers have equal biases
    found = [half_interval(difference, once(), splits=12) for _ in range(60)]
    assert 0.85 <= np.mean([low <= truth <= high for _, low, high in found]) <= 1


def test_extrapolation_finds_the_line() -> None:
    a, b = np.zeros((40, 1)), np.zeros((50, 1))
    found = extrapolated_distance(lambda x, y: 3 + 8 / min(len(x), len(y)), a, b, splits=2)
    assert (found.value, found.slope) == pytest.approx((3, 8))
    np.testing.assert_array_equal(found.clips, [20, 24, 28, 32, 36, 40])
    np.testing.assert_allclose(found.means, 3 + 8 / found.clips)


def test_extrapolation_removes_bias_and_covers() -> None:
    rng = np.random.default_rng(4)
    truth = distance(8, 0.4, 1.2)
    values, found = [], []
    for _ in range(40):
        a, b = gaussian(rng, 60, 8), gaussian(rng, 70, 8, 0.4, 1.2)
        values.append(frechet_distance(a, b))
        found.append(extrapolated_distance(frechet_distance, a, b, draws=6, splits=10))
    assert np.mean(values) > 1.5 * truth
    assert np.mean([one.value for one in found]) == pytest.approx(truth, rel=0.12)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.85


@pytest.mark.parametrize("dimensions", [6, 40])  # of 40 clips: few, and as many
def test_the_floor_is_what_other_real_clips_score(dimensions: int) -> None:
    rng = np.random.default_rng(5)

    def score(clips: int) -> float:
        found = [
            frechet_distance(gaussian(rng, clips, dimensions), gaussian(rng, clips, dimensions)) for _ in range(200)
        ]
        return float(np.mean(found))

    found = real_floor(frechet_distance, gaussian(rng, 80, dimensions))
    assert found == pytest.approx(score(40), rel=0.15)
    assert found / 2 == pytest.approx(score(80), rel=0.15)  # as its docstring says of twice as many clips


def test_the_halves_of_the_floor_share_no_group() -> None:
    groups = np.arange(30) % 10
    halves: list[tuple[set, set]] = []

    def of(a: np.ndarray, b: np.ndarray) -> float:
        halves.append((set(a[:, 0]), set(b[:, 0])))
        return 0.0

    real_floor(of, groups[:, None].astype(float), groups, splits=9)
    assert len(halves) == 9 and all(len(a) == len(b) == 5 and not a & b for a, b in halves)
    assert len({frozenset(a) for a, _ in halves}) > 5


def test_the_paired_test_is_all_flips() -> None:
    x = np.array([3.1, 2.0, 4.4, 1.5, 2.2, 3.0, 2.9])
    y = np.array([2.0, 2.1, 3.0, 1.0, 1.1, 3.2, 1.4])
    found = paired_test(x, y)
    flips = np.array([np.dot(signs, x - y) for signs in product((1, -1), repeat=7)])
    assert found.p == pytest.approx(np.mean(np.abs(flips) >= (x - y).sum() - 1e-9))
    assert found.value == pytest.approx((x - y).mean()) and found.low < found.value < found.high
    turned = paired_test(y, x)
    assert (turned.value, turned.p) == pytest.approx((-found.value, found.p))


def test_the_paired_test_flips_groups_as_one() -> None:
    x, groups = np.array([1.0, 2, 3, 1, 2, 3]), np.array([0, 0, 0, 1, 1, 2])
    sums = np.array([6.0, 3, 3])
    flips = np.array([np.dot(signs, sums) for signs in product((1, -1), repeat=3)])
    assert paired_test(x, np.zeros(6), groups=groups).p == pytest.approx(np.mean(np.abs(flips) >= 12))


def test_the_paired_test_of_many() -> None:
    rng = np.random.default_rng(8)
    shared = rng.normal(size=300) * 10
    x, y = shared + rng.normal(size=300) + 0.5, shared + rng.normal(size=300)
    found = paired_test(x, y)
    assert found.p == pytest.approx(2e-4, abs=2e-4) and found.low > 0  # the least that 9999 flips can show
    assert found == paired_test(x, y) and found.p > 0
    p = [paired_test(rng.normal(size=12), rng.normal(size=12)).p for _ in range(40)]
    assert np.mean(np.array(p) < 0.05) <= 0.15 and np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.25)


def test_one_seed_one_interval() -> None:
    rng = np.random.default_rng(9)
    sets = gaussian(rng, 20, 2), gaussian(rng, 20, 2)
    found = half_interval(frechet_distance, sets)
    assert half_interval(frechet_distance, sets) == found != half_interval(frechet_distance, sets, seed=1)
    floor = real_floor(frechet_distance, sets[0])
    assert real_floor(frechet_distance, sets[0]) == floor != real_floor(frechet_distance, sets[0], seed=1)
    assert half_interval(frechet_distance, sets, level=0.5)[2] < found[2]


def test_what_cannot_be_computed_raises() -> None:
    a = np.arange(12.0)[:, None]
    with pytest.raises(ValueError, match="set 1 has 12 clips and 5 group ids"):
        half_interval(mean_difference, (a, a), (None, np.arange(5)))
    with pytest.raises(ValueError, match="at least 2 clips or groups, and set 0 has fewer"):
        half_interval(mean_difference, (a, a), (np.zeros(12, int), None))
    with pytest.raises(ValueError, match="at least 2"):
        real_floor(mean_difference, a[:1])
    with pytest.raises(ValueError, match="not 3 clips and 10 draws"):
        extrapolated_distance(mean_difference, a, a[:3])
    with pytest.raises(ValueError, match="pair 2 has no finite difference"):
        paired_test(np.zeros(4), np.array([0, 1, np.nan, 0]))
    with pytest.raises(ValueError, match="at least 2"):
        paired_test(np.zeros(1), np.ones(1))
