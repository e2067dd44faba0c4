"""Patches of pixels by their cosine transform, so that what carries most of a picture is learned first."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["cosine_patches"]


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
