"""An audit of measures: whether each rises as clips are corrupted more and more, and ranks failures as a person does.

For each corruption of `metrics.corruptions` at rising strength, a measure of the corrupted clips against clean ones:

- rank correlation: Spearman's, of the measure with the strength. 1: it rises with every step.
- detection: the strength from which on it is above its floor, which is its value for clean clips.
- temporal sensitivity: corruptions are equally visible where the mean squared error of their pixels is the same. At
  errors that a temporal and the spatial corruptions both reach, how far the measure is above its floor for the temporal
  one, over the median for the spatial ones. 1: it is as sensitive to both. I3D's Frechet distance is known to be far
  less sensitive to time (Ge et al. 2024, arXiv 2404.12391).

PSNR and SSIM compare each clip with itself before it was corrupted, and detect every change of a pixel. Measures of
single clips count by the change of their mean, in standard deviations over clips; their floor is the difference of the
means of two sets of clean clips.

For the failures of `metrics.failures`, drawn from half of the clips, each distance to the other half, and:

- rank correlation: Spearman's, of the distance with the order in which a person prefers them.
- wrong pairs: of failures of which a person prefers one, and the distance is not lower for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from scipy.stats import rankdata

from kinema.data.writing import from_uint8
from kinema.evaluation.measure import feature_distances
from kinema.evaluation.rows import clip_measures
from kinema.metrics.corruptions import SPATIAL, TEMPORAL, corrupted
from kinema.metrics.failures import FAILURES, PREFERENCE, failed
from kinema.metrics.features import FeatureNetwork
from kinema.metrics.flow_field import direction_distance
from kinema.metrics.paired import ssim
from kinema.types import Progress, no_progress

__all__ = ["STRENGTHS", "Audit", "FailureAudit", "audit", "audit_failures"]

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
BATCH = 16  # clips in memory
ERRORS = 9  # at which temporal and spatial corruptions are compared

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Audit:
    """The values of measures for corrupted clips."""

    strengths: tuple[float, ...]
    error: Mapping[str, Float[np.ndarray, " S"]]  # of each corruption: the mean squared error of pixels, 0 to 255
    curves: Mapping[str, Mapping[str, Float[np.ndarray, " S"]]]  # of each measure and corruption: by strength
    floors: Mapping[str, float]  # of each measure

    def rank_correlation(self, measure: str, corruption: str) -> float:
        """Spearman's correlation of a measure with the strength; 0 where it is constant, NaN where it is not finite."""
        return _rank_correlation(self.strengths, self.curves[measure][corruption])

    def detection(self, measure: str, corruption: str) -> float | None:
        """The least strength from which on a measure is above its floor; None where it is not at the strongest."""
        above = self.curves[measure][corruption] > self.floors[measure]
        first = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
        return self.strengths[first] if first < len(above) else None

    def temporal_sensitivity(self, measure: str) -> float:
        """The median of `relative_sensitivity` over the temporal corruptions for which it is defined."""
        values = [self.relative_sensitivity(measure, name) for name in self.curves[measure] if name in TEMPORAL]
        return np.nan if np.isnan(values).all() else float(np.nanmedian(values))

    def relative_sensitivity(self, measure: str, corruption: str) -> float:
        """A measure's rise for one corruption over its median rise for the spatial ones, at equal errors of pixels.

        The median over errors that the corruption and at least one spatial one reach; infinite where the measure does
        not rise for spatial ones, NaN where there is no such error and where it rises for neither.
        """
        highest = self.error[corruption].max()
        ratios: list[float] = []
        for error in np.geomspace(highest / 16, highest, ERRORS):
            spatial = [self._rise(measure, name, error) for name in SPATIAL if name in self.curves[measure]]
            found = self._rise(measure, corruption, error)
            if np.isfinite(spatial).any() and np.isfinite(found):
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratios.append(float(np.divide(found, np.nanmedian(spatial))))
        return np.nan if np.isnan(ratios).all() else float(np.nanmedian(ratios))

    def _rise(self, measure: str, corruption: str, error: float) -> float:
        """How far a measure is above its floor at an error, interpolated linearly; NaN beyond the strongest."""
        above = np.maximum(self.curves[measure][corruption] - self.floors[measure], 0)
        errors, values = (np.concatenate([[0.0], x]) for x in (self.error[corruption], above))
        order = np.argsort(errors)
        return float(np.interp(error, errors[order], values[order], right=np.nan))


