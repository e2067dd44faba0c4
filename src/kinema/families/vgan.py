"""VGAN: a moving foreground over a still background (Vondrick et al., NIPS 2016, arXiv 1609.02612).

One latent code is turned into a clip by two streams: 3D up-convolutions draw what moves and a mask of where it is,
2D up-convolutions draw the one background of all frames (section 3.1). A 3D convolutional critic judges whole clips.
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

from kinema.family import Facts, Family, FamilyConfig, Turn
from kinema.nn.adversarial import AdversarialLoss, Penalty, critic_loss, generator_loss
from kinema.nn.critic import CriticNorm, clips_seen, critic_of_clips, keep_scale
from kinema.nn.upconvolution import normalised, time_strides
from kinema.types import Batch, Conditions, Noise

__all__ = ["VGAN", "VGANConfig"]


@dataclass(frozen=True)
class VGANConfig(FamilyConfig):
    """The defaults are the authors' network and recipe; `kinema.presets` has others."""

    frames: int | None = None
    """T, all drawn at once; taken from the clips."""
    height: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    width: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    latent: int = 100
    """Dimensions of the latent code, one draw a clip."""
    ngf: int = 64
    """Channels of both streams before their output layers."""
    ndf: int = 64
    """Channels of the critic after its input layer."""
    norm: CriticNorm = "batch"
    """Normalisation in the critic; a gradient penalty wants "none"."""
    loss: AdversarialLoss = "vanilla"
    """What the players play for; "wasserstein" wants a penalty."""
    penalty: float = 0.0
    """Weight of the R1 and R2 gradient penalties (0: none), each on a quarter of the batch; a clip's is that by T."""
    penalty_falls: int = 0
    """Steps over which that weight falls to a twentieth (0: it stays): a strong one hides small differences."""
    augment: bool = False
    """Differentiable augmentation of all that the critic sees: for a few hundred clips or fewer."""
    sparsity: float = 0.1
    """Weight of the mask's mean in the generator's loss: what need not move is left to the background."""

    def __post_init__(self) -> None:
        if min(self.latent, self.ngf, self.ndf) < 1:
            raise ValueError("vgan: latent, ngf and ndf must be at least 1")
        if min(self.penalty, self.penalty_falls, self.sparsity) < 0:
            raise ValueError("vgan: penalty, penalty_falls and sparsity must not be negative")

    def fitted(self, facts: Facts) -> VGANConfig:
        """The configuration for clips of these sizes."""
        return self.completed(frames=facts.frames, height=facts.height, width=facts.width)

    def build(self) -> VGAN:
        """The untrained model."""
        return VGAN(self)


@dataclass(frozen=True, slots=True)
class Layers:
    """What the two streams draw."""

    foreground: Float[Tensor, "B T 3 H W"]  # in [-1, 1]
    mask: Float[Tensor, "B T 1 H W"]  # in [0, 1]: how much of the foreground is seen
    background: Float[Tensor, "B 1 3 H W"]  # in [-1, 1], the same at all times

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
        # foreground and mask share all but the last layer: as one, its channels are the colours and the mask
        colours_and_mask = nn.ConvTranspose3d(widths[-1], 4, (2 + strides[-1], 4, 4), (strides[-1], 2, 2), 1)
        self.moving = nn.Sequential(*normalised(moving), colours_and_mask)
        self.still = nn.Sequential(*normalised(still), nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1), nn.Tanh())

    def forward(self, latent: Float[Tensor, "B D"]) -> Layers:
        """The layers of one clip a code, in float32: bfloat16's rounding would leave the range."""
        moving = rearrange(self.moving(rearrange(latent, "b d -> b d 1 1 1")), "b c t h w -> b t c h w")
        # contiguous: on slices of channels-last memory the arithmetic of pixels takes twice as long
        colours, mask = (part.contiguous().float() for part in moving.split([3, 1], 2))
        background = self.still(rearrange(latent, "b d -> b d 1 1")).float()
        return Layers(colours.tanh(), mask.sigmoid(), rearrange(background, "b c h w -> b 1 c h w"))


class VGAN(Family):
    """Generative adversarial network with a moving foreground and a still background; it takes no conditions."""

    accepts = frozenset()
    streams = frozenset({"clip"})  # one code decides both what is there and how it moves

    generator: Generator

    def __init__(self, config: VGANConfig) -> None:
        super().__init__()
        frames, height, width = config.filled("frames", "height", "width")
        if min(height, width) < 16 or height % 16 or width % 16:
            raise ValueError(f"vgan: height and width must be multiples of 16, not {height} and {width}")
        self.config = config
        self.longest = frames
        self.generator = Generator(config, frames, height, width)
        self.critic = critic_of_clips(3, config.ndf, frames, height, width, config.norm)
        keep_scale(self.critic)
        self.penalty = Penalty(config.penalty, config.penalty_falls)

    def turns(self) -> Sequence[Turn]:
        """The critic, then the generator against it (equation 1)."""
        return (
            Turn("critic", self.critic, self._critic_loss, self.penalty.play),
            Turn("generator", self.generator, self._generator_loss),
        )

    def _imagine(self, batch: Batch, generator: torch.Generator) -> Layers:
        """Generated clips, as many as in `batch`."""
        size, device = len(batch.frames), batch.frames.device
        return self.generator(torch.randn(size, self.generator.latent, generator=generator, device=device))

    def _seen(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        return clips_seen(clips, generator, self.config.augment)

    def _critic_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            clips = self._imagine(batch, generator).composed()
        real, fake = self._seen(batch.frames, generator), self._seen(clips, generator)
        critic = partial(self.critic, generator=generator)
        loss = critic_loss(self.config.loss, critic(real), critic(fake))
        return loss + self.penalty(critic, real, fake, batch.frames.shape[1]), {"critic": loss}

    def _generator_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        layers = self._imagine(batch, generator)
        on_fake = self.critic(self._seen(layers.composed(), generator), generator)
        loss = generator_loss(
            self.config.loss, on_fake, lambda: self.critic(self._seen(batch.frames, generator), generator)
        )
        mask = layers.mask.mean()  # its L1 norm, by pixel (section 3.1)
        return loss + self.config.sparsity * mask, {"generator": loss, "mask": mask}

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the first `frames` of the T frames that are drawn at once."""
        self.refuse_unusable(given)
        device = next(self.generator.parameters()).device
        latent = noise.normal("clip", self.generator.latent, device=device)
        yield self.generator(latent).composed()[:, :frames]
