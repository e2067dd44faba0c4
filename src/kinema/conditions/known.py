"""Checks of known frames and regions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kinema.types import Conditions

__all__ = ["first_known", "known_pixels"]


def known_pixels(
    family: str, conditions: Conditions, clips: int, height: int, width: int
) -> tuple[Float[Tensor, "B t 3 H W"], Bool[Tensor, "B t 1 H W"]]:
    """The known frames, of which there may be none, and the mask of their known pixels.

    Raises ValueError, which names the `family`, where they are of other sizes than the clips it makes.
    """
    known, mask = conditions.known, conditions.mask
    if known is None or mask is None:
        return torch.empty(clips, 0, 3, height, width), torch.empty(clips, 0, 1, height, width, dtype=torch.bool)
    if len(known) != clips or known.shape[-2:] != (height, width) or mask[:, :, 0].shape != known[:, :, 0].shape:
        raise ValueError(
            f"{family} makes {clips} clips of {width}x{height} here, but known is {list(known.shape)} with a mask "
            f"{list(mask.shape)}: resize the frames, and give one clip and mask for each seed"
        )
    return known, mask


def first_known(family: str, conditions: Conditions, clips: int, height: int, width: int) -> Float[Tensor, "B t 3 H W"]:
    """The known first frames, of which there may be none.

    Raises ValueError, which names the `family`, where they are not the whole first ones of every clip.
    """
    known, mask = known_pixels(family, conditions, clips, height, width)
    pixels = mask.flatten(2)  # [B, T, H W]
    count = int(pixels[0].all(1).sum())
    first = torch.arange(mask.shape[1], device=mask.device)[:, None] < count  # [T, 1]
    if not torch.equal(pixels, first.expand_as(pixels)):
        raise ValueError(
            f"{family} can only go on from the first frames: make the mask true in all pixels of the first frame or "
            "frames, as many in every clip, and nowhere else"
        )
    return known[:, :count]
