"""VGAN: a moving foreground over a still background (Vondrick et al., NIPS 2016, arXiv 1609.02612).

Two streams turn a latent code into a clip: 3D transposed convolutions make the foreground and its mask, 2D ones the
background of all frames (section 3.1). The critic is a 3D convolutional network over clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.family import Family, Turn
from kinema.nn.adversarial import Penalty, critic_loss, generator_loss
from kinema.nn.critic import AdversarialConfig, critic_input, critic_of_clips, init_kaiming_
from kinema.nn.upconvolution import time_strides, with_batch_norm
from kinema.types import Batch, Conditions, Progress, Seeds, TrainStep, no_progress

__all__ = ["VGAN", "VGANConfig"]


@dataclass(frozen=True)
class VGANConfig(AdversarialConfig):
    """The defaults are the authors' network and recipe; `kinema.presets` has others."""

    latent: int = 100
    """Dimensions of the latent code, drawn once for each clip."""
    ngf: int = 64
    """Channels of both streams before their output layers."""
    sparsity: float = 0.1
    """Weight of the mask's mean in the generator's loss, which leaves static parts to the background."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.latent, self.ngf) < 1 or self.sparsity < 0:
            raise ValueError("vgan: latent and ngf must be at least 1 and sparsity must not be negative")

    def build(self) -> VGAN:
        """The untrained model."""
        return VGAN(self)


@dataclass(frozen=True, slots=True)
class Layers:
    """The outputs of the two streams."""

    foreground: Float[Tensor, "B T 3 H W"]  # in [-1, 1]
    mask: Float[Tensor, "B T 1 H W"]  # opacity of the foreground, in [0, 1]
    background: Float[Tensor, "B 1 3 H W"]  # in [-1, 1], the same in all frames

    def composed(self) -> Float[Tensor, "B T 3 H W"]:
        """The clips, in [-1, 1] (section 3.1)."""
        return self.mask * self.foreground + (1 - self.mask) * self.background


class Generator(nn.Module):
    """A latent code to a foreground, a mask and a background (section 3.1)."""

    def __init__(self, config: VGANConfig, frames: int, height: int, width: int) -> None:
        super().__init__()
        self.latent = config.latent
        first, strides = time_strides(frames)
        base = (height // 16, width // 16)
        widths = [config.ngf * m for m in (8, 4, 2, 1)]
        pairs = list(pairwise(widths))
        moving = [
            nn.ConvTranspose3d(config.latent, widths[0], (first, *base), bias=False),
            *(
                nn.ConvTranspose3d(i, o, (2 + stride, 4, 4), (stride, 2, 2), 1, bias=False)
                for (i, o), stride in zip(pairs, strides, strict=False)
            ),
        ]
        still = [
            nn.ConvTranspose2d(config.latent, widths[0], base, bias=False),
            *(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False) for i, o in pairs),
        ]
        # foreground and mask share all but the last layer, so that one layer with 4 channels does for both
        colours_and_mask = nn.ConvTranspose3d(widths[-1], 4, (2 + strides[-1], 4, 4), (strides[-1], 2, 2), 1)
        self.moving = nn.Sequential(*with_batch_norm(moving), colours_and_mask)
        self.still = nn.Sequential(*with_batch_norm(still), nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh())

    def forward(self, latent: Float[Tensor, "B D"]) -> Layers:
        """The layers of one clip for each code, in float32: bfloat16 would round them out of range."""
        moving = rearrange(self.moving(rearrange(latent, "b d -> b d 1 1 1")), "b c t h w -> b t c h w")
        # contiguous: elementwise operations on slices of channels-last memory take twice as long
        colours, mask = (part.contiguous().float() for part in moving.split([3, 1], 2))
        background = self.still(rearrange(latent, "b d -> b d 1 1")).float()
        return Layers(colours.tanh(), mask.sigmoid(), rearrange(background, "b c h w -> b 1 c h w"))


class VGAN(Family):
    """Generative adversarial network with a moving foreground and a still background; it takes no conditions."""

    accepts = frozenset()
    streams = frozenset({"clip"})  # one code determines both content and motion

    generator: Generator

    def __init__(self, config: VGANConfig) -> None:
        super().__init__()
        frames, height, width = config.critic_sizes()
        self.config = config
        self.max_frames = frames
        self.generator = Generator(config, frames, height, width)
        self.critic = critic_of_clips(3, config.ndf, frames, height, width, config.norm)
        init_kaiming_(self.critic)
        self.penalty = Penalty(config.penalty, config.penalty_decay_steps)

    def turns(self) -> Sequence[Turn]:
        """The critic, then the generator against it (equation 1)."""
        return (
            Turn("critic", self.critic, self._critic_loss),
            Turn("generator", self.generator, self._generator_loss),
        )

    def _sample(self, batch: Batch, generator: torch.Generator) -> Layers:
        """Generated clips, as many as in `batch`."""
        size, device = len(batch.frames), batch.frames.device
        return self.generator(torch.randn(size, self.generator.latent, generator=generator, device=device))

    def _critic_input(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        return critic_input(clips, generator, self.config.augment)

    def _critic_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator = step.generator
        with torch.no_grad():
            clips = self._sample(batch, generator).composed()
        real, fake = self._critic_input(batch.frames, generator), self._critic_input(clips, generator)
        critic = partial(self.critic, generator=generator)
        loss = critic_loss(self.config.loss, critic(real), critic(fake))
        return loss + self.penalty(critic, real, fake, step.index, batch.frames.shape[1]), {"critic": loss}

    def _generator_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator = step.generator
        layers = self._sample(batch, generator)
        on_fake = self.critic(self._critic_input(layers.composed(), generator), generator)
        loss = generator_loss(
            self.config.loss, on_fake, lambda: self.critic(self._critic_input(batch.frames, generator), generator)
        )
        mask = layers.mask.mean()  # its L1 norm, by pixel (section 3.1)
        return loss + self.config.sparsity * mask, {"generator": loss, "mask": mask}

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the first `frames` of the T frames, which are all generated at once."""
        self.check_conditions(conditions)
        device = next(self.generator.parameters()).device
        latent = seeds.stream("clip").normal(self.generator.latent, device=device)
        yield self.generator(latent).composed()[:, :frames]
