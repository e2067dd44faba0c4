"""Patches of pixels or latents as tokens, and tokens as patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["Patches", "cosine_patches"]


class Patches(nn.Module):
    """Makes a token of every patch of `time` x `side` x `side` cells, with which of them are given, and the way back.

    If the cells are `pixels`, patches are read and written as cosine waves. What is written begins at zero.
    """

    basis: Tensor | None

    def __init__(self, channels: int, time: int, side: int, width: int, pixels: bool) -> None:
        super().__init__()
        self.sizes, cells = {"i": time, "p": side, "q": side}, time * side**2
        self.embed, self.mark = nn.Linear(cells * channels, width), nn.Linear(cells, width, bias=False)
        self.head = nn.Linear(width, cells * channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("basis", cosine_patches(time, side) if pixels else None, persistent=False)

    def read(self, x: Float[Tensor, "B L C h w"], given: Bool[Tensor, "B L 1 h w"]) -> Float[Tensor, "B l N D"]:
        """The N tokens of every `time` of L."""
        cells, marks = (
            rearrange(y, "b (l i) c (h p) (w q) -> b l (h w) (i p q c)", **self.sizes) for y in (x, given.to(x))
        )
        weight = self.embed.weight if self.basis is None else self.embed.weight @ self.basis
        return F.linear(cells, weight, self.embed.bias) + self.mark(marks)

    def write(self, tokens: Float[Tensor, "B lN D"], length: int, height: int) -> Float[Tensor, "B L C h w"]:
        """What tokens of `length` times and `height` rows of patches are patches of; float32."""
        weight = self.head.weight if self.basis is None else self.basis.T @ self.head.weight
        told = F.linear(tokens, weight, self.head.bias).float()
        pattern = "b (l h w) (i p q c) -> b (l i) c (h p) (w q)"
        return rearrange(told, pattern, l=length, h=height, **self.sizes)

    def means(self, x: Float[Tensor, "*B L C h w"]) -> Float[Tensor, "*B lN"]:
        """The mean of each token's values."""
        return reduce(x, "... (l i) c (h p) (w q) -> ... (l h w)", "mean", **self.sizes)


def cosine_patches(time: int, side: int) -> Float[Tensor, "N N"]:
    """Cosine waves over RGB patches of time x side x side pixels, a row each, as strong as they are in video.

    Values of a patch are in the order (time, height, width, colour). The waves are orthogonal (DCT-II: Ahmed et al.
    1974) over time, height, width and brightness and two differences of colours. Their amplitudes fall with frequency
    as 1 / (1 + f), as those of natural images do (Field 1987), with f in half periods a patch, and have a mean square
    of 1. A network that reads and writes patches through these rows sees little of the noise that a patch of many
    values has in its high frequencies, and its optimizer takes equal steps in what is faint and what is strong.
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
    """The orthonormal cosine waves of a line, a row each, the constant first."""
    place = torch.arange(float(size))
    waves = (math.pi / size * (place + 0.5) * place[:, None]).cos()
    return waves / waves.norm(dim=1, keepdim=True)
