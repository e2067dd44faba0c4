"""Transposed convolutions that upsample a latent code to frames, and the strides that do so in time."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

__all__ = ["LAYERS", "space_strides", "time_strides", "with_batch_norm"]

LAYERS = 4  # that upsample from 1/16 of the height and width in pixels

NORMS = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}  # by the dimensions of a convolution's weight
UpConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def with_batch_norm(convolutions: Iterable[UpConvolution]) -> list[nn.Module]:
    """The convolutions, each followed by batch normalisation and ReLU (DCGAN, arXiv 1511.06434, section 3)."""
    layers: list[nn.Module] = []
    for convolution in convolutions:
        layers += [convolution, NORMS[convolution.weight.ndim](convolution.out_channels), nn.ReLU(inplace=True)]
    return layers


def time_strides(frames: int) -> tuple[int, tuple[int, ...]]:
    """The initial length and the strides in time, 1 or 2, with which four layers upsample to `frames` frames.

    The last layers double the length, as often as `frames` is divisible by 2: 32 is 2 doubled four times, 24 is 3
    doubled three times, 5 is never doubled. A layer of stride 2 has a kernel of 4, one of stride 1 a kernel of 3, both
    with a padding of 1.
    """
    doublings = min(LAYERS, (frames & -frames).bit_length() - 1)
    return frames >> doublings, (1,) * (LAYERS - doublings) + (2,) * doublings


def space_strides(space: int) -> tuple[int, ...]:
    """The strides in height and width with which four layers upsample 1/16 of the sides in pixels to 1/`space`.

    Pixels, with a `space` of 1, take four strides of 2; latents of 4x4 pixels take two, then two of 1. Raises
    ValueError unless `space` is 1, 2, 4, 8 or 16.
    """
    if space not in (1, 2, 4, 8, 16):
        raise ValueError(f"blocks of {space}x{space} pixels: choose 2, 4, 8 or 16 with --family.codec-options space 8")
    ones = space.bit_length() - 1
    return (2,) * (LAYERS - ones) + (1,) * ones
