"""TGAN: one code makes a path of codes, each of which makes a frame (Saito et al., ICCV 2017, arXiv 1611.06624).

A temporal generator G0 turns z0 into the path z1, a code a frame; an image generator G1 draws each frame from z0 and
its z1. A 3D convolutional critic judges whole clips; singular value clipping bounds its slope, as the Wasserstein
loss asks for. With labels both generators and the critic are told the class.

Frames or regions that are known are explained rather than pasted: latents are searched whose clip has them, and
what comes out is the clip that these draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from kinema.family import Facts, Family, FamilyConfig, Turn
from kinema.nn.adversarial import AdversarialLoss, Penalty, critic_loss, generator_loss
from kinema.nn.critic import CriticNorm, clips_seen, critic_of_clips, keep_scale
from kinema.nn.labels import labels
from kinema.nn.spectral import bound_slope_
from kinema.nn.upconvolution import normalised, time_strides
from kinema.types import Batch, Conditions, Noise

__all__ = ["TGAN", "TGANConfig"]


@dataclass(frozen=True)
class TGANConfig(FamilyConfig):
    """The defaults are the authors' network and losses; `kinema.presets` has others.

    The authors descend by RMSprop: AdamW with betas of 0 and 0.99 is that, but for its correction of the first steps.
    """

    frames: int | None = None
    """T, all drawn at once; taken from the clips."""
    height: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    width: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    categories: int | None = None
    """Classes that it is told; taken from the labels, 0 without."""
    latent: int = 100
    """Dimensions of z0, one draw a clip."""
    path: int = 100
    """Dimensions of z1, one code a frame."""
    ngf: int = 32
    """Channels of the image generator before its output layer."""
    ngf_path: int = 128
    """Channels of the temporal generator before its output layer."""
    ndf: int = 64
    """Channels of the critic after its input layer."""
    norm: CriticNorm = "batch"
    """Normalisation in the critic; a gradient penalty wants "none"."""
    loss: AdversarialLoss = "wasserstein"
    """What the players play for."""
    clip_every: int = 5
    """Turns of the critic from one clipping of its singular values to the next (0: never)."""
    penalty: float = 0.0
    """Weight of the R1 and R2 gradient penalties (0: none), each on a quarter of the batch; a clip's is that by T."""
    penalty_falls: int = 0
    """Steps over which that weight falls to a twentieth (0: it stays): a strong one hides small differences."""
    augment: bool = False
    """Differentiable augmentation of all that the critic sees: for a few hundred clips or fewer."""
    search_steps: int = 100
    """Steps of the search for the latents of known pixels."""
    search_lr: float = 0.1
    """Learning rate of that search."""

    def __post_init__(self) -> None:
        if min(self.latent, self.path, self.ngf, self.ngf_path, self.ndf) < 1:
            raise ValueError("tgan: latent, path, ngf, ngf_path and ndf must be at least 1")
        if min(self.penalty, self.penalty_falls, self.clip_every, self.search_steps) < 0 or self.search_lr <= 0:
            raise ValueError(
                "tgan: penalty, penalty_falls, clip_every and search_steps must not be negative, search_lr more than 0"
            )

    def fitted(self, facts: Facts) -> TGANConfig:
        """The configuration for clips of these sizes and classes."""
        return self.completed(
            frames=facts.frames, height=facts.height, width=facts.width, categories=len(facts.classes)
        )

    def build(self) -> TGAN:
        """The untrained model."""
        return TGAN(self)


