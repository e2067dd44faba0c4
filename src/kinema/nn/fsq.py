"""Finite scalar quantization: tokens without a codebook (Mentzer et al. 2023, arXiv 2309.15505)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

__all__ = ["FSQ"]

MARGIN = 1e-3  # by which the bound stays within the outermost levels, as in the authors' code (appendix A)


class FSQ(nn.Module):
    """Rounds each of C channels to one of its `levels`, which are 3 or more; the code of all C is one token.

    Codes are in [-1, 1], in steps of 1 / (levels // 2): an odd number of levels is symmetric about 0, an even one has
    one level more below 0 than above. All arithmetic is in float32.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 3:
            raise ValueError(f"levels must be 3 or more for each channel, not {tuple(levels)}")
        self.vocabulary = math.prod(levels)  # how many tokens there are
        counts = torch.tensor(levels)[:, None, None]  # [C, 1, 1]
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("strides", counts.cumprod(0) // counts, persistent=False)  # of each channel in a token

    counts: Tensor
    strides: Tensor

    def bound(self, z: Float[Tensor, "*N C h w"]) -> Float[Tensor, "*N C h w"]:
        """`z` squashed to where it rounds to one of the levels, as many integers; 0 stays 0 (section 3.1, appendix A).

        With an even number of levels the integers are not symmetric, so tanh is moved by half of one; the paper's code
        shifts its argument by a tangent, here it is the inverse of tanh, which makes 0 stay 0.
        """
        half = (self.counts - 1) * (1 - MARGIN) / 2
        offset = (self.counts % 2 == 0) / 2
        return (z.float() + (offset / half).atanh()).tanh() * half - offset

    def forward(self, z: Float[Tensor, "*N C h w"]) -> Float[Tensor, "*N C h w"]:
        """The codes of `z`; the gradient is that of the bound, straight through the rounding (section 3.1)."""
        bounded = self.bound(z)
        return (bounded + (bounded.round() - bounded).detach()) / (self.counts // 2)

    def tokens(self, codes: Float[Tensor, "*N C h w"]) -> Int64[Tensor, "*N h w"]:
        """The numbers of codes, in [0, vocabulary); the first channel counts least."""
        middle = self.counts // 2
        return (((codes.float() * middle).round().long() + middle) * self.strides).sum(-3)

    def codes(self, tokens: Int64[Tensor, "*N h w"]) -> Float[Tensor, "*N C h w"]:
        """The codes that have these numbers."""
        middle = self.counts // 2
        return (tokens[..., None, :, :] // self.strides % self.counts - middle) / middle

    def digits(self, tokens: Int64[Tensor, "*N"]) -> Int64[Tensor, "*N C"]:
        """The level of each channel, counted from 0."""
        return tokens[..., None] // self.strides.flatten() % self.counts.flatten()
