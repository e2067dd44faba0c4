"""Critics: what tells real clips or frames from generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.nn.augment import augment
from kinema.nn.noise import gaussian
from kinema.nn.upconvolution import NORMS, time_strides

__all__ = ["Critic", "CriticNorm", "clips_seen", "critic_of_clips", "keep_scale"]

CriticNorm = Literal["batch", "none"]


class Critic(nn.Module):
    """Convolutions from pixels to logits with leaky ReLU, the inner ones normalised (DCGAN, arXiv 1511.06434).

    `noise` is the deviation of the noise that is added to the input of each strided one (MoCoGAN's authors' code).
    """

    def __init__(
        self, convolutions: Sequence[nn.Conv2d | nn.Conv3d], norm: CriticNorm = "batch", noise: float = 0.0
    ) -> None:
        super().__init__()
        self.convolutions, self.noise = nn.ModuleList(convolutions), noise
        inner = [NORMS[c.weight.ndim](c.out_channels) if norm == "batch" else nn.Identity() for c in convolutions[1:-1]]
        self.norms = nn.ModuleList([nn.Identity(), *inner])
        self.noisy = [noise > 0 and max(convolution.stride) > 1 for convolution in convolutions]

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        last = len(self.convolutions) - 1
        for index, (convolution, noisy) in enumerate(zip(self.convolutions, self.noisy, strict=True)):
            if noisy:
                # drawn channels-last, as x is: another layout would be turned again in every convolution
                noise = gaussian(x.movedim(1, -1).shape, generator, x.dtype).movedim(-1, 1)
                x = torch.add(x, noise, alpha=self.noise)
            x = convolution(x)
            if index < last:
                x = F.leaky_relu(self.norms[index](x), 0.2, inplace=True)
        return x


def critic_of_clips(channels: int, ndf: int, frames: int, height: int, width: int, norm: CriticNorm) -> Critic:
    """A critic of clips [B, channels, T, H, W]: four strided 3D convolutions and one over all that is left.

    Logits are [B, 1, 1, 1, 1]. Time is halved where `time_strides` doubles it. VGAN's and TGAN's critic: arXiv
    1609.02612, section 3.2, and 1611.06624, where `ndf` is 64.
    """
    left, strides = time_strides(frames)
    widths = [channels, *(ndf * m for m in (1, 2, 4, 8))]
    convolutions: list[nn.Conv2d | nn.Conv3d] = []
    for (i, o), stride in zip(pairwise(widths), reversed(strides), strict=True):
        bias = norm == "none" or not convolutions  # a normalisation would take it out again
        convolutions.append(nn.Conv3d(i, o, (2 + stride, 4, 4), (stride, 2, 2), 1, bias=bias))
    convolutions.append(nn.Conv3d(widths[-1], 1, (left, height // 16, width // 16)))
    return Critic(convolutions, norm)


def clips_seen(
    clips: Float[Tensor, "B T 3 H W"], generator: torch.Generator, augmented: bool
) -> Float[Tensor, "B 3 T H W"]:
    """What a critic of clips sees of them: all, in the layout of 3D convolutions."""
    return rearrange(augment(clips, generator) if augmented else clips, "b t c h w -> b c t h w")


def keep_scale(module: nn.Module) -> None:
    """Draw the weights of all 2D and 3D convolutions anew, so that the scale is kept where nothing normalises."""
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(convolution.weight, 0.2)
