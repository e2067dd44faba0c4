"""Measures of predicted frames against the true ones: PSNR, SSIM and MS-SSIM.

LPIPS, whose weights do not ship with kinema, is `kinema.nn.perceptual.perceptual_distance`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["MS_SSIM_LEAST", "ms_ssim", "psnr", "ssim"]

HIGHEST = 100.0  # dB, for equal frames, so that a mean over frames stays finite
WINDOW, DEVIATION = 11, 1.5  # pixels, of SSIM's Gaussian window
K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the exponent of each, from fine to coarse
MS_SSIM_LEAST = (WINDOW - 1) * 2 ** (len(SCALES) - 1) + 1  # pixels of a side


def psnr(predicted: Float[Tensor, "*N C H W"], truth: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N"]:
    """Peak signal to noise ratio of each frame in dB, at most 100; frames are in [-1, 1], so the peak is 2."""
    error = (predicted.float() - truth.float()).square().mean((-3, -2, -1))
    return (10 * (4 / error).log10()).clamp(max=HIGHEST)


def ssim(predicted: Float[Tensor, "*N C H W"], truth: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N"]:
    """Structural similarity of each frame in [-1, 1], at most 1 (Wang et al. 2004, IEEE TIP 13(4), eq. 13).

    With their Gaussian window and constants, averaged over the places where the window is inside the frame, and over
    channels. Raises ValueError for sides of less than 11 pixels.
    """
    height, width = truth.shape[-2:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM has windows of {WINDOW} pixels, so frames of {width}x{height} are too small for it")
    luminance, structure = _similarity(*((frames.float() + 1) / 2 for frames in (predicted, truth)))
    return (luminance * structure).mean((-3, -2, -1))


def ms_ssim(predicted: Float[Tensor, "*N C H W"], truth: Float[Tensor, "*N C H W"]) -> Float[Tensor, "*N"]:
    """Multi-scale structural similarity of each frame in [-1, 1], in [0, 1] (Wang et al. 2003, Asilomar 37, eq. 7).

    Five scales, each of half the size: structure and contrast at all, luminance at the coarsest, each the mean over
    places and channels, clipped at 0. Raises ValueError for sides of less than 161 pixels, which have no fifth scale.
    """
    height, width = truth.shape[-2:]
    if min(height, width) < MS_SSIM_LEAST:
        raise ValueError(f"MS-SSIM's fifth scale needs sides of {MS_SSIM_LEAST} pixels, not {width}x{height}")
    shape = truth.shape[:-3]
    x, y = ((frames.float().reshape(-1, *truth.shape[-3:]) + 1) / 2 for frames in (predicted, truth))
    product = x.new_ones(len(x))
    for exponent in SCALES:
        luminance, structure = _similarity(x, y)
        last = exponent == SCALES[-1]
        factor = (luminance * structure if last else structure).mean((-3, -2, -1)).clamp(min=0)
        product = product * factor**exponent
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product.reshape(shape)


def _similarity(x: Float[Tensor, "*N C H W"], y: Float[Tensor, "*N C H W"]) -> tuple[Tensor, Tensor]:
    """The luminance term at each place, and that of contrast and structure."""
    height, width = y.shape[-2:]
    down, across = _weights(height).to(y.device), _weights(width).T.to(y.device)
    mean_x, mean_y, xx, yy, xy = (down @ of @ across for of in (x, y, x * x, y * y, x * y))  # a separable filter
    variances, covariance = xx - mean_x**2 + yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + K1**2) / (mean_x**2 + mean_y**2 + K1**2)
    return luminance, (2 * covariance + K2**2) / (variances + K2**2)


def _weights(side: int) -> Float[Tensor, "places side"]:
    """The window's weights along a side, one row for each of its places."""
    offsets = torch.arange(side) - torch.arange(side - WINDOW + 1)[:, None]
    weights = torch.exp(-(((offsets - WINDOW // 2) / DEVIATION) ** 2) / 2)
    weights = weights * ((offsets >= 0) & (offsets < WINDOW))
    return weights / weights.sum(1, keepdim=True)
