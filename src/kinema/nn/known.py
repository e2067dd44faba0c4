"""Given frames and regions, for families that go on from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from kinema.types import Conditions

__all__ = ["first_known", "held_before", "known_anywhere"]


def first_known(family: str, given: Conditions, clips: int, height: int, width: int) -> Float[Tensor, "B t 3 H W"]:
    """The frames that are given, of which there may be none.

    Raises ValueError, which names the `family`, where they are not the whole first ones of every clip.
    """
    known, mask = given.known, given.mask
    if known is None or mask is None:
        return torch.empty(clips, 0, 3, height, width)
    _check_sizes(family, known, mask, clips, height, width)
    pixels = mask.flatten(2)  # [B, T, H W]
    count = int(pixels[0].all(1).sum())
    first = torch.arange(mask.shape[1], device=mask.device)[:, None] < count  # [T, 1]
    if not torch.equal(pixels, first.expand_as(pixels)):
        raise ValueError(
            f"{family} can only go on from the first frames: make the mask true in all pixels of the first frame or "
            "frames, as many in every clip, and nowhere else"
        )
    return known[:, :count]


def known_anywhere(
    family: str, given: Conditions, clips: int, frames: int, height: int, width: int
) -> tuple[Float[Tensor, "B frames 3 H W"], Bool[Tensor, "B frames 1 H W"]]:
    """What is given of clips of so many frames, 0 elsewhere, and where it is; what is given beyond them is left out.

    Raises ValueError, which names the `family`, for other sizes than the clips'.
    """
    known, mask = given.known, given.mask
    if known is None or mask is None:
        shape = clips, frames, 1, height, width
        return torch.zeros(shape).expand(-1, -1, 3, -1, -1), torch.zeros(shape, dtype=torch.bool)
    _check_sizes(family, known, mask, clips, height, width)
    known, mask = known[:, :frames], mask[:, :frames]
    after = 0, 0, 0, 0, 0, 0, 0, frames - known.shape[1]
    return F.pad(torch.where(mask, known, 0), after), F.pad(mask, after)


def held_before(pixels: Float[Tensor, "B T 3 H W"], mask: Bool[Tensor, "B T 1 H W"]) -> Float[Tensor, "B T 3 H W"]:
    """`pixels` where they are not known as the next that are at their place, and 0 where there are none.

    So an encoder that sees no later frame finds a video that stood still before what is given.
    """
    held = pixels.clone()
    for frame in range(pixels.shape[1] - 2, -1, -1):
        held[:, frame] = torch.where(mask[:, frame], pixels[:, frame], held[:, frame + 1])
    return held


def _check_sizes(family: str, known: Tensor, mask: Tensor, clips: int, height: int, width: int) -> None:
    expected = (clips, known.shape[1], 1, height, width)
    if (*known.shape[:2], 1, *known.shape[-2:]) != expected or mask.shape != expected:
        raise ValueError(
            f"{family} makes {clips} clips of {width}x{height} here, but known is {list(known.shape)} with a mask "
            f"{list(mask.shape)}: resize the frames, and give one clip and mask for each seed"
        )
