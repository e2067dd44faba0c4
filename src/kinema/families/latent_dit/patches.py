"""Patchify and unpatchify: pixels or latents to tokens and back."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Patches", "cosine_patches"]


class Patches(nn.Module):
    """Embeds patches of `time` x `side` x `side` cells and their clean mask as tokens, and projects tokens back.

    If `pixels`, the layers work on cosine coefficients of the patches (`cosine_patches`). The output layer starts at
    zero.
    """

    basis: Tensor | None

    def __init__(self, channels: int, time: int, side: int, width: int, pixels: bool) -> None:
        super().__init__()
        self.time, self.side = time, side
        self.sizes, cells = {"i": time, "p": side, "q": side}, time * side**2
        self.embed, self.mark = nn.Linear(cells * channels, width), nn.Linear(cells, width, bias=False)
        self.head = nn.Linear(width, cells * channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("basis", cosine_patches(time, side) if pixels else None, persistent=False)

    def read(self, x: Float[Tensor, "B L C h w"], clean: Bool[Tensor, "B L 1 h w"]) -> Float[Tensor, "B l N D"]:
        """The tokens of latents, N for every group of `time`; `clean` marks the cells without noise."""
        cells, marks = (
            rearrange(y, "b (l i) c (h p) (w q) -> b l (h w) (i p q c)", **self.sizes) for y in (x, clean.to(x))
        )
        weight = self.embed.weight if self.basis is None else self.embed.weight @ self.basis
        return F.linear(cells, weight, self.embed.bias) + self.mark(marks)

    def write(self, tokens: Float[Tensor, "B lN D"], length: int, height: int) -> Float[Tensor, "B L C h w"]:
        """The cells of the patches of tokens, float32; there are `length` x `height` x width tokens."""
        weight = self.head.weight if self.basis is None else self.basis.T @ self.head.weight
        values = F.linear(tokens, weight, self.head.bias).float()
        pattern = "b (l h w) (i p q c) -> b (l i) c (h p) (w q)"
        return rearrange(values, pattern, l=length, h=height, **self.sizes)

    def means(self, x: Float[Tensor, "*B L C h w"]) -> Float[Tensor, "*B lN"]:
        """The mean over each token's patch."""
        return reduce(x, "... (l i) c (h p) (w q) -> ... (l h w)", "mean", **self.sizes)


def cosine_patches(time: int, side: int) -> Float[Tensor, "N N"]:
    """A scaled cosine basis of RGB patches of time x side x side pixels, one wave in each row.

    Values of a patch are in the order (time, height, width, colour). The waves are orthogonal: a DCT-II (Ahmed et al.
    1974) over time, height and width, times brightness and two colour differences. Their amplitudes fall with frequency
    as 1 / (1 + f), as in natural images (Field 1987), with f in half periods per patch, and have a mean square of 1.
    With this basis a network sees less of the noise at high frequencies, and its optimizer takes steps in proportion to
    the strength of each frequency.
    """
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    waves = _cosines(time), _cosines(side), _cosines(side), colours / colours.norm(dim=1, keepdim=True)
    basis = waves[0]
    for axis in waves[1:]:
        basis = torch.kron(basis, axis)
    frequency = torch.cartesian_prod(*(torch.arange(float(n)) for n in (time, side, side))).reshape(-1, 3).norm(dim=1)
    amplitude = (1 / (1 + frequency)).repeat_interleave(3)
    return basis * (amplitude / amplitude.square().mean().sqrt())[:, None]


def _cosines(size: int) -> Float[Tensor, "{size} {size}"]:
    """The orthonormal DCT-II basis, one wave in each row, the constant first."""
    place = torch.arange(float(size))
    waves = (math.pi / size * (place + 0.5) * place[:, None]).cos()
    return waves / waves.norm(dim=1, keepdim=True)
