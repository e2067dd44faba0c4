"""Does a measure see what a person sees? Clips are spoiled in known ways, more and more, and every measure is asked.

For each corruption of `metrics.corruptions` at rising strength, a measure of the spoiled clips against the clean ones:

- rank: Spearman's correlation of the measure with the strength. 1: it rises with every step.
- seen: the strength at which it first leaves what clean clips have among themselves (its floor), as a share of the
  strongest; the less the better, and none where it never does.
- time against space: corruptions are equally visible where the mean squared error of their pixels is the same. At
  errors that both a temporal and the spatial corruptions reach, how far the measure is above its floor for the
  temporal one, over how far it is for the median spatial one. 1: it sees both alike. I3D's Frechet distance is known
  to see far less of time (Ge et al. 2024, arXiv 2404.12391).

Measures that compare each clip with itself before it was spoiled (PSNR, SSIM) see every change of a pixel; those of
single clips count by how far their mean moves from that of the same clips unspoiled, in deviations of clips, and their
floor is how far it is from that of other clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from scipy.stats import rankdata

from kinema.data.write import from_uint8
from kinema.evaluation.measure import distances_of
from kinema.evaluation.rows import of_each
from kinema.metrics.corruptions import SPATIAL, TEMPORAL, corrupted
from kinema.metrics.features import FeatureNetwork
from kinema.metrics.flow_field import direction_distance
from kinema.metrics.paired import ssim

__all__ = ["STRENGTHS", "Audit", "audit"]

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
AT_ONCE = 16  # clips in memory
FRACTIONS = 9  # errors at which time is held against space

Each = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Audit:
    """What measures say of spoiled clips."""

    strengths: tuple[float, ...]
    error: Mapping[str, Float[np.ndarray, " S"]]  # of each corruption: the mean squared error of pixels, 0 to 255
    curves: Mapping[str, Mapping[str, Float[np.ndarray, " S"]]]  # of each measure and corruption: by strength
    floors: Mapping[str, float]  # of each measure: what other clean clips have

    def rank(self, measure: str, corruption: str) -> float:
        """Spearman's correlation of a measure with the strength; 0 where it does not move, NaN where there is none."""
        values = self.curves[measure][corruption]
        if not np.isfinite(values).all():
            return np.nan
        return float(np.corrcoef(rankdata(self.strengths), rankdata(values))[0, 1]) if np.ptp(values) > 0 else 0.0

    def seen(self, measure: str, corruption: str) -> float | None:
        """The least strength at which a measure and all stronger ones are above its floor."""
        above = self.curves[measure][corruption] > self.floors[measure]
        first = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
        return self.strengths[first] if first < len(above) else None

    def time_against_space(self, measure: str) -> float:
        """The median over temporal corruptions of what `against_space` says, of those where it can be told."""
        values = [self.against_space(measure, name) for name in self.curves[measure] if name in TEMPORAL]
        return np.nan if np.isnan(values).all() else float(np.nanmedian(values))

    def against_space(self, measure: str, corruption: str) -> float:
        """A measure of a temporal corruption over its median of the spatial ones, at the same errors of pixels.

        The median over errors that the corruption and at least one spatial one reach, infinite where it sees no more
        of space than its floor; NaN where there is none, and where it sees neither.
        """
        highest = self.error[corruption].max()
        ratios: list[float] = []
        for error in np.geomspace(highest / 16, highest, FRACTIONS):
            space = [self._at(measure, name, error) for name in SPATIAL if name in self.curves[measure]]
            found = self._at(measure, corruption, error)
            if np.isfinite(space).any() and np.isfinite(found):
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratios.append(float(np.divide(found, np.nanmedian(space))))
        return np.nan if np.isnan(ratios).all() else float(np.nanmedian(ratios))

    def _at(self, measure: str, corruption: str, error: float) -> float:
        """How far a measure is above its floor where a corruption has this error, by a line between strengths.

        NaN beyond the strongest.
        """
        above = np.maximum(self.curves[measure][corruption] - self.floors[measure], 0)
        errors, values = (np.concatenate([[0.0], x]) for x in (self.error[corruption], above))
        order = np.argsort(errors)
        return float(np.interp(error, errors[order], values[order], right=np.nan))