class Generator(nn.Module):
    """The temporal generator G0 and the image generator G1 (Table 1)."""

    def __init__(self, config: TGANConfig, categories: int, frames: int, height: int, width: int) -> None:
        super().__init__()
        self.categories, self.latent = categories, config.latent
        inputs = config.latent + categories
        first, strides = time_strides(frames)
        widths = [config.ngf_path * m for m in (4, 2, 1, 1)]
        longer = [
            nn.ConvTranspose1d(inputs, widths[0], first, bias=False),
            *(
                nn.ConvTranspose1d(i, o, 2 + stride, stride, 1, bias=False)
                for (i, o), stride in zip(pairwise(widths), strides, strict=False)
            ),
        ]
        path = nn.ConvTranspose1d(widths[-1], config.path, 2 + strides[-1], strides[-1], 1)
        self.temporal = nn.Sequential(*normalised(longer), path, nn.Tanh())

        def head(codes: int) -> nn.Sequential:
            base = (8 * config.ngf, height // 16, width // 16)
            size = base[0] * base[1] * base[2]
            linear = nn.Linear(codes, size, bias=False)
            return nn.Sequential(linear, nn.BatchNorm1d(size), nn.ReLU(inplace=True), nn.Unflatten(1, base))

        self.of_clip, self.of_frame = head(inputs), head(config.path)
        channels = [config.ngf * m for m in (16, 8, 4, 2, 1)]
        larger = [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False) for i, o in pairwise(channels)]
        self.image = nn.Sequential(*normalised(larger), nn.Conv2d(config.ngf, 3, 3, padding=1), nn.Tanh())

    def forward(self, z0: Float[Tensor, "B D"], label: Int64[Tensor, " B"]) -> Float[Tensor, "B T 3 H W"]:
        """The clips that these codes stand for, in [-1, 1]; `label` is not looked at where there are no classes."""
        return self.draw(z0, label, self.walk(z0, label))

    def walk(self, z0: Float[Tensor, "B D"], label: Int64[Tensor, " B"]) -> Float[Tensor, "B T P"]:
        """The path z1 of a clip, in [-1, 1]: G0."""
        return rearrange(self.temporal(self._code(z0, label)[:, :, None]), "b p t -> b t p")

    def draw(
        self, z0: Float[Tensor, "B D"], label: Int64[Tensor, " B"], z1: Float[Tensor, "B T P"]
    ) -> Float[Tensor, "B T 3 H W"]:
        """The frames of a path: G1."""
        of_clip = repeat(self.of_clip(self._code(z0, label)), "b c h w -> (b t) c h w", t=z1.shape[1])
        of_frame = self.of_frame(rearrange(z1, "b t p -> (b t) p"))
        frames = self.image(torch.cat([of_clip, of_frame], 1))
        return rearrange(frames, "(b t) c h w -> b t c h w", b=len(z0))

    def _code(self, z0: Tensor, label: Tensor) -> Tensor:
        """z0 and the class [B, D + categories] (the paper's conditional TGAN)."""
        return torch.cat([z0, F.one_hot(label, self.categories).to(z0)], 1) if self.categories else z0


