"""Solvers that take noise to data, as pure functions with a callback."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kinema.diffusion.paths import Path, Prediction, coefficients, divide, expand_like, full_precision
from kinema.types import Progress, no_progress

__all__ = ["Denoise", "Solver", "solve"]

Denoise = Callable[[Tensor, Tensor], Prediction]  # of x_t and t
Solver = Literal["euler", "heun", "ddim", "dpm++", "ddpm"]


def solve(
    solver: Solver,
    denoise: Denoise,
    x: Float[Tensor, "*S"],
    times: Float[Tensor, "steps *t"],
    path: Path,
    noise: Callable[[int], Float[Tensor, "*S"]] | None = None,
    callback: Progress = no_progress,
) -> Float[Tensor, "*S"]:
    """Take `x` from the first of `times` to the last, through every one, which must not increase.

    `denoise(x, t)` predicts the data and the noise in x. Where a time equals the next, `x` and what the solver
    remembers of it stay as they are, so that frames may wait for each other. `callback` follows each step. The solvers:

    - "euler", first order, and "heun", second, integrate the probability-flow ODE in t (Karras et al. 2022, arXiv
      2206.00364, Algorithm 1). Heun denoises twice a step, but once in a step to t = 0, which is Euler's.
    - "ddim", first order (Song et al. 2020, arXiv 2010.02502, eq. 12); on the rectified path it is Euler's.
    - "dpm++" is DPM-Solver++(2M), second order (Lu et al. 2022, arXiv 2211.01095, Algorithm 2). A first step is DDIM's,
      and so are one to t = 0 and one after a step from alpha = 0, as such steps are infinite in log(alpha / sigma).
    - "ddpm" draws from the posterior of each step (Ho et al. 2020, arXiv 2006.11239, eq. 7) with `noise(step)`.

    Raises ValueError if there is no `noise` for "ddpm".
    """
    x, times = full_precision(x), full_precision(times).to(x.device)
    last_x0, last_h = x, x.new_tensor(math.inf)
    for step, (now, then) in enumerate(pairwise(times)):
        start, end = expand_like(now, x), expand_like(then, x)
        here, there = coefficients(path, start), coefficients(path, end)
        x0, eps = map(full_precision, denoise(x, now))
        if solver in ("euler", "heun"):
            slope = here.d_alpha * x0 + here.d_sigma * eps
            moved = x + (end - start) * slope
            corrected = (end > 0) & (end != start)
            if solver == "heun" and corrected.any():
                x0, eps = map(full_precision, denoise(moved, then))
                mean = (slope + there.d_alpha * x0 + there.d_sigma * eps) / 2
                moved = torch.where(corrected, x + (end - start) * mean, moved)
        else:
            kept = divide(here.alpha * there.sigma, there.alpha * here.sigma)  # exp(-h), h: step in log(alpha / sigma)
            if solver == "ddpm":
                if noise is None:
                    raise ValueError("ddpm draws noise at every step: give noise, or take ddim")
                eps = kept * eps + (1 - kept.square()).clamp(min=0).sqrt() * full_precision(noise(step))
            moved = there.alpha * x0 + there.sigma * eps
            if solver == "dpm++":
                h = -kept.log()
                lead = torch.where(kept > 0, h, 0) / (2 * last_h)  # the step's middle, in steps like the last
                moved = moved + there.alpha * (1 - kept) * lead * (x0 - last_x0)
                last_x0, last_h = torch.where(h > 0, x0, last_x0), torch.where(h > 0, h, last_h)
        x = torch.where(start == end, x, moved)
        callback(step + 1, len(times) - 1)
    return x
