"""Convolutional critics (discriminators) of clips and frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.config import MOST_CHANNELS, check_ranges
from kinema.family import LatentFamilyConfig
from kinema.nn.adversarial import AdversarialLoss
from kinema.nn.augment import augment
from kinema.nn.noise import fast_normal
from kinema.nn.upconvolution import NORMS, space_strides, time_strides
from kinema.types import ClipSpec

__all__ = ["AdversarialConfig", "Critic", "CriticNorm", "critic_input", "critic_of_clips", "init_kaiming_"]

CriticNorm = Literal["batch", "none"]
Config = TypeVar("Config", bound="AdversarialConfig")


@dataclass(frozen=True)
class AdversarialConfig(LatentFamilyConfig):
    """The settings that families with critics share.

    With the codec transform the generator makes latents of single frames and the critics see latents, both with fewer
    strided layers than for pixels. All is as if the transform were a fixed last layer of the generator and first layer
    of the critics.
    """

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
        super().__post_init__()
        check_ranges(self, ndf=(1, MOST_CHANNELS), penalty=(0.0, 1e6), penalty_decay_steps=(0, 10**12))

    def resolve_codec(self: Config, load: Callable[[str], dict[str, Any]], spec: ClipSpec) -> Config:
        """The same configuration with that of its codec, a transform of single frames.

        Raises ValueError for another codec, and for a `time` above 1 in `codec_options`.
        """
        if self.codec is None or self.codec_config is not None:
            return self
        if self.codec != "transform" or self.codec_options.get("time", 1) != 1:
            raise ValueError(
                "a GAN works in pixels or in the latents of single frames: leave --family.codec out, or make it "
                "transform with a time of 1"
            )
        options = {**self.codec_options, "time": 1}
        resolved = super(AdversarialConfig, replace(self, codec_options=options)).resolve_codec(load, spec)
        return replace(resolved, codec_options=self.codec_options)

    def critic_sizes(self) -> list[int]:
        """T, and H and W in pixels, of the clips; raises ValueError unless both sides are multiples of 16."""
        frames, height, width = self.required("frames", "height", "width")
        if min(height, width) < 16 or height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16, not {height} and {width}")
        return [frames, height, width]

    @property
    def of_pixels(self) -> bool:
        """Whether there is no codec."""
        return self.codec_config is None

    @property
    def space(self) -> int:
        """Pixels of a latent's side; 1 without a codec."""
        codec = self.codec_settings
        return 1 if codec is None else codec.space


class Critic(nn.Module):
    """Convolutions with leaky ReLU from pixels or latents to logits, all but the first and last normalised.

    It is the critic of DCGAN (arXiv 1511.06434, section 3).

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


def critic_of_clips(
    channels: int, ndf: int, frames: int, height: int, width: int, norm: CriticNorm, space: int = 1
) -> Critic:
    """A critic of clips [B, channels, T, h, w]: four 3D convolutions and one over the whole remaining volume.

    `height` and `width` are in pixels, of which a cell has `space` x `space`. Logits are [B, 1, 1, 1, 1]. The strides
    are those of `time_strides` and `space_strides`, reversed. It is the critic of VGAN (arXiv 1609.02612, section 3.2)
    and TGAN (arXiv 1611.06624), both of pixels and with an `ndf` of 64.
    """
    remaining, strides = time_strides(frames)
    widths = [channels, *(ndf * m for m in (1, 2, 4, 8))]
    convolutions: list[nn.Conv2d | nn.Conv3d] = []
    layers = zip(pairwise(widths), reversed(strides), reversed(space_strides(space)), strict=True)
    for (i, o), in_time, in_space in layers:
        bias = norm == "none" or not convolutions  # batch normalisation removes a bias
        kernel, stride = (2 + in_time, 2 + in_space, 2 + in_space), (in_time, in_space, in_space)
        convolutions.append(nn.Conv3d(i, o, kernel, stride, 1, bias=bias))
    convolutions.append(nn.Conv3d(widths[-1], 1, (remaining, height // 16, width // 16)))
    return Critic(convolutions, norm)


def critic_input(
    clips: Float[Tensor, "B T C h w"], generator: torch.Generator, config: AdversarialConfig
) -> Float[Tensor, "B C T h w"]:
    """Clips, pixels or latents, in the layout of 3D convolutions, augmented if the configuration says so."""
    if config.augment:
        clips = augment(clips, generator, colour=config.of_pixels)
    return rearrange(clips, "b t c h w -> b c t h w")


def init_kaiming_(module: nn.Module) -> None:
    """Initialise all 2D and 3D convolutions so that they preserve variance (Kaiming, for leaky ReLU of slope 0.2)."""
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(convolution.weight, 0.2)
