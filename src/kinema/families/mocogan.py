"""MoCoGAN: a video is one content code and a path of motion codes (Tulyakov et al., CVPR 2018, arXiv 1707.04993).

A recurrent network turns noise at every frame into a path of motion codes; an image generator draws each frame from
(content, category, motion); one critic classifies single frames, another clips. If there are categories, from labels or
learned without them, the clip critic also classifies these and the generator has to make clips of the right category
(section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kinema.conditions.labels import choose_labels
from kinema.config import MOST_CHANNELS, MOST_CLASSES, check_ranges
from kinema.family import LatentFamily, Turn
from kinema.nn.adversarial import Penalty, critic_loss, generator_loss
from kinema.nn.critic import AdversarialConfig, Critic, critic_input, init_kaiming_
from kinema.nn.upconvolution import space_strides
from kinema.types import Batch, ClipSpec, Conditions, Progress, Seeds, TrainStep, no_progress

__all__ = ["MoCoGAN", "MoCoGANConfig"]

CriticInput = Callable[[Tensor, torch.Generator], Tensor]  # clips to the input of a critic
CHUNK = 16  # frames that `generate` makes at a time: memory does not grow with the clip


@dataclass(frozen=True)
class MoCoGANConfig(AdversarialConfig):
    """The defaults are the authors' network and recipe; `kinema.presets` has others."""

    about: ClassVar[str] = (
        "One thing in many motions, of separate codes: some hundred clips of one kind, 20 minutes or more."
    )

    categories: int | None = None
    """Categories; taken from the labels. Without labels, this many are learned (InfoGAN)."""
    category: Literal["frames", "path"] = "frames"
    """What the categorical code conditions: the image generator at every frame, or the path of motion codes."""
    content: int = 50
    """Dimensions of the content code, drawn once for each clip."""
    motion: int = 10
    """Dimensions of the motion code, one for each frame."""
    ngf: int = 64
    """Channels of the image generator before its output layer."""
    coordinates: bool = False
    """Coordinate channels in all layers of the image generator but the first: positions are learned sooner."""
    ndf_image: int = 64
    """Channels of the image critic after its input layer (0: no image critic)."""
    noise: float = 0.1
    """Standard deviation of the Gaussian noise added to the input of the critics' strided layers."""
    information: float = 1.0
    """Weight of the categorical code's information loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = (1, MOST_CHANNELS)
        check_ranges(
            self,
            categories=(0, MOST_CLASSES),
            content=channels,
            motion=channels,
            ngf=channels,
            ndf_image=(0, MOST_CHANNELS),
            noise=(0.0, 1e3),
            information=(0.0, 1e6),
        )

    def fitted(self, spec: ClipSpec) -> MoCoGANConfig:
        """The configuration for clips of these sizes and classes; raises ValueError if fields differ."""
        found = {"categories": len(spec.classes)} if spec.classes or self.categories is None else {}
        return super().fitted(spec).completed_from(**found)

    def build(self) -> MoCoGAN:
        """The untrained model."""
        return MoCoGAN(self)


class Coordinates(nn.Module):
    """Appends each pixel's row and column, from -1 to 1, as channels (CoordConv, arXiv 1807.03247, section 3).

    GANs of coloured shapes learn their positions sooner with them (section 5).
    """

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C+2 H W"]:
        """`x` with its coordinate channels."""
        _, _, height, width = x.shape
        rows, columns = (torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device) for n in (height, width))
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # [2, H, W]
        return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)


class Generator(nn.Module):
    """Content, category and motion codes to frames (section 3.1; Table 2 of the supplement)."""

    def __init__(self, config: MoCoGANConfig, categories: int, height: int, width: int) -> None:
        super().__init__()
        self.categories, self.on_path = categories, config.category == "path"
        self.content, self.motion = config.content, config.motion
        self.path = nn.GRU(config.motion + categories * self.on_path, config.motion, batch_first=True)
        inputs = config.content + categories * (not self.on_path) + config.motion
        widths = [config.ngf * m for m in (8, 4, 2, 1)]
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], (height // 16, width // 16), bias=False)]
        for (i, o), stride in zip(pairwise([*widths, config.latents[1]]), space_strides(config.space), strict=True):
            layers += [nn.BatchNorm2d(i), nn.ReLU(inplace=True)]
            if config.coordinates:
                layers.append(Coordinates())
            layers.append(nn.ConvTranspose2d(i + 2 * config.coordinates, o, 2 + stride, stride, 1, bias=False))
        self.draw = nn.Sequential(*layers, *([nn.Tanh()] if config.of_pixels else []))

    def walk(
        self, category: Int64[Tensor, " B"], noise: Float[Tensor, "B T M"], start: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B M"]]:
        """The motion codes of T frames and the state after them (section 3.1, R_M)."""
        if self.on_path:
            noise = torch.cat([noise, repeat(self._one_hot(category, noise), "b k -> b t k", t=noise.shape[1])], 2)
        with torch.autocast(noise.device.type, enabled=False):  # bf16 errors would accumulate along a path
            path, state = self.path(noise, start[None].contiguous())
        return path, state[0]

    def forward(
        self,
        content: Float[Tensor, "B D"],
        category: Int64[Tensor, " B"],
        noise: Float[Tensor, "B T M"],
        start: Float[Tensor, "B M"],
        frames: Int64[Tensor, "B t"],
    ) -> Float[Tensor, "B t C h w"]:
        """The frames with the indices `frames`, of clips of T frames: pixels in [-1, 1], or latents of a codec."""
        motion, _ = self.walk(category, noise, start)
        return self.render(content, category, _take(motion, frames))

    def render(
        self, content: Float[Tensor, "B D"], category: Int64[Tensor, " B"], motion: Float[Tensor, "B T M"]
    ) -> Float[Tensor, "B T C h w"]:
        """The frames of these codes; `category` is ignored if there are no categories."""
        still = content if self.on_path else torch.cat([content, self._one_hot(category, content)], 1)
        codes = torch.cat([repeat(still, "b c -> b t c", t=motion.shape[1]), motion], 2)
        frames = self.draw(rearrange(codes, "b t c -> (b t) c 1 1"))
        return rearrange(frames, "(b t) c h w -> b t c h w", b=len(content))

    def _one_hot(self, category: Tensor, like: Tensor) -> Tensor:
        """[B, K]; K is 0 if there are no categories."""
        return F.one_hot(category, max(1, self.categories))[:, : self.categories].to(like)


def image_critic(config: MoCoGANConfig) -> Critic:
    """The critic D_I of single frames [B, C, h, w]: a logit for each patch of them."""
    batch = config.norm == "batch"
    widths, strides = [config.latents[1], *(config.ndf_image * m for m in (1, 2, 4)), 1], space_strides(config.space)
    layers = zip(pairwise(widths), reversed(strides), strict=True)
    convolutions = [nn.Conv2d(i, o, 2 + stride, stride, 1, bias=not batch) for (i, o), stride in layers]
    return Critic(convolutions, config.norm, config.noise)


def video_critic(config: MoCoGANConfig, categories: int, frames: int, height: int, width: int) -> Critic:
    """The critic D_V of clips [B, C, T, h, w]: their logits, of which the first channel is adversarial."""
    batch = config.norm == "batch"
    widths = [config.latents[1], *(config.ndf * m for m in (1, 2, 4, 8))]
    convolutions: list[nn.Conv2d | nn.Conv3d] = []
    for (i, o), stride in zip(pairwise(widths), reversed(space_strides(config.space)), strict=True):
        kernel = (min(4, frames), 2 + stride, 2 + stride)
        frames -= kernel[0] - 1
        convolutions.append(nn.Conv3d(i, o, kernel, (1, stride, stride), (0, 1, 1), bias=not batch))
    kernel = (min(4, frames), min(4, height // 16), min(4, width // 16))
    convolutions.append(nn.Conv3d(widths[-1], 1 + categories, kernel, bias=not batch))
    return Critic(convolutions, config.norm, config.noise)


class MoCoGAN(LatentFamily):
    """Motion and content decomposed GAN; conditioned on the label if it was trained with labels."""

    accepts = frozenset({"label"})
    streams = frozenset({"content", "motion"})

    generator: Generator
    image_critic: Critic | None

    def __init__(self, config: MoCoGANConfig) -> None:
        super().__init__(config)
        frames, height, width = config.critic_sizes()
        (categories,) = config.required("categories")
        self.config = config
        self.generator = Generator(config, categories, height, width)
        self.image_critic = image_critic(config) if config.ndf_image else None
        self.video_critic = video_critic(config, categories, frames, height, width)
        init_kaiming_(self)
        self.penalty = Penalty(config.penalty, config.penalty_decay_steps)

    def turns(self) -> Sequence[Turn]:
        """The critics, then the generator against them (equation 4, and 5 for the categories)."""
        turns = (
            Turn("video_critic", self.video_critic, self._video_critic_loss),
            Turn("generator", self.generator, self._generator_loss),
        )
        if self.image_critic is None:
            return turns
        return (Turn("image_critic", self.image_critic, self._image_critic_loss), *turns)

    def _sample(
        self, real: Tensor, category: Tensor | None, generator: torch.Generator, frames: int
    ) -> tuple[Tensor, Tensor]:
        """Generated clips [B, frames, C, h, w], as many as `real`, and their categories [B], random ones for None.

        The frames are consecutive, from a random start in a path as long as the real clips.
        """
        (size, length), device = real.shape[:2], real.device
        draw = partial(torch.randn, generator=generator, device=device)
        if category is None:
            category = torch.randint(max(1, self.generator.categories), (size,), generator=generator, device=device)
        noise, start = draw(size, length, self.generator.motion), draw(size, self.generator.motion)
        window = _random_window(size, length, frames, generator)
        content = draw(size, self.generator.content)
        return self.generator(content, category, noise, start, window), category

    def _image_critic_input(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """The input of D_I: a random frame of each clip [B, C, h, w] (S_1 of section 3.2)."""
        frames = _take(clips, _random_window(len(clips), clips.shape[1], 1, generator))
        return critic_input(frames, generator, self.config)[:, :, 0]

    def _video_critic_input(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """The input of D_V: complete clips [B, C, T, h, w]."""
        return critic_input(clips, generator, self.config)

    def _image_critic_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator, clips = step.generator, self.latents_of(batch)
        with torch.no_grad():
            images, _ = self._sample(clips, batch.conditions.label, generator, frames=1)
        real, fake = self._image_critic_input(clips, generator), self._image_critic_input(images, generator)
        assert self.image_critic is not None  # or there is no such turn
        critic = partial(self.image_critic, generator=generator)
        loss = critic_loss(self.config.loss, critic(real), critic(fake))
        return loss + self.penalty(critic, real, fake, step.index), {"image_critic": loss}

    def _video_critic_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator, clips, label = step.generator, self.latents_of(batch), batch.conditions.label
        with torch.no_grad():
            generated, category = self._sample(clips, label, generator, clips.shape[1])
        real, fake = self._video_critic_input(clips, generator), self._video_critic_input(generated, generator)
        critic = partial(self.video_critic, generator=generator)
        on_real, on_fake = critic(real), critic(fake)
        loss = critic_loss(self.config.loss, on_real[:, 0], on_fake[:, 0])
        scalars = {"video_critic": loss}
        total = loss + self.penalty(lambda x: critic(x)[:, 0], real, fake, step.index, clips.shape[1])
        if self.generator.categories:  # learned from real clips if they are labelled, else from generated ones
            scalars["categories"] = _category_loss(on_fake if label is None else on_real, category)
            total = total + scalars["categories"]
        return total, scalars

    def _generator_loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        generator, clips, label = step.generator, self.latents_of(batch), batch.conditions.label

        def adversarial(critic: Critic, prepare: CriticInput, fake: Tensor) -> tuple[Tensor, Tensor]:
            on_fake = critic(prepare(fake, generator), generator)
            loss = generator_loss(
                self.config.loss, on_fake[:, 0], lambda: critic(prepare(clips, generator), generator)[:, 0]
            )
            return loss, on_fake

        scalars = {}
        if self.image_critic is not None:
            images, _ = self._sample(clips, label, generator, frames=1)
            scalars["generator_image"], _ = adversarial(self.image_critic, self._image_critic_input, images)
        generated, category = self._sample(clips, label, generator, clips.shape[1])
        scalars["generator_video"], on_fake = adversarial(self.video_critic, self._video_critic_input, generated)
        total = torch.stack(list(scalars.values())).sum()
        if self.generator.categories:
            scalars["information"] = _category_loss(on_fake, category)
            total = total + self.config.information * scalars["information"]
        return total, scalars

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the frames in chunks; a category that is not given is drawn from the stream "motion"."""
        self.check_conditions(conditions)
        chunks = self._generate(conditions, frames, seeds, progress)
        yield from chunks if self.codec is None else self.codec.decode_chunks(chunks, frames)

    def _generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress
    ) -> Iterator[Float[Tensor, "B t C h w"]]:
        """Yield pixels, or latents with a codec."""
        device = next(self.generator.parameters()).device
        category = choose_labels(conditions, self.generator.categories, seeds, "motion", device)
        content = seeds.stream("content").normal(self.generator.content, device=device)
        noise = seeds.stream("motion")
        state = noise.normal(self.generator.motion, device=device)
        for first in range(0, frames, CHUNK):
            steps = min(CHUNK, frames - first)
            motion, state = self.generator.walk(
                category, noise.normal(steps, self.generator.motion, device=device), state
            )
            yield self.generator.render(content, category, motion)
            progress(first + steps, frames)


def _random_window(clips: int, length: int, frames: int, generator: torch.Generator) -> Int64[Tensor, "B t"]:
    """The indices of `frames` consecutive steps of `length`, from a random start for each clip."""
    device = generator.device
    start = torch.randint(length - frames + 1, (clips, 1), generator=generator, device=device)
    return start + torch.arange(frames, device=device)


def _take(x: Float[Tensor, "B T *D"], index: Int64[Tensor, "B t"]) -> Float[Tensor, "B t *D"]:
    """The steps of each sequence with these indices."""
    return x[torch.arange(len(x), device=x.device)[:, None], index]


def _category_loss(logits: Float[Tensor, "B K t h w"], category: Int64[Tensor, " B"]) -> Float[Tensor, ""]:
    """Cross-entropy of the categories, from D_V's logits without the first channel (L_I in equation 5)."""
    return F.cross_entropy(logits[:, 1:].float().mean((2, 3, 4)), category)
