"""Measures of single clips in time: flicker, freezing, loops, cuts, and those of optical flow.

Each gives a number a clip and needs no other clip and no network. None is good or bad by itself, since real clips
flicker, pause, loop and are cut too: what counts is how far generated clips are from real ones.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.distance import pdist, squareform

from kinema.metrics.flow_field import Flow, flow_magnitude, optical_flow, warping_error
from kinema.metrics.image import LUMA

__all__ = ["FROZEN", "changes", "cuts", "flicker", "freeze", "loop", "measures"]

# 8-bit levels of mean change below which frames are equal. Frames of a still clip differ by up to 0.005 after H.264,
# those of a face that hardly moves by 0.14. FFmpeg's freezedetect takes 0.255, which slow motion can be below.
FROZEN = 0.1
NEAR = 2  # changes on either side that a cut is compared with
RATIO = 2.5  # least ratio of a cut to the largest of them
LEAST = 8.0  # 8-bit levels of mean change of a cut; less is motion that begins again


def measures(clips: UInt8[np.ndarray, "N T H W 3"], flow: Flow | None = None) -> dict[str, Float[np.ndarray, " N"]]:
    """All measures of single clips by name: flicker, warping error, flow, freeze, loop and cuts.

    `flow` is the optical flow of the clips, computed where it is not given. Values are NaN where clips are too short:
    flicker and cuts need 3 frames, loop 4. Raises ValueError for clips of one frame and sides of less than 16 pixels.
    """
    flow = optical_flow(clips) if flow is None else flow
    return {
        "flicker": flicker(clips),
        "warping error": warping_error(clips, flow),
        "flow": flow_magnitude(flow),
        "freeze": freeze(clips),
        "loop": loop(clips),
        "cuts": cuts(clips),
    }


def changes(clips: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, "N T-1"]:
    """The mean absolute change of pixels' channels from each frame to the next, in 8-bit levels.

    Raises ValueError for clips of one frame.
    """
    if clips.shape[1] < 2:
        raise ValueError("clips of one frame do not change in time: give 2 frames or more")
    return np.abs(np.diff(clips.astype(np.int16), axis=1)).mean((2, 3, 4))


def flicker(clips: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, " N"]:
    """How far the mean brightness of a frame is from halfway between those of the frames beside it, in 8-bit levels.

    The mean over all frames but the first and the last; a clip in which every second frame is brighter by P has P.
    Flicker is the fast fluctuation of the intensity of whole frames (van Roosmalen et al. 1999, "Correction of
    intensity flicker in old film sequences", IEEE Trans. CSVT 9(7); Delon 2006, IEEE Trans. Image Process. 15(1)).
    Motion within the frame leaves the mean brightness as it is; fades and objects that enter steadily change it in a
    straight line. The difference of frames (VBench, Huang et al. 2023, arXiv 2311.17982) also contains motion, so
    it is for static scenes only.

    NaN for clips of 2 frames. Raises ValueError for clips of one.
    """
    if clips.shape[1] < 3:
        return np.full_like(changes(clips)[:, 0], np.nan)
    brightness = clips.mean((2, 3)) @ np.array(LUMA)  # [N, T]
    return np.abs(np.diff(brightness, 2)).mean(1) / 2


def freeze(clips: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, " N"]:
    """The share in [0, 1] of frames that differ from the frame before by less than 0.1 levels of mean change.

    Raises ValueError for clips of one frame.
    """
    return (changes(clips) < FROZEN).mean(1)


def cuts(clips: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, " N"]:
    """The number of hard cuts in each clip, from 0.

    A cut is a mean change of 8 levels or more that is 2.5 times the largest of the two changes before it and of the two
    after: the sliding window of Yeo and Liu 1995, "Rapid scene analysis on compressed video", IEEE Trans. CSVT 5(6).
    Steady motion, however fast, a single odd frame, which changes twice, and fades are no cuts; cuts less than 3 frames
    apart hide each other. NaN for clips of 2 frames. Raises ValueError for clips of one.
    """
    change = changes(clips)
    if change.shape[1] < 2:
        return np.full_like(change[:, 0], np.nan)
    padded = np.pad(change, ((0, 0), (NEAR, NEAR)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * NEAR + 1, axis=1)  # [N, T-1, window]
    others = np.delete(windows, NEAR, axis=2).max(2)
    return ((change >= LEAST) & (change >= RATIO * others)).sum(1).astype(np.float64)


def loop(clips: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, " N"]:
    """How much a clip repeats itself, in [0, 1]: 1 if every frame is the one a period before it.

    For a period of k frames, from 2 to half the clip, each frame t from k on has the score (m - d) / max(m, d), where d
    is its mean absolute difference from frame t - k and m the median of its differences from the frames between, or 0
    if both are below 0.1 levels. The result is the mean over t for the best period, or 0 where that is negative: for a
    still clip, steady motion, noise, and a clip that runs back once. A clip that begins to loop later scores less.

    The differences are the self-similarity of Cutler and Davis 2000, "Robust real-time periodic motion detection,
    analysis, and applications", IEEE Trans. PAMI 22(8); the score is kinema's own. NaN for clips of fewer than 4
    frames. Raises ValueError for clips of one.
    """
    frames = clips.shape[1]
    if frames < 4:
        return np.full_like(changes(clips)[:, 0], np.nan)
    tables = [squareform(pdist(clip.reshape(frames, -1), "cityblock")) / clip[0].size for clip in clips]
    return np.array([max(0.0, *(_returned(one, period) for period in range(2, frames // 2 + 1))) for one in tables])


def _returned(differences: Float[np.ndarray, "T T"], period: int) -> float:
    """The score of one period, in [-1, 1]."""
    later = np.arange(period, len(differences))
    back = differences[later, later - period]
    between = np.median([differences[later, later - lag] for lag in range(1, period)], axis=0)
    most = np.maximum(between, back)
    return float(np.divide(between - back, most, out=np.zeros_like(most), where=most >= FROZEN).mean())
