"""The numbers: what a side's rows say, beside the reference's, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from kinema.evaluation.rows import Rows
from kinema.metrics.bootstrap import mean_interval
from kinema.metrics.control import label_control
from kinema.metrics.coverage import prdc
from kinema.metrics.flow_field import direction_distance, magnitude_distance
from kinema.metrics.frechet import Moments, frechet
from kinema.metrics.kernel import jedi, kvd
from kinema.metrics.protocol import Number
from kinema.metrics.resampling import Extrapolation, extrapolated, floor, half_interval

__all__ = ["UNITS", "Of", "distances_of", "extrapolation", "frechet_distance", "least", "numbers", "smallest_half"]

UNITS = {
    "sharpness": "levels a pixel",
    "saturation": "levels",
    "brightness": "levels",
    "motion": "levels a frame",
    "ACD": "levels",
    "flicker": "levels",
    "warping error": "levels squared",
    "flow": "pixels a frame",
    "freeze": "share",
    "loop": "share",
    "cuts": "a clip",
    "PSNR": "dB",
    "SSIM": "",
    "MS-SSIM": "",
    "LPIPS": "",
    "adherence": "share",
    "control": "share",
    "synchrony": "correlation",
}
BETTER = {  # all others are better near the reference's
    "PSNR": "higher",
    "SSIM": "higher",
    "MS-SSIM": "higher",
    "LPIPS": "lower",
    "adherence": "higher",
    "control": "higher",
}
BOUNDS = {  # that no interval leaves
    "precision": (0, 1),
    "recall": (0, 1),
    "density": (0, math.inf),
    "coverage": (0, 1),
}
FEWEST = 16  # clips that a mean is of
FILES = 8  # below which an interval over files is marked
NEIGHBOURLY = 64  # clips below which neighbours and kernels say little

SPLIT = 6  # clips in the smallest half: with fewer there are no five neighbours

Of = Callable[[np.ndarray, np.ndarray], float | np.ndarray]  # of the reference's vectors and the measured ones


def frechet_distance(real: np.ndarray, made: np.ndarray, ddof: Literal[0, 1] = 1) -> float:
    """The Frechet distance of two tables of features, with covariances over n - `ddof`; of the same ones exactly 0."""
    moments = Moments.of(real), Moments.of(made)
    value = frechet(*moments, ddof).value
    scale = sum(np.square(one.factor(ddof)).sum() for one in moments)
    return value if value > 1e-12 * scale else 0.0


def frechet_of(network: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The Frechet distance as the dialect of a network has it: StyleGAN-V divides covariances by n, others by n - 1."""
    return partial(frechet_distance, ddof=0 if network == "i3d-stylegan-v" else 1)


def _singular(real: np.ndarray, made: np.ndarray) -> str:
    """What is to be said of covariances that are not of full rank."""
    found = frechet(Moments.of(real), Moments.of(made))
    if not found.singular:
        return ""
    ranks = " and ".join(map(str, dict.fromkeys(found.ranks)))
    return f"covariances are singular, of rank {ranks} in {found.dimensions} dimensions: some features never vary alone"


def neighbours(real: np.ndarray, made: np.ndarray) -> Float[np.ndarray, "4"]:
    """Precision, recall, density and coverage."""
    found = prdc(real, made)
    return np.array([found.precision, found.recall, found.density, found.coverage])


def distances_of(network: str) -> list[tuple[tuple[str, ...], Of, str, str]]:
    """The distances in a network's features: the names of what each gives, the function, what is better, and a unit."""
    found: list[tuple[tuple[str, ...], Of, str, str]] = [
        ((f"FD {network}",), frechet_of(network), "lower", ""),
        ((f"KD {network}",), kvd, "lower", ""),
        (("precision", "recall", "density", "coverage"), neighbours, "higher", ""),
    ]
    if network == "v-jepa":
        found.append(((f"MMD {network}",), jedi, "lower", ""))  # JEDi's kernel, but not its features
    return found


def least(name: str, dimensions: int) -> int:
    """The clips of each side below which a number is refused: for a Frechet distance twice the features' dimensions.

    So many that half of them, which its interval and its floor are made of, have a covariance of full rank.
    """
    if name.startswith("FD"):
        return 2 * dimensions + 2
    return FEWEST if name in UNITS else NEIGHBOURLY


