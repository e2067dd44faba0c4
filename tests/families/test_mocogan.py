"""MoCoGAN's coordinate channels."""

from __future__ import annotations

import torch

from kinema.families.mocogan import Coordinates


def test_two_channels_hold_the_row_and_the_column() -> None:
    x = torch.randn(2, 3, 5, 3)
    out = Coordinates()(x)
    torch.testing.assert_close(out[:, :3], x, rtol=0, atol=0)
    torch.testing.assert_close(out[1, 3], torch.linspace(-1, 1, 5)[:, None].expand(5, 3))
    torch.testing.assert_close(out[1, 4], torch.linspace(-1, 1, 3).expand(5, 3))


def test_the_precision_is_kept() -> None:
    assert Coordinates()(torch.zeros(1, 2, 4, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16
