"""The numbers: what a side's rows say, beside the reference's, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from kinema.evaluation.rows import Rows
from kinema.metrics.bootstrap import mean_interval
from kinema.metrics.coverage import prdc
from kinema.metrics.flow_field import direction_distance, magnitude_distance
from kinema.metrics.frechet import Moments, frechet
from kinema.metrics.kernel import jedi, kvd
from kinema.metrics.protocol import Number
from kinema.metrics.resampling import Extrapolation, extrapolated, floor, half_interval

__all__ = ["UNITS", "Of", "distances_of", "extrapolation", "least", "numbers"]

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
    "synchrony": "correlation",
}
BETTER = {  # all others are better near the reference's
    "PSNR": "higher",
    "SSIM": "higher",
    "MS-SSIM": "higher",
    "LPIPS": "lower",
    "adherence": "higher",
}
FEWEST = 16  # clips that a mean is of
NEIGHBOURLY = 64  # clips below which neighbours and kernels say little

Of = Callable[[np.ndarray, np.ndarray], float]  # of the reference's vectors and the measured ones


def frechet_distance(real: np.ndarray, made: np.ndarray) -> float:
    """The Frechet distance of two tables of features, of the same ones exactly 0."""
    return round(frechet(Moments.of(real), Moments.of(made)).value, 9)


def distances_of(network: str) -> dict[str, tuple[Of, str, str]]:
    """The distances in a network's features by name: what gives them, what is better, and a unit."""
    found: dict[str, tuple[Of, str, str]] = {
        f"FD {network}": (frechet_distance, "lower", ""),
        f"KD {network}": (kvd, "lower", ""),
        "precision": (lambda real, made: prdc(real, made).precision, "higher", "share"),
        "recall": (lambda real, made: prdc(real, made).recall, "higher", "share"),
        "density": (lambda real, made: prdc(real, made).density, "higher", ""),
        "coverage": (lambda real, made: prdc(real, made).coverage, "higher", "share"),
    }
    if network.startswith("v-jepa"):
        found[f"MMD {network}"] = (jedi, "lower", "")  # JEDi's kernel, but not its features
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
        for name, (of, better, unit) in distances_of(network).items():
            clips = min(len(rows.features), len(real.features))
            note = _few(clips, least(name, rows.features.shape[1]), force)
            if note and not force:
                found[name] = _unmeasured(clips, unit, better, note)
                continue
            number = _between(of, (real.features, rows.features), real, rows, unit, better, note)
            found[name] = number
            if name.startswith("FD"):
                found[name] = replace(number, real=(number.real or 0.0) / 2)  # halves have twice the bias
                line = extrapolation(rows, real)
                found[f"{name} at infinity"] = Number(line.value, line.low, line.high, clips, unit, better, 0.0, note)
    for name, values in rows.each.items():
        found[name] = _mean(name, values, rows, None if real is None else real.each.get(name), force)
    if real is not None and rows.each and real.each:
        flows = real.each["flow"][:, None], rows.each["flow"][:, None]
        found["flow distance"] = _between(_lengths, flows, real, rows, UNITS["flow"])
        found["direction distance"] = _between(direction_distance, (real.directions, rows.directions), real, rows)
    return found


def extrapolation(rows: Rows, real: Rows) -> Extrapolation:
    """The Frechet distance freed from its bias, with the points that the line goes through."""
    return extrapolated(frechet_distance, real.features, rows.features, (real.groups, rows.groups))


def _lengths(real: np.ndarray, made: np.ndarray) -> float:
    return magnitude_distance(made[:, 0], real[:, 0])


def _between(
    of: Of,
    tables: tuple[np.ndarray, np.ndarray],
    real: Rows,
    rows: Rows,
    unit: str = "",
    better: str = "lower",
    note: str = "",
) -> Number:
    """A distance of two tables, with its floor: that of two halves of the reference, as a perfect model has it."""
    value, low, high = half_interval(of, *tables, (real.groups, rows.groups))
    beneath = floor(of, tables[0], real.groups).value
    return Number(value, low, high, len(tables[1]), unit, better, beneath, note)


def _mean(name: str, values: np.ndarray, rows: Rows, real: np.ndarray | None, force: bool) -> Number:
    """The mean over clips of which there is a value, with the reference's."""
    there, unit, better = np.isfinite(values), UNITS.get(name, ""), BETTER.get(name, "near")
    note = _few(int(there.sum()), FEWEST, force)
    if (note and not force) or len(np.unique(rows.groups[there])) < 2:
        return _unmeasured(int(there.sum()), unit, better, note or "there are values of one clip or file only")
    value, low, high = mean_interval(torch.from_numpy(values[there]), groups=rows.groups[there])
    beside = None if real is None or not np.isfinite(real).any() else float(np.nanmean(real))
    return Number(value, low, high, int(there.sum()), unit, better, beside, note)


def _few(clips: int, fewest: int, force: bool) -> str:
    if clips >= fewest:
        return ""
    return f"of {clips} clips, where {fewest} are needed" + ("" if force else ": measure more, or --force it")


def _unmeasured(clips: int, unit: str, better: str, note: str) -> Number:
    return Number(math.nan, math.nan, math.nan, clips, unit, better, note=note)
