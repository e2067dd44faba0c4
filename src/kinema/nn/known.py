"""Given frames, for families that go on from a clip's first ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kinema.types import Conditions

__all__ = ["first_known"]


def first_known(family: str, given: Conditions, clips: int, height: int, width: int) -> Float[Tensor, "B t 3 H W"]:
    """The frames that are given, of which there may be none.

    Raises ValueError, which names the `family`, where they are not the whole first ones of every clip.
    """
    known, mask = given.known, given.mask
    if known is None or mask is None:
        return torch.empty(clips, 0, 3, height, width)
    if len(known) != clips or known.shape[-2:] != (height, width) or mask.shape[:2] != known.shape[:2]:
        raise ValueError(
            f"{family} makes {clips} clips of {width}x{height} here, but known is {list(known.shape)} with a mask "
            f"{list(mask.shape)}: resize the frames, and give one clip and mask for each seed"
        )
    pixels = mask.flatten(2)  # [B, T, H W]
    count = int(pixels[0].all(1).sum())
    first = torch.arange(mask.shape[1], device=mask.device)[:, None] < count  # [T, 1]
    if not torch.equal(pixels, first.expand_as(pixels)):
        raise ValueError(
            f"{family} can only go on from the first frames: make the mask true in all pixels of the first frame or "
            "frames, as many in every clip, and nowhere else"
        )
    return known[:, :count]
