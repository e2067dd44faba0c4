"""Maximum mean discrepancy of two sets of feature vectors: the kernel distances KVD and JEDi.

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al. 2012, JMLR 13, lemma 6). The unbiased estimate, in which x
and x' are never the same vector, has the right mean at any number of clips, unlike a Frechet distance, so it is below 0
about half the time where the two distributions are equal. The biased estimate also has the pairs of a vector with
itself, is at least 0, and shrinks towards the truth with more clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float

from kinema.metrics.frechet import finite

__all__ = ["Kernel", "jedi", "kvd", "mmd", "polynomial"]

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of [n, D] and [m, D] to [n, m]

BLOCK = 2048  # rows, whose kernels with as many others are 32 MiB


def polynomial(degree: int, offset: float) -> Kernel:
    """The kernel (x.y / D + offset) ^ degree."""
    return lambda x, y: (x @ y.T / x.shape[1] + offset) ** degree


def mmd(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"], kernel: Kernel, unbiased: bool = True) -> float:
    """The squared maximum mean discrepancy of two sets, in blocks of rows and float64.

    Raises ValueError for NaN or infinite features, and for fewer than 2 clips in a set.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a discrepancy needs at least 2 clips in each set, and there are {len(a)} and {len(b)}")
    a, b = finite(a), finite(b)
    between = sum(kernel(x, y).sum() for x in _blocks(a) for y in _blocks(b))
    return float(_within(a, kernel, unbiased) + _within(b, kernel, unbiased) - 2 * between / (len(a) * len(b)))


def kvd(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]) -> float:
    """Kernel video distance: the unbiased MMD^2 with the kernel (x.y / D + 1)^3, over all pairs.

    The kernel and estimator are those of KID (Binkowski et al. 2018, arXiv 1801.01401), which is often averaged over
    small subsets; the mean is the same, and the noise of all pairs is less. Raises ValueError as `mmd` does.
    """
    return mmd(a, b, polynomial(degree=3, offset=1))


def jedi(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "M D"]) -> float:
    """JEDi: 100 times the biased MMD^2 with the kernel (x.y / D)^2, of V-JEPA features (Luo et al., arXiv 2410.05203).

    The biased estimate, as in the authors' code, so only distances of as many clips compare. An even kernel does not
    tell x from -x. Raises ValueError as `mmd` does.
    """
    return 100 * mmd(a, b, polynomial(degree=2, offset=0), unbiased=False)


def _within(x: np.ndarray, kernel: Kernel, unbiased: bool) -> float:
    """The mean kernel over the pairs of one set."""
    total = 0.0
    for i, one in enumerate(_blocks(x)):
        for j, other in enumerate(_blocks(x)):
            if j == i:
                own = kernel(one, one)
                total += own.sum() - (own.trace() if unbiased else 0)
            elif j > i:  # a kernel is symmetric
                total += 2 * kernel(one, other).sum()
    return total / (len(x) * (len(x) - unbiased))


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    return (x[start : start + BLOCK] for start in range(0, len(x), BLOCK))