@dataclass(frozen=True, slots=True)
class FailureAudit:
    """The distances of failures from real clips, such that more is worse."""

    values: Mapping[str, Mapping[str, float]]  # of each distance and failure
    floors: Mapping[str, float]  # of each distance: that of other real clips

    def rank_correlation(self, distance: str) -> float:
        """Spearman's correlation with a person's order.

        It is a little below 1 even where no pair is wrong, as a person has no preference among some.
        """
        found = self.values[distance]
        places = [place for place, names in enumerate(PREFERENCE) for _ in names]
        return _rank_correlation(places, np.array([found[name] for names in PREFERENCE for name in names]))

    def wrong_pairs(self, distance: str) -> list[tuple[str, str]]:
        """Pairs of failures, the one that a person prefers first, whose distance is no lower than the other's."""
        found, wrong = self.values[distance], list[tuple[str, str]]()
        for place, names in enumerate(PREFERENCE):
            worse = [name for later in PREFERENCE[place + 1 :] for name in later]
            wrong += [(one, other) for one in names for other in worse if not found[one] < found[other]]
        return wrong


def audit(
    clips: UInt8[np.ndarray, "N T H W 3"],
    groups: Int64[np.ndarray, " N"],
    networks: Mapping[str, FeatureNetwork],
    progress: Progress = no_progress,
    seed: int = 0,
) -> Audit:
    """Corrupt half of the clips and measure them against the clean other half.

    So a distance is never 0 by shared clips, and its floor is that of the clean halves. Clips of one group are in one
    half. Raises ValueError where a half has fewer than 16 clips.
    """
    clean, other = _halves(clips, groups)
    reference, before = _measure(other, networks), _measure(clean, networks)
    deviations = {name: float(np.nanstd(values)) or 1.0 for name, values in reference[1].items()}
    floors = _values(before, reference, reference[1], deviations, networks)
    curves: dict[str, dict[str, list[float]]] = {}
    error: dict[str, list[float]] = {}
    steps = [(name, strength) for name in SPATIAL | TEMPORAL for strength in STRENGTHS]
    for done, (name, strength) in enumerate(steps, 1):
        changed = corrupted(clean, name, strength, seed)
        found = _values(_measure(changed, networks), reference, before[1], deviations, networks)
        for measure, value in (found | _paired(clean, changed)).items():
            curves.setdefault(measure, {}).setdefault(name, []).append(value)
        error.setdefault(name, []).append(float(np.square(changed.astype(np.float32) - clean).mean()))
        progress(done, len(steps))
    return Audit(
        STRENGTHS,
        {name: np.array(values) for name, values in error.items()},
        {measure: {name: np.array(v) for name, v in of.items()} for measure, of in curves.items()},
        floors | {"PSNR": 0.0, "SSIM": 0.0},
    )


def audit_failures(
    clips: UInt8[np.ndarray, "N T H W 3"],
    groups: Int64[np.ndarray, " N"],
    networks: Mapping[str, FeatureNetwork],
    progress: Progress = no_progress,
    seed: int = 0,
) -> FailureAudit:
    """Draw every failure from half of the clips and measure its distances to the other half, as `audit` does.

    Precision, recall and the like are left out: each shows a part of what is wrong, and most are 0 for most failures.
    """
    clean, other = _halves(clips, groups)
    reference = _features(other, networks)
    floors = _distances(_features(clean, networks), reference, networks, shares=False)
    values: dict[str, dict[str, float]] = {distance: {} for distance in floors}
    for done, name in enumerate(FAILURES, 1):
        found = _distances(_features(failed(clean, name, seed), networks), reference, networks, shares=False)
        for distance in floors:
            values[distance][name] = found[distance]
        progress(done, len(FAILURES))
    return FailureAudit(values, floors)


