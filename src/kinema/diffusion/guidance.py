"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kinema.diffusion.paths import expand_like, full_precision

__all__ = ["guided", "in_interval"]


def guided(
    conditional: Float[Tensor, "*S"],
    unconditional: Sequence[tuple[float, Float[Tensor, "*S"]]],
    t: Float[Tensor, "*t"],
    interval: tuple[float, float] = (0.0, 1.0),
) -> Float[Tensor, "*S"]:
    """A network's output, in any parameterisation, with classifier-free guidance at the times in `interval`.

    Each of `unconditional` is a scale and the output with one condition dropped, from which `conditional` is moved away
    by (scale - 1) times their difference: with one condition eq. 6 of Ho and Salimans 2022 (arXiv 2207.12598), where
    `scale` is 1 + w, and with several their sum, as scores of conditions add up (Liu et al. 2022, arXiv 2206.01714,
    section 3). At scales 1 and at times outside the `interval` (Kynkäänniemi et al. 2024, arXiv 2404.07724) it is
    exactly `conditional`.
    """
    conditional, t = full_precision(conditional), expand_like(t, conditional)
    away = [(scale - 1) * (conditional - full_precision(output)) for scale, output in unconditional if scale != 1]
    return torch.where(in_interval(t, interval), sum(away, conditional), conditional)


def in_interval(t: Float[Tensor, "*t"], interval: tuple[float, float]) -> Bool[Tensor, "*t"]:
    """Which times are guided: those in the interval (low, high]."""
    low, high = interval
    return (low < t) & (t <= high)
