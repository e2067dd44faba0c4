"""Precision, recall, density and coverage of generated feature vectors: fidelity and diversity apart.

All four describe a set by balls around its vectors that reach to the k-th nearest neighbour. They depend on k and on
the number of clips in both sets, so only values of the same numbers compare.

- Precision is the share of generated vectors within a ball of a real one, recall that of real ones within a ball of a
  generated one (Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2; they use k = 3).
- Density is the mean number of real balls that a generated vector is in, over k; it may exceed 1, and is 1 on average
  for a perfect model. Coverage is the share of real balls that a generated vector is in (Naeem et al. 2020, arXiv
  2002.09797; they use k = 5, with which a perfect model of as many clips has 1 - 2^-5 = 0.97 on average).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from kinema.metrics.frechet import finite

__all__ = ["PRDC", "prdc"]

BLOCK = 512  # rows, whose distances to 20,000 vectors are 80 MB


class PRDC(NamedTuple):
    """The four measures, each better where higher."""

    precision: float  # 0 to 1
    recall: float  # 0 to 1
    density: float  # from 0; about 1 for a perfect model
    coverage: float  # 0 to 1


def prdc(
    real: Float[np.ndarray, "N D"], generated: Float[np.ndarray, "M D"], precision_k: int = 3, density_k: int = 5
) -> PRDC:
    """Precision and recall with the `precision_k`-th neighbours, density and coverage with the `density_k`-th.

    Balls are closed for the first two and open for the others, as in their papers, so that a set against itself has 1
    of all. Raises ValueError for NaN or infinite features, and for sets of no more clips than neighbours.
    """
    most = max(precision_k, density_k)
    if min(len(real), len(generated)) <= most:
        counts = f"{len(real)} and {len(generated)}"
        raise ValueError(f"{most} neighbours need {most + 1} clips or more in each set, and there are {counts}")
    real, generated = finite(real), finite(generated)
    real_near, real_far = _radii(real, precision_k, density_k)
    generated_near, _ = _radii(generated, precision_k, density_k)
    precise = np.zeros(len(generated), bool)
    recalled, dense, covered = 0, 0, 0
    for start in range(0, len(real), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = _squared(real[rows], generated)  # [rows, M]
        precise |= (distances <= real_near[rows, None]).any(0)
        recalled += (distances <= generated_near).any(1).sum()
        inside = distances < real_far[rows, None]
        dense += inside.sum()
        covered += inside.any(1).sum()
    return PRDC(
        precision=float(precise.mean()),
        recall=float(recalled / len(real)),
        density=float(dense / (density_k * len(generated))),
        coverage=float(covered / len(real)),
    )


def _radii(x: np.ndarray, *ks: int) -> Float[np.ndarray, "K N"]:
    """The squared distance of each vector to its k-th nearest other one."""
    blocks = (_squared(x[start : start + BLOCK], x) for start in range(0, len(x), BLOCK))
    # number 0 is the vector itself or a copy of it
    return np.concatenate([np.partition(block, ks, axis=1)[:, list(ks)] for block in blocks]).T


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Not by a matrix product, whose cancellation would move copies off distance 0 and ties off the balls' edges.
    return cdist(x, y, "sqeuclidean")
