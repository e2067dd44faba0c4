"""Transposed convolutions that upsample a latent code to frames, and the strides that do so in time."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

__all__ = ["time_strides", "with_batch_norm"]

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
    doublings = min(4, (frames & -frames).bit_length() - 1)
    return frames >> doublings, (1,) * (4 - doublings) + (2,) * doublings
