"""Frechet distance of two sets of feature vectors, each seen as a Gaussian: FID of images, FVD of clips.

d^2 = |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) for means m and covariances A, B (Dowson and Landau 1982, Journal of
Multivariate Analysis 12), first used for generated images by Heusel et al. (2017, arXiv 1706.08500) and for clips by
Unterthiner et al. (2018, arXiv 1812.01717).

The distance is biased: two sets of n clips from one distribution are apart by about c / n, and c grows with the number
of dimensions. With no more clips than dimensions the covariances are singular as well, and most of the number is that
no set fills the space. It is defined then too, but compares only with distances of as many clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

__all__ = ["Frechet", "Moments", "finite", "frechet"]

NAMED = 5  # rows in a message


def finite(features: Float[np.ndarray, "N D"], first: int = 0) -> Float[np.ndarray, "N D"]:
    """The features in float64. Raises ValueError that names the rows where one is NaN or infinite, from `first` on."""
    bad = first + np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        rows = ", ".join(map(str, bad[:NAMED])) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        raise ValueError(f"features are NaN or infinite in row {rows}: leave these clips out, or find what broke them")
    return features.astype(np.float64)


class Moments:
    """The mean and covariance of feature vectors that come batch by batch, in float64.

    Kept is a factor F of the scatter matrix, F' F = sum of (x - mean)(x - mean)': the centred vectors themselves while
    they are few, a triangle once they are many, so that memory is O(D^2) however many clips there are. A factor has
    twice the digits of the matrix, and is small where there are fewer clips than dimensions.
    """

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self.mean = np.zeros(dimensions)
        self._factor = np.zeros((0, dimensions))

    @classmethod
    def of(cls, features: Float[np.ndarray, "N D"]) -> Moments:
        """The moments of a set that is in memory."""
        moments = cls(features.shape[1])
        moments.add(features)
        return moments

    @property
    def dimensions(self) -> int:
        """D of a vector."""
        return len(self.mean)

    def add(self, features: Float[np.ndarray, "N D"]) -> None:
        """Take in a batch. Raises ValueError for NaN or infinite features, and for another number of dimensions."""
        if not len(features):
            return
        values = finite(features, first=self.count)
        mean = values.mean(0)
        self._merge(len(values), mean, values - mean)

    def merge(self, other: Moments) -> None:
        """Take in what another has seen. Raises ValueError for another number of dimensions."""
        if other.count:
            self._merge(other.count, other.mean, other._factor)

    def covariance(self, ddof: Literal[0, 1] = 1) -> Float[np.ndarray, "D D"]:
        """The covariance over n - `ddof`. Raises ValueError for fewer than 2 vectors."""
        factor = self.factor(ddof)
        return factor.T @ factor

    def factor(self, ddof: Literal[0, 1] = 1) -> Float[np.ndarray, "R D"]:
        """F of no more than D rows, or as many as there are vectors, with F' F the covariance over n - `ddof`.

        Raises ValueError for fewer than 2 vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 clips, and there are {self.count}")
        if len(self._factor) > self.dimensions:
            self._factor = _triangle(self._factor)
        return self._factor / np.sqrt(self.count - ddof)

    def _merge(self, count: int, mean: np.ndarray, factor: np.ndarray) -> None:
        """Chan, Golub and LeVeque's (1979) formula for the union's scatter, its rank-one term as one more row of F."""
        if len(mean) != self.dimensions:
            raise ValueError(
                f"features of {len(mean)} dimensions cannot join those of {self.dimensions}: use one network"
            )
        total = self.count + count
        apart = mean - self.mean
        shift = np.sqrt(self.count / total * count) * apart[None] if self.count else factor[:0]
        self._factor = np.concatenate([self._factor, factor, shift])
        self.mean = self.mean + apart * (count / total)
        self.count = total
        if len(self._factor) > 2 * self.dimensions:  # only then: a triangle for each small batch would be slow
            self._factor = _triangle(self._factor)


@dataclass(frozen=True, slots=True)
class Frechet:
    """A squared Frechet distance, and what it rests on."""

    value: float
    """At least 0, in squared units of the features."""
    clips: tuple[int, int]
    """Of each side."""
    factors: tuple[Float[np.ndarray, "R D"], Float[np.ndarray, "S D"]]
    """F of each side's covariance F' F."""

    @property
    def dimensions(self) -> int:
        """D of a feature vector."""
        return self.factors[0].shape[1]

    @property
    def ranks(self) -> tuple[int, int]:
        """Of each side's covariance, of which `dimensions` is the most."""
        one, other = (_rank(factor, count) for factor, count in zip(self.factors, self.clips, strict=True))
        return one, other

    @property
    def singular(self) -> bool:
        """Whether a covariance is not of full rank, as it is wherever there are no more clips than dimensions."""
        return min(self.ranks) < self.dimensions


def frechet(a: Moments, b: Moments, ddof: Literal[0, 1] = 1) -> Frechet:
    """The squared Frechet distance of two sets, with covariances over n - `ddof`; the same whichever comes first.

    Common code divides by n - 1, StyleGAN-V's by n, so `ddof=0` gives its numbers. Raises ValueError for fewer than 2
    clips on a side, and for different numbers of dimensions.
    """
    if a.dimensions != b.dimensions:
        raise ValueError(
            f"features of {a.dimensions} and {b.dimensions} dimensions cannot be compared: use one network"
        )
    of_a, of_b = a.factor(ddof), b.factor(ddof)
    # The eigenvalues of A B are the squares of these singular values. Roots of eigenvalues that were found themselves
    # would make 1e-8 of a rounding error of 1e-16, and that for each direction that is empty.
    overlap = np.linalg.svd(of_a @ of_b.T, compute_uv=False).sum()
    squared = np.square(a.mean - b.mean).sum() + np.square(of_a).sum() + np.square(of_b).sum() - 2 * overlap
    return Frechet(max(0.0, float(squared)), (a.count, b.count), (of_a, of_b))


def _triangle(factor: np.ndarray) -> np.ndarray:
    """The upper triangle of as many rows as there are columns with the same F' F."""
    return np.asarray(np.linalg.qr(factor, mode="r"))


def _rank(factor: np.ndarray, count: int) -> int:
    """Of the covariance of `count` vectors, which about their own mean cannot fill more than count - 1 directions."""
    return min(int(np.linalg.matrix_rank(factor)), count - 1)
