"""Video VAE: a causal codec that turns clips into a few latents or tokens, for other families to model.

An autoencoder of 3D convolutions that see no later frame, with one of two bottlenecks: Gaussian latents for diffusion
(Kingma and Welling 2014, arXiv 1312.6114; a small weight of the divergence as in latent diffusion, arXiv 2112.10752,
section 3.1) or finite scalar quantization for tokens (arXiv 2309.15505). The first frame is coded alone and then groups
of `time` frames, as in MAGVIT-v2 (arXiv 2310.05737, section 3.2), so an image is a video of one frame.

- 2x2 or 4x4 pixels are folded into channels at the input and unfolded at the output (arXiv 1609.05158, section 2.2).
  At the largest size frames are worked on one by one, as what an edge looks like is the same in all. The frames of a
  group are then folded into channels too, so that smaller sizes work at the latents' rate. The first frame is a group
  in which it stands still.
- Sides are halved by strided convolutions and doubled by folding out, with twice the channels at half the side. The
  decoder has twice the encoder's blocks: it has detail to invent, where the encoder has only to tell it.
- Normalisation is over channels, and only 3x3x3 convolutions see other times. So a video that is coded chunk by chunk
  gives what it gives as a whole, and what they keep of a chunk is all that the next one needs.

A perceptual loss joins where there are weights for it; a critic, where asked for, judges clips and reconstructions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema import checkpoint
from kinema.config import from_dict
from kinema.family import Codec, Facts, FamilyConfig, Turn
from kinema.nn.adversarial import Penalty, critic_loss, generator_loss
from kinema.nn.causal import CausalConv3d, ChannelNorm, Past
from kinema.nn.critic import critic_of_clips, keep_scale
from kinema.nn.fsq import FSQ
from kinema.nn.known import first_known
from kinema.nn.perceptual import perceptual_loss
from kinema.nn.reconstruction import PixelLoss, gradient_difference, pixel_loss
from kinema.types import Batch, Conditions, Noise
from kinema.weights import shipped

__all__ = ["VideoVAE", "VideoVAEConfig"]

ENCODER, DECODER = 1, 2  # blocks at each size
CHUNK = 4  # latents in time that `generate` works on: memory stays the same however long the clip
NARROW = 6.0  # that a log-variance begins below the prior's, whose noise would hide what latents begin to tell
INNER = "codec.generator."  # before the names of a codec's weights in a model that has one in it
FOLLOW = 0.05  # of each training step in the latents' mean and variance


@dataclass(frozen=True)
class VideoVAEConfig(FamilyConfig):
    """The defaults are for clips of 64x64 on a laptop: 17 frames are 5x8x8 latents, a value for every 14 pixels."""

    frames: int | None = None
    """T of a training clip, 1 and a multiple of `time`; taken from the clips."""
    height: int | None = None
    """Pixels, a multiple of `space`; taken from the clips."""
    width: int | None = None
    """Pixels, a multiple of `space`; taken from the clips."""
    space: int = 8
    """Pixels of a latent's side: 4, 8 or 16."""
    time: int = 4
    """Frames of a group, which share their latents: 1, 2 or 4."""
    channels: int = 16
    """Of a Gaussian latent; of tokens, `levels` says how many there are."""
    levels: tuple[int, ...] = ()
    """Levels of each channel of a token, 3 or more (8 5 5 5: 1,000 tokens); none: Gaussian latents."""
    fold: int = 2
    """Pixels of a side that are folded into channels, 2 or 4 but less than `space`: with 4 a step costs less."""
    hidden: int = 32
    """Channels at the largest size, twice as many at each halving: most of a step's cost."""
    pixel: PixelLoss = "mse"
    """The error of the pixels and of their gradients; "l1", which is sharper, may never leave a plain background."""
    gradient: float = 1.0
    """Weight of the gradient difference loss, which keeps edges and corners."""
    perceptual: str | None = None
    """A file of VGG16's weights (`nn/perceptual.py` says which), for a loss in what that network sees of a frame."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual loss."""
    kl: float = 1e-4
    """Weight of a Gaussian latent's divergence from the prior, a mean over its values."""
    noise: float = 0.0
    """The most that Gaussian latents are noised by before they are decoded in training, each clip's by a part of it, so
    that what another family models not quite right is still drawn whole (Zheng et al. 2025, arXiv 2510.11690)."""
    adversarial: float = 0.0
    """Weight of the loss against a critic of clips (0: no critic), which sharpens what is left blurred."""
    ndf: int = 16
    """Channels of the critic after its input layer."""
    penalty: float = 1.0
    """Weight of the critic's R1 and R2 gradient penalties, each on a quarter of the batch; a clip's is that by T."""

    def __post_init__(self) -> None:
        if self.space not in (4, 8, 16) or self.time not in (1, 2, 4):
            raise ValueError(
                f"video-vae: space must be 4, 8 or 16 and time 1, 2 or 4, not {self.space} and {self.time}"
            )
        if self.fold not in (2, 4) or self.fold >= self.space:
            raise ValueError(f"video-vae: fold must be 2 or 4 and less than space, not {self.fold}")
        if min(self.channels, self.hidden, self.ndf) < 1 or any(level < 3 for level in self.levels):
            raise ValueError("video-vae: channels, hidden and ndf must be at least 1, levels at least 3")
        if min(self.gradient, self.perceptual_weight, self.kl, self.noise, self.adversarial, self.penalty) < 0:
            raise ValueError(
                "video-vae: gradient, perceptual_weight, kl, noise, adversarial and penalty must not be negative"
            )

    def fitted(self, facts: Facts) -> VideoVAEConfig:
        """The configuration for clips of these sizes, whose frames after the first must be whole groups."""
        if over := (facts.frames - 1) % self.time:
            raise ValueError(
                f"video-vae: a clip is 1 frame and then groups of {self.time}, so {facts.frames} frames cannot be "
                f"trained on: make --data.frames {facts.frames - over} or {facts.frames - over + self.time}"
            )
        side = max(self.space, 16 if self.adversarial or self.perceptual else 8)  # so many halvings have a pixel left
        if facts.height % side or facts.width % side:
            raise ValueError(
                f"video-vae: height and width must be multiples of {side}, not {facts.height} and {facts.width}: "
                "choose others with --data.height and --data.width"
            )
        return self.completed(frames=facts.frames, height=facts.height, width=facts.width)

    def build(self) -> VideoVAE:
        """The untrained model."""
        return VideoVAE(self)

    @staticmethod
    def of(path: str, facts: Facts) -> VideoVAEConfig:
        """The configuration of a trained codec, for clips of other sizes too; raises ValueError where there is none.

        `path` is a run's folder, a checkpoint, a file or the name of a model that ships: of a codec, or of a model with
        one in it.
        """
        values = checkpoint.load_generator(shipped().get(path, path))[0].get("family", {})
        family = dict(values.get("coded") or values)
        if (name := family.pop("name", "video-vae")) != "video-vae":
            raise ValueError(f"{path} holds a model of {name}: a codec is trained with kinema train video-vae")
        config = from_dict(VideoVAEConfig, family, f"{path}: family")
        return replace(config, frames=None, height=None, width=None, perceptual=None).fitted(facts)

    @property
    def widths(self) -> list[int]:
        """Channels at each size, the largest first."""
        return [self.hidden * 2**halvings for halvings in range((self.space // self.fold).bit_length())]


class Block(nn.Module):
    """A residual block: a convolution over time and space, or if `apart` over space alone, and one over space."""

    def __init__(self, channels: int, apart: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList([ChannelNorm(channels), ChannelNorm(channels)])
        self.first = _spatial(channels, channels) if apart else CausalConv3d(channels, channels)
        self.second = _spatial(channels, channels)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        change = F.silu(self.norms[0](x))
        change = self.first(change, past) if isinstance(self.first, CausalConv3d) else self.first(change)
        return x + self.second(F.silu(self.norms[1](change)))


class Blocks(nn.ModuleList):
    """Residual blocks, one after another."""

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for block in self:
            x = block(x, past)
        return x


class Encoder(nn.Module):
    """Frames [B, T, 3, H, W] to what the bottleneck reads [B, L, outputs, h, w]."""

    def __init__(self, config: VideoVAEConfig, outputs: int) -> None:
        super().__init__()
        (largest, *widths), self.time, self.fold = config.widths, config.time, config.fold
        self.first = _spatial(3 * config.fold**2, largest)
        self.apart = Blocks(Block(largest, apart=True) for _ in range(ENCODER))
        grouped = [config.time * largest, *widths]
        self.down = nn.ModuleList(_spatial(i, o, 2) for i, o in pairwise(grouped))
        self.blocks = nn.ModuleList(Blocks(Block(width) for _ in range(ENCODER)) for width in widths)
        self.last = nn.Sequential(ChannelNorm(widths[-1]), nn.SiLU(), nn.Conv3d(widths[-1], outputs, 1))

    def forward(self, frames: Tensor, past: Past) -> Tensor:
        folded = rearrange(frames, "b t c (h p) (w q) -> b t h w (p q c)", p=self.fold, q=self.fold)
        x = self.apart(self.first(folded.movedim(-1, 1)), past)
        if past.begins:
            x = torch.cat([*[x[:, :, :1]] * (self.time - 1), x], 2)
        x = rearrange(x, "b c (l t) h w -> b l h w (t c)", t=self.time).movedim(-1, 1)
        for down, blocks in zip(self.down, self.blocks, strict=True):
            x = blocks(down(x), past)
        return self.last(x).transpose(1, 2)


class Decoder(nn.Module):
    """Latents [B, L, C, h, w] to frames [B, T, 3, H, W], about in [-1, 1]."""

    def __init__(self, config: VideoVAEConfig, channels: int) -> None:
        super().__init__()
        (largest, *widths), self.time, self.fold = config.widths, config.time, config.fold
        widths.reverse()
        self.first = CausalConv3d(channels, widths[0])
        self.blocks = nn.ModuleList(Blocks(Block(width) for _ in range(DECODER)) for width in widths)
        self.up = nn.ModuleList(_spatial(i, 4 * o) for i, o in pairwise([*widths, config.time * largest]))
        self.apart = Blocks(Block(largest, apart=True) for _ in range(DECODER))
        self.last = nn.Sequential(ChannelNorm(largest), nn.SiLU(), _spatial(largest, 3 * config.fold**2))

    def forward(self, latents: Tensor, past: Past) -> Tensor:
        x = self.first(latents.transpose(1, 2), past)
        for blocks, up in zip(self.blocks, self.up, strict=True):  # channels last, as they are in memory
            x = rearrange(up(blocks(x, past)), "b (p q c) l h w -> b l (h p) (w q) c", p=2, q=2).movedim(-1, 1)
        x = rearrange(x, "b (t c) l h w -> b (l t) h w c", t=self.time).movedim(-1, 1)
        x = self.apart(x[:, :, self.time - 1 :] if past.begins else x, past)
        return rearrange(self.last(x), "b (p q c) t h w -> b t c (h p) (w q)", p=self.fold, q=self.fold)


def _spatial(inputs: int, outputs: int, stride: int = 1) -> nn.Conv3d:
    """A convolution of 3x3 pixels of each time."""
    return nn.Conv3d(inputs, outputs, (1, 3, 3), (1, stride, stride), (0, 1, 1))


class Standardised(nn.BatchNorm3d):
    """Each channel of [B, L, C, h, w] with mean 0 and deviation 1 (Ioffe and Szegedy 2015, arXiv 1502.03167).

    In training those of the batch, then those that training has seen. Without it what latents tell is little beside
    what they have in common, and where most of a clip is background a codec learns to draw that alone.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=FOLLOW, affine=False)

    def forward(self, x: Float[Tensor, "B L C h w"]) -> Float[Tensor, "B L C h w"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`x` standardised, float32."""
        return super().forward(x.float().transpose(1, 2)).transpose(1, 2)


class Gaussian(nn.Module):
    """Latents with a standard normal prior."""

    def __init__(self, channels: int, noise: float = 0.0) -> None:
        super().__init__()
        self.channels, self.reads, self.noise = channels, 2 * channels, noise
        self.norm = Standardised(channels)

    def forward(self, read: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """A draw from the posterior, and its divergence from the prior, the mean over a latent's values in nats."""
        mean, log_variance = read.float().chunk(2, 2)
        mean, log_variance = self.norm(mean), (log_variance - NARROW).clamp(-20, 10)
        variance = log_variance.exp()
        kl = (mean.square() + variance - 1 - log_variance).mean() / 2
        if self.noise:
            more = torch.rand(len(mean), 1, 1, 1, 1, generator=generator, device=mean.device)
            variance = variance + (self.noise * more).square()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + variance.sqrt() * noise, {"kl": kl}

    def code(self, read: Tensor) -> Tensor:
        """The posterior's mean."""
        return self.norm(read.chunk(2, 2)[0])

    def draw(self, noise: Noise, length: int, height: int, width: int, device: torch.device) -> Tensor:
        """Latents from the prior, the next of the stream "latents"."""
        return noise.normal("latents", length, self.channels, height, width, device=device)


class Quantized(nn.Module):
    """Latents that are codes of tokens, all of them as probable."""

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.channels = self.reads = len(levels)
        self.fsq, self.norm = FSQ(levels), Standardised(len(levels))

    def forward(self, read: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The codes, and nothing that costs."""
        return self.code(read), {}

    def code(self, read: Tensor) -> Tensor:
        """The codes."""
        return self.fsq(self.norm(read))

    def draw(self, noise: Noise, length: int, height: int, width: int, device: torch.device) -> Tensor:
        """The codes of tokens drawn from the stream "latents"."""
        return self.fsq.codes(noise.integers("latents", self.fsq.vocabulary, length, height, width, device=device))


class Generator(nn.Module):
    """The whole codec, as a clip that goes on from given frames is encoded first."""

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.bottleneck = Quantized(config.levels) if config.levels else Gaussian(config.channels, config.noise)
        self.encoder = Encoder(config, self.bottleneck.reads)
        self.decoder = Decoder(config, self.bottleneck.channels)

    def forward(
        self, frames: Float[Tensor, "B T 3 H W"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B T 3 H W"], dict[str, Tensor]]:
        """Whole clips as they come back in training, not cut to [-1, 1], and what the bottleneck costs."""
        latents, costs = self.bottleneck(self.encoder(frames, Past()), generator)
        return self.decoder(latents, Past()).float(), costs


class VideoVAE(Codec):
    """A causal autoencoder; by itself it makes clips of latents from its prior, which look like nothing in particular.

    Latents are standardised by channel; with `levels` they are the codes of tokens (`generator.bottleneck.fsq` turns
    the one into the other).
    """

    accepts = frozenset({"known", "mask"})
    streams = frozenset({"latents"})

    config: VideoVAEConfig
    generator: Generator

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        frames, height, width = config.filled("frames", "height", "width")
        self.config, self.space, self.time = config, config.space, config.time
        self.generator = Generator(config)
        self.channels = self.generator.bottleneck.channels
        if config.adversarial:
            self.judged = max(1, frames - 1)  # an even number, which the critic can halve at small cost
            self.critic = critic_of_clips(3, config.ndf, self.judged, height, width, "none")
            keep_scale(self.critic)
            self.penalty = Penalty(config.penalty)

    def turns(self) -> Sequence[Turn]:
        """The codec, and where it plays against one, its critic."""
        codec = Turn("generator", self.generator, self._loss)
        return (codec, Turn("critic", self.critic, self._critic_loss)) if self.config.adversarial else (codec,)

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The errors of the reconstructions, means over pixels, and what the bottleneck and the critic add."""
        config, frames = self.config, batch.frames
        drawn, scalars = self.generator(frames, generator)
        scalars["pixel"] = pixel_loss(config.pixel, drawn, frames).mean()
        total = scalars["pixel"] + config.kl * scalars.get("kl", 0.0)
        if config.gradient:
            scalars["gradient"] = gradient_difference(config.pixel, drawn, frames).mean()
            total = total + config.gradient * scalars["gradient"]
        if config.perceptual:
            scalars["perceptual"] = perceptual_loss(config.perceptual, drawn, frames, generator)
            total = total + config.perceptual_weight * scalars["perceptual"]
        if config.adversarial:
            real, fake = self._seen(frames, drawn, generator)
            critic = partial(self.critic, generator=generator)
            scalars["generator"] = generator_loss("relativistic", critic(fake), lambda: critic(real))
            total = total + config.adversarial * scalars["generator"]
        return total, scalars

    def _critic_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            drawn, _ = self.generator(batch.frames, generator)
        real, fake = self._seen(batch.frames, drawn, generator)
        critic = partial(self.critic, generator=generator)
        loss = critic_loss("relativistic", critic(real), critic(fake))
        return loss + self.penalty(critic, real, fake, self.judged), {"critic": loss}

    def _seen(self, frames: Tensor, drawn: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clips and their reconstructions as the critic sees them: without the first frame, or without the last."""
        first = int(torch.randint(frames.shape[1] - self.judged + 1, (), generator=generator, device=frames.device))
        real, fake = (x[:, first : first + self.judged] for x in (frames, drawn))
        return rearrange(real, "b t c h w -> b c t h w"), rearrange(fake, "b t c h w -> b c t h w")

    def load_weights(self, path: str) -> None:
        """Take the weights of a trained codec of this configuration; raises ValueError where they do not fit."""
        weights = checkpoint.load_generator(shipped().get(path, path))[1]
        inner = {name.removeprefix(INNER): weight for name, weight in weights.items() if name.startswith(INNER)}
        try:
            self.generator.load_state_dict(inner or weights)
        except RuntimeError as error:
            raise ValueError(f"{path}: the codec there is another one now: begin a run with it anew") from error

    def encode(
        self, frames: Float[Tensor, "B T 3 H W"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B L C h w"], tuple[Tensor, ...]]:
        """The latents of the next frames and the state after them."""
        alone = 1 if state is None else 0
        if frames.shape[1] < 1 or (frames.shape[1] - alone) % self.time:
            raise ValueError(
                f"a video's first chunk has 1 frame and then groups of {self.time}, later ones have groups alone: "
                f"{frames.shape[1]} frames are neither; `encoded` takes chunks of any lengths"
            )
        if frames.shape[3] % self.space or frames.shape[4] % self.space:
            height, width = frames.shape[3:]
            raise ValueError(f"frames of {width}x{height} cannot be coded: make the sides multiples of {self.space}")
        past = Past(state, keep=True)
        return self.generator.bottleneck.code(self.generator.encoder(frames, past)), past.state

    def decode(
        self, latents: Float[Tensor, "B L C h w"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B T 3 H W"], tuple[Tensor, ...]]:
        """The frames of the next latents and the state after them."""
        past = Past(state, keep=True)
        frames = self.generator.decoder(latents, past)
        return frames.float().clamp(-1, 1), past.state

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the given first frames as the codec gives them back, then what latents from the prior look like.

        Copies of the last given frame fill up its group. Raises ValueError unless `mask` is true in the first frames,
        whole, and nowhere else.
        """
        self.refuse_unusable(given)
        device = next(self.generator.parameters()).device
        height, width = self.config.filled("height", "width")
        known = first_known("VideoVAE", given, len(noise), height, width)[:, :frames].to(device)
        count = known.shape[1]
        encoded, begun = (self.encoded(known.split(CHUNK * self.time, 1)), self.length(count)) if count else ((), 0)
        yield from self.decoded(chain(encoded, self._prior(noise, self.length(frames) - begun, device)), frames)

    def _prior(self, noise: Noise, length: int, device: torch.device) -> Iterator[Tensor]:
        """Yield latents from the prior, `length` in time."""
        height, width = (side // self.space for side in self.config.filled("height", "width"))
        for first in range(0, length, CHUNK):
            yield self.generator.bottleneck.draw(noise, min(CHUNK, length - first), height, width, device)
