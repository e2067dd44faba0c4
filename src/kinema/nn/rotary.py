"""Rotary position embeddings in time, rows and columns."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor

__all__ = ["grid", "rotary_table", "rotate"]

BASE = 10_000.0  # about the ratio of the highest to the lowest frequency of an axis


def grid(
    frames: int, height: int, width: int, first: int = 0, device: torch.device | None = None
) -> Int64[Tensor, "N 3"]:
    """Time, row and column of every cell of a grid, in that order; time starts at `first`."""
    along = partial(torch.arange, device=device)
    return torch.cartesian_prod(along(first, first + frames), along(height), along(width))


def rotary_table(positions: Real[Tensor, "N 3"], channels: int) -> Float[Tensor, "2 N pairs"]:
    """Cosine and sine of the rotation angle of each channel pair of a head at each position, float32.

    `channels` is even and 6 or more. The angle of a pair is its frequency times one coordinate of the position (RoPE,
    arXiv 2104.09864, section 3.2.2); positions may be fractional. Time, rows and columns have about 2 : 3 : 3 of the
    pairs, as in CogVideoX (arXiv 2408.06072) and Qwen2-VL's M-RoPE (arXiv 2409.12191), which puts text token i at
    (i, i, i) and the first frame after the text.
    """
    row_share = 3 * (channels // 2) // 8
    shares = (channels // 2 - 2 * row_share, row_share, row_share)
    frequencies = [BASE ** (-torch.arange(share, device=positions.device) / share) for share in shares]
    angles = torch.cat([x[:, None] * f for x, f in zip(positions.float().unbind(1), frequencies, strict=True)], 1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "B N *heads D"], table: Float[Tensor, "2 N D/2"]) -> Float[Tensor, "B N *heads D"]:
    """`x` with each pair of channels, i and i + D/2, rotated by the angles of a `rotary_table`.

    The dot product of two rotated vectors depends only on the difference of their positions (arXiv 2104.09864, eq. 16).
    """
    cos, sin = table.reshape(2, x.shape[1], *[1] * (x.ndim - 3), -1)  # [N, 1..., D/2] each
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
