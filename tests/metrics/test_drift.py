"""Drift curves: values worked out by hand, the same in chunks as whole, and what they show of clips gone wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinema.data.write import to_uint8
from kinema.metrics.bootstrap import mean_interval
from kinema.metrics.drift import drift, each_second
from kinema.worlds.shape_motion import ShapeMotion


def clips(count: int = 4, frames: int = 12) -> np.ndarray:
    return to_uint8(ShapeMotion(frames, 32, 24).batch(0, count, seed=0).frames)


def test_values_by_hand() -> None:
    frames = np.zeros((1, 3, 5, 4, 3), np.uint8)
    frames[0, 1:] = (200, 100, 50)
    frames[0, 2, :, 2:] = (200, 160, 50)  # its right half is brighter by 60 of green
    found = drift([frames])
    edge = 60 * 0.587 * 4 / 12  # of 4 x 3 pixels with a neighbour to the right and below, 4 are beside the edge
    torch.testing.assert_close(found.sharpness, torch.tensor([[0.0, 0.0, edge]]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.colour, torch.tensor([[[0.0, 0, 0], [200, 100, 50], [200, 130, 50]]]))
    torch.testing.assert_close(found.saturation, torch.tensor([[0.0, 150, 150]]))
    torch.testing.assert_close(found.motion, torch.tensor([[torch.nan, 350 / 3, 10]]), equal_nan=True)


def test_the_gradient_has_both_directions() -> None:
    row, column = np.ogrid[:6, :7]
    ramp = (3 * row + 4 * column).astype(np.uint8)[..., None].repeat(3, -1)
    assert drift([ramp[None, None]]).sharpness.item() == pytest.approx(5, rel=1e-4)


@pytest.mark.parametrize("sizes", [(1,) * 12, (5, 4, 3), (11, 1)])
def test_chunks_give_what_the_whole_gives(sizes: tuple[int, ...]) -> None:
    whole = drift([clips()])
    parts = drift(iter(np.split(clips(), np.cumsum(sizes)[:-1], 1)))
    for name in ("sharpness", "colour", "saturation", "motion"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), equal_nan=True)


def test_colour_is_the_distance_from_real_clips() -> None:
    real, tinted = np.full((2, 3, 4, 4, 3), 90, np.uint8), np.full((1, 2, 4, 4, 3), 90, np.uint8)
    real[0], tinted[..., 0], tinted[..., 1] = 110, 103, 104  # the mean of real ones is 100
    distance = drift([tinted]).beside(drift([real]))["colour"]
    torch.testing.assert_close(distance, torch.full((1, 2), (3.0**2 + 4**2 + 10**2) ** 0.5))


def test_blur_freezing_and_noise_show() -> None:
    real = clips()
    blurred = real.copy()
    blurred[:, :, 1:-1] = (real[:, :, :-2] / 3 + real[:, :, 1:-1] / 3 + real[:, :, 2:] / 3).astype(np.uint8)
    frozen = real[:, :1].repeat(12, 1)
    noise = np.random.default_rng(0).integers(0, 40, real.shape)
    noisy = (real + noise).clip(max=255).astype(np.uint8)
    truth = drift([real])
    assert (drift([blurred]).sharpness < truth.sharpness).all()
    assert drift([frozen]).motion[:, 1:].eq(0).all() and truth.motion[:, 1:].gt(0).all()
    assert (drift([noisy]).sharpness > truth.sharpness + 5).all()
    assert (drift([noisy]).motion[:, 1:] > truth.motion[:, 1:]).all()


def test_seconds_are_means_over_their_frames_with_intervals_over_clips() -> None:
    curve = torch.rand(6, 11, generator=torch.Generator().manual_seed(0))
    curve[:, 0] = torch.nan
    found = each_second(curve, fps=4)
    assert found.shape == (3, 3)
    for second, (first, last) in enumerate([(1, 4), (4, 8), (8, 11)]):
        np.testing.assert_allclose(found[second], mean_interval(curve[:, first:last].mean(1)))
    halves = each_second(curve, fps=2.5)  # seconds of 3, 2, 3, 2 and 1 frames
    np.testing.assert_allclose(halves[1:, 0], [curve[:, a:b].mean() for a, b in ((3, 5), (5, 8), (8, 10), (10, 11))])


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="no frames"):
        drift([])
