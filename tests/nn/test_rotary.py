"""Rotary positions against complex rotations; scores depend on differences of positions only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinema.nn.rotary import grid, rotary_table, rotate


def scores(q: Tensor, k: Tensor, positions: Tensor) -> Tensor:
    """Of every query at every position with every key [B, N, N]."""
    table = rotary_table(positions, q.shape[-1])
    return rotate(q, table) @ rotate(k, table).mT


@pytest.mark.parametrize("channels", [6, 8, 64])
def test_scores_depend_on_differences_only(channels: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 12, channels)
    positions = grid(3, 2, 2)
    there = scores(q, k, positions)
    torch.testing.assert_close(scores(q, k, positions + torch.tensor([40, 7, -3])), there, atol=1e-4, rtol=0)
    for axis in range(3):
        stretched = positions.clone()
        stretched[:, axis] *= 2
        assert (scores(q, k, stretched) - there).abs().max() > 0.1


def test_a_pair_turns_by_its_frequency_times_its_coordinate() -> None:
    positions = torch.tensor([[0.0, 0.0, 0.0], [2.5, 3.0, -4.0]])
    x = torch.randn(1, 2, 3, 64, dtype=torch.float64)
    turned = rotate(x, rotary_table(positions, 64).double())
    angles = [2.5 * 10_000 ** -(i / 8) for i in range(8)]  # shares of 8, 12 and 12 pairs, as in CogVideoX and M-RoPE
    angles += [3.0 * 10_000 ** -(i / 12) for i in range(12)] + [-4.0 * 10_000 ** -(i / 12) for i in range(12)]
    pairs = torch.complex(*x[0, 1].chunk(2, -1)) * torch.polar(torch.ones(32).double(), torch.tensor(angles).double())
    torch.testing.assert_close(turned[0, 1], torch.cat([pairs.real, pairs.imag], -1), atol=1e-5, rtol=0)
    assert torch.equal(turned[:, 0], x[:, 0])


def test_a_grid_is_in_the_order_of_its_tokens() -> None:
    cells = torch.stack(torch.meshgrid(torch.arange(5, 8), torch.arange(2), torch.arange(4), indexing="ij"), -1)
    assert torch.equal(grid(3, 2, 4, first=5), cells.reshape(24, 3))
