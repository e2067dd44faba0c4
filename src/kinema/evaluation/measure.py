"""From rows to numbers: each measure of a set of clips with its interval, and its value for the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from kinema.evaluation.rows import Rows
from kinema.metrics.control import label_control
from kinema.metrics.coverage import prdc
from kinema.metrics.flow_field import direction_distance, magnitude_distance
from kinema.metrics.frechet import covariance_rank, frechet_distance, frechet_in_directions, principal_directions
from kinema.metrics.kernel import jedi, kvd
from kinema.metrics.protocol import Number
from kinema.metrics.statistics import Extrapolation, extrapolated_distance, half_interval, mean_interval, real_floor

__all__ = ["Distance", "compute_numbers", "feature_distances", "frechet_extrapolation"]

UNITS = {
    "sharpness": "levels a pixel",
    "saturation": "levels",
    "brightness": "levels",
    "motion": "levels a frame",
    "ACD": "levels",
    "flicker": "levels",
    "warping error": "levels squared",
    "flow": "pixels a frame",
    "flow distance": "pixels a frame",
    "freeze": "share",
    "loop": "share",
    "cuts": "a clip",
    "PSNR": "dB",
    "adherence": "share",
    "control": "share",
    "synchrony": "correlation",
}
BETTER = {"PSNR": "higher", "SSIM": "higher", "MS-SSIM": "higher", "LPIPS": "lower", "adherence": "higher"}
BETTER["control"] = "higher"  # all other means are better near the reference's
BOUNDS = {"precision": (0, 1), "recall": (0, 1), "density": (0, math.inf), "coverage": (0, 1)}  # of intervals
LEAST_MEAN = 16  # clips for a mean
LEAST_DISTANCE = 64  # clips for neighbours, kernels and distances of motion
LEAST_FILES = 8  # with fewer an interval over files is marked
LEAST_HALF = 6  # clips in the smallest half: with fewer there are no five neighbours
DIRECTIONS = {"imagenet": 31}  # of covariances, where these are not in all dimensions: 64 clips are then enough


class Distance(NamedTuple):
    """A distance of two sets, or several that are computed together."""

    names: tuple[str, ...]
    of: Callable[[np.ndarray, np.ndarray], float | np.ndarray]  # of the reference's vectors and the measured ones
    better: str = "lower"
    floor_scale: float = 1.0  # the floor at N clips, over that of two halves of N clips
    floor_of: Callable[[np.ndarray, np.ndarray], float | np.ndarray] | None = None  # of halves, where it is not `of`


def feature_distances(network: str, reference: np.ndarray) -> list[Distance]:
    """The distances in a network's features to a reference, whose vectors are [N, D].

    StyleGAN-V's Frechet distance divides covariances by n, the others by n - 1. Where there are many more dimensions
    than clips, covariances are in the directions in which the reference varies most.
    """
    frechet = of_halves = partial(frechet_distance, ddof=0 if network == "i3d-stylegan-v" else 1)
    if count := DIRECTIONS.get(network):
        frechet = partial(frechet_in_directions, directions=principal_directions(reference, count))
        of_halves = partial(_in_own_directions, count=count)
    found = [
        Distance((f"FD {network}",), frechet, floor_scale=0.5, floor_of=of_halves),  # its bias is as 1 / n
        Distance((f"KD {network}",), kvd),
        Distance(("precision", "recall", "density", "coverage"), lambda a, b: np.array(prdc(a, b)), "higher"),
    ]
    if network == "v-jepa":
        found.append(Distance((f"MMD {network}",), jedi))  # JEDi's kernel, but not its features
    return found


def _in_own_directions(a: np.ndarray, b: np.ndarray, count: int) -> float:
    """In the directions of `a`, in which its own variance is large by chance too, as a reference's is."""
    return frechet_in_directions(a, b, principal_directions(a, count))


