"""Average Content Distance: how much what a clip shows changes from frame to frame.

From MoCoGAN (Tulyakov et al., CVPR 2018, arXiv 1707.04993, section 4, Table 1). Each frame becomes a feature
vector of its content alone, and a clip's distance is the mean Euclidean distance over its pairs of frames: 0 for
content that is kept, whatever the motion. On Shape Motion the feature is the average colour of the shape. How the
authors segment the shape and scale its colour is not stated; the protocol here is:

1. A pixel's brightness is its greatest channel, black being 0.
2. The shape is where the brightness is at least half of the frame's greatest. Being relative, this treats dark
   shapes as it does bright ones, and no shape at all (a black frame) counts as a black one.
3. The shape loses its outermost ring of pixels (a pixel stays if its eight neighbours are in the shape, those
   beyond the frame not counting), so that antialiased or blurred edges, whose darkening varies with motion, do not
   pass for a change of colour. A shape that has no interior is left whole.
4. The feature is the mean RGB over what is left, from 0 to 255 a channel.

Real clips of Shape Motion score 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["acd", "mean_colour", "shape_colour"]


def shape_colour(frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T 3"]:
    """The average RGB in 0..255 of the shape in each frame, over black, of `frames` in [-1, 1]."""
    colour = _rgb(frames)
    brightness = colour.amax(2)  # [B, T, H, W]
    shape = brightness >= brightness.amax((-2, -1), keepdim=True) / 2
    interior = F.max_pool2d((~shape).to(colour.dtype), kernel_size=3, stride=1, padding=1) == 0
    shape = torch.where(interior.any(-1).any(-1)[..., None, None], interior, shape)
    weights = shape.to(colour.dtype) / shape.sum((-2, -1), keepdim=True)
    return torch.einsum("btchw,bthw->btc", colour, weights)


def mean_colour(frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T 3"]:
    """The average RGB in 0..255 of each whole frame in [-1, 1]: a feature for videos without a shape over black."""
    return _rgb(frames).mean((-2, -1))


def acd(
    frames: Float[Tensor, "B T 3 H W"],
    features: Callable[[Tensor], Tensor] = shape_colour,
) -> Float[Tensor, " B"]:
    """The Average Content Distance of each clip in [-1, 1], in the units of `features`; their mean is what is reported.

    `features` maps clips [B, T, 3, H, W] to [B, T, F]. Raises ValueError for clips of a single frame.
    """
    count = frames.shape[1]
    if count < 2:
        raise ValueError("a content distance compares the frames of a clip, so it needs clips of 2 frames or more")
    vectors = features(frames)
    # Not by a matrix product, whose cancellation would make a distance of exactly 0 come out as small noise.
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")  # [B, T, T]
    return distances.sum((-2, -1)) / (count * (count - 1))


def _rgb(frames: Tensor) -> Tensor:
    """[-1, 1] to 0..255."""
    return (frames + 1) * 127.5
