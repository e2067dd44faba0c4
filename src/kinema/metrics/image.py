"""Statistics of single frames that need no other frame and no network, in 8-bit levels.

A model that continues its own frames may blur, bleach, freeze or boil over as it goes on. These curves, and the motion
of `temporal.changes`, show it beside those of real clips. A curve that leaves the real clips' says that something is
wrong; one that stays does not say that all is well: noise can be as sharp as edges.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

__all__ = ["LUMA", "saturation", "sharpness"]

LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B (BT.601)


def sharpness(clips: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, "N T"]:
    """The mean length of the brightness gradient of each frame, in levels a pixel.

    Differences to the next pixel on the right and below. The variance of the Laplacian, the other usual measure,
    squares second differences, so that a little noise or a checkerboard counts for more than all edges of a frame.
    """
    brightness = clips.astype(np.float32) @ np.array(LUMA, np.float32)  # [N, T, H, W]
    across = np.diff(brightness[..., :-1, :], axis=-1)
    down = np.diff(brightness[..., :-1], axis=-2)
    return np.hypot(across, down).mean((-2, -1))


def saturation(clips: UInt8[np.ndarray, "N T H W 3"]) -> Float[np.ndarray, "N T"]:
    """The mean over a frame's pixels of the largest channel less the smallest, which is defined for black too."""
    red, green, blue = np.moveaxis(clips, -1, 0)  # much faster than max(-1)
    largest, smallest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return (largest - smallest).mean((-2, -1))