def audit(
    clips: UInt8[np.ndarray, "N T H W 3"],
    groups: Int64[np.ndarray, " N"],
    networks: Mapping[str, FeatureNetwork],
    progress: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
) -> Audit:
    """Try all measures on clips of which half are spoiled and held against the clean other half.

    So a distance is never 0 by sharing clips, and its floor is what the clean halves have. Clips of one of the `groups`
    come into one half. Raises ValueError where a half has fewer than 16 clips.
    """
    order = list(dict.fromkeys(groups.tolist()))
    first = np.isin(groups, order[::2])
    clean, other = clips[first], clips[~first]
    if min(len(clean), len(other)) < AT_ONCE:
        raise ValueError(
            f"an audit holds half of the clips against the others, by files, and here these are {len(clean)} and "
            f"{len(other)}: give {AT_ONCE} or more of each"
        )
    reference, beneath = _seen(other, networks), _seen(clean, networks)
    spread = {name: float(np.nanstd(values)) or 1.0 for name, values in reference[1].items()}
    floors = _values(beneath, reference, reference[1], spread, networks)
    curves: dict[str, dict[str, list[float]]] = {}
    error: dict[str, list[float]] = {}
    steps = [(name, strength) for name in SPATIAL | TEMPORAL for strength in STRENGTHS]
    for done, (name, strength) in enumerate(steps, 1):
        spoiled = corrupted(clean, name, strength, seed)
        found = _values(_seen(spoiled, networks), reference, beneath[1], spread, networks) | _paired(clean, spoiled)
        for measure, value in found.items():
            curves.setdefault(measure, {}).setdefault(name, []).append(value)
        error.setdefault(name, []).append(float(np.square(spoiled.astype(np.float32) - clean).mean()))
        progress(done, len(steps))
    return Audit(
        STRENGTHS,
        {name: np.array(values) for name, values in error.items()},
        {measure: {name: np.array(v) for name, v in of.items()} for measure, of in curves.items()},
        floors | {"PSNR": 0.0, "SSIM": 0.0},
    )


def _seen(clips: np.ndarray, networks: Mapping[str, FeatureNetwork]) -> tuple[Each, Each, np.ndarray]:
    """The features of each network, the measures of single clips, and the directions of motion."""
    features: dict[str, list[np.ndarray]] = {name: [] for name in networks}
    each: dict[str, list[np.ndarray]] = {}
    ways = []
    for first in range(0, len(clips), AT_ONCE):
        some = clips[first : first + AT_ONCE]
        for name, network in networks.items():
            features[name].append(network(torch.from_numpy(some)).float().cpu().numpy())
        found, directions = of_each(some)
        ways.append(directions)
        for name, values in found.items():
            each.setdefault(name, []).append(values)
    joined = [{name: np.concatenate(parts) for name, parts in of.items()} for of in (features, each)]
    return joined[0], joined[1], np.concatenate(ways)


def _values(
    found: tuple[Each, Each, np.ndarray],
    reference: tuple[Each, Each, np.ndarray],
    unspoiled: Each,
    spread: Mapping[str, float],
    networks: Mapping[str, FeatureNetwork],
) -> dict[str, float]:
    """Every measure of some clips against the reference, or the same ones unspoiled, such that more is worse."""
    values: dict[str, float] = {}
    for name in networks:
        for measures, of, better, _ in distances_of(name):
            for measure, value in zip(measures, np.atleast_1d(of(reference[0][name], found[0][name])), strict=True):
                told = measure if name in measure else f"{measure} {name}"
                values[told] = float(1 - value if better == "higher" else value)
    for name, of_clips in found[1].items():
        values[name] = float(abs(np.nanmean(of_clips) - np.nanmean(unspoiled[name])) / spread[name])
    values["direction distance"] = direction_distance(reference[2], found[2])
    return values


def _paired(clean: np.ndarray, spoiled: np.ndarray) -> dict[str, float]:
    """How far clips are from themselves: the root of the mean squared error, which PSNR is of, and 1 less SSIM."""
    parts = range(0, len(clean), AT_ONCE)
    pairs = [(from_uint8(spoiled[p : p + AT_ONCE]), from_uint8(clean[p : p + AT_ONCE])) for p in parts]
    error = np.square(spoiled.astype(np.float32) - clean).mean((1, 2, 3, 4))
    return {
        "PSNR": float(np.sqrt(error).mean()),
        "SSIM": float(1 - torch.cat([ssim(*pair).mean(1) for pair in pairs]).mean()),
    }
