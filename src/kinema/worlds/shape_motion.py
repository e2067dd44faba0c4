"""Shape Motion: one coloured circle or square moves over black, up or to the left.

The synthetic dataset of MoCoGAN (Tulyakov et al., CVPR 2018, arXiv 1707.04993, section 4), generated again for every
batch. The paper describes circles and squares of varying size and colour along Bezier curves; the rest was measured on
the authors' released clips, whose paths a quartic fits to within the rounding of positions to whole pixels:

- a path of 32 frames at 64x64 pixels, uniform in the curve's parameter: fast at the ends, slow between them;
- sides and diameters of 8, 10, 12 or 14 pixels, colours uniform over the RGB cube;
- a quartic Bezier curve from one edge of the frame to the opposite one, which ends at the start's position along the
  edge; its three inner control points are uniform over all positions where the shape is within the frame.

Unlike theirs, shapes here move by fractions of a pixel and have antialiased edges. A clip shows a complete path in any
number of frames, so that its motion class is always visible. Frames of another size show the same scene at that size.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from kinema.types import Batch, ClipSpec, Conditions

__all__ = ["Scene", "ShapeMotion", "colour_name", "render", "scene"]

CLASSES = ("up", "left")
ROUTES = ("from bottom to top", "from right to left")  # in the captions, by class
SECONDS = 32 / 25  # from edge to edge: the authors' 32 frames at a nominal 25 a second
SIZES = (8, 10, 12, 14)  # pixels where the frame's shorter side is 64
DEGREE = 4  # of the Bezier curve

HUES = {  # upper limit of each name, degrees; above the last: red
    15: "red",
    42: "orange",
    68: "yellow",
    165: "green",
    195: "cyan",
    250: "blue",
    285: "purple",
    325: "magenta",
    345: "pink",
}
GRAYS = {
    0.35: "dark gray",
    0.65: "gray",
    0.85: "light gray",
}  # upper limit of each name, HSV value; above the last: white


@dataclass(frozen=True, slots=True)
class Scene:
    """The ground truth of a batch of clips."""

    label: Int64[np.ndarray, " B"]  # 0 up, 1 left
    is_square: Bool[np.ndarray, " B"]  # otherwise a circle
    size: Float32[np.ndarray, " B"]  # side or diameter, pixels
    colour: UInt8[np.ndarray, "B 3"]  # RGB
    centres: Float32[np.ndarray, "B T 2"]  # x, y in pixels from the frame's top left corner

    @property
    def captions(self) -> tuple[str, ...]:
        """A sentence for each clip, such as "a blue circle moves from bottom to top"."""
        nouns = [
            f"{colour_name(c)} {'square' if s else 'circle'}" for c, s in zip(self.colour, self.is_square, strict=True)
        ]
        return tuple(
            f"{'an' if n[0] == 'o' else 'a'} {n} moves {ROUTES[k]}" for n, k in zip(nouns, self.label, strict=True)
        )


class ShapeMotion:
    """An endless source of Shape Motion clips with labels and captions, each a complete path in 1.28 seconds.

    Raises ValueError for frames too small to show the shapes.
    """

    skipped = ()  # clips are rendered, not read

    def __init__(self, frames: int = 16, height: int = 64, width: int = 64) -> None:
        if frames < 1 or min(height, width) < 16:
            raise ValueError(f"shape-motion needs 1 frame of 16x16 or more, not {frames} of {height}x{width}")
        self.spec = ClipSpec(frames, height, width, fps=frames / SECONDS, classes=CLASSES)

    @property
    def key(self) -> str:
        """The world's name and the sizes of its clips."""
        return f"shape-motion {self.spec}"

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips of a training step, frames uint8; a function of `seed`, `step` and `rank`."""
        height, width = self.spec.height, self.spec.width
        truth = scene(np.random.default_rng((seed, step, rank)), size, self.spec.frames, height, width)
        frames = torch.from_numpy(render(truth, height, width)).permute(0, 1, 4, 2, 3)
        return Batch(frames, Conditions(text=truth.captions, label=torch.from_numpy(truth.label)))


def scene(rng: np.random.Generator, clips: int, frames: int, height: int, width: int) -> Scene:
    """A random scene of `clips` clips of `frames` frames; lengths are in pixels of height x width frames."""
    unit = min(height, width) / 64
    label = rng.integers(len(CLASSES), size=clips)
    size = rng.choice(SIZES, clips) * unit
    inset = (size / 2 + unit)[:, None]  # least distance of a centre from the frame's edges
    extent = np.array([[width, height]]) - inset  # [B, 2]

    points = rng.uniform(inset[:, None], extent[:, None], (clips, DEGREE + 1, 2))  # [B, 5, 2] control points
    points[:, -1] = points[:, 0]
    clip, along = np.arange(clips), 1 - label  # the axis of the motion: y up, x to the left
    points[clip, 0, along] = extent[clip, along]
    points[clip, -1, along] = inset[:, 0]

    t = np.linspace(0, 1, frames)[:, None]  # [T, 1]
    k = np.arange(DEGREE + 1)
    bernstein = [comb(DEGREE, i) for i in k] * t**k * (1 - t) ** (DEGREE - k)  # [T, 5]
    return Scene(
        label=label,
        is_square=rng.random(clips) < 0.5,
        size=size.astype(np.float32),
        colour=rng.integers(256, size=(clips, 3), dtype=np.uint8),
        centres=(bernstein @ points).astype(np.float32),
    )


def render(scene: Scene, height: int, width: int) -> UInt8[np.ndarray, "B T H W 3"]:
    """The frames of a scene, with antialiased edges; shapes must be within the `height` x `width` frames."""
    clips, frames, _ = scene.centres.shape
    # channels first, so that `ShapeMotion.batch` need not copy; only a window around each shape is painted
    canvas = np.zeros((clips, frames, 3, height, width), np.uint8)
    side = min(int(np.ceil(scene.size.max(initial=0))) + 2, height, width)
    corner = np.rint(scene.centres - side / 2).astype(np.int64).clip(0, (width - side, height - side))  # [B, T, 2]

    pixels = corner[..., None] + np.arange(side, dtype=np.float32) + np.float32(0.5)  # [B, T, 2, side] pixel centres
    dx, dy = np.moveaxis(np.abs(pixels - scene.centres[..., None]).astype(np.float32), 2, 0)
    dx, dy = dx[:, :, None, :], dy[:, :, :, None]
    square = scene.is_square
    distance = np.empty((clips, frames, side, side), np.float32)  # from the shape's centre: maximum norm for squares
    distance[square] = np.maximum(dx[square], dy[square])
    distance[~square] = np.hypot(dx[~square], dy[~square])
    coverage = (scene.size[:, None, None, None] / 2 + np.float32(0.5) - distance).clip(0, 1)

    windows = sliding_window_view(canvas, (side, side), axis=(-2, -1), writeable=True)
    clip, frame = np.ogrid[:clips, :frames]
    paint = coverage[:, :, None] * scene.colour.astype(np.float32)[:, None, :, None, None] + np.float32(0.5)
    windows[clip, frame, :, corner[..., 1], corner[..., 0]] = paint.astype(np.uint8)  # [B, T, 3, side, side]
    return np.moveaxis(canvas, 2, -1)


def colour_name(rgb: Sequence[int] | UInt8[np.ndarray, " 3"]) -> str:
    """The common name of an RGB colour in 0..255, by hue, saturation and value: "dark green", "light gray"."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(int(c) / 255 for c in rgb))
    if value < 0.15:
        return "nearly black"
    if saturation < 0.18:
        return next((name for limit, name in GRAYS.items() if value < limit), "white")
    name = next((name for limit, name in HUES.items() if hue * 360 < limit), "red")
    return name if value >= 0.45 else f"dark {name}"
