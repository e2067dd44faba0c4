"""Frechet distances against SciPy's matrix root, torchmetrics and analytic values, well and ill-conditioned."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from kinema.metrics.frechet import covariance_rank, frechet_distance, frechet_in_directions, principal_directions


def features(seed: int, count: int, dimensions: int, offset: float = 0.0) -> np.ndarray:
    """Correlated vectors with a skew."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    return np.maximum(mixed, -1) + offset


def with_covariance(root: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Vectors with this mean and the covariance root' root: a row of the root to either side of the mean."""
    scaled = root * np.sqrt((2 * len(root) - 1) / 2)
    return np.concatenate([mean + scaled, mean - scaled])


def rotation(dimensions: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions))).Q


@pytest.mark.parametrize("ddof", [0, 1])
def test_it_is_the_formula_with_scipys_root(ddof: Literal[0, 1]) -> None:
    a, b = features(0, 300, 24), features(1, 200, 24, offset=0.3)
    of_a, of_b = np.cov(a.T, ddof=ddof), np.cov(b.T, ddof=ddof)
    root = np.real(np.asarray(scipy.linalg.sqrtm(of_a @ of_b)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b - 2 * root)
    assert frechet_distance(a, b, ddof=ddof) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a, ddof=ddof) == pytest.approx(expected, rel=1e-6)
    assert covariance_rank(a) == covariance_rank(b) == 24


def test_it_is_torchmetrics() -> None:
    a, b = features(2, 150, 16), features(3, 150, 16)
    statistics = (torch.from_numpy(part) for side in (a, b) for part in (side.mean(0), np.cov(side.T)))
    assert frechet_distance(a, b) == pytest.approx(_compute_fid(*statistics).item(), rel=1e-6)


def test_few_clips_are_singular_and_still_right() -> None:
    a, b = features(4, 9, 20), features(5, 12, 20)
    assert (covariance_rank(a), covariance_rank(b)) == (8, 11)
    of_a, of_b = np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(of_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    inner = np.sqrt(np.linalg.eigvalsh(root @ of_b @ root).clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b) - 2 * inner
    # roots of rounding errors limit the expected value
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    full = features(6, 21, 20)
    assert covariance_rank(full) == 20 and covariance_rank(full[:20]) == 19


@pytest.mark.parametrize("turn", [False, True])
def test_commuting_covariances_over_eighteen_decades(turn: bool) -> None:
    deviations_a, deviations_b = np.logspace(-6, 3, 19), np.logspace(3, -6, 19)  # variances 1e-12 to 1e6
    axes = rotation(19) if turn else np.eye(19)
    mean = np.linspace(-1, 1, 19)
    a, b = with_covariance(deviations_a[:, None] * axes, mean), with_covariance(deviations_b[:, None] * axes, -mean)
    expected = (4 * mean**2).sum() + ((deviations_a - deviations_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_small_differences_of_large_covariances() -> None:
    deviations = np.logspace(-6, 3, 10)
    a = with_covariance(np.diag(deviations), np.zeros(10))
    b = with_covariance(np.diag(deviations * 1.001), np.zeros(10))
    assert frechet_distance(a, b) == pytest.approx((deviations**2).sum() * 1e-6, rel=1e-8)


def test_rank_one() -> None:
    u, v = np.array([[3.0, 0, 4]]), np.array([[0.0, 2, 1]])
    a, b = with_covariance(u, np.zeros(3)), with_covariance(v, np.array([0.0, 0, 1]))
    assert frechet_distance(a, b) == pytest.approx(1 + 25 + 5 - 2 * 4)  # the root of uu'vv' has the trace |u.v|
    assert covariance_rank(a) == covariance_rank(b) == 1


def test_equal_sets_have_distance_zero() -> None:
    for count in (5, 200):
        a = features(7, count, 30, offset=50)
        assert frechet_distance(a, a[::-1].copy()) == 0
    assert frechet_distance(np.ones((4, 3)), np.ones((4, 3))) == 0


def test_what_cannot_be_computed_raises() -> None:
    good, broken = features(9, 12, 4), features(9, 12, 4)
    broken[[3, 7], [0, 2]] = np.nan, np.inf
    with pytest.raises(ValueError, match="in row 3, 7:"):
        frechet_distance(good, broken)
    broken[:] = np.nan
    with pytest.raises(ValueError, match="in row 0, 1, 2, 3, 4 and 7 more:"):
        frechet_distance(good, broken)
    with pytest.raises(ValueError, match="at least 2 clips, and there are 1"):
        frechet_distance(good, np.ones((1, 4)))
    with pytest.raises(ValueError, match="4 and 3 dimensions"):
        frechet_distance(good, np.ones((2, 3)))


def test_principal_directions_are_those_of_numpys_decomposition() -> None:
    for count in (12, 80):  # fewer and more than dimensions
        a = features(10, count, 40, offset=3)
        found = principal_directions(a, 5)
        _, _, expected = np.linalg.svd(a - a.mean(0), full_matrices=False)
        assert np.allclose(found.T @ found, np.eye(5))
        assert np.allclose(found @ found.T, expected[:5].T @ expected[:5])
    assert principal_directions(features(11, 6, 40), 31).shape == (40, 5)
    assert principal_directions(np.ones((6, 40)), 31).shape == (40, 0)


def test_in_directions_it_is_the_distance_of_gaussians_alike_outside_them() -> None:
    deviations, shift = np.array([5.0, 4.0, 3.0, 0.2, 0.1]), np.array([1.0, 0, 2, 3, 0])
    axes = rotation(5, seed=1)
    a = with_covariance(deviations[:, None] * axes, np.zeros(5))
    found = principal_directions(a, 3)
    moved = with_covariance(deviations[:, None] * axes, shift @ axes)
    assert frechet_in_directions(a, moved, found) == pytest.approx(14)  # of the mean, in all dimensions
    wider = with_covariance((deviations + np.array([1, 0, 2, 7, 0]))[:, None] * axes, np.zeros(5))
    assert frechet_in_directions(a, wider, found) == pytest.approx(1 + 4)  # the fourth is outside
    assert frechet_in_directions(a, wider, np.eye(5)) == pytest.approx(frechet_distance(a, wider))


def test_in_directions_equal_sets_have_distance_zero_and_few_clips_are_enough() -> None:
    a = features(12, 64, 300, offset=5)
    found = principal_directions(a, 31)
    assert frechet_in_directions(a, a[::-1].copy(), found) == pytest.approx(0, abs=1e-9 * np.square(a).sum())
    assert frechet_in_directions(a, a.copy(), found) == 0
    flat = np.ones((4, 3))
    assert frechet_in_directions(flat, flat + 2, principal_directions(flat, 2)) == pytest.approx(12)
    broken = a.copy()
    broken[3] = np.nan
    with pytest.raises(ValueError, match="in row 3:"):
        frechet_in_directions(a, broken, found)
