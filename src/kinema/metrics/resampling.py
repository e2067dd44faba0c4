"""The statistics of a distance between two sets of clips: its interval, its bias, its floor, and differences of two.

A distance `of(a, b)` is a function of two sets of feature vectors, such as a Frechet distance. The bootstrap does not
serve it: a resample repeats vectors, which adds to the bias of a Frechet distance and gives vectors neighbours at
distance 0. So these draw without replacement. Values of random halves vary as much as those of the whole would from one
set of clips to the next: the delete-d jackknife's factor (n - d) / d is 1 for d = n / 2 (Shao and Wu 1989, Annals of
Statistics 17). Of a mean, this gives Student's interval.

Where clips are alike because they are of one file, video or patient, their groups are what is drawn. `groups` gives ids
of clips, one array a side, or None where each clip is on its own. An id that is on several sides stands for clips that
belong together, such as those of two models for one prompt, and is drawn on all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats
import torch
from jaxtyping import Float, Int, Shaped

from kinema.metrics.bootstrap import mean_interval

__all__ = [
    "Distance",
    "Extrapolation",
    "Floor",
    "Groups",
    "PairedTest",
    "difference_interval",
    "extrapolated",
    "floor",
    "half_interval",
    "paired_test",
]

Value = float | np.ndarray  # or several values at once, each with an interval of its own
Distance = Callable[[np.ndarray, np.ndarray], Value]
Groups = Sequence[Shaped[np.ndarray, " _"] | None]

SIZES = 6  # of subsets, through which a line is laid
FLIPS = 9999  # of signs, where there are more than can all be tried
AT_ONCE = 256  # flips in memory


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A distance at infinitely many clips, and the points of which it is the line's intercept."""

    value: float
    """Of an estimate, which for a distance near 0 may be below it."""
    low: float
    high: float
    clips: Int[np.ndarray, " S"]
    """On each side: the subsets' sizes n; the line is in 1 / n."""
    means: Float[np.ndarray, " S"]
    """Over the draws of each size."""
    slope: float
    """The bias at n clips is this over n."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What a perfect model would score, with as many clips on each side."""

    value: Value
    """The mean over splits."""
    low: Value
    high: Value
    """The range of single splits: a distance within it does not tell a model from the real. Other real clips than these
    vary somewhat more, so one just above it does not either."""
    clips: int
    """On each side."""

    def at(self, clips: int) -> Floor:
        """The floor of a squared Frechet distance at another number of clips, taking it to be in proportion to 1 / n.

        So it is to the first order, and its spread as well, since its true value is 0. Sound where each half that was
        measured has as many clips as dimensions or more: for Gaussians it is then right to a few percent. With fewer,
        covariances are singular, the distance falls more slowly, and this is too low for more clips (by an eighth with
        half as many as dimensions). Precision, recall and unbiased discrepancies do not follow it at all.
        """
        scale = self.clips / clips
        return replace(self, value=self.value * scale, low=self.low * scale, high=self.high * scale, clips=clips)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """The mean difference of paired values, its interval, and how likely one as far from 0 is by chance."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided, of the hypothesis that the differences are symmetric about 0."""


def half_interval(
    of: Distance,
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    groups: Groups = (None, None),
    splits: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Value, Value, Value]:
    """The distance of two sets, and the ends of its interval by random halves of both.

    The interval is for the mean distance at these numbers of clips, bias and all. It is Student's, as wide as the
    number of groups asks for, and too wide where the distributions are nearly one: there, distances are of the second
    order in the data, of which halves show up to three times the variance. An end may be below 0 then.
    Each split takes two calls of `of`. Raises ValueError for fewer than 2 groups on a side.
    """
    sides, rng = (a, b), np.random.default_rng(seed)
    units = _units(sides, groups)
    value, reach = of(a, b), _quantile(units, level) * _spread(of, sides, units, splits, rng)
    return value, value - reach, value + reach


