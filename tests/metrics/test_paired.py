"""PSNR by its formula, SSIM and MS-SSIM against torchmetrics."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from kinema.metrics.paired import ms_ssim, psnr, ssim


def frames(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_of_a_known_error() -> None:
    truth = frames(0, 2, 3, 3, 16, 16) * 0.5
    values = psnr(truth + 0.2, truth)  # a tenth of the peak
    assert values.shape == (2, 3)
    torch.testing.assert_close(values, torch.full((2, 3), 20.0))
    assert psnr(truth, truth).eq(100).all()


@pytest.mark.parametrize("shape", [(5, 3, 24, 16), (5, 1, 11, 40)])
@pytest.mark.parametrize("mix", [0.0, 0.1, 0.9])
def test_ssim_is_the_librarys(shape: tuple[int, ...], mix: float) -> None:
    truth = frames(0, *shape)
    predicted = (1 - mix) * truth + mix * frames(1, *shape)
    _, whole = structural_similarity_index_measure(
        (predicted + 1) / 2, (truth + 1) / 2, data_range=1.0, return_full_image=True
    )
    inner = whole[..., 5:-5, 5:-5].mean((1, 2, 3))  # theirs also has the windows that reach beyond the frame
    torch.testing.assert_close(ssim(predicted[:, None], truth[:, None])[:, 0], inner, rtol=0, atol=1e-5)


def of_scales(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM by the formula, with plain convolutions: x and y are [N, C, H, W] in [0, 1]."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(x.shape[1], 1, 11, 11)
    product = torch.ones(len(x))
    for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my, xx, yy, xy = (F.conv2d(z, window, groups=x.shape[1]) for z in (x, y, x * x, y * y, x * y))
        structure = (2 * (xy - mx * my) + 0.03**2) / (xx - mx**2 + yy - my**2 + 0.03**2)
        luminance = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
        product = product * (structure * luminance if scale == 4 else structure).mean((1, 2, 3)) ** exponent
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return product


@pytest.mark.parametrize("mix", [0.0, 0.2, 0.8])
def test_ms_ssim_is_the_formulas_and_near_the_librarys(mix: float) -> None:
    truth = F.interpolate(frames(0, 3, 3, 24, 30), (176, 190), mode="bicubic").clamp(-1, 1)
    predicted = (1 - mix) * truth + mix * frames(1, *truth.shape)
    x, y = (predicted + 1) / 2, (truth + 1) / 2
    values = ms_ssim(predicted[:, None], truth[:, None])[:, 0]
    torch.testing.assert_close(values, of_scales(x, y), rtol=0, atol=1e-5)
    theirs = multiscale_structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    torch.testing.assert_close(values, theirs, rtol=0.01, atol=0)  # which has windows that reach beyond the frame
    with pytest.raises(ValueError, match="sides of 161 pixels, not 64x64"):
        ms_ssim(truth[..., :64, :64], truth[..., :64, :64])


def test_frames_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="16x10 are too small"):
        ssim(frames(0, 3, 10, 16), frames(1, 3, 10, 16))
