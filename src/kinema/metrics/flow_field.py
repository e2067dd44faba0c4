"""Optical flow of clips and measures of it: the amount and the direction of motion, and the warping error.

The flow is OpenCV's dense inverse search (Kroeger et al. 2016, arXiv 1603.03590), its medium preset refined to single
pixels, on grey frames (BT.601). It needs no weights and has the limits of its kind: areas without texture take on the
motion of what is near, and motion beyond about a tenth of the frame between two frames is lost. The same measure of
real clips shows how much that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

__all__ = [
    "COMPASS",
    "Flow",
    "direction_distance",
    "directions",
    "flow_magnitude",
    "magnitude_distance",
    "optical_flow",
    "warping_error",
]

SMALLEST = 16  # pixels of a side: two patches of the search
COMPASS = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")  # of `directions`; N is up, E to the right


@dataclass(frozen=True, slots=True)
class Flow:
    """The displacement of each pixel of N clips from a frame to the next and back: x and y (down), in pixels."""

    forward: Float32[np.ndarray, "N pairs H W 2"]
    """At the pixel's place in the earlier frame of a pair."""
    backward: Float32[np.ndarray, "N pairs H W 2"]
    """At the pixel's place in the later frame."""


def optical_flow(clips: UInt8[np.ndarray, "N T H W 3"]) -> Flow:
    """The optical flow between neighbouring frames, exactly 0 between equal ones.

    Takes 16 bytes for each pixel of a clip. Raises ValueError for clips of one frame and sides of less than 16 pixels.
    """
    count, frames, height, width, _ = clips.shape
    if frames < 2:
        raise ValueError("clips of one frame have no flow: give 2 frames or more")
    if min(height, width) < SMALLEST:
        raise ValueError(f"frames of {width}x{height} are too small for optical flow: give sides of {SMALLEST} or more")
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)  # the preset stops at half the size, where motion of small objects is up to a third short
    forward, backward = np.empty((2, count, frames - 1, height, width, 2), np.float32)
    for n, clip in enumerate(clips):
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        for t, (before, after) in enumerate(pairwise(grey)):  # None: no flow to start the search from
            forward[n, t] = search.calc(before, after, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
            backward[n, t] = search.calc(after, before, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return Flow(forward, backward)


def warping_error(clips: UInt8[np.ndarray, "N T H W 3"], flow: Flow) -> Float[np.ndarray, " N"]:
    """The squared change between frames that remains after each frame is warped along the clips' own flow.

    In squared 8-bit levels, the mean over channels and the pixels visible in both frames, then over pairs of frames:
    E_warp of Lai et al. 2018, arXiv 1808.00449, whose code has values in [0, 1], 65025 times less, and the flow of
    another video. A pixel is visible in both frames if its flow stays in the frame and the backward flow from there
    ends near it: within the bound of Sundaram et al. 2010, "Dense point trajectories by GPU-accelerated large
    displacement optical flow", as in Ruder et al. 2016, arXiv 1604.08610. Unlike there, pixels at motion boundaries
    count, as clips often go wrong there.

    A still clip has 0; a pair without a pixel visible in both frames does not count, and a clip of only such pairs is
    NaN. Blur and lack of motion lower it, so read it together with sharpness and motion.
    """
    errors = np.full(flow.forward.shape[:2], np.nan)
    for n, t in np.ndindex(errors.shape):
        visible = _visible(flow.forward[n, t], flow.backward[n, t])
        if visible.any():
            after = _warped(clips[n, t + 1].astype(np.float32), flow.forward[n, t])
            errors[n, t] = np.square(after - clips[n, t], dtype=np.float64)[visible].mean()
    counted = (~np.isnan(errors)).sum(1)
    return np.where(counted, np.nansum(errors, 1) / np.maximum(counted, 1), np.nan)


def flow_magnitude(flow: Flow) -> Float[np.ndarray, " N"]:
    """The mean length of the flow over all pixels and frames, in pixels a frame."""
    return _lengths(flow).mean((1, 2, 3), dtype=np.float64)


def directions(flow: Flow) -> Float[np.ndarray, "N 8"]:
    """The share of all motion in each direction, in the order of COMPASS.

    A pixel counts with the length of its flow in the sector of 45 degrees around one of the eight directions. Each row
    sums to 1, or is all 0 where nothing moves.
    """
    lengths = _lengths(flow)
    sectors = np.round(np.arctan2(-flow.forward[..., 1], flow.forward[..., 0]) / (np.pi / 4)).astype(int) % len(COMPASS)
    pairs = zip(sectors, lengths, strict=True)
    histogram = np.stack([np.bincount(sector.ravel(), length.ravel(), len(COMPASS)) for sector, length in pairs])
    total = histogram.sum(1, keepdims=True)
    return np.divide(histogram, total, out=np.zeros_like(histogram), where=total > 0)


def magnitude_distance(clips: Float[np.ndarray, " N"], others: Float[np.ndarray, " M"]) -> float:
    """The Wasserstein-1 distance of two sets of `flow_magnitude`, in pixels a frame."""
    return float(wasserstein_distance(clips, others))


def direction_distance(clips: Float[np.ndarray, "N 8"], others: Float[np.ndarray, "M 8"]) -> float:
    """The Jensen-Shannon distance in [0, 1] of the mean `directions` of two sets of clips.

    That is the square root of their divergence in bits (Endres and Schindelin 2003, IEEE Trans. Inf. Theory 49(7)).
    Clips without motion do not count; NaN where a set has no other.
    """
    mean, other = clips.sum(0), others.sum(0)
    return float(jensenshannon(mean, other, base=2)) if mean.any() and other.any() else np.nan


def _lengths(flow: Flow) -> Float32[np.ndarray, "N pairs H W"]:
    return np.hypot(flow.forward[..., 0], flow.forward[..., 1])


def _ends(flow: Float32[np.ndarray, "H W 2"]) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """The columns and rows of the flow's end points."""
    row, column = np.indices(flow.shape[:2], np.float32)
    return column + flow[..., 0], row + flow[..., 1]


def _warped(values: Float32[np.ndarray, "H W C"], flow: Float32[np.ndarray, "H W 2"]) -> Float32[np.ndarray, "H W C"]:
    """The values at the end points of the flow, interpolated bilinearly."""
    return cv2.remap(values, *_ends(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _visible(forward: Float32[np.ndarray, "H W 2"], backward: Float32[np.ndarray, "H W 2"]) -> Bool[np.ndarray, "H W"]:
    """Which pixels of the earlier frame are in the later one too."""
    height, width, _ = forward.shape
    column, row = _ends(forward)
    inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    back = _warped(backward, forward)
    error = np.square(forward + back).sum(-1)
    return inside & (error <= 0.01 * (np.square(forward).sum(-1) + np.square(back).sum(-1)) + 0.5)
