"""How a clip's motion goes with its sound.

Loudness is the root mean square of the samples in each frame's time, motion the mean absolute change of the pixels from
the frame before, which also sees jumps that optical flow cannot follow. Both are logarithms to base 2, so that one loud
moment does not decide everything, with a floor: -50 dB of full scale, and 0.1 levels. Motion is how much things move,
so a ball that bounces at constant speed shows nothing.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, UInt8

from kinema.metrics.temporal import FROZEN, changes

__all__ = ["loudness", "motion", "synchrony"]

SILENCE = 10 ** (-50 / 20)  # of full scale, as in kinema.conditions.audio
CONSTANT = 0.1  # to base 2: a level that stays within this range, 0.6 dB, does not change


def loudness(audio: Float32[np.ndarray, " samples"], rate: float, frames: int, fps: float) -> Float[np.ndarray, " T"]:
    """The logarithm to base 2 of the sound's root mean square in each frame's time; 0 is full scale, -8.3 the floor.

    Frame t lasts from t / fps to (t + 1) / fps seconds; a sound that is shorter is followed by silence.
    """
    edges = np.round(np.arange(frames + 1) / fps * rate).astype(int)
    samples = np.zeros(edges[-1])
    samples[: len(audio)] = audio[: edges[-1]]
    energy = np.add.reduceat(samples**2, edges[:-1]) / np.diff(edges)
    return np.log2(np.maximum(np.sqrt(energy), SILENCE))


def motion(frames: UInt8[np.ndarray, "T H W 3"]) -> Float[np.ndarray, " T-1"]:
    """The logarithm to base 2 of the mean absolute change from each frame to the next, in 8-bit levels."""
    return np.log2(np.maximum(changes(frames[None])[0], FROZEN))


def synchrony(
    audio: Float32[np.ndarray, " samples"], rate: float, frames: UInt8[np.ndarray, "T H W 3"], fps: float
) -> float:
    """Pearson's correlation of loudness and motion over all frames but the first, in [-1, 1].

    NaN where one of them stays within 0.6 dB, or 7 %. The correlation of the sound's energy with the image's goes back
    to Hershey and Movellan 1999, "Audio vision: using audio-visual synchrony to locate sounds" (NIPS 12). Raises
    ValueError for clips of fewer than 4 frames.
    """
    if len(frames) < 4:
        raise ValueError(f"a correlation with sound needs clips of 4 frames or more, not {len(frames)}")
    loud, moving = loudness(audio, rate, len(frames), fps)[1:], motion(frames)
    return float(np.corrcoef(loud, moving)[0, 1]) if min(np.ptp(loud), np.ptp(moving)) >= CONSTANT else np.nan
