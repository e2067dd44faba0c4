"""Pixel losses against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinema.nn.reconstruction import PixelLoss, gradient_difference, pixel_loss


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, 3, 16, 8, generator=torch.Generator().manual_seed(seed))


def test_pixel_losses_are_a_number_an_image() -> None:
    a, b = images(0, 2, 5), images(1, 2, 5)
    for kind, formula in (("mse", F.mse_loss), ("l1", F.l1_loss)):
        losses = pixel_loss(kind, a, b)
        assert losses.shape == (2, 5)
        torch.testing.assert_close(losses[1, 3], formula(a[1, 3], b[1, 3]))


def test_losses_are_float32() -> None:
    a = images(0, 2).bfloat16()
    assert pixel_loss("mse", a, a).dtype == gradient_difference("mse", a, a).dtype == torch.float32


@pytest.mark.parametrize(("kind", "alpha"), [("l1", 1), ("mse", 2)])
def test_gradient_difference_is_equation_6_over_a_pyramid(kind: PixelLoss, alpha: int) -> None:
    a, b = images(0), images(1)
    total = 0.0
    for size in (1, 2, 4):
        x, y = (i.reshape(3, 16 // size, size, 8 // size, size).mean((2, 4)) for i in (a, b))
        rows, columns = x.shape[1:]
        down = [abs(abs(x[:, i, j] - x[:, i - 1, j]) - abs(y[:, i, j] - y[:, i - 1, j])).pow(alpha).mean()
                for i in range(1, rows) for j in range(columns)]  # fmt: skip
        across = [abs(abs(x[:, i, j - 1] - x[:, i, j]) - abs(y[:, i, j - 1] - y[:, i, j])).pow(alpha).mean()
                  for i in range(rows) for j in range(1, columns)]  # fmt: skip
        total += torch.stack(down).mean() + torch.stack(across).mean()
    torch.testing.assert_close(gradient_difference(kind, a, b), total / 3)
    torch.testing.assert_close(gradient_difference(kind, torch.stack([b, b]), torch.stack([b, a]))[1], total / 3)


def test_an_edge_costs_its_height_at_each_scale() -> None:
    flat = torch.zeros(1, 3, 16, 8)
    edge = flat.clone()
    edge[..., 8:, :] = 1.0  # between rows: one of 15, 7 and 3 differences down each column
    assert gradient_difference("l1", edge, flat).item() == pytest.approx((1 / 15 + 1 / 7 + 1 / 3) / 3)
    assert gradient_difference("l1", edge + 0.5, edge).item() == pytest.approx(0, abs=1e-6)  # only edges count