def difference_interval(
    of: Distance,
    a1: Float[np.ndarray, "N1 D"],
    a2: Float[np.ndarray, "N2 D"],
    reference: Float[np.ndarray, "M D"],
    groups: Groups = (None, None, None),
    splits: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Value, Value, Value]:
    """`of(a1, reference)` less `of(a2, reference)`, and the ends of its interval by halves, as in `half_interval`.

    Both distances are to the same half of the reference, whose noise they share and mostly lose. Where clips of the two
    models belong together, give them the same ids in `groups`. Raises ValueError for different numbers of clips, as a
    distance's bias depends on it, and for fewer than 2 groups on a side.
    """
    if len(a1) != len(a2):
        raise ValueError(
            f"distances of {len(a1)} and {len(a2)} clips have different biases: take as many of each model"
        )

    def difference(x1: np.ndarray, x2: np.ndarray, to: np.ndarray) -> Value:
        return of(x1, to) - of(x2, to)

    sides, rng = (a1, a2, reference), np.random.default_rng(seed)
    units = _units(sides, groups)
    value, reach = difference(*sides), _quantile(units, level) * _spread(difference, sides, units, splits, rng)
    return value, value - reach, value + reach


def extrapolated(
    of: Distance,
    a: Float[np.ndarray, "N D"],
    b: Float[np.ndarray, "M D"],
    groups: Groups = (None, None),
    draws: int = 10,
    splits: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> Extrapolation:
    """A distance whose bias is linear in 1 / n, at infinite n, with its interval.

    Chong and Forsyth (2020, arXiv 1911.07023) correct the FID so. The line goes through the distances of random subsets
    with n clips on both sides, from half of the smaller side to all of it. It is straight where even the smallest has
    more clips than dimensions, and a look at the points tells. To the first order the intercept varies from one set
    of clips to the next as the whole distance does, since the weights of its points add up to 1; to that, found by
    halves, the interval adds the noise of the draws.
    Takes 6 `draws` + 2 `splits` calls of `of`. Raises ValueError for fewer than 4 clips or 2 groups on a side, and
    fewer than 2 draws.
    """
    most = min(len(a), len(b))
    if most < 4 or draws < 2:
        raise ValueError(
            f"extrapolation needs 4 clips a side and 2 draws, and there are {most} clips and {draws} draws"
        )
    sides, rng = (a, b), np.random.default_rng(seed)
    units = _units(sides, groups)
    clips = np.unique(np.linspace(most / 2, most, SIZES).round().astype(int))
    values = np.empty((draws, len(clips)))
    for draw in range(draws):
        rank = rng.permutation(1 + max(side.max() for side in units))
        x, y = (side[np.argsort(rank[unit], kind="stable")] for side, unit in zip(sides, units, strict=True))
        values[draw] = [of(x[:n], y[:n]) for n in clips]
    intercepts, slopes = np.polynomial.polynomial.polyfit(1 / clips, values.T, 1)
    noise = intercepts.std(ddof=1) / np.sqrt(draws)
    reach = _quantile(units, level) * np.hypot(_spread(of, sides, units, splits, rng), noise)
    value = float(intercepts.mean())
    return Extrapolation(value, float(value - reach), float(value + reach), clips, values.mean(0), float(slopes.mean()))


def floor(
    of: Distance,
    real: Float[np.ndarray, "N D"],
    groups: Shaped[np.ndarray, " N"] | None = None,
    splits: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Floor:
    """The distance of real clips from other real ones: of random halves of them, with no group in both.

    Halves of N clips are of N / 2, so that a distance at N clips has a lower floor: compare at the same number, or see
    `Floor.at`. Raises ValueError for fewer than 2 groups.
    """
    rng = np.random.default_rng(seed)
    units = _units([real], [groups])
    values = [of(real[one], real[~one]) for (one,) in _splits(units, splits, rng)]
    drawn = np.array(values)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Floor(drawn.mean(0), low, high, len(real) // 2)


def paired_test(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    level: float = 0.95,
    seed: int = 0,
    groups: Shaped[np.ndarray, " N"] | None = None,
) -> PairedTest:
    """The mean of x - y over clips of the same seeds, with a bootstrap interval and a sign-flip test (Fisher 1935).

    Both draw `groups` of clips that are alike, such as those told by windows of one file, as one.
    All 2^N flips are tried where they are fewer than 10,000, else as many random ones. Raises ValueError for fewer than
    2 pairs, and where a value is NaN or infinite.
    """
    differences = x.astype(np.float64) - y
    bad = np.flatnonzero(~np.isfinite(differences))
    if len(bad):
        raise ValueError(f"pair {bad[0]} has no finite difference: leave out of both what could not be measured of one")
    value, low, high = mean_interval(torch.from_numpy(differences), level, seed, groups)
    _, units = np.unique(np.arange(len(differences)) if groups is None else groups, return_inverse=True)
    test = scipy.stats.permutation_test(
        (np.bincount(units, differences),),
        np.mean,
        permutation_type="samples",  # of a single sample: flips of signs
        vectorized=True,
        n_resamples=FLIPS,
        batch=AT_ONCE,
        rng=np.random.default_rng(seed),
    )
    return PairedTest(value, low, high, float(test.pvalue))


def _units(sides: Sequence[np.ndarray], groups: Groups) -> list[np.ndarray]:
    """The number of each row's unit, side by side; an id has the same number on every side."""
    given = [ids for ids in groups if ids is not None]
    _, numbers = np.unique(np.concatenate(given), return_inverse=True) if given else (None, np.zeros(0, int))
    units: list[np.ndarray] = []
    used, free = 0, len(numbers)
    for number, (side, ids) in enumerate(zip(sides, groups, strict=True)):
        if ids is not None and len(ids) != len(side):
            raise ValueError(f"side {number} has {len(side)} clips and {len(ids)} group ids: give one id a clip")
        if ids is None:
            units.append(np.arange(free, free + len(side)))
            free += len(side)
        else:
            units.append(numbers[used : used + len(side)])
            used += len(side)
        if len(np.unique(units[-1])) < 2:
            raise ValueError(f"halves need at least 2 clips or groups a side, and side {number} has fewer")
    return units


def _splits(units: Sequence[np.ndarray], splits: int, rng: np.random.Generator) -> Iterator[list[np.ndarray]]:
    """For each split, which rows of each side are in the first half of its units."""
    count = 1 + max(side.max() for side in units)
    present = [np.unique(side) for side in units]
    for _ in range(splits):
        rank = rng.permutation(count)
        ordered = [side[np.argsort(rank[side])] for side in present]
        yield [np.isin(side, order[: len(order) // 2]) for side, order in zip(units, ordered, strict=True)]


def _spread(
    of: Callable[..., Value],
    sides: Sequence[np.ndarray],
    units: Sequence[np.ndarray],
    splits: int,
    rng: np.random.Generator,
) -> Value:
    """The standard error of `of` at all sides, as the deviation of its values at random halves from their own mean.

    Their own, since a biased distance is another at half the clips. Both halves of a split are taken: what is of the
    first order in the data then cancels out of the mean, and so do the sizes of an odd number's halves.
    """
    values = []
    for ones in _splits(units, splits, rng):
        values.append(of(*(side[one] for side, one in zip(sides, ones, strict=True))))
        values.append(of(*(side[~one] for side, one in zip(sides, ones, strict=True))))
    return np.array(values).std(0)


def _quantile(units: Sequence[np.ndarray], level: float) -> float:
    """Student's, with the degrees of freedom of the side with the fewest units."""
    fewest = min(len(np.unique(side)) for side in units)
    return float(scipy.stats.t.ppf((1 + level) / 2, fewest - 1))
