"""Noise levels, as times in [0, 1]: to train at and to sample at."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["logit_normal_times", "shifted", "staggered_times", "times"]


def logit_normal_times(
    shape: tuple[int, ...], generator: torch.Generator, mean: float = 0.0, deviation: float = 1.0
) -> Float[Tensor, "..."]:
    """Times to train at, mostly from the middle, where learning is hardest, on the generator's device.

    Their logits are normal (Esser et al. 2024, arXiv 2403.03206, section 3.1); a `mean` above 0 is more noise.
    """
    return (mean + deviation * torch.randn(shape, generator=generator, device=generator.device)).sigmoid()


def shifted(t: Float[Tensor, "*t"], shift: float) -> Float[Tensor, "*t"]:
    """Times moved towards noise by a `shift` above 1, as larger samples need; the ends 0 and 1 stay.

    Esser et al. 2024, arXiv 2403.03206, eq. 23: for n times the values a sample has, `shift` is the root of n.
    """
    return shift * t / (shift * t + (1 - t))


def times(steps: int, shift: float = 1.0) -> Float[Tensor, "{steps}+1"]:
    """Times to sample at, from 1 down to 0, even and then shifted; raises ValueError if an argument is not above 0."""
    if steps < 1 or shift <= 0:
        raise ValueError(f"{steps} steps shifted by {shift}: give at least 1 step and a shift above 0")
    return shifted(torch.linspace(1, 0, steps + 1), shift)


def staggered_times(steps: int, shift: float, wait: Int64[Tensor, "*t"]) -> Float[Tensor, "n *t"]:
    """Times to sample at of frames that begin one after the other, each after `wait` steps.

    A frame stays at 1 until then, follows `times`, and stays at 0 until the last frame is done (the pyramid of
    diffusion forcing: Chen et al. 2024, arXiv 2407.01392; rolling diffusion: Ruhe et al. 2024, arXiv 2402.09470).
    """
    step = torch.arange(steps + int(wait.max()) + 1, device=wait.device)
    return times(steps, shift).to(wait.device)[(step.reshape(-1, *[1] * wait.ndim) - wait).clamp(0, steps)]
