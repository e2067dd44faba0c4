"""Precision, recall, density and coverage against loops over pairs, and what they say of known faults."""

from __future__ import annotations

import numpy as np
import pytest

from kinema.metrics import coverage
from kinema.metrics.coverage import PRDC, prdc


def features(seed: int, count: int, dimensions: int = 4, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)) + shift


def by_loops(real: np.ndarray, generated: np.ndarray, near: int, far: int) -> PRDC:
    """The papers' definitions, a pair at a time."""

    def radius(x: np.ndarray, i: int, k: int) -> float:
        return sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if j != i)[k - 1]

    apart = [[float(np.linalg.norm(x - y)) for y in generated] for x in real]
    n, m = range(len(real)), range(len(generated))
    return PRDC(
        precision=float(np.mean([any(apart[i][j] <= radius(real, i, near) for i in n) for j in m])),
        recall=float(np.mean([any(apart[i][j] <= radius(generated, j, near) for j in m) for i in n])),
        density=sum(apart[i][j] < radius(real, i, far) for i in n for j in m) / (far * len(m)),
        coverage=float(np.mean([any(apart[i][j] < radius(real, i, far) for j in m) for i in n])),
    )


@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("ks", [(3, 5), (2, 1)])
def test_they_are_their_definitions(block: int, ks: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "BLOCK", block)
    real, generated = features(0, 20), features(1, 15, shift=0.8)
    found, expected = prdc(real, generated, *ks), by_loops(real, generated, *ks)
    assert found == expected
    assert min(found.precision, found.recall) > 0 and max(found.precision, found.recall) < 1


def test_on_a_line_by_hand() -> None:
    real, generated = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [2], [30.0]])
    found = prdc(real, generated, precision_k=1, density_k=1)  # real radii 1, 1, 1, 8; generated 1.5, 1.5, 28
    assert found == PRDC(precision=2 / 3, recall=1.0, density=3 / 3, coverage=3 / 4)


def test_a_set_against_itself_has_one_of_all() -> None:
    real = np.random.default_rng(2).normal(size=(60, 300)).astype(np.float32) + 100  # where products would lose digits
    assert prdc(real, real[::-1].copy()) == PRDC(1.0, 1.0, 1.0, 1.0)


def test_copies_of_one_clip_are_at_distance_zero() -> None:
    real = np.concatenate([np.full((6, 4), 1 / 3), features(3, 10, shift=50)])
    generated = np.full((8, 4), 1 / 3)
    found = prdc(real, generated)
    assert found.precision == 1 and found.recall == 6 / 16
    assert found.density == found.coverage == 0  # an open ball of radius 0 is empty


def test_a_perfect_model_has_the_papers_coverage_and_density() -> None:
    found = [prdc(features(2 * seed, 200), features(2 * seed + 1, 200)) for seed in range(10)]
    assert np.mean([one.coverage for one in found]) == pytest.approx(1 - 2**-5, abs=0.01)
    assert np.mean([one.density for one in found]) == pytest.approx(1, abs=0.05)


def test_faults_show() -> None:
    real = np.concatenate([features(4, 100), features(5, 100, shift=20)])
    one_mode = prdc(real, features(6, 200))
    assert one_mode.precision > 0.8 and one_mode.recall < 0.55 and one_mode.coverage < 0.55
    outliers = prdc(real, np.concatenate([features(7, 100), features(8, 100, shift=200)]))
    assert outliers.precision < 0.55


def test_refusals() -> None:
    broken = features(9, 8)
    broken[5, 0] = -np.inf
    with pytest.raises(ValueError, match="in row 5:"):
        prdc(features(9, 8), broken)
    with pytest.raises(ValueError, match="5 neighbours need 6 clips or more in each set, and there are 8 and 5"):
        prdc(features(9, 8), features(9, 5))
