"""VGAN: a moving foreground over a still background (Vondrick et al., NIPS 2016, arXiv 1609.02612).

Two streams turn a latent code into a clip: 3D transposed convolutions make the foreground and its mask, 2D ones the
background of all frames (section 3.1). The critic is a 3D convolutional network over clips.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.config import MOST_CHANNELS, check_ranges
from kinema.family import LatentFamily, Turn
from kinema.nn.adversarial import Penalty, critic_loss, generator_loss
from kinema.nn.critic import AdversarialConfig, critic_input, critic_of_clips, init_kaiming_
from kinema.nn.upconvolution import LAYERS, space_strides, time_strides, with_batch_norm
from kinema.types import Batch, Conditions, Progress, Seeds, TrainStep, no_progress

__all__ = ["VGAN", "VGANConfig"]


@dataclass(frozen=True)
class VGANConfig(AdversarialConfig):
    """The defaults are the authors' network and recipe; `kinema.presets` has others."""

    about: ClassVar[str] = (
        "A still background and what moves before it: clips of a camera that stands still, 20 minutes or more."
    )

    latent: int = 100
    """Dimensions of the latent code, drawn once for each clip."""
    ngf: int = 64
    """Channels of both streams before their output layers."""
    sparsity: float = 0.1
    """Weight of the mask's mean in the generator's loss, which leaves static parts to the background."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, latent=(1, MOST_CHANNELS), ngf=(1, MOST_CHANNELS), sparsity=(0.0, 1e6))

    def build(self) -> VGAN:
        """The untrained model."""
        return VGAN(self)


@dataclass(frozen=True, slots=True)
class Layers:
    """The outputs of the two streams."""

    foreground: Float[Tensor, "B T C h w"]  # pixels in [-1, 1], or latents
    mask: Float[Tensor, "B T 1 h w"]  # opacity of the foreground, in [0, 1]
    background: Float[Tensor, "B 1 C h w"]  # the same in all frames

    def composed(self) -> Float[Tensor, "B T C h w"]:
        """The clips (section 3.1); latents of a linear codec are composed as pixels are."""
        return self.mask * self.foreground + (1 - self.mask) * self.background


class Generator(nn.Module):
    """A latent code to a foreground, a mask and a background (section 3.1)."""

    def __init__(self, config: VGANConfig, frames: int, height: int, width: int) -> None:
        super().__init__()
        self.latent = config.latent
        first, in_time = time_strides(frames)
        in_space, base, channels = space_strides(config.space), (height // 16, width // 16), config.latents[1]
        widths = [config.ngf * m for m in (8, 4, 2, 1)]

        def larger(i: int, o: int, layer: int, bias: bool = False) -> nn.ConvTranspose3d:
            time, space = in_time[layer], in_space[layer]
            return nn.ConvTranspose3d(i, o, (2 + time, 2 + space, 2 + space), (time, space, space), 1, bias=bias)

        def larger_frame(i: int, o: int, layer: int, bias: bool = False) -> nn.ConvTranspose2d:
            return nn.ConvTranspose2d(i, o, 2 + in_space[layer], in_space[layer], 1, bias=bias)

        moving = [
            nn.ConvTranspose3d(config.latent, widths[0], (first, *base), bias=False),
            *(larger(i, o, layer) for layer, (i, o) in enumerate(pairwise(widths))),
        ]
        still = [
            nn.ConvTranspose2d(config.latent, widths[0], base, bias=False),
            *(larger_frame(i, o, layer) for layer, (i, o) in enumerate(pairwise(widths))),
        ]
        # foreground and mask share all but the last layer, so that one layer with one more channel does for both
        self.channels, last = channels, LAYERS - 1
        self.moving = nn.Sequential(*with_batch_norm(moving), larger(widths[-1], channels + 1, last, bias=True))
        self.still = nn.Sequential(*with_batch_norm(still), larger_frame(widths[-1], channels, last, bias=True))
        self.of_pixels = config.of_pixels

    def forward(self, latent: Float[Tensor, "B D"]) -> Layers:
        """The layers of one clip for each code, in float32: bfloat16 would round them out of range."""
        moving = rearrange(self.moving(rearrange(latent, "b d -> b d 1 1 1")), "b c t h w -> b t c h w")
        # contiguous: elementwise operations on slices of channels-last memory take twice as long
        foreground, mask = (part.contiguous().float() for part in moving.split([self.channels, 1], 2))
        background = rearrange(self.still(rearrange(latent, "b d -> b d 1 1")).float(), "b c h w -> b 1 c h w")
        if self.of_pixels:
            foreground, background = foreground.tanh(), background.tanh()
        return Layers(foreground, mask.sigmoid(), background)


class VGAN(LatentFamily):
    """Generative adversarial network with a moving foreground and a still background; it takes no conditions."""

    accepts = frozenset()
    streams = frozenset({"clip"})  # one code determines both content and motion

    generator: Generator

    def __init__(self, config: VGANConfig) -> None:
        super().__init__(config)
        frames, height, width = config.critic_sizes()
        self.config = config
        self.max_frames = frames
        self.generator = Generator(config, frames, height, width)
        channels = config.latents[1]
        self.critic = critic_of_clips(channels, config.ndf, frames, height, width, config.norm, config.space)
        init_kaiming_(self.critic)
        self.penalty = Penalty(config.penalty, config.penalty_decay_steps)

    def turns(self) -> Sequence[Turn]:
        """The critic, then the generator against it (equation 1)."""
        return (
            Turn("critic", self.critic, self._critic_loss),
            Turn("generator", self.generator, self._generator_loss),
        )

    def _sample(self, real: Tensor, generator: torch.Generator) -> Layers:
        """Generated clips, as many as real ones."""
        return self.generator(torch.randn(len(real), self.generator.latent, generator=generator, device=real.device))

    def _critic_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator, clips = step.generator, self.latents_of(batch)
        with torch.no_grad():
            generated = self._sample(clips, generator).composed()
        real, fake = (critic_input(x, generator, self.config) for x in (clips, generated))
        critic = partial(self.critic, generator=generator)
        loss = critic_loss(self.config.loss, critic(real), critic(fake))
        return loss + self.penalty(critic, real, fake, step.index, clips.shape[1]), {"critic": loss}

    def _generator_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator, clips = step.generator, self.latents_of(batch)
        layers = self._sample(clips, generator)

        def logits(clips: Tensor) -> Tensor:
            return self.critic(critic_input(clips, generator, self.config), generator)

        loss = generator_loss(self.config.loss, logits(layers.composed()), lambda: logits(clips))
        mask = layers.mask.mean()  # its L1 norm, by pixel (section 3.1)
        return loss + self.config.sparsity * mask, {"generator": loss, "mask": mask}

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the first `frames` of the T frames, which are all generated at once."""
        self.check_conditions(conditions)
        device = next(self.generator.parameters()).device
        latent = seeds.stream("clip").normal(self.generator.latent, device=device)
        clips = self.generator(latent).composed()[:, :frames]
        yield clips if self.codec is None else self.codec.decode(clips)[0]
