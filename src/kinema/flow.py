"""Flow matching and diffusion as pure functions: paths, what a network predicts, times, guidance and solvers.

Everywhere x_t = alpha(t) x_0 + sigma(t) eps, where x_0 is data at t = 0 and eps standard normal noise at t = 1. Times
have the first axes of the samples: of a clip [B, T, ...] they may be [], [B] or, a noise level for each frame as in
diffusion forcing (Chen et al. 2024, arXiv 2407.01392), [B, T]. Whatever comes in, and under autocast too, the
arithmetic is float32, or float64 where it is given that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = [
    "Coefficients",
    "Denoise",
    "Parameterisation",
    "Path",
    "Prediction",
    "Solver",
    "coefficients",
    "guided",
    "logit_normal_times",
    "noised",
    "prediction",
    "shifted",
    "solve",
    "target",
    "times",
    "trailing",
    "uniform_times",
    "waiting",
    "weight",
    "within",
]

Path = Literal["rectified", "cosine", "linear"]
Parameterisation = Literal["velocity", "epsilon", "v", "data"]
Solver = Literal["euler", "heun", "ddim", "dpm++", "ddpm"]

NEAREST = 0.05  # to data that an error of "data" is weighed by its noise: below it the weight no longer grows
BETAS = 0.1, 20.0  # the noise's rate at both ends of the linear path: DDPM's 1e-4 to 0.02 a step, in 1,000 steps


class Coefficients(NamedTuple):
    """Of a path at given times, all of one shape: how much data, how much noise, and how fast both change with t."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Prediction(NamedTuple):
    """What a network makes of x_t: the data and the noise in it, each of its shape."""

    x0: Tensor
    eps: Tensor


Denoise = Callable[[Tensor, Tensor], Prediction]  # of x_t and t


