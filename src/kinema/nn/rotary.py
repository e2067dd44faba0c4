"""Rotary positions in time, rows and columns."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor

__all__ = ["grid", "rotary_table", "rotate"]

BASE = 10_000.0  # the slowest pair of an axis turns nearly as many times slower than the fastest


def grid(
    frames: int, height: int, width: int, first: int = 0, device: torch.device | None = None
) -> Int64[Tensor, "N 3"]:
    """Time, row and column of every cell of a grid, frame after frame and row after row; time begins at `first`."""
    along = partial(torch.arange, device=device)
    return torch.cartesian_prod(along(first, first + frames), along(height), along(width))


def rotary_table(positions: Real[Tensor, "N 3"], channels: int) -> Float[Tensor, "2 N pairs"]:
    """Cosine and sine of the angle that each pair of a head's `channels`, even and 6 or more, turns by; float32.

    A pair turns by its frequency times one coordinate of the position (RoPE, arXiv 2104.09864, section 3.2.2), so that
    positions may be any numbers. Time, rows and columns have shares of about 2 : 3 : 3 of the pairs, as in CogVideoX
    (arXiv 2408.06072) and Qwen2-VL's M-RoPE (arXiv 2409.12191), which places text token i at (i, i, i) and the first
    frame after the text.
    """
    of_rows = 3 * (channels // 2) // 8
    shares = (channels // 2 - 2 * of_rows, of_rows, of_rows)
    frequencies = [BASE ** (-torch.arange(share, device=positions.device) / share) for share in shares]
    angles = torch.cat([x[:, None] * f for x, f in zip(positions.float().unbind(1), frequencies, strict=True)], 1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "B N *heads D"], table: Float[Tensor, "2 N D/2"]) -> Float[Tensor, "B N *heads D"]:
    """`x` with each pair of channels, i and i + D/2, turned as `rotary_table` says.

    The product of two turned vectors depends on the difference of their positions alone (arXiv 2104.09864, eq. 16).
    """
    cos, sin = table.reshape(2, x.shape[1], *[1] * (x.ndim - 3), -1)  # [N, 1..., D/2] each
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
