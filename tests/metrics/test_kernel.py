"""Kernel distances against loops, torchmetrics and JEDi's published definition, in one block and in many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from kinema.metrics import kernel
from kinema.metrics.kernel import jedi, kvd, mmd, polynomial


def features(seed: int, count: int, dimensions: int = 6, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimensions)) + shift


def by_loops(a: np.ndarray, b: np.ndarray, of: Callable[[float], float], unbiased: bool) -> float:
    """The definition, a pair at a time; `of` gets x.y / D."""

    def mean(one: np.ndarray, other: np.ndarray) -> float:
        pairs = [
            of(float(np.dot(x, y)) / len(x))
            for i, x in enumerate(one)
            for j, y in enumerate(other)
            if not (unbiased and one is other and i == j)
        ]
        return float(np.mean(pairs))

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_they_are_their_definitions(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", block)
    a, b = features(0, 9), features(1, 13, shift=0.4)
    assert kvd(a, b) == pytest.approx(by_loops(a, b, lambda dot: (dot + 1) ** 3, unbiased=True), rel=1e-12)
    assert jedi(a, b) == pytest.approx(100 * by_loops(a, b, lambda dot: dot**2, unbiased=False), rel=1e-12)


def test_kvd_is_torchmetrics() -> None:
    a, b = features(2, 40), features(3, 40, shift=0.2)
    assert kvd(a, b) == pytest.approx(poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item(), rel=1e-9)


def test_a_linear_kernel_gives_the_distance_of_the_means() -> None:
    a, b = features(4, 10), features(5, 14, shift=1)
    expected = ((a.mean(0) - b.mean(0)) ** 2).mean()
    assert mmd(a, b, polynomial(degree=1, offset=0), unbiased=False) == pytest.approx(expected, rel=1e-12)
    noise = (a.var(0, ddof=1) / 10 + b.var(0, ddof=1) / 14).mean()
    assert mmd(a, b, polynomial(degree=1, offset=7)) == pytest.approx(expected - noise, rel=1e-9)


def test_identical_sets() -> None:
    a = features(6, 30)
    assert jedi(a, a[::-1].copy()) == pytest.approx(0, abs=1e-12)
    assert jedi(a, -a) == pytest.approx(0, abs=1e-12)  # the kernel is even
    assert kvd(a, -a - 1) > 0.1


def test_kvd_is_unbiased_and_jedi_is_not() -> None:
    pairs = [(features(2 * seed, 12), features(2 * seed + 1, 12)) for seed in range(300)]
    values = np.array([kvd(*pair) for pair in pairs])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(300)
    assert min(jedi(*pair) for pair in pairs) > 0


def test_refusals() -> None:
    broken = features(7, 5)
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match="in row 2:"):
        kvd(features(8, 5), broken)
    with pytest.raises(ValueError, match="at least 2 clips in each set, and there are 5 and 1"):
        jedi(features(8, 5), features(9, 1))
