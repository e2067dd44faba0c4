"""Video VAE: a causal codec of clips, as continuous latents or tokens for other families to model.

An autoencoder of causal 3D convolutions with one of two bottlenecks: Gaussian latents for diffusion (Kingma and Welling
2014, arXiv 1312.6114; with a small KL weight as in latent diffusion, arXiv 2112.10752, section 3.1) or finite scalar
quantization for tokens (arXiv 2309.15505). The first frame is coded on its own, then groups of `time` frames, as in
MAGVIT-v2 (arXiv 2310.05737, section 3.2), so an image is a video of one frame.

- Space to depth: 2x2 or 4x4 pixels are folded into channels at the input and unfolded at the output (arXiv 1609.05158,
  section 2.2). At full resolution, layers work on single frames. Then the frames of a group are folded into channels
  too, so that lower resolutions work at the latents' rate. The first frame is repeated to make a group.
- Strided convolutions halve the height and width and double the channels; the decoder upsamples by depth to space. It
  has twice the encoder's blocks, as it has to generate detail.
- Normalisation is over channels, and only 3x3x3 convolutions mix frames. So coding a video chunk by chunk equals coding
  it at once, and the inputs that these convolutions keep are the whole state.

A perceptual loss is added if its weights are given, and an adversarial loss if `adversarial` is above 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.codecs.causal import CausalConv3d, ChannelNorm, ConvCache
from kinema.conditions.known import first_known
from kinema.config import MOST_CHANNELS, check_number, check_ranges
from kinema.family import Codec, Family, FamilyConfig, Turn
from kinema.nn.adversarial import Penalty, critic_loss, generator_loss
from kinema.nn.critic import critic_of_clips, init_kaiming_
from kinema.nn.fsq import FSQ
from kinema.nn.perceptual import perceptual_loss
from kinema.nn.reconstruction import PixelLoss, gradient_difference, pixel_loss
from kinema.types import Batch, ClipSpec, Conditions, Progress, RandomStream, Seeds, TrainStep, no_progress

__all__ = ["VideoVAE", "VideoVAEConfig"]

ENCODER, DECODER = 1, 2  # residual blocks at each resolution
CHUNK = 4  # latents in time that `generate` decodes at once: memory does not grow with the clip
NARROW = 6.0  # subtracted from the log-variance: an initial posterior as wide as the prior would be all noise
MOST_TOKENS = 2**24  # of a vocabulary
MOMENTUM = 0.05  # of the latents' running mean and variance


@dataclass(frozen=True)
class VideoVAEConfig(FamilyConfig):
    """The defaults are for clips of 64x64 on a laptop: 17 frames are 5x8x8 latents of 16 channels."""

    about: ClassVar[str] = (
        "A trained codec: what latent-dit and token-transformer work in; clips of the same kind, 5 minutes or more."
    )

    space: int = 8
    """Spatial compression, pixels to a latent in height and in width: 4, 8 or 16."""
    time: int = 4
    """Temporal compression, frames to a latent after the first frame: 1, 2 or 4."""
    channels: int = 16
    """Channels of a Gaussian latent; unused with `levels`."""
    levels: tuple[int, ...] = ()
    """Levels of each channel of a token, 3 or more (8 5 5 5: a vocabulary of 1,000); none: Gaussian latents."""
    fold: int = 2
    """Side of the pixel blocks that are folded into channels, 2 or 4 but less than `space`; 4 is cheaper."""
    hidden: int = 32
    """Channels at full resolution, doubled at each halving of it; decides most of a step's cost."""
    pixel: PixelLoss = "mse"
    """The pixel loss, also of pixel gradients; "l1" is sharper, but may get stuck at drawing the background alone."""
    gradient: float = 1.0
    """Weight of the gradient difference loss, which sharpens edges and corners."""
    perceptual: str | None = None
    """A file of VGG16's weights for a perceptual loss (LPIPS); `nn/perceptual.py` describes it."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual loss."""
    kl: float = 1e-4
    """Weight of the KL divergence of Gaussian latents from the prior, a mean over their values."""
    noise: float = 0.0
    """The highest standard deviation of noise added to Gaussian latents in training, uniform in [0, noise] for each
    clip, so that the decoder tolerates errors of the model of the latents (Zheng et al. 2025, arXiv 2510.11690)."""
    adversarial: float = 0.0
    """Weight of an adversarial loss with a critic of clips (0: no critic), which sharpens reconstructions."""
    ndf: int = 16
    """Channels of the critic after its input layer."""
    penalty: float = 1.0
    """Weight of the critic's R1 and R2 gradient penalties, for an image; a clip of T frames has T times that."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space not in (4, 8, 16) or self.time not in (1, 2, 4):
            raise ValueError(
                f"video-vae: space must be 4, 8 or 16 and time 1, 2 or 4, not {self.space} and {self.time}"
            )
        if self.fold not in (2, 4) or self.fold >= self.space:
            raise ValueError(f"video-vae: fold must be 2 or 4 and less than space, not {self.fold}")
        channels, weight = (1, MOST_CHANNELS), (0.0, 1e6)
        check_ranges(
            self,
            channels=channels,
            levels=(3, 2**16),
            hidden=channels,
            gradient=weight,
            perceptual_weight=weight,
            kl=weight,
            noise=(0.0, 1e3),
            adversarial=weight,
            ndf=channels,
            penalty=weight,
        )
        if self.levels:
            check_number("the vocabulary, the product of levels,", prod(self.levels), 3, MOST_TOKENS)

    def fitted(self, spec: ClipSpec) -> VideoVAEConfig:
        """The configuration for these clips; raises ValueError unless frames after the first make complete groups."""
        if remainder := (spec.frames - 1) % self.time:
            raise ValueError(
                f"video-vae: a clip is 1 frame and then groups of {self.time}, so {spec.frames} frames cannot be "
                f"trained on: make --data.frames {spec.frames - remainder} or {spec.frames - remainder + self.time}"
            )
        side = max(
            self.space, 16 if self.adversarial or self.perceptual else 8
        )  # the losses and the critic halve the sides so often
        if spec.height % side or spec.width % side:
            raise ValueError(
                f"video-vae: height and width must be multiples of {side}, not {spec.height} and {spec.width}: "
                "choose others with --data.height and --data.width"
            )
        return super().fitted(spec)

    def portable(self) -> VideoVAEConfig:
        """The same configuration without paths of this machine."""
        return replace(self, perceptual=None)

    def for_inference(self) -> VideoVAEConfig:
        """The same configuration without critic and perceptual loss, and for clips of any size."""
        return replace(self, frames=None, height=None, width=None, perceptual=None, adversarial=0.0)

    def build(self) -> VideoVAE:
        """The untrained model."""
        return VideoVAE(self)

    @property
    def latent_channels(self) -> int:
        """C."""
        return len(self.levels) or self.channels

    @property
    def widths(self) -> list[int]:
        """Channels at each resolution, the highest first."""
        return [self.hidden * 2**halvings for halvings in range((self.space // self.fold).bit_length())]


class Block(nn.Module):
    """A residual block: a causal convolution, or a spatial one if `spatial_only`, and then a spatial one."""

    def __init__(self, channels: int, spatial_only: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ChannelNorm(channels), ChannelNorm(channels)])
        self.first = _spatial(channels, channels) if spatial_only else CausalConv3d(channels, channels)
        self.second = _spatial(channels, channels)

    def forward(self, x: Tensor, cache: ConvCache) -> Tensor:
        change = F.silu(self.norms[0](x))
        change = self.first(change, cache) if isinstance(self.first, CausalConv3d) else self.first(change)
        return x + self.second(F.silu(self.norms[1](change)))


class Blocks(nn.ModuleList):
    """Residual blocks, one after another."""

    def forward(self, x: Tensor, cache: ConvCache) -> Tensor:
        for block in self:
            x = block(x, cache)
        return x


class Encoder(nn.Module):
    """Frames [B, T, 3, H, W] to inputs [B, L, outputs, h, w] of the bottleneck."""

    def __init__(self, config: VideoVAEConfig, outputs: int) -> None:
        super().__init__()
        (largest, *widths), self.time, self.fold = config.widths, config.time, config.fold
        self.first = _spatial(3 * config.fold**2, largest)
        self.frame_blocks = Blocks(Block(largest, spatial_only=True) for _ in range(ENCODER))
        grouped = [config.time * largest, *widths]
        self.down = nn.ModuleList(_spatial(i, o, 2) for i, o in pairwise(grouped))
        self.blocks = nn.ModuleList(Blocks(Block(width) for _ in range(ENCODER)) for width in widths)
        self.last = nn.Sequential(ChannelNorm(widths[-1]), nn.SiLU(), nn.Conv3d(widths[-1], outputs, 1))

    def forward(self, frames: Tensor, cache: ConvCache) -> Tensor:
        folded = rearrange(frames, "b t c (h p) (w q) -> b t h w (p q c)", p=self.fold, q=self.fold)
        x = self.frame_blocks(self.first(folded.movedim(-1, 1)), cache)
        if cache.is_start:
            x = torch.cat([*[x[:, :, :1]] * (self.time - 1), x], 2)
        x = rearrange(x, "b c (l t) h w -> b l h w (t c)", t=self.time).movedim(-1, 1)
        for down, blocks in zip(self.down, self.blocks, strict=True):
            x = blocks(down(x), cache)
        return self.last(x).transpose(1, 2)


class Decoder(nn.Module):
    """Latents [B, L, C, h, w] to frames [B, T, 3, H, W], in about [-1, 1]."""

    def __init__(self, config: VideoVAEConfig, channels: int) -> None:
        super().__init__()
        (largest, *widths), self.time, self.fold = config.widths, config.time, config.fold
        widths.reverse()
        self.first = CausalConv3d(channels, widths[0])
        self.blocks = nn.ModuleList(Blocks(Block(width) for _ in range(DECODER)) for width in widths)
        self.up = nn.ModuleList(_spatial(i, 4 * o) for i, o in pairwise([*widths, config.time * largest]))
        self.frame_blocks = Blocks(Block(largest, spatial_only=True) for _ in range(DECODER))
        self.last = nn.Sequential(ChannelNorm(largest), nn.SiLU(), _spatial(largest, 3 * config.fold**2))

    def forward(self, latents: Tensor, cache: ConvCache) -> Tensor:
        x = self.first(latents.transpose(1, 2), cache)
        for blocks, up in zip(self.blocks, self.up, strict=True):  # rearranged channels-last, as in memory
            x = rearrange(up(blocks(x, cache)), "b (p q c) l h w -> b l (h p) (w q) c", p=2, q=2).movedim(-1, 1)
        x = rearrange(x, "b (t c) l h w -> b (l t) h w c", t=self.time).movedim(-1, 1)
        x = self.frame_blocks(x[:, :, self.time - 1 :] if cache.is_start else x, cache)
        return rearrange(self.last(x), "b (p q c) t h w -> b t c (h p) (w q)", p=self.fold, q=self.fold)


def _spatial(inputs: int, outputs: int, stride: int = 1) -> nn.Conv3d:
    """A convolution over 3x3 pixels of each frame."""
    return nn.Conv3d(inputs, outputs, (1, 3, 3), (1, stride, stride), (0, 1, 1))


class Standardised(nn.BatchNorm3d):
    """Standardises each channel of [B, L, C, h, w] to mean 0 and variance 1 (batch norm, arXiv 1502.03167, no affine).

    By the batch's statistics in training and running ones after it. Without it the variance between latents is small
    beside their mean, and the codec of clips that are mostly background learns to draw nothing else.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=MOMENTUM, affine=False)

    def forward(self, x: Float[Tensor, "B L C h w"]) -> Float[Tensor, "B L C h w"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`x` standardised, float32."""
        return super().forward(x.float().transpose(1, 2)).transpose(1, 2)


class Gaussian(nn.Module):
    """Latents with a standard normal prior."""

    def __init__(self, channels: int, noise: float = 0.0) -> None:
        super().__init__()
        self.channels, self.reads, self.noise = channels, 2 * channels, noise
        self.norm = Standardised(channels)

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """A sample of the posterior and its KL divergence from the prior, in nats, a mean over the latents' values."""
        mean, log_variance = x.float().chunk(2, 2)
        mean, log_variance = self.norm(mean), (log_variance - NARROW).clamp(-20, 10)
        variance = log_variance.exp()
        kl = (mean.square() + variance - 1 - log_variance).mean() / 2
        if self.noise:
            level = torch.rand(len(mean), 1, 1, 1, 1, generator=generator, device=mean.device)
            variance = variance + (self.noise * level).square()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + variance.sqrt() * noise, {"kl": kl}

    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean."""
        return self.norm(x.chunk(2, 2)[0])

    def sample(self, noise: RandomStream, length: int, height: int, width: int, device: torch.device) -> Tensor:
        """The next latents from the prior."""
        return noise.normal(length, self.channels, height, width, device=device)


class Quantized(nn.Module):
    """Latents that are the codes of tokens, with a uniform prior."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.channels = self.reads = len(levels)
        self.fsq, self.norm = FSQ(levels), Standardised(len(levels))

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The codes; there is no loss."""
        return self.encode(x), {}

    def encode(self, x: Tensor) -> Tensor:
        """The codes."""
        return self.fsq(self.norm(x))

    def sample(self, noise: RandomStream, length: int, height: int, width: int, device: torch.device) -> Tensor:
        """The codes of the next uniformly random tokens."""
        return self.fsq.codes(noise.integers(self.fsq.vocabulary, length, height, width, device=device))


class Generator(nn.Module):
    """Encoder, bottleneck and decoder; all are needed to sample a clip from known frames."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.bottleneck = Quantized(config.levels) if config.levels else Gaussian(config.channels, config.noise)
        self.encoder = Encoder(config, self.bottleneck.reads)
        self.decoder = Decoder(config, self.bottleneck.channels)

    def forward(
        self, frames: Float[Tensor, "B T 3 H W"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B T 3 H W"], dict[str, Tensor]]:
        """Reconstructions of complete clips, not clamped to [-1, 1], and the losses of the bottleneck."""
        latents, losses = self.bottleneck(self.encoder(frames, ConvCache()), generator)
        return self.decoder(latents, ConvCache()).float(), losses


class VideoVAE(Codec, Family):
    """A causal video autoencoder; `generate` decodes latents from its prior, which do not make realistic clips.

    Latents are standardised by channel. With `levels` they are the codes of tokens, which `generator.bottleneck.fsq`
    converts.
    """

    accepts = frozenset({"known", "mask"})
    streams = frozenset({"latents"})
    reconstructs = True

    config: VideoVAEConfig
    generator: Generator

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        frames, height, width = config.required("frames", "height", "width")
        self.config, self.space, self.time = config, config.space, config.time
        self.generator = Generator(config)
        self.channels, self.levels = config.latent_channels, config.levels
        if config.adversarial:
            self.critic_frames = max(1, frames - 1)  # even, so that the critic can halve it
            self.critic = critic_of_clips(3, config.ndf, self.critic_frames, height, width, "none")
            init_kaiming_(self.critic)
            self.penalty = Penalty(config.penalty)

    def turns(self) -> Sequence[Turn]:
        """The codec, and its critic if there is one."""
        codec = Turn("generator", self.generator, self._loss)
        return (codec, Turn("critic", self.critic, self._critic_loss)) if self.config.adversarial else (codec,)

    def _loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction errors, means over pixels, and the losses of the bottleneck and against the critic."""
        config, frames, generator = self.config, batch.frames, step.generator
        decoded, scalars = self.generator(frames, generator)
        scalars["pixel"] = pixel_loss(config.pixel, decoded, frames).mean()
        total = scalars["pixel"] + config.kl * scalars.get("kl", 0.0)
        if config.gradient:
            scalars["gradient"] = gradient_difference(config.pixel, decoded, frames).mean()
            total = total + config.gradient * scalars["gradient"]
        if config.perceptual:
            scalars["perceptual"] = perceptual_loss(config.perceptual, decoded, frames, generator)
            total = total + config.perceptual_weight * scalars["perceptual"]
        if config.adversarial:
            real, fake = self._critic_inputs(frames, decoded, step)
            critic = partial(self.critic, generator=generator)
            scalars["generator"] = generator_loss("relativistic", critic(fake), lambda: critic(real))
            total = total + config.adversarial * scalars["generator"]
        return total, scalars

    def _critic_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator = step.generator
        with torch.no_grad():
            decoded, _ = self.generator(batch.frames, generator)
        real, fake = self._critic_inputs(batch.frames, decoded, step)
        critic = partial(self.critic, generator=generator)
        loss = critic_loss("relativistic", critic(real), critic(fake))
        return loss + self.penalty(critic, real, fake, step.index, self.critic_frames), {"critic": loss}

    def _critic_inputs(self, frames: Tensor, decoded: Tensor, step: TrainStep) -> tuple[Tensor, Tensor]:
        """Clips and reconstructions in the critic's layout, without either the first or the last frame, at random."""
        first = int(torch.randint(frames.shape[1] - self.critic_frames + 1, (), generator=step.shared))
        real, fake = (x[:, first : first + self.critic_frames] for x in (frames, decoded))
        return rearrange(real, "b t c h w -> b c t h w"), rearrange(fake, "b t c h w -> b c t h w")

    def conditions_from(self, batch: Batch) -> Conditions:
        """All frames of real clips as known ones, which `generate` decodes."""
        return Conditions().with_first_frames(batch.frames)

    def inference_state(self) -> dict[str, Tensor]:
        """The weights of encoder, bottleneck and decoder."""
        return self.generator.state_dict()

    def load_inference_state(self, weights: dict[str, Tensor]) -> None:
        """Load the weights of an `inference_state`; raises RuntimeError if they do not fit."""
        self.generator.load_state_dict(weights)

    def encode(
        self, frames: Float[Tensor, "B T 3 H W"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B L C h w"], tuple[Tensor, ...]]:
        """The latents of the next frames and the state after them; see `Codec.encode`."""
        self.check_chunk(frames, state)
        cache = ConvCache(state, keep=True)
        return self.generator.bottleneck.encode(self.generator.encoder(frames, cache)), cache.state

    def decode(
        self, latents: Float[Tensor, "B L C h w"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B T 3 H W"], tuple[Tensor, ...]]:
        """The frames of the next latents and the state after them; see `Codec.decode`."""
        cache = ConvCache(state, keep=True)
        frames = self.generator.decoder(latents, cache)
        return frames.float().clamp(-1, 1), cache.state

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the known first frames as the codec reconstructs them, then decoded latents from the prior.

        The last group of known frames is padded with copies of the last one. Raises ValueError unless `mask` is true
        in all of the first frames and nowhere else.
        """
        self.check_conditions(conditions)
        device = next(self.generator.parameters()).device
        height, width = self.config.required("height", "width")
        known = first_known("VideoVAE", conditions, len(seeds), height, width)[:, :frames].to(device)
        count, encoded, encoded_length = known.shape[1], iter(()), 0
        if count:
            encoded, encoded_length = self.encode_chunks(known.split(CHUNK * self.time, 1)), self.length(count)
        latents = chain(encoded, self._prior(seeds, self.length(frames) - encoded_length, device))
        yield from self.decode_chunks(latents, frames)

    def _prior(self, seeds: Seeds, length: int, device: torch.device) -> Iterator[Tensor]:
        """Yield latents from the prior, `length` in time."""
        height, width = (side // self.space for side in self.config.required("height", "width"))
        noise = seeds.stream("latents")
        for first in range(0, length, CHUNK):
            yield self.generator.bottleneck.sample(noise, min(CHUNK, length - first), height, width, device)
