"""How a clip's motion goes with its sound: their correlation and its lag, and whether they begin together.

Sound is the root mean square of the samples in each frame's time, motion the mean absolute change of the pixels on the
way to a frame, which jumps have as well as what optical flow can follow. Both are taken as logarithms to base 2, so
that one loud moment does not decide all, and not below a floor, so that silence is silent and a still frame still: -50
dB of full scale, and 0.1 levels. Motion is how much things move: a ball that bounces and keeps its speed shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from kinema.metrics.temporal import FROZEN, changes

__all__ = ["OnsetAgreement", "Synchrony", "loudness", "motion", "onset_agreement", "synchrony"]

SILENCE = 10 ** (-50 / 20)  # of full scale, as in kinema.conditions.audio
RISE = 1.0  # to base 2, from one frame to the next, of an onset: twice the amplitude, 6 dB
STEADY = 0.1  # to base 2: a level that stays within such a range, 0.6 dB, does not change


@dataclass(frozen=True, slots=True)
class Synchrony:
    """How loudness and motion go together; NaN where one of them stays within 0.6 dB, or 7 %, throughout."""

    correlation: float
    """Pearson's, in [-1, 1]."""
    lag: float
    """Frames that the motion is late by, negative if it is early, where the correlation is highest."""
    best: float
    """The correlation at that lag. The highest of several is above 0 by chance: hold it against another's sound."""


@dataclass(frozen=True, slots=True)
class OnsetAgreement:
    """How many sounds begin when motion does."""

    share: float
    """Of sound onsets with a motion onset within one frame, in [0, 1]; NaN where there is no sound onset."""
    chance: float
    """The mean of the same over all other circular shifts of the motion against the sound."""
    sounds: int
    """Sound onsets."""
    motions: int
    """Motion onsets."""


def loudness(audio: Float32[np.ndarray, " samples"], rate: float, frames: int, fps: float) -> Float[np.ndarray, " T"]:
    """The logarithm to base 2 of the sound's root mean square in the time of each frame, from -8.3; full scale is 0.

    Frame t lasts from t / fps to (t + 1) / fps seconds; where the sound is shorter, the rest is silence.
    """
    edges = np.round(np.arange(frames + 1) / fps * rate).astype(int)
    samples = np.zeros(edges[-1])
    samples[: len(audio)] = audio[: edges[-1]]
    energy = np.add.reduceat(samples**2, edges[:-1]) / np.diff(edges)
    return np.log2(np.maximum(np.sqrt(energy), SILENCE))


def motion(frames: UInt8[np.ndarray, "T H W 3"]) -> Float[np.ndarray, " T-1"]:
    """The logarithm to base 2 of the mean absolute change in 8-bit levels on the way to each frame but the first."""
    return np.log2(np.maximum(changes(frames[None])[0], FROZEN))


def synchrony(
    audio: Float32[np.ndarray, " samples"],
    rate: float,
    frames: UInt8[np.ndarray, "T H W 3"],
    fps: float,
    within: int,
) -> Synchrony:
    """The correlation of loudness and motion over all frames but the first, and the best lag of up to `within` frames.

    The correlation of the sound's energy with that of the image goes back to Hershey and Movellan 1999, "Audio vision:
    using audio-visual synchrony to locate sounds" (NIPS 12). Raises ValueError for clips of fewer than `within` + 4
    frames, of which a lag would leave less than 3.
    """
    if len(frames) < within + 4:
        raise ValueError(f"lags of {within} frames need clips of {within + 4} frames or more, not {len(frames)}")
    heard, seen = loudness(audio, rate, len(frames), fps)[1:], motion(frames)
    lags = sorted(range(-within, within + 1), key=abs)  # of equal ones, the shortest
    values = {lag: _correlation(heard[max(0, -lag) : len(heard) - max(0, lag)], seen[max(0, lag) :]) for lag in lags}
    defined = [lag for lag in lags if not np.isnan(values[lag])]
    if not defined:
        return Synchrony(np.nan, np.nan, np.nan)
    lag = max(defined, key=values.__getitem__)
    return Synchrony(values[0], float(lag), values[lag])


def onset_agreement(
    audio: Float32[np.ndarray, " samples"], rate: float, frames: UInt8[np.ndarray, "T H W 3"], fps: float
) -> OnsetAgreement:
    """The share of sound onsets with a motion onset within one frame, beside what chance would give.

    An onset is a frame to which the level at least doubles, and rises more than to the frames beside it. AV-Align
    (Yariv et al. 2023, arXiv 2309.16429) compares peaks of the sound's onset strength and of the optical flow in the
    same way, as intersection over union and without chance. Onsets count from the third frame, the first whose motion
    has one before it. Raises ValueError for clips of fewer than 4 frames.
    """
    if len(frames) < 4:
        raise ValueError(f"onsets need clips of 4 frames or more, not {len(frames)}")
    sounds, motions = _onsets(loudness(audio, rate, len(frames), fps))[1:], _onsets(motion(frames))

    def share(shift: int) -> float:
        near = np.convolve(np.roll(motions, shift), np.ones(3), "same") > 0
        return float(near[sounds].mean())

    if not sounds.any():
        return OnsetAgreement(np.nan, np.nan, 0, int(motions.sum()))
    chance = float(np.mean([share(shift) for shift in range(1, len(motions))]))
    return OnsetAgreement(share(0), chance, int(sounds.sum()), int(motions.sum()))


def _correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"]) -> float:
    """Pearson's correlation of as many values as the shorter has, NaN where one does not change."""
    x, y = x[: len(y)], y[: len(x)]
    return float(np.corrcoef(x, y)[0, 1]) if min(np.ptp(x), np.ptp(y)) >= STEADY else np.nan


def _onsets(level: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n-1"]:
    """Whether the level has an onset on the way to each value but the first."""
    rise = np.pad(np.diff(level), 1, constant_values=-np.inf)
    return (rise[1:-1] >= RISE) & (rise[1:-1] > rise[:-2]) & (rise[1:-1] >= rise[2:])
