"""Intervals, extrapolation, floors and tests where the truth is known, by formula or by simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from kinema.metrics.frechet import Moments, frechet
from kinema.metrics.resampling import difference_interval, extrapolated, floor, half_interval, paired_test


def fd(a: np.ndarray, b: np.ndarray) -> float:
    return frechet(Moments.of(a), Moments.of(b)).value


def means_apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() - b.mean())


def gaussian(
    rng: np.random.Generator, count: int, dimensions: int, shift: float = 0.0, scale: float = 1.0
) -> np.ndarray:
    return rng.normal(shift, scale, (count, dimensions))


def distance(dimensions: int, shift: float, scale: float) -> float:
    """Between a standard Gaussian and one that is shifted and scaled in each dimension."""
    return dimensions * (shift**2 + (scale - 1) ** 2)


@pytest.mark.parametrize("count", [5, 8, 40])
def test_the_half_interval_of_a_mean_is_students(count: int) -> None:
    a = gaussian(np.random.default_rng(0), count, 1)
    value, low, high = half_interval(lambda x, _: float(x.mean()), a, a, splits=1000)
    expected = scipy.stats.t.interval(0.95, count - 1, a.mean(), scipy.stats.sem(a[:, 0]))
    assert value == a.mean()
    # an odd number's halves are not quite halves: 4 % too wide for 5
    np.testing.assert_allclose([low - value, high - value], np.array(expected) - value, rtol=0.08)


def test_the_half_interval_covers() -> None:
    rng = np.random.default_rng(1)
    truth = np.mean([fd(gaussian(rng, 60, 4), gaussian(rng, 60, 4, 0.5, 1.2)) for _ in range(400)])
    assert truth > 1.1 * distance(4, 0.5, 1.2)  # biased
    found = [half_interval(fd, gaussian(rng, 60, 4), gaussian(rng, 60, 4, 0.5, 1.2), splits=20) for _ in range(60)]
    assert 0.85 <= np.mean([low <= truth <= high for _, low, high in found]) <= 1
    spread = np.std([value for value, _, _ in found])
    assert np.mean([high - low for _, low, high in found]) < 1.4 * (2 * 2 * spread)  # and is not merely wide


def test_groups_are_the_units() -> None:
    rng = np.random.default_rng(2)
    a, b = gaussian(rng, 30, 2), gaussian(rng, 24, 2)
    alone = half_interval(means_apart, a, b)
    copies = a.repeat(9, 0), b.repeat(9, 0)
    names = np.array([f"file {number}" for number in range(30)]).repeat(9), np.arange(24).repeat(9)
    _, low, high = half_interval(means_apart, *copies, groups=names)
    assert high - low == pytest.approx(alone[2] - alone[1], rel=0.15)  # the draws are not the same
    _, low, high = half_interval(means_apart, *copies)
    assert high - low == pytest.approx((alone[2] - alone[1]) / 3, rel=0.15)


def test_ids_on_both_sides_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    a = gaussian(rng, 50, 1)
    b = a + gaussian(rng, 50, 1, scale=0.1)
    ids, order = np.arange(50), rng.permutation(50)
    value, low, high = half_interval(means_apart, a, b[order], groups=(ids, ids[order]), splits=500)
    expected = scipy.stats.t.interval(0.95, 49, (a - b).mean(), scipy.stats.sem((a - b)[:, 0]))
    np.testing.assert_allclose([value, low, high], [(a - b).mean(), *expected], atol=0.003)


def test_extrapolation_finds_the_line() -> None:
    sides = np.zeros((40, 1)), np.zeros((50, 1))
    found = extrapolated(lambda x, y: 3 + 8 / min(len(x), len(y)), *sides, splits=2)
    assert (found.value, found.slope) == pytest.approx((3, 8))
    np.testing.assert_array_equal(found.clips, [20, 24, 28, 32, 36, 40])
    np.testing.assert_allclose(found.means, 3 + 8 / found.clips)


def test_extrapolation_removes_bias_and_covers() -> None:
    rng = np.random.default_rng(4)
    truth = distance(8, 0.4, 1.2)
    values, found = [], []
    for _ in range(40):
        a, b = gaussian(rng, 60, 8), gaussian(rng, 70, 8, 0.4, 1.2)
        values.append(fd(a, b))
        found.append(extrapolated(fd, a, b, draws=6, splits=10))
    assert np.mean(values) > 1.5 * truth
    assert np.mean([one.value for one in found]) == pytest.approx(truth, rel=0.12)
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.85


@pytest.mark.parametrize("dimensions", [6, 40])  # of 40 clips: many for it, and as many
def test_the_floor_is_what_other_real_clips_score(dimensions: int) -> None:
    rng = np.random.default_rng(5)
    real = gaussian(rng, 80, dimensions)
    found = floor(fd, real, splits=100)
    assert found.clips == 40 and found.low < found.value < found.high
    others = np.array([fd(gaussian(rng, 40, dimensions), gaussian(rng, 40, dimensions)) for _ in range(200)])
    assert found.value == pytest.approx(others.mean(), rel=0.15)  # of this set of real clips
    ranges = [floor(fd, gaussian(rng, 80, dimensions), splits=50) for _ in range(10)]
    within = np.mean([np.mean((one.low <= others) & (others <= one.high)) for one in ranges])
    assert 0.7 <= within < 1  # less than 0.95: the splits of one set vary less than fresh sets do
    larger = found.at(160)
    others = np.array([fd(gaussian(rng, 160, dimensions), gaussian(rng, 160, dimensions)) for _ in range(100)])
    assert larger.clips == 160 and larger.value == pytest.approx(others.mean(), rel=0.15)
    assert others.std() < larger.high - larger.low < 8 * others.std()


def test_the_floors_halves_share_no_group() -> None:
    groups = np.arange(30) % 10
    halves: list[tuple[set, set]] = []

    def of(a: np.ndarray, b: np.ndarray) -> float:
        halves.append((set(a[:, 0]), set(b[:, 0])))
        return 0.0

    floor(of, groups[:, None].astype(float), groups, splits=9)
    assert len(halves) == 9 and all(len(a) == len(b) == 5 and not a & b for a, b in halves)
    assert len({frozenset(a) for a, _ in halves}) > 5


def test_the_difference_interval_shares_the_reference() -> None:
    rng = np.random.default_rng(6)

    def of(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a.mean(0) - b.mean(0)) ** 2).sum())

    reference = gaussian(rng, 30, 2)
    a1, a2 = gaussian(rng, 400, 2, shift=3.5), gaussian(rng, 400, 2, shift=3)
    value, low, high = difference_interval(of, a1, a2, reference)
    assert value == pytest.approx(of(a1, reference) - of(a2, reference))
    _, low1, high1 = half_interval(of, a1, reference)
    assert high - low < 0.4 * (high1 - low1)  # most of the noise of one was the reference's
    a2 = a1 + gaussian(rng, 400, 2, scale=0.01)
    ids = np.arange(400)
    _, low, high = difference_interval(of, a1, a2, reference)
    _, low_paired, high_paired = difference_interval(of, a1, a2, reference, groups=(ids, ids, None))
    assert high_paired - low_paired < 0.1 * (high - low)


def test_the_difference_interval_covers() -> None:
    rng = np.random.default_rng(7)

    def once() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return gaussian(rng, 60, 3, 0.6), gaussian(rng, 60, 3, 0.3), gaussian(rng, 60, 3)

    truth = 3 * (0.6**2 - 0.3**2)  # equal covariances at equal numbers have equal biases
    found = [difference_interval(fd, *once(), splits=12) for _ in range(60)]
    assert 0.85 <= np.mean([low <= truth <= high for _, low, high in found]) <= 1


def test_the_paired_test_is_all_flips() -> None:
    x = np.array([3.1, 2.0, 4.4, 1.5, 2.2, 3.0, 2.9])
    y = np.array([2.0, 2.1, 3.0, 1.0, 1.1, 3.2, 1.4])
    found = paired_test(x, y)
    flips = np.array([np.dot(signs, x - y) for signs in product((1, -1), repeat=7)])
    assert found.p == pytest.approx(np.mean(np.abs(flips) >= (x - y).sum() - 1e-9))
    assert found.value == pytest.approx((x - y).mean()) and found.low < found.value < found.high
    turned = paired_test(y, x)
    assert (turned.value, turned.p) == pytest.approx((-found.value, found.p))


def test_the_paired_test_of_many() -> None:
    rng = np.random.default_rng(8)
    shared = rng.normal(size=300) * 10
    x, y = shared + rng.normal(size=300) + 0.5, shared + rng.normal(size=300)
    found = paired_test(x, y)
    assert found.p == pytest.approx(1e-4 * 2, abs=2e-4) and found.low > 0  # the least that 9999 flips can show
    assert found == paired_test(x, y) and found.p > 0
    p = [paired_test(rng.normal(size=12), rng.normal(size=12)).p for _ in range(40)]
    assert np.mean(np.array(p) < 0.05) <= 0.15 and np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.25)


def test_one_seed_one_interval() -> None:
    rng = np.random.default_rng(9)
    a, b = gaussian(rng, 20, 2), gaussian(rng, 20, 2)
    assert half_interval(fd, a, b) == half_interval(fd, a, b) != half_interval(fd, a, b, seed=1)
    assert floor(fd, a) == floor(fd, a) != floor(fd, a, seed=1)
    assert half_interval(fd, a, b, level=0.5)[2] < half_interval(fd, a, b)[2]


def test_refusals() -> None:
    a = np.arange(12.0)[:, None]
    with pytest.raises(ValueError, match="side 1 has 12 clips and 5 group ids"):
        half_interval(means_apart, a, a, groups=(None, np.arange(5)))
    with pytest.raises(ValueError, match="at least 2 clips or groups a side, and side 0 has fewer"):
        half_interval(means_apart, a, a, groups=(np.zeros(12, int), None))
    with pytest.raises(ValueError, match="at least 2"):
        floor(means_apart, a[:1])
    with pytest.raises(ValueError, match="distances of 12 and 11 clips have different biases"):
        difference_interval(means_apart, a, a[1:], a)
    with pytest.raises(ValueError, match="there are 3 clips and 10 draws"):
        extrapolated(means_apart, a, a[:3])
    with pytest.raises(ValueError, match="pair 2 has no finite difference"):
        paired_test(np.zeros(4), np.array([0, 1, np.nan, 0]))
    with pytest.raises(ValueError, match="at least 2"):
        paired_test(np.zeros(1), np.ones(1))
