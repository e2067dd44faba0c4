"""Frechet distance of two sets of feature vectors, each seen as a Gaussian: FID of images, FVD of clips.

d^2 = |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) for means m and covariances A, B (Dowson and Landau 1982, Journal of
Multivariate Analysis 12), first used for generated images by Heusel et al. (2017, arXiv 1706.08500) and for clips by
Unterthiner et al. (2018, arXiv 1812.01717).

The distance is biased: two sets of n clips from one distribution are apart by about c / n, and c grows with the number
of dimensions. With no more clips than dimensions the covariances are singular too, and most of the distance comes from
the empty directions. It is still defined, but compares only with distances of as many clips. For features of more
dimensions than there are clips `frechet_in_directions` takes covariances in the leading principal directions only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float

__all__ = ["covariance_rank", "finite", "frechet_distance", "frechet_in_directions", "principal_directions"]

NAMED = 5  # rows named in a message
ZERO = 1e-12  # of the covariances' trace, or the largest variance: a distance or a variance below it is rounding


def finite(features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    """The features in float64; raises ValueError that names the rows with a value that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        rows = ", ".join(map(str, bad[:NAMED])) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        raise ValueError(f"features are NaN or infinite in row {rows}: leave these clips out, or find what broke them")
    return features.astype(np.float64)


def frechet_distance(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M E"], ddof: Literal[0, 1] = 1) -> float:
    """The squared Frechet distance of two sets, with covariances over n - `ddof`; exactly 0 for equal sets.

    Common code divides by n - 1; StyleGAN-V's divides by n, which `ddof=0` reproduces. Raises ValueError for fewer
    than 2 vectors in a set, values that are not finite, and different numbers of dimensions.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of {a.shape[1]} and {b.shape[1]} dimensions cannot be compared: use one network")
    (mean_a, factor_a), (mean_b, factor_b) = _moments(a, ddof), _moments(b, ddof)
    # The eigenvalues of A B are the squares of these singular values. Roots of computed eigenvalues would turn a
    # rounding error of 1e-16 into 1e-8, in every empty direction.
    overlap = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
    trace = np.square(factor_a).sum() + np.square(factor_b).sum()
    squared = np.square(mean_a - mean_b).sum() + trace - 2 * overlap
    return float(squared) if squared > ZERO * trace else 0.0


def frechet_in_directions(
    a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"], directions: Float[np.ndarray, "D K"]
) -> float:
    """The squared distance of the means, in all dimensions, and of the covariances, in K orthonormal directions.

    It is the Frechet distance of Gaussians whose covariances are equal outside the directions: few clips are enough for
    a mean, but a covariance needs more clips than it has dimensions. Exactly 0 for equal sets. Raises ValueError as
    `frechet_distance` does.
    """
    inside = frechet_distance(a @ directions, b @ directions)
    apart = finite(a).mean(0) - finite(b).mean(0)
    outside = apart - directions @ (directions.T @ apart)
    return inside + float(outside @ outside)


def principal_directions(reference: Float[np.ndarray, "N D"], count: int) -> Float[np.ndarray, "D K"]:
    """The directions in which the vectors vary most, as orthonormal columns (principal components: Pearson 1901).

    K is `count`, or the rank of the covariance where that is less. Raises ValueError for fewer than 2 vectors, and
    values that are not finite.
    """
    _, factor = _moments(reference)
    inner = len(factor) < factor.shape[1]  # of vectors' products, where these are fewer than dimensions
    products = factor @ factor.T if inner else factor.T @ factor
    last = len(products) - 1
    values, vectors = scipy.linalg.eigh(products, subset_by_index=(max(0, last + 1 - count), last))
    there = values > ZERO * values[-1]
    found = vectors[:, there]
    return factor.T @ found / np.sqrt(values[there]) if inner else found


def covariance_rank(features: Float[np.ndarray, "N D"]) -> int:
    """The rank of the covariance: at most D, and at most N - 1."""
    return min(int(np.linalg.matrix_rank(_moments(features)[1])), len(features) - 1)


def _moments(features: np.ndarray, ddof: Literal[0, 1] = 1) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and a factor F of no more rows than vectors or dimensions: F' F is the covariance.

    A factor has twice the digits of the covariance, and is small where there are few vectors.
    """
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 clips, and there are {len(features)}")
    values = finite(features)
    mean = values.mean(0)
    factor = values - mean
    if len(factor) > factor.shape[1]:
        factor = np.asarray(np.linalg.qr(factor, mode="r"))
    return mean, factor / np.sqrt(len(features) - ddof)
