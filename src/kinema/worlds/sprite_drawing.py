"""Rendering of sprites: shapes as tables of signed distances, blended over a background."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view

__all__ = ["COLOURS", "DIRECTIONS", "EXTENTS", "REACH", "SHAPES", "SIZES", "draw"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")  # each has the area of a circle of radius 1
COLOURS = {
    "red": (225, 40, 40),
    "orange": (245, 140, 25),
    "yellow": (240, 225, 40),
    "green": (40, 180, 60),
    "cyan": (50, 215, 225),
    "blue": (50, 90, 235),
    "purple": (160, 60, 215),
    "white": (245, 245, 245),
}
SIZES = {
    "small": 5.0,
    "medium": 7.0,
    "large": 9.5,
}  # radius of a circle of the same area, in pixels where the shorter side is 64
DIRECTIONS = {  # directions of straight motions, y down
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "up left": (-1, -1),
    "up right": (1, -1),
    "down left": (-1, 1),
    "down right": (1, 1),
}
HOLE = 0.55  # inner radius of a ring by its outer one
SPAN, GRID = 1.75, 256  # a shape's table has GRID cells from -SPAN to SPAN


def _polygon(angles: Float[np.ndarray, " n"], radii: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Corners x, y (down) at angles from the top, scaled to an area of pi."""
    corners = np.stack([radii * np.sin(angles), -radii * np.cos(angles)], -1)
    following = np.roll(corners, -1, 0)
    area = abs(np.sum(corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0])) / 2
    return corners * np.sqrt(np.pi / area)


def _turns(corners: int) -> Float[np.ndarray, " n"]:
    return np.arange(corners) * 2 * np.pi / corners


_PLUS = np.array([(-0.4, -1), (0.4, -1), (0.4, -0.4), (1, -0.4), (1, 0.4), (0.4, 0.4)])
_PLUS = np.concatenate([_PLUS, -_PLUS])  # arms have 0.4 of the full width
POLYGONS = {
    "square": _polygon(_turns(4) + np.pi / 4, np.ones(4)),
    "triangle": _polygon(_turns(3), np.ones(3)),
    "star": _polygon(_turns(10), np.where(np.arange(10) % 2, 0.5, 1.0)),
    "cross": _polygon(np.arctan2(_PLUS[:, 0], -_PLUS[:, 1]), np.hypot(*_PLUS.T)),
}
_OUTER = 1 / np.sqrt(1 - HOLE**2)  # outer radius of a ring


def _bounds(name: str) -> Float[np.ndarray, "2 2"]:
    if name in POLYGONS:
        return np.stack([-POLYGONS[name].min(0), POLYGONS[name].max(0)])
    return np.full((2, 2), _OUTER if name == "ring" else 1.0)


EXTENTS = np.stack([_bounds(name) for name in SHAPES])  # [shape, low or high, x or y] bounds of an unrotated shape
REACH = np.array([np.hypot(*POLYGONS[n].T).max() if n in POLYGONS else _bounds(n).max() for n in SHAPES])


@cache
def _tables() -> Float32[np.ndarray, "shape y x"]:
    """Signed distances from the shapes' edges, negative inside."""
    place = (np.arange(GRID) + 0.5) / GRID * 2 * SPAN - SPAN
    x, y = np.meshgrid(place, place)
    tables = []
    for name in SHAPES:
        if name not in POLYGONS:
            radius = np.hypot(x, y)
            tables.append(radius - 1 if name == "circle" else np.maximum(radius - _OUTER, HOLE * _OUTER - radius))
            continue
        distance, inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
        corners = POLYGONS[name]
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
            ex, ey = bx - ax, by - ay
            along = (((x - ax) * ex + (y - ay) * ey) / (ex**2 + ey**2)).clip(0, 1)
            distance = np.minimum(distance, np.hypot(x - ax - along * ex, y - ay - along * ey))
            cross_attention = (ay > y) != (by > y)
            inside ^= cross_attention & (x < ax + (y - ay) / np.where(ey == 0, 1, ey) * ex)
        tables.append(np.where(inside, -distance, distance))
    return np.stack(tables).astype(np.float32)


def draw(
    background: UInt8[np.ndarray, "B H W"],
    shape: Int64[np.ndarray, "B O"],
    colour: UInt8[np.ndarray, "B O 3"],
    centres: Float32[np.ndarray, "B T O 2"],
    radius: Float32[np.ndarray, "B T O"],
    angle: Float32[np.ndarray, "B T O"],
    seen: Float32[np.ndarray, "B T O"],
) -> UInt8[np.ndarray, "B T 3 H W"]:
    """Sprites over grey backgrounds, with antialiased edges; centres and radii in pixels, angles in radians, clockwise.

    A `shape` of -1 is no sprite; `seen` is opacity. Visible sprites must be within the frame.
    """
    (clips, height, width), times = background.shape, centres.shape[1]
    canvas = np.broadcast_to(background[:, None, None], (clips, times, 3, height, width)).copy()
    reach = REACH[shape] * radius.max(1, initial=0)  # [B, O]
    steps = np.ceil(reach / 4).astype(int)  # windows of similar sizes are painted together
    for sprite in range(shape.shape[1]):
        for step in np.unique(steps[:, sprite][shape[:, sprite] >= 0]):
            some = np.flatnonzero((steps[:, sprite] == step) & (shape[:, sprite] >= 0))
            side = min(int(8 * step) + 2, height, width)
            centre = centres[some, :, sprite]  # [b, T, 2]
            corner = np.rint(centre - side / 2).astype(np.int64).clip(0, (width - side, height - side))
            offset = corner[..., None] + np.arange(side, dtype=np.float32) + np.float32(0.5) - centre[..., None]
            radii = radius[some, :, sprite, None]
            offset = offset / radii[..., None]  # [b, T, 2, side] in units of the radius
            dx, dy = offset[:, :, 0, None, :], offset[:, :, 1, :, None]
            turned = angle[some, :, sprite, None, None]
            if turned.any():
                cos, sin = np.cos(turned), np.sin(turned)
                dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
            cell = [((d + SPAN) * (GRID / (2 * SPAN))).astype(np.int32).clip(0, GRID - 1) for d in (dx, dy)]
            distance = _tables()[shape[some, sprite, None, None, None], cell[1], cell[0]] * radii[..., None]
            cover = (np.float32(0.5) - distance).clip(0, 1) * seen[some, :, sprite, None, None]  # [b, T, side, side]
            windows = sliding_window_view(canvas, (side, side), axis=(-2, -1), writeable=True)
            place = (some[:, None], np.arange(times)[None], slice(None), corner[..., 1], corner[..., 0])
            under = windows[place].astype(np.float32)  # [b, T, 3, side, side]
            paint = colour[some, sprite].astype(np.float32)[:, None, :, None, None]
            windows[place] = (under + cover[:, :, None] * (paint - under) + np.float32(0.5)).astype(np.uint8)
    return canvas
