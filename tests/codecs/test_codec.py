"""What codecs share: unknown pixels are filled in before they are encoded."""

from __future__ import annotations

import torch

from kinema.family import _fill_in_time


def test_unknown_pixels_are_filled_in_from_the_nearest_known_time() -> None:
    known = torch.arange(5.0)[None, :, None, None, None].expand(1, 5, 3, 1, 3).clone()
    mask = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool().T.reshape(1, 5, 1, 1, 3)
    known[~mask.expand_as(known)] = torch.nan  # never read
    expected = torch.tensor([[1, 1, 1, 3, 3], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0]]).float().T
    assert torch.equal(_fill_in_time(known, mask)[0, :, 1, 0], expected)
