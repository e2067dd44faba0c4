"""Procedural worlds that make training clips, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from kinema.worlds.shape_motion import ShapeMotion
from kinema.worlds.sprites import Sprites

if TYPE_CHECKING:  # at run time a cycle: sources are opened by name from here
    from kinema.data.clips import Source

__all__ = ["WORLDS", "Verifying"]

# Called with frames, height and width.
WORLDS: dict[str, Callable[..., Source]] = {"shape-motion": ShapeMotion, "sprites": Sprites}


@runtime_checkable
class Verifying(Protocol):
    """A world that can tell whether a clip shows what the caption of one of its own says."""

    def right(
        self, clips: UInt8[np.ndarray, "N T H W 3"], step: int, size: int, *, seed: int
    ) -> Float[np.ndarray, " N"]:
        """1 where a clip shows what the caption of the clip in its place of `batch(step, size, seed=seed)` says."""
        ...
