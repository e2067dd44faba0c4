"""Procedural worlds: sources that render training clips. The registry WORLDS has them by name."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

__all__ = ["Verifying"]


@runtime_checkable
class Verifying(Protocol):
    """A world that can verify whether a clip matches one of its captions."""

    def matches_prompt(
        self, clips: UInt8[np.ndarray, "N T H W 3"], step: int, size: int, *, seed: int
    ) -> Float[np.ndarray, " N"]:
        """1 where a clip matches the caption of the same index in `batch(step, size, seed=seed)`, else 0."""
        ...
