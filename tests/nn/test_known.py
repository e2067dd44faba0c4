"""Given frames must be the first ones, whole and as many in every clip; there may be none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinema.nn.known import filled, first_known, known_pixels
from kinema.types import Conditions

FRAMES = torch.rand(2, 4, 3, 6, 8)


def given(*counts: int) -> Conditions:
    """Conditions under which each clip has so many of its first frames."""
    mask = torch.arange(4) < torch.tensor(counts)[:, None]
    return Conditions(known=FRAMES, mask=mask[:, :, None, None, None].expand(-1, -1, 1, 6, 8))


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_the_first_frames_are_those_of_the_mask(count: int) -> None:
    assert torch.equal(first_known("Family", given(count, count), 2, 6, 8), FRAMES[:, :count])


def test_nothing_given_is_no_frames() -> None:
    assert first_known("Family", Conditions(), 2, 6, 8).shape == (2, 0, 3, 6, 8)


def change(mask: Tensor, *where: int) -> Conditions:
    changed = mask.clone()
    changed[where] = ~changed[where]
    return Conditions(known=FRAMES, mask=changed)


def test_anything_else_is_refused() -> None:
    mask = given(2, 2).mask
    assert mask is not None
    for other in (given(2, 3), change(mask, 0, 3), change(mask, 1, 0, 0, 2, 5)):
        with pytest.raises(ValueError, match="Family can only go on from the first frames"):
            first_known("Family", other, 2, 6, 8)
    for clips, height in ((3, 6), (2, 12)):
        with pytest.raises(ValueError, match="resize the frames, and give one clip"):
            first_known("Family", given(2, 2), clips, height, 8)


def test_what_is_given_is_given_as_it_is() -> None:
    known, mask = known_pixels("Family", given(1, 3), 2, 6, 8)
    assert torch.equal(known, FRAMES) and torch.equal(mask, given(1, 3).mask)
    assert [x.shape for x in known_pixels("Family", Conditions(), 2, 6, 8)] == [(2, 0, 3, 6, 8), (2, 0, 1, 6, 8)]


def test_what_is_not_given_is_filled_in_from_other_times() -> None:
    known = torch.arange(5.0)[None, :, None, None, None].expand(1, 5, 3, 1, 3).clone()
    mask = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool().T.reshape(1, 5, 1, 1, 3)
    known[~mask.expand_as(known)] = torch.nan  # never read
    expected = torch.tensor([[1, 1, 1, 3, 3], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0]]).float().T
    assert torch.equal(filled(known, mask)[0, :, 1, 0], expected)
