"""Memorisation: how near clips are to those that a model was trained on, beside how near unseen real clips are.

A model that copies makes clips that are nearer to training clips than real ones that it never saw. Meehan, Chaudhuri
and Dasgupta 2020 (arXiv 2004.05675) test for this by comparing the distances of generated and of held-out samples to
their nearest training sample. Here each distance is divided by the median of held-out ones: 0 is a copy, 1 is as new as
an unseen clip. That division also makes networks and data sets comparable; Carlini et al. 2023 (arXiv 2301.13188) scale
distances for a like reason.

Distances are Euclidean, as in both papers, and as in the other measures of the same features. Detectors of copies use
cosines (Somepalli et al. 2023, arXiv 2212.03860), but in features that were trained at unit length, which kinema's
were not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from scipy.spatial.distance import cdist

from kinema.metrics.frechet import finite

__all__ = ["Nearest", "nearest", "typical_distance"]

BLOCK = 512  # rows, whose distances to 20,000 vectors are 80 MB


class Nearest(NamedTuple):
    """The nearest training clip of each clip."""

    distances: Float[np.ndarray, " N"]  # Euclidean, at least 0; infinite where there is none
    indices: Int64[np.ndarray, " N"]  # of the training clips


def nearest(
    clips: Float[np.ndarray, "N D"],
    training: Float[np.ndarray, "M D"],
    groups: tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " M"]] | None = None,
) -> Nearest:
    """The training clip that is nearest to each clip by its features, of another group where `groups` are given.

    `groups` are those of the clips and of the training clips. Raises ValueError for NaN or infinite features, and for
    no training clips.
    """
    if not len(training):
        raise ValueError("there are no training clips to be near to")
    clips, training = finite(clips), finite(training)
    distances, indices = [], []
    for start in range(0, len(clips), BLOCK):
        rows = slice(start, start + BLOCK)
        found = cdist(clips[rows], training)  # [rows, M]; not by a matrix product, which moves copies off 0
        if groups is not None:
            found[groups[0][rows, None] == groups[1]] = np.inf
        indices.append(found.argmin(1))
        distances.append(found.min(1))
    return Nearest(np.concatenate(distances), np.concatenate(indices))


def typical_distance(
    training: Float[np.ndarray, "M D"], groups: Int64[np.ndarray, " M"], held_out: Float[np.ndarray, "N D"] | None
) -> float:
    """The median distance of held-out clips to their nearest training clip, by which others are divided.

    Without held-out clips it is of the training clips, each to the nearest one of another group. NaN where that is
    not defined: where it is 0, or there is one group only. Raises ValueError as `nearest`.
    """
    found = nearest(training, training, (groups, groups)) if held_out is None else nearest(held_out, training)
    median = float(np.median(found.distances))
    return median if 0 < median < np.inf else np.nan