def numbers(rows: Rows, real: Rows | None, network: str, force: bool = False) -> dict[str, Number]:
    """All numbers of a side by name, beside those of the reference.

    What there are too few clips for is not measured, or with `force` measured and marked.
    """
    found: dict[str, Number] = {}
    if real is not None:
        for names, of, better, unit in distances_of(network):
            beneath = 0.5 if names[0].startswith("FD") else 1.0  # halves have twice the bias of the whole
            tables = real.features, rows.features
            found |= _between(names, of, tables, real, rows, unit, better, beneath, force)
            if names[0].startswith("FD") and math.isfinite(found[names[0]].value):
                note = "; ".join(filter(None, (found[names[0]].note, _singular(*tables))))
                found[names[0]] = replace(found[names[0]], note=note)
                line = extrapolation(rows, real, network)
                number = replace(found[names[0]], value=line.value, low=line.low, high=line.high, real=0.0)
                found[f"{names[0]} at infinity"] = number
    for name, values in rows.each.items():
        found[name] = _mean(name, values, rows, None if real is None else real.each.get(name), force)
    if real is not None and any(rows.classes) and min(len(set(real.classes)), len(np.unique(real.groups))) > 1:
        told, shown = label_control(real.features, real.classes, real.groups, rows.features, rows.classes)
        found["control"] = _mean("control", told, rows, shown, force)
    if real is not None and rows.each and real.each:
        root = 0.5**0.5  # distances of means and of quantiles fall with the root of the clips
        flows = real.each["flow"][:, None], rows.each["flow"][:, None]
        found |= _between(("flow distance",), _lengths, flows, real, rows, UNITS["flow"], "lower", root, force)
        ways = real.directions, rows.directions
        found |= _between(("direction distance",), direction_distance, ways, real, rows, "", "lower", root, force)
    return found


def extrapolation(rows: Rows, real: Rows, network: str) -> Extrapolation:
    """The Frechet distance freed from its bias, with the points that the line goes through."""
    return extrapolated(frechet_of(network), real.features, rows.features, (real.groups, rows.groups))


def _lengths(real: np.ndarray, made: np.ndarray) -> float:
    return magnitude_distance(made[:, 0], real[:, 0])


def _between(
    names: tuple[str, ...],
    of: Of,
    tables: tuple[np.ndarray, np.ndarray],
    real: Rows,
    rows: Rows,
    unit: str,
    better: str,
    beneath: float,
    force: bool,
) -> dict[str, Number]:
    """Distances of two tables, with their floor: those of two halves of the reference, times `beneath`."""
    clips = min(map(len, tables))
    note = _few(clips, least(names[0], tables[0].shape[1]), force)
    half = min(map(smallest_half, (real.groups, rows.groups)))
    if half < SPLIT:
        note = f"halves by files would have {half} clips, where {SPLIT} are needed: give more clips, of more files"
    if (note and not force) or half < SPLIT:
        return {name: _unmeasured(clips, unit, better, note) for name in names}
    values, lows, highs = (np.atleast_1d(x) for x in half_interval(of, *tables, (real.groups, rows.groups)))
    floors = beneath * np.atleast_1d(floor(of, tables[0], real.groups).value)
    found = {}
    for name, value, low, high, under in zip(names, values, lows, highs, floors, strict=True):
        if math.isnan(value):
            found[name] = _unmeasured(clips, unit, better, "it is not defined for these clips: does nothing move?")
        else:
            low, high = np.clip((low, high), *BOUNDS.get(name, (-math.inf, math.inf)))
            found[name] = Number(float(value), float(low), float(high), clips, unit, better, float(under), note)
    return found


def smallest_half(groups: np.ndarray) -> int:
    """The clips of the smaller half of the groups, if those with the fewest come together."""
    counts = np.sort(np.unique(groups, return_counts=True)[1])
    return int(counts[: len(counts) // 2].sum())


def _mean(name: str, values: np.ndarray, rows: Rows, real: np.ndarray | None, force: bool) -> Number:
    """The mean over clips of which there is a value, with the reference's."""
    there, unit, better = np.isfinite(values), UNITS.get(name, ""), BETTER.get(name, "near")
    note, files = _few(int(there.sum()), FEWEST, force), len(np.unique(rows.groups[there]))
    if (note and not force) or files < 2:
        return _unmeasured(int(there.sum()), unit, better, note or "there are values of one clip or file only")
    if files < FILES:
        note = f"the interval is of {files} files only" + (f"; {note}" if note else "")
    value, low, high = mean_interval(torch.from_numpy(values[there]), groups=rows.groups[there])
    beside = None if real is None or not np.isfinite(real).any() else float(np.nanmean(real))
    return Number(value, low, high, int(there.sum()), unit, better, beside, note)


def _few(clips: int, fewest: int, force: bool) -> str:
    if clips >= fewest:
        return ""
    return f"of {clips} clips, where {fewest} are needed" + ("" if force else ": measure more, or --force it")


def _unmeasured(clips: int, unit: str, better: str, note: str) -> Number:
    return Number(math.nan, math.nan, math.nan, clips, unit, better, note=note)
