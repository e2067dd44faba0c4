"""Procedural worlds that make training clips, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kinema.worlds.shape_motion import ShapeMotion
from kinema.worlds.sprites import Sprites

if TYPE_CHECKING:  # at run time a cycle: sources are opened by name from here
    from kinema.data.clips import Source

__all__ = ["WORLDS"]

# Called with frames, height and width.
WORLDS: dict[str, Callable[..., Source]] = {"shape-motion": ShapeMotion, "sprites": Sprites}
