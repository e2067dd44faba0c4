"""Given frames: those of a clip, or only its first ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kinema.types import Conditions

__all__ = ["filled", "first_known", "known_pixels"]


def known_pixels(
    family: str, given: Conditions, clips: int, height: int, width: int
) -> tuple[Float[Tensor, "B t 3 H W"], Bool[Tensor, "B t 1 H W"]]:
    """The frames of which something may be given, of which there may be none, and where it is.

    Raises ValueError, which names the `family`, where they are of other sizes than the clips it makes.
    """
    known, mask = given.known, given.mask
    if known is None or mask is None:
        return torch.empty(clips, 0, 3, height, width), torch.empty(clips, 0, 1, height, width, dtype=torch.bool)
    if len(known) != clips or known.shape[-2:] != (height, width) or mask[:, :, 0].shape != known[:, :, 0].shape:
        raise ValueError(
            f"{family} makes {clips} clips of {width}x{height} here, but known is {list(known.shape)} with a mask "
            f"{list(mask.shape)}: resize the frames, and give one clip and mask for each seed"
        )
    return known, mask


def first_known(family: str, given: Conditions, clips: int, height: int, width: int) -> Float[Tensor, "B t 3 H W"]:
    """The frames that are given, of which there may be none.

    Raises ValueError, which names the `family`, where they are not the whole first ones of every clip.
    """
    known, mask = known_pixels(family, given, clips, height, width)
    pixels = mask.flatten(2)  # [B, T, H W]
    count = int(pixels[0].all(1).sum())
    first = torch.arange(mask.shape[1], device=mask.device)[:, None] < count  # [T, 1]
    if not torch.equal(pixels, first.expand_as(pixels)):
        raise ValueError(
            f"{family} can only go on from the first frames: make the mask true in all pixels of the first frame or "
            "frames, as many in every clip, and nowhere else"
        )
    return known[:, :count]


def filled(known: Float[Tensor, "B t 3 H W"], mask: Bool[Tensor, "B t 1 H W"]) -> Float[Tensor, "B t 3 H W"]:
    """What is not given as it is at the nearest time at which it is given, of two the earlier, or else grey."""
    length = mask.shape[1]
    time = torch.arange(length, device=mask.device)[:, None, None, None]
    before = torch.where(mask, time, -2 * length).cummax(1).values  # [B, t, 1, H, W]
    after = torch.where(mask, time, 2 * length).flip(1).cummin(1).values.flip(1)
    source = torch.where(time - before <= after - time, before, after).clamp(0, length - 1).expand_as(known)
    return known.gather(1, source).where(mask.any(1, keepdim=True), 0)
