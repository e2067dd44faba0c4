"""Fast Gaussian noise for the inputs of critics, which take hundreds of millions of values a training step."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["fast_normal"]

LEVELS = 2**16  # equally probable values, within 4.2 standard deviations
BLOCK = 2**16  # values drawn at a time, so that the random bits stay in the CPU's cache
BITS = {2: torch.int16, 4: torch.int32}  # by bytes of a value: NumPy has no bfloat16


def fast_normal(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Contiguous standard normal values on the generator's device; on a CPU with a resolution of 16 bits.

    On a CPU, looking 16 random bits up in a table of quantiles is three times as fast as `torch.randn`. Use it for
    regularisation, not for latents, whose tails matter.
    """
    if generator.device.type != "cpu":
        return torch.randn(shape, generator=generator, dtype=dtype, device=generator.device)
    random = np.random.SFC64(int(torch.randint(2**63 - 1, (), generator=generator)))
    out = torch.empty(math.prod(shape), dtype=dtype)
    bits = BITS[dtype.itemsize]
    values, table = out.view(bits).numpy(), _quantiles(dtype).view(bits).numpy()
    for first in range(0, len(values), BLOCK):
        block = values[first : first + BLOCK]
        levels = random.random_raw(-(-len(block) // 4)).view(np.uint16)[: len(block)]
        np.take(table, levels, out=block, mode="wrap")  # "wrap" avoids a copy; no level is out of range
    return out.view(shape)


@cache
def _quantiles(dtype: torch.dtype) -> Tensor:
    """The quantiles at the middles of LEVELS equally probable intervals of the standard normal distribution."""
    return torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS).to(dtype)
