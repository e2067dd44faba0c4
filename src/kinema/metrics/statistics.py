"""Statistics of measures: intervals of means, paired tests, and intervals, bias and floors of distances.

Clips of one file, video or patient are alike, so all of these resample groups of clips, not clips. `groups` gives an
id for each clip; None makes each clip its own group.

Means use SciPy's bootstrap and permutation test, on the sums of groups. A distance between two sets, such as a Frechet
distance, cannot be bootstrapped: a resample repeats vectors, which adds to the bias of a Frechet distance and gives
vectors neighbours at distance 0. SciPy has no resampling without replacement, so distances use random halves: values
at halves vary as much as those of whole sets do from one set of clips to the next, since the delete-d jackknife's
factor (n - d) / d is 1 for d = n / 2 (Shao and Wu 1989, Annals of Statistics 17). For a mean this gives Student's
interval. An id that occurs in several sets stands for clips that belong together, such as those of two models for one
prompt; it is drawn in all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Int, Shaped
from torch import Tensor

__all__ = [
    "Extrapolation",
    "PairedTest",
    "extrapolated_distance",
    "half_interval",
    "mean_interval",
    "paired_test",
    "real_floor",
]

Value = float | np.ndarray  # an array holds several values, each with an interval of its own
Distance = Callable[..., Value]  # of two or more sets [N, D]
Groups = Sequence[Shaped[np.ndarray, " _"] | None]

RESAMPLES = 2000  # of a bootstrap
FLIPS = 9999  # random sign flips; all 2^N are tried where there are no more
BATCH = 2**22  # values that SciPy resamples at once
SIZES = 6  # subset sizes that the extrapolation's line is fitted to


class PairedTest(NamedTuple):
    """The mean difference of paired values, its interval, and the p value of a sign-flip test."""

    value: float
    low: float
    high: float
    p: float  # two-sided, of the hypothesis that the differences are symmetric about 0


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A distance extrapolated to infinitely many clips, and the points that the line was fitted to."""

    value: float  # an unbiased estimate, so it may be below 0
    low: float
    high: float
    clips: Int[np.ndarray, " S"]  # sizes n of the subsets, in each set
    means: Float[np.ndarray, " S"]  # mean distance at each size
    slope: float  # of the line in 1 / n: the bias at n clips is slope / n


