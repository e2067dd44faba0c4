"""How clips change as they go on: the sharpness, colour and motion of each frame, beside those of real clips.

A model that goes on from its own frames blurs, bleaches, freezes or boils over in time. These curves show which; they
need no truth and no other network. A curve that leaves the real clips' says that something went wrong, one that stays
does not say that all is well: noise can be as sharp as edges are, and flicker move as much as things do.

- Sharpness is the mean length of the gradient of the brightness (BT.601's weights), from each pixel to the next ones
  to the right and below. The variance of the Laplacian, the other usual measure, squares second differences, so that
  a little noise or a few checks of a transposed convolution count for more than the edges of the whole frame.
- Colour is the mean RGB of a frame, and what is shown of it the distance from the mean over real clips; saturation is
  the mean over pixels of the largest channel less the smallest, which is defined for black as well.
- Motion is the mean absolute change of the pixels' channels from the frame before.

All are in units of 8-bit pixels, 0 to 255.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.metrics.bootstrap import mean_interval

__all__ = ["Drift", "drift", "each_second"]

BRIGHTNESS = (0.299, 0.587, 0.114)  # of R, G and B


@dataclass(frozen=True, slots=True)
class Drift:
    """The curves of N clips over T frames."""

    sharpness: Float[Tensor, "N T"]
    colour: Float[Tensor, "N T 3"]  # the mean RGB
    saturation: Float[Tensor, "N T"]
    motion: Float[Tensor, "N T"]  # NaN in the first frame

    def beside(self, real: Drift) -> dict[str, Float[Tensor, "N T"]]:
        """The curves by name, colour as the distance from the mean colour of `real` clips."""
        distance = (self.colour - real.colour.mean((0, 1))).norm(dim=-1)
        return {"sharpness": self.sharpness, "colour": distance, "saturation": self.saturation, "motion": self.motion}


def drift(chunks: Iterable[UInt8[np.ndarray, "N t H W 3"]]) -> Drift:
    """The curves of clips that come chunk by chunk along time, of which no more than a chunk is held.

    Raises ValueError where there is none.
    """
    before: Tensor | None = None
    parts: list[tuple[Tensor, ...]] = []
    for chunk in chunks:
        frames = torch.from_numpy(chunk).float()  # [N, t, H, W, 3]
        last = torch.full_like(frames[:, :1], torch.nan) if before is None else before
        brightness = frames @ torch.tensor(BRIGHTNESS)  # [N, t, H, W]
        across = brightness[..., :-1, :].diff(dim=-1)
        down = brightness[..., :-1].diff(dim=-2)
        parts.append(
            (
                torch.hypot(across, down).mean((-2, -1)),
                frames.mean((2, 3)),
                (frames.amax(-1) - frames.amin(-1)).mean((-2, -1)),
                (frames - torch.cat([last, frames[:, :-1]], 1)).abs().mean((2, 3, 4)),
            )
        )
        before = frames[:, -1:].clone()  # a view would keep the chunk
    if not parts:
        raise ValueError("there are no frames to measure")
    return Drift(*(torch.cat(curve, 1) for curve in zip(*parts, strict=True)))


def each_second(curve: Float[Tensor, "N T"], fps: float) -> Float[np.ndarray, "seconds 3"]:
    """The mean of each second and the ends of its 95 % bootstrap interval over clips; the last may be a part of one.

    Values that are NaN, such as the motion in the first frame, do not count. Raises ValueError for fewer than 2 clips.
    """
    second = (torch.arange(curve.shape[1], dtype=torch.float64) / fps).long()
    parts = [curve[:, second == number].nanmean(1) for number in second.unique()]
    return np.array([mean_interval(values) for values in parts])
