"""Training tasks of models that complete clips: which cells of a clip are known."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["KnownCells", "fully_known", "sample_known_cells"]

START, END, REGION = 0.3, 0.15, 0.15  # shares of clips whose first frames, last frames, or a region are known


class KnownCells(NamedTuple):
    """What is known of training clips; the loss is over the rest."""

    clean: Bool[Tensor, "B L 1 h w"]  # cells that are given without noise
    context: Bool[Tensor, "B L"]  # times that are given under a little noise


def sample_known_cells(
    clips: int, length: int, height: int, width: int, time: int, generator: torch.Generator
) -> KnownCells:
    """Draw the known cells of clips of `length` x `height` x `width` cells, on the generator's device.

    First frames, last ones, both or none, in half of the clips under noise where groups of `time` are fully known; and
    now and then a region of all frames, or all but that. No clip is fully known.
    """
    draw = partial(torch.rand, generator=generator, device=generator.device)
    at_start, at_end = draw(2, clips, 1)
    ends = torch.stack([at_start < START, at_end < END])
    frames = ~_stretch(length, draw(2, clips, 1) * ends)[:, :, None, None, None]  # [B, L, 1, 1, 1]
    noised = draw(clips, 1, 1, 1, 1) < 0.5
    box = _stretch(height, draw(2, clips, 1))[:, :, None] & _stretch(width, draw(2, clips, 1))[:, None]  # [B, h, w]
    outside, some = draw(clips, 1, 1) < 0.5, draw(clips, 1, 1) < REGION
    clean = (frames & ~noised) | ((box ^ outside) & some)[:, None, None]
    return KnownCells(clean, fully_known(frames & noised, time))


def fully_known(known: Bool[Tensor, "B L 1 #h #w"], time: int) -> Bool[Tensor, "B L"]:
    """The times that belong to groups of `time` of which all cells are known."""
    return known.flatten(2).all(2).unflatten(1, (-1, time)).all(2).repeat_interleave(time, 1)


def _stretch(size: int, ends: Float[Tensor, "2 B 1"]) -> Bool[Tensor, "B {size}"]:
    """A stretch of one or more of `size` places; `ends` in [0, 1) say how far it is from both ends."""
    first = (ends[0] * size).long()
    last = size - 1 - (ends[1] * (size - first)).long()
    place = torch.arange(size, device=ends.device)
    return (first <= place) & (place <= last)
