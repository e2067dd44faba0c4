"""Measures of a frame against the true one, for predictions whose truth is known: PSNR and SSIM."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["psnr", "ssim"]

HIGHEST = 100.0  # dB, for frames that are equal: a mean over frames stays finite
WINDOW, DEVIATION = 11, 1.5  # pixels, of the Gaussian that SSIM weighs by
K1, K2 = 0.01, 0.03


def psnr(predicted: Float[Tensor, "*N C H W"], truth: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N"]:
    """Peak signal to noise ratio of each frame in dB, at most 100; frames are in [-1, 1], so the peak is 2."""
    error = (predicted.float() - truth.float()).square().mean((-3, -2, -1))
    return (10 * (4 / error).log10()).clamp(max=HIGHEST)


def ssim(predicted: Float[Tensor, "*N C H W"], truth: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N"]:
    """Structural similarity of each frame in [-1, 1], at most 1 (Wang et al. 2004, IEEE TIP 13(4), eq. 13).

    With their Gaussian window and constants, averaged over the places where the window is within the frame, and over
    channels. Raises ValueError for sides of less than 11 pixels.
    """
    height, width = truth.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM weighs windows of {WINDOW} pixels, so frames of {width}x{height} are too small for it")
    down, across = _weights(height).to(truth.device), _weights(width).T.to(truth.device)
    x, y = ((frames.float() + 1) / 2 for frames in (predicted, truth))
    mean_x, mean_y, xx, yy, xy = (down @ of @ across for of in (x, y, x * x, y * y, x * y))  # two products are quick
    variances, covariance = xx - mean_x**2 + yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
    structure = (2 * covariance + K2**2) / (variances + K2**2)
    return (luminance * structure).mean((-3, -2, -1))


def _weights(side: int) -> Float[Tensor, "places side"]:
    """The window's weights, one row for each place that it takes along a side."""
    offsets = torch.arange(side) - torch.arange(side - WINDOW + 1)[:, None]
    weights = torch.exp(-(((offsets - WINDOW // 2) / DEVIATION) ** 2) / 2)
    weights = weights * ((offsets >= 0) & (offsets < WINDOW))
    return weights / weights.sum(1, keepdim=True)
