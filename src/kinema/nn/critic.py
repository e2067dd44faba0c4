"""Convolutional critics (discriminators) of clips and frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.family import FamilyConfig
from kinema.nn.adversarial import AdversarialLoss
from kinema.nn.augment import augment
from kinema.nn.noise import fast_normal
from kinema.nn.upconvolution import NORMS, time_strides

__all__ = ["AdversarialConfig", "Critic", "CriticNorm", "critic_input", "critic_of_clips", "init_kaiming_"]

CriticNorm = Literal["batch", "none"]


@dataclass(frozen=True)
class AdversarialConfig(FamilyConfig):
    """The settings that families with critics share."""

    ndf: int = 64
    """Channels of the critic of clips after its input layer."""
    norm: CriticNorm = "batch"
    """Normalisation in the critics; use "none" with a gradient penalty."""
    loss: AdversarialLoss = "vanilla"
    """The adversarial loss; "wasserstein" needs a critic with a bounded Lipschitz constant."""
    penalty: float = 0.0
    """Weight of the R1 and R2 gradient penalties (0: none), for an image; a clip of T frames has T times that."""
    penalty_decay_steps: int = 0
    """Steps over which the penalty decays to a twentieth (0: constant), so that the critic learns fine detail later."""
    augment: bool = False
    """Differentiable augmentation of the critics' inputs: for datasets of a few hundred clips or fewer."""

    def __post_init__(self) -> None:
        if self.ndf < 1 or min(self.penalty, self.penalty_decay_steps) < 0:
            raise ValueError("ndf must be at least 1, penalty and penalty_decay_steps must not be negative")

    def critic_sizes(self) -> list[int]:
        """T, H and W of the clips; raises ValueError unless both sides are multiples of 16."""
        frames, height, width = self.required("frames", "height", "width")
        if min(height, width) < 16 or height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16, not {height} and {width}")
        return [frames, height, width]


class Critic(nn.Module):
    """Convolutions with leaky ReLU from pixels to logits, all but the first and last normalised (arXiv 1511.06434).

    `noise` is the standard deviation of Gaussian noise added to the input of each strided convolution (MoCoGAN's
    authors' code).
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
                # drawn channels-last, as x is: every convolution would convert another layout
                noise = fast_normal(x.movedim(1, -1).shape, generator, x.dtype).movedim(-1, 1)
                x = torch.add(x, noise, alpha=self.noise)
            x = convolution(x)
            if index < last:
                x = F.leaky_relu(self.norms[index](x), 0.2, inplace=True)
        return x


def critic_of_clips(channels: int, ndf: int, frames: int, height: int, width: int, norm: CriticNorm) -> Critic:
    """A critic of clips [B, channels, T, H, W]: four strided 3D convolutions and one over the whole remaining volume.

    Logits are [B, 1, 1, 1, 1]. The strides in time are those of `time_strides`, reversed. It is the critic of VGAN
    (arXiv 1609.02612, section 3.2) and TGAN (arXiv 1611.06624), both with an `ndf` of 64.
    """
    remaining, strides = time_strides(frames)
    widths = [channels, *(ndf * m for m in (1, 2, 4, 8))]
    convolutions: list[nn.Conv2d | nn.Conv3d] = []
    for (i, o), stride in zip(pairwise(widths), reversed(strides), strict=True):
        bias = norm == "none" or not convolutions  # batch normalisation removes a bias
        convolutions.append(nn.Conv3d(i, o, (2 + stride, 4, 4), (stride, 2, 2), 1, bias=bias))
    convolutions.append(nn.Conv3d(widths[-1], 1, (remaining, height // 16, width // 16)))
    return Critic(convolutions, norm)


def critic_input(
    clips: Float[Tensor, "B T 3 H W"], generator: torch.Generator, augmented: bool
) -> Float[Tensor, "B 3 T H W"]:
    """Clips in the layout of 3D convolutions, augmented if asked."""
    return rearrange(augment(clips, generator) if augmented else clips, "b t c h w -> b c t h w")


def init_kaiming_(module: nn.Module) -> None:
    """Initialise all 2D and 3D convolutions so that they preserve variance (Kaiming, for leaky ReLU of slope 0.2)."""
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(convolution.weight, 0.2)
