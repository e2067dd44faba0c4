"""Reconstruction losses of images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["PixelLoss", "gradient_difference", "mean_psnr", "pixel_loss"]

PixelLoss = Literal["mse", "l1"]

LEVELS = 3  # of the pyramid: full, half and quarter size


def pixel_loss(
    kind: PixelLoss, predicted: Float[Tensor, "*N C H W"], truth: Float[Tensor, "*N C H W"]
) -> Float[Tensor, "*N"]:
    """The mean squared ("mse") or absolute ("l1") error over each image's values, float32."""
    return _magnitude(kind, predicted.float() - truth.float()).mean((-3, -2, -1))


def mean_psnr(predicted: Float[Tensor, "B T C H W"], truth: Float[Tensor, "B T C H W"]) -> float:
    """The mean over clips of their peak signal to noise ratio in dB, at most 100; frames are in [-1, 1]."""
    error = pixel_loss("mse", predicted, truth).mean(1).clamp(min=4e-10)
    return float((10 * (4 / error).log10()).mean())


def gradient_difference(
    kind: PixelLoss, predicted: Float[Tensor, "*N C H W"], truth: Float[Tensor, "*N C H W"]
) -> Float[Tensor, "*N"]:
    """The gradient difference loss of each image, float32, which penalises blur more than `pixel_loss` does.

    Mathieu et al. 2016 (arXiv 1511.05440, eq. 6, with alpha 1 for "l1" and 2 for "mse") as a mean over pixels, the
    vertical and the horizontal differences added. It is the mean over three scales: full, half and quarter size. Sides
    must be 8 pixels or more.
    """
    leading, differences = predicted.shape[:-3], []
    predicted, truth = (x.float().reshape(-1, *x.shape[-3:]) for x in (predicted, truth))
    for level in range(LEVELS):
        if level:
            predicted, truth = F.avg_pool2d(predicted, 2), F.avg_pool2d(truth, 2)
        for axis in (-2, -1):
            difference = predicted.diff(dim=axis).abs() - truth.diff(dim=axis).abs()
            differences.append(_magnitude(kind, difference).mean((-3, -2, -1)))
    return (torch.stack(differences).sum(0) / LEVELS).reshape(leading)


def _magnitude(kind: PixelLoss, error: Tensor) -> Tensor:
    return error.square() if kind == "mse" else error.abs()
