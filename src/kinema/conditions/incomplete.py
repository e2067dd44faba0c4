"""Incomplete video: which part of a clip a model that completes them is given in training."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Incomplete", "incomplete", "whole"]

START, END, REGION = 0.3, 0.15, 0.15  # of training clips whose first frames are given, whose last, and a region of all


class Incomplete(NamedTuple):
    """What is given of clips; neither of the two is asked for."""

    given: Bool[Tensor, "B L 1 h w"]  # cells that are as they are
    context: Bool[Tensor, "B L"]  # times that are given under a little noise


def incomplete(clips: int, length: int, height: int, width: int, time: int, generator: torch.Generator) -> Incomplete:
    """Draw what is given of clips of `length` x `height` x `width` cells, on the generator's device.

    First frames, last ones, both or none, in half of the clips under noise, where `time` of them or more are whole; and
    now and then a region of all frames, or all but that. No clip is given as a whole.
    """
    draw = partial(torch.rand, generator=generator, device=generator.device)
    at_start, at_end = draw(2, clips, 1)
    ends = torch.stack([at_start < START, at_end < END])
    frames = ~_stretch(length, draw(2, clips, 1) * ends)[:, :, None, None, None]  # [B, L, 1, 1, 1]
    noised = draw(clips, 1, 1, 1, 1) < 0.5
    box = _stretch(height, draw(2, clips, 1))[:, :, None] & _stretch(width, draw(2, clips, 1))[:, None]  # [B, h, w]
    outside, some = draw(clips, 1, 1) < 0.5, draw(clips, 1, 1) < REGION
    return Incomplete((frames & ~noised) | ((box ^ outside) & some)[:, None, None], whole(frames & noised, time))


def whole(given: Bool[Tensor, "B L 1 #h #w"], time: int) -> Bool[Tensor, "B L"]:
    """Which times belong to groups of `time` that are given as a whole."""
    return given.flatten(2).all(2).unflatten(1, (-1, time)).all(2).repeat_interleave(time, 1)


def _stretch(size: int, ends: Float[Tensor, "2 B 1"]) -> Bool[Tensor, "B {size}"]:
    """Of `size` places those of a stretch, one or more; `ends` in [0, 1) say how far it is from both ends."""
    first = (ends[0] * size).long()
    last = size - 1 - (ends[1] * (size - first)).long()
    place = torch.arange(size, device=ends.device)
    return (first <= place) & (place <= last)
