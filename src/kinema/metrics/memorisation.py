"""Memorisation: how near clips are to those that a model was trained on, beside how near unseen real clips are.

A model that copies makes clips that are nearer to training clips than real ones that it never saw. Meehan, Chaudhuri
and Dasgupta 2020 (arXiv 2004.05675) test for this by comparing the distances of generated and of held-out samples to
their nearest training sample. Here each distance is divided by the median of held-out ones, which makes data sets
comparable: 0 is a copy, 1 is as new as an unseen clip.

The distance is Euclidean and of pixels, as in Carlini et al. 2023 (arXiv 2301.13188, section 4.2), at 8x8, so that the
noise and the blur of a generated copy hardly count, and over every stretch of the training videos, since a copy begins
anywhere. Cosines, as of the networks that detect copies of pictures (Somepalli et al. 2023, arXiv 2212.03860), are for
features trained at unit length. Features of kinema's own network do not serve: they are made to tell apart what differs
in time or in noise, and find a copy that begins four frames late as far as an unseen clip (docs/metrics.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8

__all__ = ["SIDE", "Nearest", "nearest", "thumbnails", "typical_distance"]

SIDE = 8  # pixels of a thumbnail
BLOCK = 512  # stretches of a video that are compared at once, which are 6 MB for 16 frames


class Nearest(NamedTuple):
    """The nearest stretch of the training videos of each clip."""

    distances: Float[np.ndarray, " N"]  # root mean square of levels, 0 to 255; infinite where there is no stretch
    videos: Int64[np.ndarray, " N"]  # number of the video; -1 where there is none
    starts: Int64[np.ndarray, " N"]  # first frame


def thumbnails(clips: UInt8[np.ndarray, "N T H W 3"]) -> UInt8[np.ndarray, "N T 8 8 3"]:
    """Every frame at 8x8 pixels, each the mean of an area."""
    frames = torch.from_numpy(clips.reshape(-1, *clips.shape[2:])).movedim(-1, 1).float()
    small = F.interpolate(frames, (SIDE, SIDE), mode="area").round().to(torch.uint8).movedim(1, -1)
    return small.numpy().reshape(*clips.shape[:2], SIDE, SIDE, 3)


def nearest(
    clips: UInt8[np.ndarray, "N t 8 8 3"],
    videos: Iterable[UInt8[np.ndarray, "_ 8 8 3"]],
    groups: tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " V"]] | None = None,
) -> Nearest:
    """The stretch of t frames of the training videos that is nearest to each clip; all are thumbnails.

    Where `groups` are given, those of the clips and those of the videos, it is of a video of another group.
    """
    found = Nearest(np.full(len(clips), np.inf), np.full(len(clips), -1), np.full(len(clips), -1))
    frames, ours = clips.shape[1], _centred(clips)
    for number, video in enumerate(videos):
        for first in range(0, len(video) - frames + 1, BLOCK):
            part = video[first : first + BLOCK + frames - 1]
            stretches = np.lib.stride_tricks.sliding_window_view(part, frames, axis=0)  # [S, 8, 8, 3, t]
            theirs = _centred(np.moveaxis(stretches, -1, 1))
            squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T
            best = squares.argmin(1)
            exact = np.sqrt(np.square(ours - theirs[best]).mean(1, dtype=np.float64))  # a product moves copies off 0
            better = exact < found.distances
            if groups is not None:
                better &= groups[0] != groups[1][number]
            found.distances[better], found.videos[better], found.starts[better] = (
                exact[better],
                number,
                (first + best)[better],
            )
    return found


def typical_distance(distances: Float[np.ndarray, " N"]) -> float:
    """The median distance of unseen real clips, by which others are divided; NaN where it is 0 or infinite."""
    median = float(np.median(distances))
    return median if 0 < median < np.inf else np.nan


def _centred(clips: np.ndarray) -> Float[np.ndarray, "N D"]:
    """Levels about 0, which keeps the products' rounding small."""
    return clips.reshape(len(clips), -1).astype(np.float32) - 127.5
