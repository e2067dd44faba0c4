"""Bootstrap intervals: how far a mean over clips may be from what more clips would give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["interval", "mean_interval"]

RESAMPLES = 2000


def mean_interval(
    values: Float[Tensor, " N"],
    level: float = 0.95,
    seed: int = 0,
    groups: Int64[np.ndarray, " N"] | None = None,
) -> tuple[float, float, float]:
    """The mean of N values and the ends of its percentile bootstrap interval (Efron 1979).

    Values of one group, such as windows of one file, are alike, and are drawn together. Raises ValueError for fewer
    than 2 values, or 2 groups.
    """
    samples = values.double().cpu().numpy()
    _, units = np.unique(np.arange(len(samples)) if groups is None else groups, return_inverse=True)
    sums, counts = np.bincount(units, samples), np.bincount(units)
    return interval(lambda picks: float(sums[picks].sum() / counts[picks].sum()), len(counts), level, seed)


def interval(
    of: Callable[[np.ndarray], float], units: int, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """The value of `of` over all units, given as their numbers, and the ends of its percentile bootstrap interval.

    Resamples for which it is NaN are left out. Raises ValueError for fewer than 2 units.
    """
    if units < 2:
        raise ValueError("an interval needs at least 2 values")
    rng = np.random.default_rng(seed)
    values = [of(rng.integers(units, size=units)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return of(np.arange(units)), float(low), float(high)
