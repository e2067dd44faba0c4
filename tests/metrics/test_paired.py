"""PSNR by its formula, SSIM against torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from kinema.metrics.paired import psnr, ssim


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


def test_frames_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="16x10 are too small"):
        ssim(frames(0, 3, 10, 16), frames(1, 3, 10, 16))
