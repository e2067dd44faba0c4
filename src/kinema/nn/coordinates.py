"""Coordinates as channels: what lets a convolution know where it is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Coordinates"]


class Coordinates(nn.Module):
    """Adds a channel with the row and one with the column of every pixel, from -1 to 1.

    CoordConv (Liu et al. 2018, arXiv 1807.03247): without them a network that draws a thing at a place has to learn
    every place by itself (section 3), and a GAN of coloured shapes is slow to place them (section 5).
    """

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C+2 H W"]:
        """`x` and its coordinates."""
        _, _, height, width = x.shape
        rows, columns = (torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) for n in (height, width))
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # [2, H, W]
        return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)