def compute_numbers(rows: Rows, real: Rows | None, network: str, force: bool = False) -> dict[str, Number]:
    """All numbers of a set by name, beside those of the reference.

    What there are too few clips for is not measured, or with `force` measured and marked. A Frechet distance needs
    twice as many clips as its covariances have dimensions: half of them, in its interval and its floor, then have
    covariances of full rank.
    """
    found: dict[str, Number] = {}
    if real is not None:
        tables = real.features, rows.features
        dimensions = DIRECTIONS.get(network) or real.features.shape[1]
        for distance in feature_distances(network, real.features):
            is_frechet = distance.names[0].startswith("FD")
            least = 2 * dimensions + 2 if is_frechet else LEAST_DISTANCE
            found |= _distance(distance, tables, real, rows, least, force)
            if is_frechet and math.isfinite((number := found[distance.names[0]]).value):
                singular = _singular(*tables) if network not in DIRECTIONS else ""
                number = replace(number, note="; ".join(filter(None, (number.note, singular))))
                line = frechet_extrapolation(rows, real, network)
                at_infinity = replace(number, value=line.value, low=line.low, high=line.high, real=0.0)
                found |= {distance.names[0]: number, f"{distance.names[0]} at infinity": at_infinity}
    for name, values in rows.per_clip.items():
        found[name] = _mean(name, values, rows, None if real is None else real.per_clip.get(name), force)
    if real is not None and any(rows.classes) and min(len(set(real.classes)), len(np.unique(real.groups))) > 1:
        control = label_control(real.features, real.classes, real.groups, rows.features, rows.classes)
        found["control"] = _mean("control", control[0], rows, control[1], force)
    if real is not None and rows.per_clip and real.per_clip:
        root = 0.5**0.5  # distances of means and of quantiles fall with the root of the number of clips
        lengths = Distance(("flow distance",), lambda a, b: magnitude_distance(b[:, 0], a[:, 0]), floor_scale=root)
        flows = real.per_clip["flow"][:, None], rows.per_clip["flow"][:, None]
        found |= _distance(lengths, flows, real, rows, LEAST_DISTANCE, force)
        ways = Distance(("direction distance",), direction_distance, floor_scale=root)
        found |= _distance(ways, (real.directions, rows.directions), real, rows, LEAST_DISTANCE, force)
    return found


def frechet_extrapolation(rows: Rows, real: Rows, network: str) -> Extrapolation:
    """The Frechet distance extrapolated to infinitely many clips."""
    of = feature_distances(network, real.features)[0].of
    return extrapolated_distance(of, real.features, rows.features, (real.groups, rows.groups))


def _singular(real: np.ndarray, made: np.ndarray) -> str:
    """A note on covariances that are not of full rank."""
    ranks, dimensions = [covariance_rank(table) for table in (real, made)], real.shape[1]
    if min(ranks) == dimensions:
        return ""
    listed = " and ".join(map(str, dict.fromkeys(ranks)))
    return f"covariances are singular, of rank {listed} in {dimensions} dimensions"


def _distance(
    distance: Distance, tables: tuple[np.ndarray, np.ndarray], real: Rows, rows: Rows, least: int, force: bool
) -> dict[str, Number]:
    """A distance of two tables, with its floor."""
    clips, groups = min(map(len, tables)), (real.groups, rows.groups)
    note = _few(clips, least, force)
    half = min(map(_smallest_half, groups))
    if half < LEAST_HALF:
        note = f"halves by files would have {half} clips, where {LEAST_HALF} are needed: give more clips, of more files"
    if (note and not force) or half < LEAST_HALF:
        return {name: _unmeasured(clips, UNITS.get(name, ""), distance.better, note) for name in distance.names}
    ends = [np.atleast_1d(x) for x in half_interval(distance.of, tables, groups)]
    floors = distance.floor_scale * np.atleast_1d(real_floor(distance.floor_of or distance.of, tables[0], real.groups))
    found = {}
    for name, value, low, high, floor in zip(distance.names, *ends, floors, strict=True):
        unit = UNITS.get(name, "")
        if math.isnan(value):
            found[name] = _unmeasured(clips, unit, distance.better, "it is not defined for clips without motion")
            continue
        low, high = np.clip((low, high), *BOUNDS.get(name, (-math.inf, math.inf)))
        found[name] = Number(float(value), float(low), float(high), clips, unit, distance.better, float(floor), note)
    return found


def _smallest_half(groups: np.ndarray) -> int:
    """The clips of half of the groups, if those are the ones with the fewest."""
    counts = np.sort(np.unique(groups, return_counts=True)[1])
    return int(counts[: len(counts) // 2].sum())


def _mean(name: str, values: np.ndarray, rows: Rows, real: np.ndarray | None, force: bool) -> Number:
    """The mean over the clips that have a value, with the reference's."""
    there, unit, better = np.isfinite(values), UNITS.get(name, ""), BETTER.get(name, "near")
    note, files = _few(int(there.sum()), LEAST_MEAN, force), len(np.unique(rows.groups[there]))
    if (note and not force) or files < 2:
        return _unmeasured(int(there.sum()), unit, better, note or "there are values of one clip or file only")
    if files < LEAST_FILES:
        note = f"the interval is of {files} files only" + (f"; {note}" if note else "")
    value, low, high = mean_interval(values[there], groups=rows.groups[there])
    reference = None if real is None or not np.isfinite(real).any() else float(np.nanmean(real))
    return Number(value, low, high, int(there.sum()), unit, better, reference, note)


def _few(clips: int, least: int, force: bool) -> str:
    if clips >= least:
        return ""
    return f"of {clips} clips, where {least} are needed" + ("" if force else ": measure more, or --force it")


def _unmeasured(clips: int, unit: str, better: str, note: str) -> Number:
    return Number(math.nan, math.nan, math.nan, clips, unit, better, note=note)
