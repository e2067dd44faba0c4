"""TGAN: a latent code becomes a path of codes, each of which becomes a frame (Saito et al. 2017, arXiv 1611.06624).

A temporal generator G0 turns z0 into the path z1, one code for each frame; an image generator G1 makes each frame from
z0 and its z1. The critic is a 3D convolutional network over clips, whose Lipschitz constant is bounded by singular
value clipping, as the Wasserstein loss requires. With labels both generators and the critic are conditioned on them.

Known frames or regions are met by inversion: generation searches for the latents whose clip matches them, and returns
that clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kinema.conditions.known import known_pixels
from kinema.conditions.labels import choose_labels
from kinema.config import MOST_CHANNELS, MOST_CLASSES, check_ranges
from kinema.family import LatentFamily, Turn
from kinema.nn.adversarial import AdversarialLoss, Penalty, critic_loss, generator_loss
from kinema.nn.critic import AdversarialConfig, critic_input, critic_of_clips, init_kaiming_
from kinema.nn.upconvolution import space_strides, time_strides, with_batch_norm
from kinema.types import Batch, ClipSpec, Conditions, Progress, Seeds, TrainStep, no_progress

__all__ = ["TGAN", "TGANConfig", "bound_slope_", "clip_singular_values_"]

MIN_GAIN = 0.01  # of a batch normalisation, in standard deviations, as in the authors' code
LINEAR = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
NORMALISATION = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class TGANConfig(AdversarialConfig):
    """The defaults are the authors' network and losses; `kinema.presets` has others.

    The authors train with RMSprop; AdamW with betas (0, 0.99) is the same but for its bias correction.
    """

    about: ClassVar[str] = (
        "A path of codes, one for each frame, made in one pass: some hundred clips of one kind, 20 minutes or more."
    )

    loss: AdversarialLoss = "wasserstein"
    """The adversarial loss."""
    categories: int | None = None
    """Classes; taken from the labels, 0 without labels."""
    latent: int = 100
    """Dimensions of z0, drawn once for each clip."""
    path: int = 100
    """Dimensions of z1, one code for each frame."""
    ngf: int = 32
    """Channels of the image generator before its output layer."""
    ngf_path: int = 128
    """Channels of the temporal generator before its output layer."""
    clip_every: int = 5
    """Steps between clippings of the critic's singular values (0: never)."""
    search_steps: int = 100
    """Optimizer steps of the search for latents that match known pixels."""
    search_lr: float = 0.1
    """Learning rate of that search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = (1, MOST_CHANNELS)
        check_ranges(
            self,
            categories=(0, MOST_CLASSES),
            latent=channels,
            path=channels,
            ngf=channels,
            ngf_path=channels,
            clip_every=(0, 10**12),
            search_steps=(0, 10**5),
            search_lr=(1e-12, 1e4),
        )

    def fitted(self, spec: ClipSpec) -> TGANConfig:
        """The configuration for clips of these sizes and classes."""
        return super().fitted(spec).completed_from(categories=len(spec.classes))

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
        self.temporal = nn.Sequential(*with_batch_norm(longer), path, nn.Tanh())

        def head(codes: int) -> nn.Sequential:
            base = (8 * config.ngf, height // 16, width // 16)
            size = base[0] * base[1] * base[2]
            linear = nn.Linear(codes, size, bias=False)
            return nn.Sequential(linear, nn.BatchNorm1d(size), nn.ReLU(inplace=True), nn.Unflatten(1, base))

        self.of_clip, self.of_frame = head(inputs), head(config.path)
        channels = [config.ngf * m for m in (16, 8, 4, 2, 1)]
        larger = [
            nn.ConvTranspose2d(i, o, 2 + stride, stride, 1, bias=False)
            for (i, o), stride in zip(pairwise(channels), space_strides(config.space), strict=True)
        ]
        last = [nn.Conv2d(config.ngf, config.latents[1], 3, padding=1), *([nn.Tanh()] if config.of_pixels else [])]
        self.image = nn.Sequential(*with_batch_norm(larger), *last)

    def forward(self, z0: Float[Tensor, "B D"], label: Int64[Tensor, " B"]) -> Float[Tensor, "B T C h w"]:
        """The clips of these codes, pixels in [-1, 1] or latents; `label` is ignored if there are no classes."""
        return self.render(z0, label, self.walk(z0, label))

    def walk(self, z0: Float[Tensor, "B D"], label: Int64[Tensor, " B"]) -> Float[Tensor, "B T P"]:
        """The path z1 of a clip, in [-1, 1]: G0."""
        return rearrange(self.temporal(self._code(z0, label)[:, :, None]), "b p t -> b t p")

    def render(
        self, z0: Float[Tensor, "B D"], label: Int64[Tensor, " B"], z1: Float[Tensor, "B T P"]
    ) -> Float[Tensor, "B T C h w"]:
        """The frames of a path: G1."""
        of_clip = repeat(self.of_clip(self._code(z0, label)), "b c h w -> (b t) c h w", t=z1.shape[1])
        of_frame = self.of_frame(rearrange(z1, "b t p -> (b t) p"))
        frames = self.image(torch.cat([of_clip, of_frame], 1))
        return rearrange(frames, "(b t) c h w -> b t c h w", b=len(z0))

    def _code(self, z0: Tensor, label: Tensor) -> Tensor:
        """z0 and the one-hot class [B, D + categories] (the paper's conditional TGAN)."""
        return torch.cat([z0, F.one_hot(label, self.categories).to(z0)], 1) if self.categories else z0


class TGAN(LatentFamily):
    """Temporal generative adversarial nets; conditioned on the label if it was trained with labels."""

    accepts = frozenset({"label", "known", "mask"})
    streams = frozenset({"clip"})  # z0 determines both content and motion

    generator: Generator

    def __init__(self, config: TGANConfig) -> None:
        super().__init__(config)
        frames, height, width = config.critic_sizes()
        (categories,) = config.required("categories")
        self.config = config
        self.max_frames = frames
        self.generator = Generator(config, categories, frames, height, width)
        channels = config.latents[1] + categories
        self.critic = critic_of_clips(channels, config.ndf, frames, height, width, config.norm, config.space)
        init_kaiming_(self.critic)
        self.penalty = Penalty(config.penalty, config.penalty_decay_steps)

    def turns(self) -> Sequence[Turn]:
        """The critic, with singular value clipping after its step, and the generator against it."""
        return (
            Turn("critic", self.critic, self._critic_loss, self._after_critic),
            Turn("generator", self.generator, self._generator_loss),
        )

    def _after_critic(self, step: int) -> None:
        if self.config.clip_every and (step + 1) % self.config.clip_every == 0:
            bound_slope_(self.critic)

    def _sample(self, label: Tensor, generator: torch.Generator) -> Tensor:
        """A generated clip for each label, from z0 uniform in [-1, 1]."""
        if len(label) < 2:
            raise ValueError("tgan: batch normalisation of the codes needs 2 clips or more: raise --train.batch")
        z0 = torch.rand(len(label), self.generator.latent, generator=generator, device=label.device) * 2 - 1
        return self.generator(z0, label)

    def _clips_and_label(self, batch: Batch) -> tuple[Tensor, Int64[Tensor, " B"]]:
        """The clips, pixels or latents, and their labels, zeros without any."""
        clips, label = self.latents_of(batch), batch.conditions.label
        return clips, torch.zeros(len(clips), dtype=torch.int64, device=clips.device) if label is None else label

    def _logits(self, clips: Float[Tensor, "B C T h w"], label: Tensor, generator: torch.Generator) -> Tensor:
        """The critic's logits; the class is a channel of ones among zeros (the paper's conditional TGAN)."""
        if self.generator.categories:
            classes = F.one_hot(label[: len(clips)], self.generator.categories).to(clips)
            planes = classes[:, :, None, None, None].expand(-1, -1, *clips.shape[2:])
            clips = torch.cat([clips, planes], 1)
        return self.critic(clips, generator)

    def _critic_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        (clips, label), generator = self._clips_and_label(batch), step.generator
        with torch.no_grad():
            generated = self._sample(label, generator)
        real, fake = (critic_input(x, generator, self.config) for x in (clips, generated))

        def logits(clips: Tensor) -> Tensor:
            return self._logits(clips, label, generator)

        loss = critic_loss(self.config.loss, logits(real), logits(fake))
        return loss + self.penalty(logits, real, fake, step.index, clips.shape[1]), {"critic": loss}

    def _generator_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        (clips, label), generator = self._clips_and_label(batch), step.generator

        def logits(clips: Tensor) -> Tensor:
            return self._logits(critic_input(clips, generator, self.config), label, generator)

        loss = generator_loss(self.config.loss, logits(self._sample(label, generator)), lambda: logits(clips))
        return loss, {"generator": loss}

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the first `frames` of T frames, which match the known pixels as well as the generator can.

        `known` may be shorter than T. The seed determines where the search for latents starts, so other seeds give
        other continuations. Raises ValueError if `known` is longer than T.
        """
        self.check_conditions(conditions)
        device = next(self.generator.parameters()).device
        max_frames, *size = self.config.critic_sizes()
        known, mask = known_pixels("TGAN", conditions, len(seeds), *size)
        if known.shape[1] > max_frames:
            raise ValueError(f"known is {known.shape[1]} frames, and TGAN makes {max_frames}: give at most as many")
        z0 = torch.erf(seeds.stream("clip").normal(self.generator.latent, device=device) / 2**0.5)  # uniform in [-1, 1]
        label = choose_labels(conditions, self.generator.categories, seeds, "clip", device)
        if mask.any():
            known, mask = known.to(device), mask.to(device)
            share = mask.float()
            if self.codec is not None:
                known, share = self.codec.encode_known(known, mask)
                share = share[:, :, None]
            z0, z1 = self._search(z0, label, known, share, progress)
        else:
            z1 = self.generator.walk(z0, label)
        clips = self.generator.render(z0, label, z1[:, :frames])
        yield clips if self.codec is None else self.codec.decode(clips)[0]

    def _search(
        self,
        z0: Float[Tensor, "B D"],
        label: Int64[Tensor, " B"],
        known: Float[Tensor, "B t C h w"],
        share: Float[Tensor, "B t 1 h w"],
        progress: Progress,
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B T P"]]:
        """The z0 and the path z1 whose clips match what is known, by gradient descent on the squared error from z0.

        `share` is how much of a pixel or a latent is known, from 0 to 1, and weighs its error. The first half of the
        steps optimizes z0 alone, so that the path stays an output of G0. The second half adds an offset to the path as
        well; a frame of which nothing is known has the offset of the nearest one of which something is, so that the
        clip continues without a jump.
        """
        max_frames, steps = self.config.critic_sizes()[0], self.config.search_steps
        with torch.inference_mode(False), torch.enable_grad():
            z0, label = z0.clone().requires_grad_(), label.clone()
            has_known = share.flatten(2).any(2)  # [B t]
            rendered = has_known.any(0).nonzero()[:, 0]  # the other frames have no error
            known, share = known[:, rendered].clone(), share[:, rendered].clone()
            time = torch.arange(max_frames, device=z0.device)
            distance = (
                (time[:, None] - time[: has_known.shape[1]]).abs().where(has_known[:, None], max_frames)
            )  # [B T t]
            nearest = distance.argmin(2)  # [B T]
            offset = torch.zeros(*has_known.shape, self.config.path, device=z0.device, requires_grad=True)

            def path() -> Tensor:
                offsets = offset[torch.arange(len(z0), device=z0.device)[:, None], nearest]
                return (self.generator.walk(z0, label) + offsets).clamp(-1, 1)

            optimizer = torch.optim.Adam([z0, offset], self.config.search_lr)
            for step in range(steps):
                optimized = [z0] if 2 * step < steps else [z0, offset]
                frames = self.generator.render(z0, label, path()[:, rendered]).float()
                error = ((frames - known).where(share > 0, 0).square() * share).sum((1, 2, 3, 4))  # [B]
                # a mean for each clip, independent of the rest of the batch
                error = error / share.sum((1, 2, 3, 4)).clamp(min=1)
                for latent, gradient in zip(optimized, torch.autograd.grad(error.sum(), optimized), strict=True):
                    latent.grad = gradient
                optimizer.step()
                with torch.no_grad():
                    z0.clamp_(-1, 1)
                progress(step + 1, steps)
            return z0.detach(), path().detach()


@torch.no_grad()
def bound_slope_(critic: nn.Module) -> None:
    """Make each layer of a critic 1-Lipschitz, in place (TGAN, arXiv 1611.06624, Table 2).

    Clips the singular values of linear and convolutional layers to 1 and the gains of batch normalisations to their
    running standard deviation; leaky ReLU is 1-Lipschitz already. A convolution counts as a matrix [out, in * kernel].
    """
    for module in critic.modules():
        if isinstance(module, LINEAR):
            clip_singular_values_(module.weight)
        elif isinstance(module, NORMALISATION):
            assert module.running_var is not None
            deviation = _over_ranks(module.running_var).sqrt()
            module.weight.clamp_(MIN_GAIN * deviation, deviation)


@torch.no_grad()
def clip_singular_values_(weight: Tensor) -> None:
    """Clip the singular values of `weight`, as a matrix [out, rest], to at most 1, in place.

    With W = U S V' this is W - U (1 - 1/S) U' W over the values above 1. So only U is needed: the eigenvectors of W W',
    or of W' W where that is smaller.
    """
    matrix = weight.float().flatten(1)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    # on the CPU: not every GPU has float64
    squares, directions = torch.linalg.eigh((wide @ wide.T).cpu().double())
    above = squares > 1
    if not above.any():
        return
    u = directions[:, above]
    shrunk = wide - (u * (1 - squares[above].rsqrt()) @ u.T).float().to(wide.device) @ wide
    weight.copy_((shrunk if wide is matrix else shrunk.T).reshape(weight.shape))


def _over_ranks(statistic: Tensor) -> Tensor:
    """The mean over all ranks, whose statistics differ but which must clip alike."""
    if not dist.is_initialized():
        return statistic
    total = statistic.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
