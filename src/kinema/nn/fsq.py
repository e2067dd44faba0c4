"""Finite scalar quantization: tokens without a codebook (Mentzer et al. 2023, arXiv 2309.15505)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

__all__ = ["FSQ"]

MARGIN = 1e-3  # relative shrinkage of the bound, as in the authors' code (appendix A)


class FSQ(nn.Module):
    """Quantizes each of C channels to `levels` values, 3 or more; the C values at a position are the code of one token.

    Codes are in [-1, 1], in steps of 1 / (levels // 2). An odd number of levels is symmetric about 0; an even number
    has one more level below 0 than above. All arithmetic is in float32.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 3:
            raise ValueError(f"levels must be 3 or more for each channel, not {tuple(levels)}")
        self.vocabulary = math.prod(levels)  # number of tokens
        counts = torch.tensor(levels)[:, None, None]  # [C, 1, 1]
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("strides", counts.cumprod(0) // counts, persistent=False)  # of each channel in a token

    counts: Tensor
    strides: Tensor

    def bound(self, z: Float[Tensor, "*N C h w"]) -> Float[Tensor, "*N C h w"]:
        """`z` bounded by tanh so that it rounds to one of `levels` integers (section 3.1, appendix A).

        For an even number of levels the output of tanh is shifted by half a level, and its argument so that 0 maps to
        0: by the inverse of tanh, where the paper's code has the tangent.
        """
        half = (self.counts - 1) * (1 - MARGIN) / 2
        offset = (self.counts % 2 == 0) / 2
        return (z.float() + (offset / half).atanh()).tanh() * half - offset

    def forward(self, z: Float[Tensor, "*N C h w"]) -> Float[Tensor, "*N C h w"]:
        """The codes of `z`; gradients pass the rounding straight through (section 3.1)."""
        bounded = self.bound(z)
        return (bounded + (bounded.round() - bounded).detach()) / (self.counts // 2)

    def tokens(self, codes: Float[Tensor, "*N C h w"]) -> Int64[Tensor, "*N h w"]:
        """The token numbers of codes, in [0, vocabulary); the first channel is the least significant digit."""
        middle = self.counts // 2
        return (((codes.float() * middle).round().long() + middle) * self.strides).sum(-3)

    def codes(self, tokens: Int64[Tensor, "*N h w"]) -> Float[Tensor, "*N C h w"]:
        """The codes of tokens."""
        middle = self.counts // 2
        return (tokens[..., None, :, :] // self.strides % self.counts - middle) / middle

    def digits(self, tokens: Int64[Tensor, "*N"]) -> Int64[Tensor, "*N C"]:
        """The level of each channel of tokens, from 0."""
        return tokens[..., None] // self.strides.flatten() % self.counts.flatten()
