"""Line plots as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

__all__ = ["plot"]

WIDTH, HEIGHT = 960, 480  # pixels
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 60  # margins around the axes
FINE = 3  # drawn at this scale, then reduced, for smooth lines
INK, GRID, MARK = (40, 40, 40), (225, 225, 225), (213, 94, 0)
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))  # Okabe and Ito 2008

Point = tuple[float, float]


def plot(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str, x: str, level: float | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw named curves, each as x and y values; lines are interrupted where y is not finite.

    `x` labels the x axis. A dashed line is drawn at `level`, and segments above it have another colour. Raises
    ValueError where there is no finite value.
    """
    curves = {name: (np.asarray(where, float), np.asarray(found, float)) for name, (where, found) in curves.items()}
    places = np.concatenate([where for where, _ in curves.values()])
    values = np.concatenate([*(v for _, v in curves.values()), [] if level is None else [level]])
    if not np.isfinite(values).any():
        raise ValueError(f"{title}: there are no values to draw")
    ticks_x, ticks_y = _ticks(places), _ticks(values[np.isfinite(values)])
    low_x, high_x = places.min(), max(places.max(), places.min() + 1e-9)
    low_y, high_y = ticks_y[0], ticks_y[-1]

    def at(place: float, value: float) -> Point:
        across = (place - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)
        up = (value - low_y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)
        return FINE * (LEFT + across), FINE * (HEIGHT - BOTTOM - up)

    image = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    small, large = (ImageFont.load_default(FINE * size) for size in (13, 16))
    for tick in ticks_y:
        draw.line([at(low_x, tick), at(high_x, tick)], GRID, FINE)
        draw.text((at(low_x, tick)[0] - 8 * FINE, at(low_x, tick)[1]), f"{tick:.6g}", INK, small, "rm")
    for tick in (t for t in ticks_x if low_x <= t <= high_x):
        draw.line([at(tick, low_y), at(tick, high_y)], GRID, FINE)
        draw.text((at(tick, low_y)[0], at(tick, low_y)[1] + 6 * FINE), f"{tick:.6g}", INK, small, "mt")
    draw.text((FINE * LEFT, FINE * TOP / 2), title, INK, large, "lm")
    draw.text((FINE * (WIDTH - RIGHT), FINE * (HEIGHT - 14)), x, INK, small, "rm")

    end = FINE * (WIDTH - RIGHT)
    for index, (name, (where, found)) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        for (a, first), (b, second) in zip(zip(where, found), zip(where[1:], found[1:])):  # noqa: B905
            if np.isfinite(first) and np.isfinite(second):
                above = level is not None and max(first, second) > level
                draw.line([at(a, first), at(b, second)], MARK if above else colour, 2 * FINE)
        if len(curves) > 1:
            width = draw.textlength(name, small)
            draw.text((end, FINE * TOP / 2), name, colour, small, "rm")
            end -= int(width) + 16 * FINE
    if level is not None:
        (left, height), (right, _) = at(low_x, level), at(high_x, level)
        for start in np.arange(left, right, 12 * FINE):
            draw.line([(start, height), (min(start + 6 * FINE, right), height)], MARK, FINE)
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))


def _ticks(values: np.ndarray) -> list[float]:
    """About six round numbers that enclose all values."""
    low, high = float(values.min()), float(values.max())
    span = high - low or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(step * k) for k in range(first, max(last, first + 1) + 1)]
