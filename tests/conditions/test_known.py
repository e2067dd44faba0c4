"""Checks of known frames: complete first ones, as many in every clip, or any pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinema.conditions.known import first_known, known_pixels
from kinema.types import Conditions

FRAMES = torch.rand(2, 4, 3, 6, 8)


def first_frames(*counts: int) -> Conditions:
    """Conditions in which so many first frames of each clip are known."""
    mask = torch.arange(4) < torch.tensor(counts)[:, None]
    return Conditions(known=FRAMES, mask=mask[:, :, None, None, None].expand(-1, -1, 1, 6, 8))


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_the_first_frames_are_those_of_the_mask(count: int) -> None:
    assert torch.equal(first_known("Family", first_frames(count, count), 2, 6, 8), FRAMES[:, :count])


def test_nothing_known_is_no_frames() -> None:
    assert first_known("Family", Conditions(), 2, 6, 8).shape == (2, 0, 3, 6, 8)


def change(mask: Tensor, *where: int) -> Conditions:
    changed = mask.clone()
    changed[where] = ~changed[where]
    return Conditions(known=FRAMES, mask=changed)


def test_other_masks_and_sizes_are_errors() -> None:
    mask = first_frames(2, 2).mask
    assert mask is not None
    for other in (first_frames(2, 3), change(mask, 0, 3), change(mask, 1, 0, 0, 2, 5)):
        with pytest.raises(ValueError, match="Family can only go on from the first frames"):
            first_known("Family", other, 2, 6, 8)
    for clips, height in ((3, 6), (2, 12)):
        with pytest.raises(ValueError, match="resize the frames, and give one clip"):
            first_known("Family", first_frames(2, 2), clips, height, 8)


def test_known_pixels_are_as_they_were_passed() -> None:
    known, mask = known_pixels("Family", first_frames(1, 3), 2, 6, 8)
    assert torch.equal(known, FRAMES) and torch.equal(mask, first_frames(1, 3).mask)
    assert [x.shape for x in known_pixels("Family", Conditions(), 2, 6, 8)] == [(2, 0, 3, 6, 8), (2, 0, 1, 6, 8)]
