"""Diffusion paths, and what a network predicts on them, as pure functions.

Everywhere x_t = alpha(t) x_0 + sigma(t) eps, where x_0 is data at t = 0 and eps standard normal noise at t = 1. Times
have the first axes of the samples: of a clip [B, T, ...] they may be [], [B] or, a noise level for each frame as in
diffusion forcing (Chen et al. 2024, arXiv 2407.01392), [B, T]. Whatever comes in, and under autocast too, the
arithmetic is float32, or float64 where it is given that.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Coefficients",
    "Parameterisation",
    "Path",
    "Prediction",
    "coefficients",
    "divide",
    "expand_like",
    "full_precision",
    "noised",
    "prediction",
    "target",
    "weight",
]

Path = Literal["rectified", "cosine", "linear"]
Parameterisation = Literal["velocity", "epsilon", "v", "data"]

NEAREST = 0.05  # the time below which the weight of "data" no longer grows
BETAS = 0.1, 20.0  # the noise's rate at both ends of the linear path: DDPM's 1e-4 to 0.02 a step, in 1,000 steps


class Coefficients(NamedTuple):
    """A path's alpha and sigma at some times and their derivatives in t, all of one shape."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


class Prediction(NamedTuple):
    """The data and the noise in x_t, each of its shape."""

    x0: Tensor
    eps: Tensor


def full_precision(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it has that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return a / torch.where(b == 0, math.inf, b)


def expand_like(t: Float[Tensor, "*t"], x: Float[Tensor, "*S"]) -> Float[Tensor, "..."]:
    """`t` with as many axes of length 1 after its own as it takes to broadcast against `x`."""
    return full_precision(t).reshape(t.shape + (1,) * (x.ndim - t.ndim))


def coefficients(path: Path, t: Float[Tensor, "*t"]) -> Coefficients:
    """A path's coefficients at times in [0, 1], of the times' shape.

    "rectified" goes straight from data to noise (Liu et al. 2022, arXiv 2209.03003; Lipman et al. 2022, arXiv
    2210.02747). The others keep the variance, alpha^2 + sigma^2 = 1: "cosine" is that of Nichol and Dhariwal 2021
    (arXiv 2102.09672, eq. 17) without the offset, as is usual in continuous time, so alpha is exactly 0 at t = 1;
    "linear" is DDPM's (Ho et al. 2020, arXiv 2006.11239, section 4) in continuous time (Song et al. 2020, arXiv
    2011.13456, appendix C). Its sigma grows as a root, so for t below 1e-5 its rate is about what it is there.
    """
    t = full_precision(t)
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
    at = coefficients(path, expand_like(t, x0))
    return at.alpha * full_precision(x0) + at.sigma * full_precision(eps)


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
    of_data, of_noise = _weights(parameterisation, coefficients(path, expand_like(t, x0)))
    return of_data * full_precision(x0) + of_noise * full_precision(eps)


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
    at, x, output = coefficients(path, expand_like(t, x)), full_precision(x), full_precision(output)
    if parameterisation == "data":
        return Prediction(output, divide(x - at.alpha * output, at.sigma))
    if parameterisation == "epsilon":
        return Prediction(divide(x - at.sigma * output, at.alpha), output)
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
    """The weight of a squared error in training: 1, but for "data" that of the velocity's error.

    On the rectified path that is 1 / t^2 (arXiv 2511.13720, section 4), with t at least 0.05 as there.
    """
    if parameterisation != "data":
        return torch.ones_like(full_precision(t))
    at = coefficients(path, t.clamp(min=NEAREST))
    return (at.d_alpha - at.d_sigma * at.alpha / at.sigma).square()