def mean_interval(
    values: Float[Tensor, " N"] | Float[np.ndarray, " N"],
    level: float = 0.95,
    seed: int = 0,
    groups: Shaped[np.ndarray, " N"] | None = None,
) -> tuple[float, float, float]:
    """The mean of N values and the ends of its percentile bootstrap interval over groups (Efron 1979).

    Raises ValueError for fewer than 2 groups.
    """
    sums, counts = _grouped(np.asarray(values, np.float64), groups)

    def mean(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> Value:
        return sums.sum(axis) / counts.sum(axis)

    found = scipy.stats.bootstrap(
        (sums, counts),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // len(sums)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(mean(sums, counts)), float(found.low), float(found.high)


def paired_test(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    level: float = 0.95,
    seed: int = 0,
    groups: Shaped[np.ndarray, " N"] | None = None,
) -> PairedTest:
    """The mean of x - y with its bootstrap interval, and a sign-flip test (Fisher 1935) over groups.

    All 2^N flips are tried where there are fewer than 10,000, otherwise as many random ones. Raises ValueError for
    fewer than 2 groups and for values that are not finite.
    """
    differences = x.astype(np.float64) - y
    bad = np.flatnonzero(~np.isfinite(differences))
    if len(bad):
        raise ValueError(f"pair {bad[0]} has no finite difference: leave out pairs of which one was not measured")
    interval = mean_interval(differences, level, seed, groups)
    sums, _ = _grouped(differences, groups)
    found = scipy.stats.permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",  # of a single sample: flips of signs
        vectorized=True,
        n_resamples=FLIPS,
        batch=max(1, BATCH // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return PairedTest(*interval, float(found.pvalue))


def half_interval(
    of: Distance,
    sets: Sequence[Float[np.ndarray, "_ D"]],
    groups: Groups | None = None,
    splits: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Value, Value, Value]:
    """`of(*sets)` and the ends of its interval by random halves of all sets.

    The interval is for the mean distance at these numbers of clips, bias included. It is Student's, as wide as the
    number of groups asks for, and too wide where the distributions are nearly equal: there a distance is of second
    order in the data, and halves show up to three times its variance. An end may be below 0 then. Each split takes two
    calls of `of`. Raises ValueError for fewer than 2 groups in a set.
    """
    units = _units(sets, groups)
    reach = _quantile(units, level) * _spread(of, sets, units, splits, np.random.default_rng(seed))
    value = of(*sets)
    return value, value - reach, value + reach


def extrapolated_distance(
    of: Distance,
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    groups: Groups | None = None,
    draws: int = 10,
    splits: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> Extrapolation:
    """A distance whose bias is linear in 1 / n, extrapolated to infinite n (Chong and Forsyth 2020, arXiv 1911.07023).

    A line is fitted to the distances of random subsets with n clips in both sets, from half of the smaller set to all
    of it. It is straight where even the smallest subset has more clips than dimensions. The intercept varies as the
    whole distance does, to first order, since the weights of its points add up to 1; the interval combines that, found
    by halves, with the noise of the draws. Takes 6 `draws` + 2 `splits` calls of `of`. Raises ValueError for fewer than
    4 clips or 2 groups in a set, and fewer than 2 draws.
    """
    most = min(len(a), len(b))
    if most < 4 or draws < 2:
        raise ValueError(f"extrapolation needs 4 clips in each set and 2 draws, not {most} clips and {draws} draws")
    sets, rng = (a, b), np.random.default_rng(seed)
    units = _units(sets, groups)
    clips = np.unique(np.linspace(most / 2, most, SIZES).round().astype(int))
    values = np.empty((draws, len(clips)))
    for draw in range(draws):
        rank = rng.permutation(1 + max(unit.max() for unit in units))
        x, y = (table[np.argsort(rank[unit], kind="stable")] for table, unit in zip(sets, units, strict=True))
        values[draw] = [of(x[:n], y[:n]) for n in clips]
    intercepts, slopes = np.polynomial.polynomial.polyfit(1 / clips, values.T, 1)
    noise = intercepts.std(ddof=1) / np.sqrt(draws)
    reach = _quantile(units, level) * np.hypot(_spread(of, sets, units, splits, rng), noise)
    value = float(intercepts.mean())
    return Extrapolation(value, float(value - reach), float(value + reach), clips, values.mean(0), float(slopes.mean()))


def real_floor(
    of: Distance,
    real: Float[np.ndarray, "N D"],
    groups: Shaped[np.ndarray, " N"] | None = None,
    splits: int = 100,
    seed: int = 0,
) -> Value:
    """The mean distance of two random halves of real clips: what a perfect model of N / 2 clips would score.

    No group is in both halves. A squared Frechet distance at N clips has half this floor, as its bias is in proportion
    to 1 / n; for Gaussians that is right to a few percent where a half has more clips than dimensions. Raises
    ValueError for fewer than 2 groups.
    """
    units, rng = _units([real], [groups]), np.random.default_rng(seed)
    values = [of(real[half], real[~half]) for (half,) in _splits(units, splits, rng)]
    return np.array(values).mean(0)


def _grouped(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each group's values and their number."""
    _, units = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)
    counts = np.bincount(units)
    if len(counts) < 2:
        raise ValueError("an interval needs at least 2 values, of 2 groups where there are groups")
    return np.bincount(units, values), counts


def _units(sets: Sequence[np.ndarray], groups: Groups | None) -> list[np.ndarray]:
    """The number of each clip's group, for each set; an id has one number in every set."""
    groups = [None] * len(sets) if groups is None else groups
    given = [ids for ids in groups if ids is not None]
    _, numbers = np.unique(np.concatenate(given), return_inverse=True) if given else (None, np.zeros(0, int))
    units: list[np.ndarray] = []
    used, free = 0, len(numbers)
    for index, (table, ids) in enumerate(zip(sets, groups, strict=True)):
        if ids is not None and len(ids) != len(table):
            raise ValueError(f"set {index} has {len(table)} clips and {len(ids)} group ids: give one id a clip")
        if ids is None:
            units.append(np.arange(free, free + len(table)))
            free += len(table)
        else:
            units.append(numbers[used : used + len(table)])
            used += len(table)
        if len(np.unique(units[-1])) < 2:
            raise ValueError(f"halves need at least 2 clips or groups, and set {index} has fewer")
    return units


def _splits(units: Sequence[np.ndarray], splits: int, rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
    """Yield, for each split, which rows of each set are in the first half of its groups."""
    count = 1 + max(unit.max() for unit in units)
    present = [np.unique(unit) for unit in units]
    for _ in range(splits):
        rank = rng.permutation(count)
        ordered = [ids[np.argsort(rank[ids])] for ids in present]
        yield [np.isin(unit, order[: len(order) // 2]) for unit, order in zip(units, ordered, strict=True)]


def _spread(
    of: Distance, sets: Sequence[np.ndarray], units: Sequence[np.ndarray], splits: int, rng: np.random.Generator
) -> Value:
    """The standard error of `of(*sets)`: the deviation of its values at random halves from their own mean.

    Not from the value of the whole sets, since a biased distance is another at half the clips. Both halves of a split
    count: first-order noise then cancels out of the mean, and so do the unequal halves of an odd number.
    """
    values = []
    for halves in _splits(units, splits, rng):
        values.append(of(*(table[half] for table, half in zip(sets, halves, strict=True))))
        values.append(of(*(table[~half] for table, half in zip(sets, halves, strict=True))))
    return np.array(values).std(0)


def _quantile(units: Sequence[np.ndarray], level: float) -> float:
    """Student's quantile, with the degrees of freedom of the set with the fewest groups."""
    fewest = min(len(np.unique(unit)) for unit in units)
    return float(scipy.stats.t.ppf((1 + level) / 2, fewest - 1))
