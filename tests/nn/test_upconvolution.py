"""Strides that give as many frames as are asked for, and layers that give as many pixels."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn

from kinema.nn.upconvolution import space_strides, time_strides, with_batch_norm


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (32, (2, (2, 2, 2, 2))),  # the sizes of VGAN's paper
        (16, (1, (2, 2, 2, 2))),  # and of TGAN's
        (8, (1, (1, 2, 2, 2))),
        (24, (3, (1, 2, 2, 2))),
        (5, (5, (1, 1, 1, 1))),
        (64, (4, (2, 2, 2, 2))),
    ],
)
def test_time_is_doubled_where_it_divides(frames: int, expected: tuple[int, tuple[int, ...]]) -> None:
    assert time_strides(frames) == expected


@pytest.mark.parametrize("frames", range(1, 20))
def test_layers_with_these_strides_make_all_frames_and_take_them_back(frames: int) -> None:
    first, strides = time_strides(frames)
    assert first * prod(strides) == frames
    x = torch.zeros(1, 1, first)
    for stride in strides:
        x = nn.ConvTranspose1d(1, 1, 2 + stride, stride, 1)(x)
    assert x.shape[2] == frames
    for stride in reversed(strides):
        x = nn.Conv1d(1, 1, 2 + stride, stride, 1)(x)
    assert x.shape[2] == first


@pytest.mark.parametrize("layer", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_every_layer_is_normalised(layer: type[nn.ConvTranspose2d]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*with_batch_norm([layer(4, 6, 3), layer(6, 5, 3)]))
    dimensions = network[0].weight.ndim - 2
    out = network[:-1](3 * torch.randn(8, 4, *(3,) * dimensions)).transpose(0, 1).flatten(1)  # before the last ReLU
    torch.testing.assert_close(out.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(1, correction=0), torch.ones(5), atol=1e-2, rtol=0)
    assert isinstance(network[-1], nn.ReLU)


@pytest.mark.parametrize(("space", "expected"), [(1, (2, 2, 2, 2)), (4, (2, 2, 1, 1)), (16, (1, 1, 1, 1))])
def test_the_sides_of_latents_are_doubled_less_often(space: int, expected: tuple[int, ...]) -> None:
    assert space_strides(space) == expected


def test_blocks_of_other_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 32x32 pixels: choose 2, 4, 8 or 16"):
        space_strides(32)
