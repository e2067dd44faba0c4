"""Frechet distances against SciPy's matrix root, torchmetrics and analytic values, well and ill-conditioned."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from kinema.metrics.frechet import Moments, frechet


def features(seed: int, count: int, dimensions: int, offset: float = 0.0) -> np.ndarray:
    """Correlated vectors with a skew."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    return np.maximum(mixed, -1) + offset


def with_covariance(root: np.ndarray, mean: np.ndarray) -> Moments:
    """Moments whose mean and covariance root' root are as asked: of vectors a root's row to either side of the mean."""
    scaled = root * np.sqrt((2 * len(root) - 1) / 2)
    return Moments.of(np.concatenate([mean + scaled, mean - scaled]))


def rotation(dimensions: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions))).Q


@pytest.mark.parametrize("ddof", [0, 1])
def test_it_is_the_formula_with_scipys_root(ddof: Literal[0, 1]) -> None:
    a, b = features(0, 300, 24), features(1, 200, 24, offset=0.3)
    of_a, of_b = np.cov(a.T, ddof=ddof), np.cov(b.T, ddof=ddof)
    root = np.real(np.asarray(scipy.linalg.sqrtm(of_a @ of_b)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b - 2 * root)
    found = frechet(Moments.of(a), Moments.of(b), ddof=ddof)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert frechet(Moments.of(b), Moments.of(a), ddof=ddof).value == pytest.approx(expected, rel=1e-6)
    assert found.clips == (300, 200) and found.ranks == (24, 24) and found.dimensions == 24 and not found.singular


def test_it_is_torchmetrics() -> None:
    a, b = features(2, 150, 16), features(3, 150, 16)
    statistics = (torch.from_numpy(part) for side in (a, b) for part in (side.mean(0), np.cov(side.T)))
    assert frechet(Moments.of(a), Moments.of(b)).value == pytest.approx(_compute_fid(*statistics).item(), rel=1e-6)


def test_few_clips_are_singular_and_still_right() -> None:
    a, b = features(4, 9, 20), features(5, 12, 20)
    found = frechet(Moments.of(a), Moments.of(b))
    assert found.singular and found.ranks == (8, 11)
    of_a, of_b = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(of_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    inner = np.sqrt(np.linalg.eigvalsh(root @ of_b @ root).clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b) - 2 * inner
    assert found.value == pytest.approx(expected, rel=1e-6)  # roots of rounding errors limit the check, not the thing
    full = features(6, 21, 20)
    assert not frechet(Moments.of(full), Moments.of(full)).singular
    assert frechet(Moments.of(full[:20]), Moments.of(full)).singular


@pytest.mark.parametrize("turn", [False, True])
def test_commuting_covariances_over_eighteen_decades(turn: bool) -> None:
    deviations_a, deviations_b = np.logspace(-6, 3, 19), np.logspace(3, -6, 19)  # variances 1e-12 to 1e6
    axes = rotation(19) if turn else np.eye(19)
    mean = np.linspace(-1, 1, 19)
    a, b = with_covariance(deviations_a[:, None] * axes, mean), with_covariance(deviations_b[:, None] * axes, -mean)
    expected = (4 * mean**2).sum() + ((deviations_a - deviations_b) ** 2).sum()
    assert frechet(a, b).value == pytest.approx(expected, rel=1e-12)


def test_small_differences_of_large_covariances() -> None:
    deviations = np.logspace(-6, 3, 10)
    a = with_covariance(np.diag(deviations), np.zeros(10))
    b = with_covariance(np.diag(deviations * 1.001), np.zeros(10))
    assert frechet(a, b).value == pytest.approx((deviations**2).sum() * 1e-6, rel=1e-8)


def test_rank_one() -> None:
    u, v = np.array([[3.0, 0, 4]]), np.array([[0.0, 2, 1]])
    found = frechet(with_covariance(u, np.zeros(3)), with_covariance(v, np.array([0.0, 0, 1])))
    assert found.value == pytest.approx(1 + 25 + 5 - 2 * 4)  # the root of uu'vv' has the trace |u.v|
    assert found.ranks == (1, 1) and found.singular


def test_identical_sets_are_at_zero() -> None:
    for count in (5, 200):
        a = features(7, count, 30, offset=50)
        found = frechet(Moments.of(a), Moments.of(a[::-1].copy())).value
        assert 0 <= found < 1e-12 * np.trace(np.cov(a.T))
    still = np.ones((4, 3))
    assert frechet(Moments.of(still), Moments.of(still)).value == 0


@pytest.mark.parametrize("sizes", [(1,) * 90, (89, 1), (7, 0, 40, 43)])
def test_batches_and_merges_give_what_the_whole_gives(sizes: tuple[int, ...]) -> None:
    whole = features(8, 90, 12, offset=1e4).astype(
        np.float32
    )  # far from 0, where raw sums of squares lose their digits
    parts = np.split(whole, np.cumsum(sizes)[:-1])
    streamed, merged = Moments(12), Moments(12)
    for part in parts:
        streamed.add(part)
        merged.merge(Moments.of(part))
    for found in (streamed, merged):
        assert found.count == 90
        np.testing.assert_allclose(found.mean, whole.mean(0, dtype=np.float64), rtol=1e-13)
        np.testing.assert_allclose(found.covariance(), np.cov(whole.T.astype(np.float64)), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            found.covariance(ddof=0), np.cov(whole.T.astype(np.float64), ddof=0), rtol=1e-9, atol=1e-9
        )


def test_memory_does_not_grow_with_clips() -> None:
    moments = Moments(6)
    for seed in range(50):
        moments.add(features(seed, 20, 6))
        assert moments.factor().shape == (6, 6) and len(moments._factor) <= 12
    assert moments.count == 1000


def test_refusals() -> None:
    broken = features(9, 12, 4)
    broken[[3, 7], [0, 2]] = np.nan, np.inf
    with pytest.raises(ValueError, match="in row 3, 7:"):
        Moments.of(broken)
    broken[:] = np.nan
    with pytest.raises(ValueError, match="in row 0, 1, 2, 3, 4 and 7 more:"):
        Moments.of(broken)
    good = Moments.of(features(9, 12, 4))
    with pytest.raises(ValueError, match="in row 14:"):  # of all that came
        good.add(np.array([[0.0] * 4, [0] * 4, [np.inf] * 4]))
    assert good.count == 12
    with pytest.raises(ValueError, match="at least 2 clips, and there are 1"):
        frechet(good, Moments.of(np.ones((1, 4))))
    with pytest.raises(ValueError, match="4 and 3 dimensions"):
        frechet(good, Moments.of(np.ones((2, 3))))
    with pytest.raises(ValueError, match="3 dimensions cannot join those of 4"):
        good.add(np.ones((2, 3)))
