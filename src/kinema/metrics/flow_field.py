"""Optical flow of clips, and what it tells: how far things move and where to, and what their motion does not explain.

The flow is that of dense inverse search (Kroeger et al. 2016, arXiv 1603.03590) as OpenCV has it, with its medium
preset refined to single pixels, on grey frames (BT.601). It is no network, so that its numbers need no weights, and it
has the limits of its kind: where there is no texture it takes on the motion of what is near, and what goes further
than about a tenth of the frame between two frames is lost. Real clips measured in the same way show how much that is.
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
    """The way of each pixel of N clips from a frame to the next and back: x and y (down), in pixels of the frame."""

    forward: Float32[np.ndarray, "N pairs H W 2"]
    """From where a pixel is in the earlier frame of a pair."""
    backward: Float32[np.ndarray, "N pairs H W 2"]
    """From where a pixel is in the later frame."""


def optical_flow(clips: UInt8[np.ndarray, "N T H W 3"]) -> Flow:
    """The optical flow between neighbouring frames, exactly 0 between equal ones.

    It takes 16 bytes for each pixel of a clip, so give no more clips at once than there is room for. Raises ValueError
    for clips of one frame, and for sides of less than 16 pixels.
    """
    count, frames, height, width, _ = clips.shape
    if frames < 2:
        raise ValueError("clips of one frame have no flow: give 2 frames or more")
    if min(height, width) < SMALLEST:
        raise ValueError(f"frames of {width}x{height} are too small for optical flow: give sides of {SMALLEST} or more")
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(
        0
    )  # the preset stops at half the size, where a small thing's motion comes out up to a third short
    forward, backward = np.empty((2, count, frames - 1, height, width, 2), np.float32)
    for n, clip in enumerate(clips):
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        for t, (before, after) in enumerate(pairwise(grey)):  # a flow instead of None would be where a search starts
            forward[n, t] = search.calc(before, after, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
            backward[n, t] = search.calc(after, before, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return Flow(forward, backward)


def warping_error(clips: UInt8[np.ndarray, "N T H W 3"], flow: Flow) -> Float[np.ndarray, " N"]:
    """What is left of the change between frames once each pixel is followed along the flow of the same clips.

    The squared difference of a frame and the next one warped back to it, in squared 8-bit levels, mean over channels
    and the pixels that are in both frames, then over pairs of frames: E_warp of Lai et al. 2018, arXiv 1808.00449, as
    their code has it, but for values in [0, 1], 65025 times less, and flow of another video. A pixel is in both if
    its way leads into the frame and the way back from there ends near it: within the bound of Sundaram et al. 2010,
    "Dense point trajectories by GPU-accelerated large displacement optical flow", as in Ruder et al. 2016, arXiv
    1604.08610. Unlike theirs, pixels at the boundaries of motion count: there, clips go wrong.

    A still clip has 0; a pair without a pixel in both frames does not count, and a clip of only such pairs is NaN.
    Blur and standing still lower it, so that it says little without the sharpness and the motion of the same clips.
    """
    errors = np.full(flow.forward.shape[:2], np.nan)
    for n, t in np.ndindex(errors.shape):
        there = _both(flow.forward[n, t], flow.backward[n, t])
        if there.any():
            after = _along(clips[n, t + 1].astype(np.float32), flow.forward[n, t])
            errors[n, t] = np.square(after - clips[n, t], dtype=np.float64)[there].mean()
    counted = (~np.isnan(errors)).sum(1)
    return np.where(counted, np.nansum(errors, 1) / np.maximum(counted, 1), np.nan)


def flow_magnitude(flow: Flow) -> Float[np.ndarray, " N"]:
    """The mean length of the flow in pixels a frame, over all pixels, those that stand still too, and all frames."""
    return _lengths(flow).mean((1, 2, 3), dtype=np.float64)


def directions(flow: Flow) -> Float[np.ndarray, "N 8"]:
    """The share of all motion that goes each way, in the order of COMPASS, as it is seen on the frame.

    A pixel counts with the length of its flow in the sector of 45 degrees around one of the eight directions. Each row
    sums to 1, or is all 0 where nothing moves.
    """
    lengths = _lengths(flow)
    sectors = np.round(np.arctan2(-flow.forward[..., 1], flow.forward[..., 0]) / (np.pi / 4)).astype(int) % len(COMPASS)
    ways = zip(sectors, lengths, strict=True)
    histogram = np.stack([np.bincount(way.ravel(), length.ravel(), len(COMPASS)) for way, length in ways])
    total = histogram.sum(1, keepdims=True)
    return np.divide(histogram, total, out=np.zeros_like(histogram), where=total > 0)


def magnitude_distance(clips: Float[np.ndarray, " N"], others: Float[np.ndarray, " M"]) -> float:
    """The Wasserstein-1 distance of two sets of `flow_magnitude`, in pixels a frame.

    That is the mean difference of their sorted values, where there are as many of both.
    """
    return float(wasserstein_distance(clips, others))


def direction_distance(clips: Float[np.ndarray, "N 8"], others: Float[np.ndarray, "M 8"]) -> float:
    """The Jensen-Shannon distance in [0, 1] of the mean `directions` of two sets of clips.

    That is the square root of their divergence in bits (Endres and Schindelin 2003, IEEE Trans. Inf. Theory 49(7)).
    Clips that stand still do not count; NaN where all of a set do.
    """
    mean, other = clips.sum(0), others.sum(0)
    return float(jensenshannon(mean, other, base=2)) if mean.any() and other.any() else np.nan


def _lengths(flow: Flow) -> Float32[np.ndarray, "N pairs H W"]:
    return np.hypot(flow.forward[..., 0], flow.forward[..., 1])


def _ends(flow: Float32[np.ndarray, "H W 2"]) -> tuple[Float32[np.ndarray, "H W"], Float32[np.ndarray, "H W"]]:
    """The columns and the rows that pixels come to."""
    row, column = np.indices(flow.shape[:2], np.float32)
    return column + flow[..., 0], row + flow[..., 1]


def _along(values: Float32[np.ndarray, "H W C"], flow: Float32[np.ndarray, "H W 2"]) -> Float32[np.ndarray, "H W C"]:
    """The values that pixels find where the flow leads them, between pixels a bilinear mean."""
    return cv2.remap(values, *_ends(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _both(forward: Float32[np.ndarray, "H W 2"], backward: Float32[np.ndarray, "H W 2"]) -> Bool[np.ndarray, "H W"]:
    """The pixels of the earlier frame that are in the later one too."""
    height, width, _ = forward.shape
    column, row = _ends(forward)
    inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
    back = _along(backward, forward)
    apart = np.square(forward + back).sum(-1)
    return inside & (apart <= 0.01 * (np.square(forward).sum(-1) + np.square(back).sum(-1)) + 0.5)