class TGAN(Family):
    """Temporal generative adversarial nets; conditioned on the label where it was trained with labels."""

    accepts = frozenset({"label", "known", "mask"})
    streams = frozenset({"clip"})  # z0 decides both what is there and how it moves

    generator: Generator
    critic_turns: Tensor

    def __init__(self, config: TGANConfig) -> None:
        super().__init__()
        frames, height, width, categories = config.filled("frames", "height", "width", "categories")
        if min(height, width) < 16 or height % 16 or width % 16:
            raise ValueError(f"tgan: height and width must be multiples of 16, not {height} and {width}")
        self.config = config
        self.longest = frames
        self.generator = Generator(config, categories, frames, height, width)
        self.critic = critic_of_clips(3 + categories, config.ndf, frames, height, width, config.norm)
        keep_scale(self.critic)
        self.penalty = Penalty(config.penalty, config.penalty_falls)
        self.register_buffer("critic_turns", torch.zeros((), dtype=torch.int64))  # kept, so that resuming clips in time

    def turns(self) -> Sequence[Turn]:
        """The critic, whose weights are then clipped, and the generator against it."""
        return (
            Turn("critic", self.critic, self._critic_loss, self._after_critic),
            Turn("generator", self.generator, self._generator_loss),
        )

    def _after_critic(self) -> None:
        self.penalty.play()
        self.critic_turns += 1
        if self.config.clip_every and self.critic_turns % self.config.clip_every == 0:
            bound_slope_(self.critic)

    def _imagine(self, batch: Batch, label: Tensor, generator: torch.Generator) -> Tensor:
        """Generated clips, as many as in `batch`, from z0 uniform in [-1, 1]."""
        shape, device = (len(batch.frames), self.generator.latent), batch.frames.device
        if len(batch.frames) < 2:
            raise ValueError(
                "tgan: a code is normalised over the batch, so it takes 2 clips or more: raise --train.batch"
            )
        return self.generator(torch.rand(shape, generator=generator, device=device) * 2 - 1, label)

    def _label(self, batch: Batch) -> Int64[Tensor, " B"]:
        zeros = torch.zeros(len(batch.frames), dtype=torch.int64, device=batch.frames.device)
        return zeros if batch.given.label is None else batch.given.label

    def _seen(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        return clips_seen(clips, generator, self.config.augment)

    def _judge(self, clips: Float[Tensor, "B 3 T H W"], label: Tensor, generator: torch.Generator) -> Tensor:
        """The critic's logits; the class is a channel of ones among zeros (the paper's conditional TGAN)."""
        if self.generator.categories:
            classes = F.one_hot(label[: len(clips)], self.generator.categories).to(clips)
            planes = classes[:, :, None, None, None].expand(-1, -1, *clips.shape[2:])
            clips = torch.cat([clips, planes], 1)
        return self.critic(clips, generator)

    def _critic_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        label = self._label(batch)
        with torch.no_grad():
            clips = self._imagine(batch, label, generator)
        real, fake = self._seen(batch.frames, generator), self._seen(clips, generator)

        def judge(clips: Tensor) -> Tensor:
            return self._judge(clips, label, generator)

        loss = critic_loss(self.config.loss, judge(real), judge(fake))
        return loss + self.penalty(judge, real, fake, batch.frames.shape[1]), {"critic": loss}

    def _generator_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        label = self._label(batch)

        def judge(clips: Tensor) -> Tensor:
            return self._judge(self._seen(clips, generator), label, generator)

        on_fake = judge(self._imagine(batch, label, generator))
        loss = generator_loss(self.config.loss, on_fake, lambda: judge(batch.frames))
        return loss, {"generator": loss}

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the first `frames` of T frames: those that have the known pixels, as nearly as it can draw them.

        `known` may be shorter than T. The seed is where the search begins, so other seeds go on in other ways.
        """
        self.refuse_unusable(given)
        device = next(self.generator.parameters()).device
        z0 = torch.erf(noise.normal("clip", self.generator.latent, device=device) / 2**0.5)  # uniform in [-1, 1]
        label = labels(given, self.generator.categories, noise, "clip", device)
        if given.known is None or given.mask is None or not given.mask.any():
            z1 = self.generator.walk(z0, label)
        else:
            z0, z1 = self._explain(z0, label, given.known, given.mask)
        yield self.generator.draw(z0, label, z1[:, :frames])

    def _explain(
        self,
        z0: Float[Tensor, "B D"],
        label: Int64[Tensor, " B"],
        known: Float[Tensor, "B t 3 H W"],
        mask: Bool[Tensor, "B t 1 H W"],
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B T P"]]:
        """The z0 and the path whose clips have the known pixels: by descent of the mean squared error, from z0 on.

        At first z0 moves alone, so that the path stays one that G0 walks. In the second half the path is changed too,
        where nothing is known as in the nearest frame of which something is, so that clips go on without a jump.
        """
        longest, *size = self.config.filled("frames", "height", "width")
        if known.shape[1] > longest or list(known.shape[3:]) != size:
            raise ValueError(
                f"known is {known.shape[1]} frames of {known.shape[3]}x{known.shape[4]}: "
                f"give at most {longest} of {size[0]}x{size[1]}"
            )
        with torch.inference_mode(False), torch.enable_grad():
            z0, label = z0.clone().requires_grad_(), label.clone()
            some = mask.flatten(2).any(2)  # [B t] the frames of which something is known
            drawn = some.any(0).nonzero()[:, 0]  # no other need be drawn
            known, mask = known[:, drawn].clone(), mask[:, drawn].clone()
            time = torch.arange(longest, device=z0.device)
            distance = (time[:, None] - time[: some.shape[1]]).abs().where(some[:, None], longest)  # [B T t]
            nearest = distance.argmin(2)  # [B T]
            change = torch.zeros(*some.shape, self.config.path, device=z0.device, requires_grad=True)

            def path() -> Tensor:
                changes = change[torch.arange(len(z0), device=z0.device)[:, None], nearest]
                return (self.generator.walk(z0, label) + changes).clamp(-1, 1)

            optimizer = torch.optim.Adam([z0, change], self.config.search_lr)
            for step in range(self.config.search_steps):
                moved = [z0] if 2 * step < self.config.search_steps else [z0, change]
                frames = self.generator.draw(z0, label, path()[:, drawn]).float()
                error = (frames - known).where(mask, 0).square().sum((1, 2, 3, 4))  # [B]
                error = error / mask.sum((1, 2, 3, 4)).clamp(min=1)  # each clip's own, whatever is in the batch
                for latent, gradient in zip(moved, torch.autograd.grad(error.sum(), moved), strict=True):
                    latent.grad = gradient
                optimizer.step()
                with torch.no_grad():
                    z0.clamp_(-1, 1)
            return z0.detach(), path().detach()