def _rank_correlation(order: Sequence[float], values: np.ndarray) -> float:
    """Spearman's; 0 where the values are constant, NaN where they are not finite."""
    if not np.isfinite(values).all():
        return np.nan
    return float(np.corrcoef(rankdata(order), rankdata(values))[0, 1]) if np.ptp(values) > 0 else 0.0


def _halves(clips: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every other group's clips, and the rest; raises ValueError where these are fewer than 16."""
    order = list(dict.fromkeys(groups.tolist()))
    first = np.isin(groups, order[::2])
    clean, other = clips[first], clips[~first]
    if min(len(clean), len(other)) < BATCH:
        raise ValueError(
            f"an audit measures half of the clips against the others, by files, and these are {len(clean)} and "
            f"{len(other)}: give {BATCH} or more of each"
        )
    return clean, other


def _features(clips: np.ndarray, networks: Mapping[str, FeatureNetwork]) -> Arrays:
    """The features of each network; equal clips are computed once."""
    numbers: dict[bytes, int] = {}
    places = [numbers.setdefault(clip.tobytes(), len(numbers)) for clip in clips]
    _, firsts = np.unique(places, return_index=True)
    parts = [torch.from_numpy(clips[firsts[k : k + BATCH]]) for k in range(0, len(firsts), BATCH)]
    found = {name: [network(part).float().cpu().numpy() for part in parts] for name, network in networks.items()}
    return {name: np.concatenate(values)[places] for name, values in found.items()}


def _measure(clips: np.ndarray, networks: Mapping[str, FeatureNetwork]) -> tuple[Arrays, Arrays, np.ndarray]:
    """The features of each network, the measures of single clips, and the directions of motion."""
    per_clip: dict[str, list[np.ndarray]] = {}
    directions = []
    for first in range(0, len(clips), BATCH):
        batch = clips[first : first + BATCH]
        found, shares = clip_measures(batch)
        directions.append(shares)
        for name, values in found.items():
            per_clip.setdefault(name, []).append(values)
    joined = {name: np.concatenate(parts) for name, parts in per_clip.items()}
    return _features(clips, networks), joined, np.concatenate(directions)


def _values(
    found: tuple[Arrays, Arrays, np.ndarray],
    reference: tuple[Arrays, Arrays, np.ndarray],
    before: Arrays,
    deviations: Mapping[str, float],
    networks: Mapping[str, FeatureNetwork],
) -> dict[str, float]:
    """Every measure of clips, such that more is worse: distances to the reference, changes of means from `before`."""
    values = _distances(found[0], reference[0], networks)
    for name, of_clips in found[1].items():
        values[name] = float(abs(np.nanmean(of_clips) - np.nanmean(before[name])) / deviations[name])
    values["direction distance"] = direction_distance(reference[2], found[2])
    return values


def _distances(
    found: Arrays, reference: Arrays, networks: Mapping[str, FeatureNetwork], shares: bool = True
) -> dict[str, float]:
    """Every distance in the features of networks, such that more is worse; with `shares` precision and so on."""
    values: dict[str, float] = {}
    for network in networks:
        for distance in feature_distances(network, reference[network]):
            if distance.better == "higher" and not shares:
                continue
            results = np.atleast_1d(distance.of(reference[network], found[network]))
            for name, value in zip(distance.names, results, strict=True):
                values[name if network in name else f"{name} {network}"] = float(
                    1 - value if distance.better == "higher" else value
                )
    return values


def _paired(clean: np.ndarray, changed: np.ndarray) -> dict[str, float]:
    """Measures of clips against themselves: the root of the mean squared error, for PSNR, and 1 less SSIM."""
    parts = range(0, len(clean), BATCH)
    pairs = [(from_uint8(changed[p : p + BATCH]), from_uint8(clean[p : p + BATCH])) for p in parts]
    error = np.square(changed.astype(np.float32) - clean).mean((1, 2, 3, 4))
    return {
        "PSNR": float(np.sqrt(error).mean()),
        "SSIM": float(1 - torch.cat([ssim(*pair).mean(1) for pair in pairs]).mean()),
    }
