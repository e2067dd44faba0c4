"""Statistics of single frames: values worked out by hand, and what they show of blur and noise."""

from __future__ import annotations

import numpy as np
import pytest

from kinema.metrics.image import saturation, sharpness


def test_values_by_hand() -> None:
    frames = np.zeros((1, 3, 5, 4, 3), np.uint8)
    frames[0, 1:] = (200, 100, 50)
    frames[0, 2, :, 2:] = (200, 160, 50)  # its right half is brighter by 60 of green
    edge = 60 * 0.587 * 4 / 12  # of 4 x 3 pixels with a neighbour to the right and below, 4 are beside the edge
    np.testing.assert_allclose(sharpness(frames), [[0, 0, edge]], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(saturation(frames), [[0, 150, 150]])


def test_the_gradient_has_both_directions() -> None:
    row, column = np.ogrid[:6, :7]
    ramp = (3 * row + 4 * column).astype(np.uint8)[..., None].repeat(3, -1)
    assert sharpness(ramp[None, None]).item() == pytest.approx(5, rel=1e-4)


def test_blur_and_noise_show() -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 2, (4, 6, 8, 8, 3), np.uint8).repeat(4, 2).repeat(4, 3) * 200
    blurred = real.copy()
    blurred[:, :, 1:-1] = (real[:, :, :-2] / 3 + real[:, :, 1:-1] / 3 + real[:, :, 2:] / 3).astype(np.uint8)
    noisy = (real + rng.integers(0, 40, real.shape)).clip(max=255).astype(np.uint8)
    assert (sharpness(blurred) < sharpness(real)).all()
    assert (sharpness(noisy) > sharpness(real) + 5).all()
