"""Area under the receiver operating characteristic: how well a score tells two kinds of frames apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from kinema.metrics.bootstrap import interval

__all__ = ["auroc", "auroc_interval"]

Unit = tuple[np.ndarray, np.ndarray]  # the scores of what should score high, and of what should not


def auroc(high: Float[np.ndarray, " P"], low: Float[np.ndarray, " N"]) -> float:
    """The share of pairs, one of each, that are in the right order, ties counting half (Mann and Whitney 1947).

    0.5 is chance. Raises ValueError where there is none of one kind.
    """
    if not len(high) or not len(low):
        raise ValueError("an AUROC compares two kinds of frames: there is none of one")
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / 2 / len(low))


def auroc_interval(units: Sequence[Unit], level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """The AUROC over the frames of all units, and the ends of its bootstrap interval over units (clips or patients).

    Frames of one clip are alike, so that an interval over frames would be too narrow. Resamples that have none of
    either kind are left out. Raises ValueError where fewer than 2 units have frames of a kind.
    """
    if min(sum(len(unit[side]) > 0 for unit in units) for side in (0, 1)) < 2:
        raise ValueError("an interval needs 2 units or more of each kind")

    def of(picks: np.ndarray) -> float:
        high, low = (np.concatenate([units[k][side] for k in picks]) for side in (0, 1))
        return auroc(high, low) if len(high) and len(low) else np.nan

    return interval(of, len(units), level, seed)