def _full(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it has that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return a / torch.where(b == 0, math.inf, b)


def trailing(t: Float[Tensor, "*t"], x: Float[Tensor, "*S"]) -> Float[Tensor, "..."]:
    """`t` with as many axes of length 1 after its own as it takes to broadcast against `x`."""
    return _full(t).reshape(t.shape + (1,) * (x.ndim - t.ndim))


# Paths


def coefficients(path: Path, t: Float[Tensor, "*t"]) -> Coefficients:
    """A path's coefficients at times in [0, 1], of the times' shape.

    "rectified" goes straight from data to noise (Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv
    2210.02747). The others keep the variance, alpha^2 + sigma^2 = 1: "cosine" is that of Nichol and Dhariwal 2021
    (arXiv 2102.09672, eq. 17) without the offset, as is usual in continuous time, so alpha is exactly 0 at t = 1;
    "linear" is DDPM's (Ho et al. 2020, arXiv 2006.11239, section 4) in continuous time (Song et al. 2020, arXiv
    2011.13456, appendix C). Its sigma grows as a root, so for t below 1e-5 its rate is about what it is there.
    """
    t = _full(t)
    if path == "rectified":
        return Coefficients(1 - t, t, torch.full_like(t, -1), torch.ones_like(t))
    if path == "cosine":
        alpha, sigma = (math.pi / 2 * (1 - t)).sin(), (math.pi / 2 * t).sin()
        return Coefficients(alpha, sigma, -math.pi / 2 * sigma, math.pi / 2 * alpha)
    low, high = BETAS
    log_alpha = -t * (low + (high - low) * t / 2) / 2
    alpha, sigma = log_alpha.exp(), (-(2 * log_alpha).expm1()).sqrt()
    d_alpha = -alpha * (low + (high - low) * t) / 2
    return Coefficients(alpha, sigma, d_alpha, -alpha * d_alpha / sigma.clamp(min=1e-3))  # sigma(1e-5)


def noised(
    path: Path, x0: Float[Tensor, "*S"], eps: Float[Tensor, "*S"], t: Float[Tensor, "*t"]
) -> Float[Tensor, "*S"]:
    """x_t, the sample at time t on the way from data `x0` to noise `eps`."""
    at = coefficients(path, trailing(t, x0))
    return at.alpha * _full(x0) + at.sigma * _full(eps)


# What a network predicts


def target(
    parameterisation: Parameterisation,
    path: Path,
    x0: Float[Tensor, "*S"],
    eps: Float[Tensor, "*S"],
    t: Float[Tensor, "*t"],
) -> Float[Tensor, "*S"]:
    """What a network should predict at x_t.

    "velocity" is d x_t / dt, on the rectified path eps - x_0; "epsilon" is the noise; "v" is alpha eps - sigma x_0
    (Salimans and Ho 2022, arXiv 2202.00512, section 4). "data" is x_0, which a network with fewer channels than a token
    has values can still tell, as it can no noise (Li and He 2025, arXiv 2511.13720).
    """
    of_data, of_noise = _weights(parameterisation, coefficients(path, trailing(t, x0)))
    return of_data * _full(x0) + of_noise * _full(eps)


def prediction(
    parameterisation: Parameterisation,
    path: Path,
    x: Float[Tensor, "*S"],
    output: Float[Tensor, "*S"],
    t: Float[Tensor, "*t"],
) -> Prediction:
    """The data and the noise in `x` at time t, by a network's `output` in this parameterisation.

    "epsilon" tells nothing of the data where alpha is 0, at t = 1: they are then 0, the mean of centred data. Nor does
    "data" of the noise where there is none, at t = 0.
    """
    at, x, output = coefficients(path, trailing(t, x)), _full(x), _full(output)
    if parameterisation == "data":
        return Prediction(output, _divide(x - at.alpha * output, at.sigma))
    if parameterisation == "epsilon":
        return Prediction(_divide(x - at.sigma * output, at.alpha), output)
    of_data, of_noise = _weights(parameterisation, at)
    determinant = at.alpha * of_noise - at.sigma * of_data  # of x and output as functions of x_0 and eps; above 0
    x0 = (of_noise * x - at.sigma * output) / determinant
    return Prediction(x0, (at.alpha * output - of_data * x) / determinant)


def _weights(parameterisation: Parameterisation, at: Coefficients) -> tuple[Tensor, Tensor]:
    """How much of x_0 and of eps is in what a network predicts."""
    if parameterisation == "velocity":
        return at.d_alpha, at.d_sigma
    if parameterisation == "epsilon":
        return torch.zeros_like(at.alpha), torch.ones_like(at.alpha)
    if parameterisation == "data":
        return torch.ones_like(at.alpha), torch.zeros_like(at.alpha)
    return -at.sigma, at.alpha


def weight(parameterisation: Parameterisation, path: Path, t: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """What to weigh a squared error by in training: 1, but for "data" the square of what it does to the velocity.

    On the rectified path that is 1 / t^2 (arXiv 2511.13720, section 4), with t at least 0.05 as there.
    """
    at = coefficients(path, t)
    if parameterisation != "data":
        return torch.ones_like(at.alpha)
    return (at.d_alpha - at.d_sigma * at.alpha / at.sigma.clamp(min=NEAREST)).square()


# Times


def uniform_times(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Times to train at, uniform in [0, 1), on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


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


def waiting(steps: int, shift: float, wait: Int64[Tensor, "*t"]) -> Float[Tensor, "n *t"]:
    """Times to sample at of frames that begin one after the other, each when it has waited for so many steps.

    Until then each stays at 1, then it goes the way of `times`, and stays at 0 once it is done, until the last one is
    (the pyramid of diffusion forcing: Chen et al. 2024, arXiv 2407.01392; rolling diffusion: Ruhe et al. 2024, arXiv
    2402.09470).
    """
    step = torch.arange(steps + int(wait.max()) + 1, device=wait.device)
    return times(steps, shift).to(wait.device)[(step.reshape(-1, *[1] * wait.ndim) - wait).clamp(0, steps)]


# Sampling


def guided(
    conditional: Float[Tensor, "*S"],
    without: Sequence[tuple[float, Float[Tensor, "*S"]]],
    t: Float[Tensor, "*t"],
    interval: tuple[float, float] = (0.0, 1.0),
) -> Float[Tensor, "*S"]:
    """A network's output, in any parameterisation, with classifier-free guidance at the times in `interval`.

    Each of `without` is a scale and the output where one condition is left out, from which `conditional` is moved away
    by (scale - 1) times their difference: with one condition eq. 6 of Ho and Salimans 2022 (arXiv 2207.12598), where
    `scale` is 1 + w, and with several their sum, as scores of conditions add up (Liu et al. 2022, arXiv 2206.01714,
    section 3). At scales 1 and at times outside the `interval` (Kynkäänniemi et al. 2024, arXiv 2404.07724) it is
    exactly `conditional`.
    """
    conditional, t = _full(conditional), trailing(t, conditional)
    away = [(scale - 1) * (conditional - _full(output)) for scale, output in without if scale != 1]
    return torch.where(within(t, interval), sum(away, conditional), conditional)


def within(t: Float[Tensor, "*t"], interval: tuple[float, float]) -> Bool[Tensor, "*t"]:
    """Which times are guided: those in the interval (low, high]."""
    low, high = interval
    return (low < t) & (t <= high)


def solve(
    solver: Solver,
    denoise: Denoise,
    x: Float[Tensor, "*S"],
    times: Float[Tensor, "steps *t"],
    path: Path,
    noise: Callable[[], Float[Tensor, "*S"]] | None = None,
) -> Float[Tensor, "*S"]:
    """Take `x` from the first of `times` to the last, through every one, which must not increase.

    `denoise(x, t)` gives what is in x at one of the times. Where a time equals the next, `x` stays exactly as it is,
    and what the solver remembers of it too, so that frames may wait for each other. The solvers:

    - "euler", first order, and "heun", second, integrate the probability-flow ODE in t (Karras et al. 2022, arXiv
      2206.00364, Algorithm 1). Heun denoises twice a step, but once in a step to t = 0, which is Euler's.
    - "ddim", first order (Song et al. 2020, arXiv 2010.02502, eq. 12); on the rectified path it is Euler's.
    - "dpm++" is DPM-Solver++(2M), second order (Lu et al. 2022, arXiv 2211.01095, Algorithm 2). A first step is DDIM's,
      and so are one to t = 0 and one after a step from alpha = 0, as such steps are infinite in log(alpha / sigma).
    - "ddpm" draws from the posterior of each step (Ho et al. 2020, arXiv 2006.11239, eq. 7) with fresh `noise()`.

    Raises ValueError if there is no `noise` for "ddpm".
    """
    x, times = _full(x), _full(times).to(x.device)
    last_x0, last_h = x, x.new_tensor(math.inf)
    for now, then in pairwise(times):
        start, end = trailing(now, x), trailing(then, x)
        here, there = coefficients(path, start), coefficients(path, end)
        x0, eps = map(_full, denoise(x, now))
        if solver in ("euler", "heun"):
            slope = here.d_alpha * x0 + here.d_sigma * eps
            moved = x + (end - start) * slope
            corrected = (end > 0) & (end != start)
            if solver == "heun" and corrected.any():
                x0, eps = map(_full, denoise(moved, then))
                mean = (slope + there.d_alpha * x0 + there.d_sigma * eps) / 2
                moved = torch.where(corrected, x + (end - start) * mean, moved)
        else:
            kept = _divide(here.alpha * there.sigma, there.alpha * here.sigma)  # exp(-h), h: step in log(alpha / sigma)
            if solver == "ddpm":
                if noise is None:
                    raise ValueError("ddpm draws noise at every step: give noise, or take ddim")
                eps = kept * eps + (1 - kept.square()).clamp(min=0).sqrt() * _full(noise())
            moved = there.alpha * x0 + there.sigma * eps
            if solver == "dpm++":
                h = -kept.log()
                lead = torch.where(kept > 0, h, 0) / (2 * last_h)  # the step's middle, in steps like the last
                moved = moved + there.alpha * (1 - kept) * lead * (x0 - last_x0)
                last_x0, last_h = torch.where(h > 0, x0, last_x0), torch.where(h > 0, h, last_h)
        x = torch.where(start == end, x, moved)
    return x
