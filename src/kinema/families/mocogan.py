"""MoCoGAN: a video is one content code and a path of motion codes (Tulyakov et al., CVPR 2018, arXiv 1707.04993).

A recurrent network turns fresh noise at every frame into a path of motion codes; an image generator draws each
frame from (content, category, motion); one critic judges single frames, another whole clips. With labels, or with
a categorical code and none, the clip critic also tells the categories apart and the generator is asked to make
clips whose category it can tell (section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kinema.family import Facts, Family, FamilyConfig, Turn
from kinema.nn.adversarial import AdversarialLoss, Penalty, critic_loss, generator_loss
from kinema.nn.augment import augment
from kinema.nn.coordinates import Coordinates
from kinema.nn.critic import Critic, CriticNorm, clips_seen, keep_scale
from kinema.nn.labels import labels
from kinema.types import Batch, Conditions, Noise

__all__ = ["MoCoGAN", "MoCoGANConfig"]

See = Callable[[Tensor, torch.Generator], Tensor]  # from clips to what a critic sees of them
CHUNK = 16  # frames that `generate` draws at a time: memory stays the same however long the clip


@dataclass(frozen=True)
class MoCoGANConfig(FamilyConfig):
    """The defaults are the authors' network and recipe; `kinema.presets` has others."""

    frames: int | None = None
    """T that the clip critic sees; taken from the clips. Sampling may ask for any other number."""
    height: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    width: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    categories: int | None = None
    """Values of the categorical code; taken from the labels. Without labels, so many are found (InfoGAN)."""
    category: Literal["frames", "path"] = "frames"
    """What the categorical code is told to: the image generator at every frame, or the path of motion codes."""
    content: int = 50
    """Dimensions of the content code, one draw a clip."""
    motion: int = 10
    """Dimensions of the motion code, one a frame."""
    ngf: int = 64
    """Channels of the image generator before its output layer."""
    coordinates: bool = False
    """Tell every layer of the image generator but the first where its pixels are: places are learned sooner."""
    ndf: int = 64
    """Channels of the clip critic after its input layer: most of a step's cost."""
    ndf_image: int = 64
    """Channels of the image critic after its input layer (0: none, only clips are judged)."""
    norm: CriticNorm = "batch"
    """Normalisation in the critics; a gradient penalty wants "none"."""
    noise: float = 0.1
    """Standard deviation of the Gaussian noise added to the input of the critics' strided layers."""
    loss: AdversarialLoss = "vanilla"
    """What the players play for."""
    penalty: float = 0.0
    """Weight of the R1 and R2 gradient penalties (0: none), each on a quarter of the batch; a clip's is that by T."""
    penalty_falls: int = 0
    """Steps over which that weight falls to a twentieth (0: it stays): a strong one hides small differences."""
    augment: bool = False
    """Differentiable augmentation of all that the critics see: for a few hundred clips or fewer."""
    information: float = 1.0
    """Weight of the categorical code's information loss."""

    def __post_init__(self) -> None:
        if min(self.content, self.motion, self.ngf, self.ndf) < 1:
            raise ValueError("mocogan: content, motion, ngf and ndf must be at least 1")
        if min(self.ndf_image, self.noise, self.penalty, self.penalty_falls, self.information) < 0:
            raise ValueError("mocogan: ndf_image, noise, penalty, penalty_falls and information must not be negative")

    def fitted(self, facts: Facts) -> MoCoGANConfig:
        """The configuration for clips of these sizes and classes."""
        found = {"frames": facts.frames, "height": facts.height, "width": facts.width}
        if facts.classes or self.categories is None:
            found["categories"] = len(facts.classes)
        return self.completed(**found)

    def build(self) -> MoCoGAN:
        """The untrained model."""
        return MoCoGAN(self)


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
        for i, o in pairwise([*widths, 3]):
            layers += [nn.BatchNorm2d(i), nn.ReLU(inplace=True)]
            if config.coordinates:
                layers.append(Coordinates())
            layers.append(nn.ConvTranspose2d(i + 2 * config.coordinates, o, 4, 2, 1, bias=False))
        self.draw = nn.Sequential(*layers, nn.Tanh())

    def walk(
        self, category: Int64[Tensor, " B"], noise: Float[Tensor, "B T M"], start: Float[Tensor, "B M"]
    ) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B M"]]:
        """The motion codes of T frames and the state to go on from (section 3.1, R_M)."""
        if self.on_path:
            noise = torch.cat([noise, repeat(self._one_hot(category, noise), "b k -> b t k", t=noise.shape[1])], 2)
        with torch.autocast(noise.device.type, enabled=False):  # a long path would gather bf16's rounding
            path, state = self.path(noise, start[None].contiguous())
        return path, state[0]

    def forward(
        self, content: Float[Tensor, "B C"], category: Int64[Tensor, " B"], motion: Float[Tensor, "B T M"]
    ) -> Float[Tensor, "B T 3 H W"]:
        """The frames that these codes stand for, in [-1, 1]; `category` is not looked at where there are none."""
        still = content if self.on_path else torch.cat([content, self._one_hot(category, content)], 1)
        codes = torch.cat([repeat(still, "b c -> b t c", t=motion.shape[1]), motion], 2)
        frames = self.draw(rearrange(codes, "b t c -> (b t) c 1 1"))
        return rearrange(frames, "(b t) c h w -> b t c h w", b=len(content))

    def _one_hot(self, category: Tensor, like: Tensor) -> Tensor:
        """[B, K], of no width where there are no categories."""
        return F.one_hot(category, max(1, self.categories))[:, : self.categories].to(like)


def image_critic(config: MoCoGANConfig) -> Critic:
    """The critic D_I of single frames [B, 3, H, W]: a grid of logits [B, 1, h, w], one a patch."""
    batch = config.norm == "batch"
    widths = [3, *(config.ndf_image * m for m in (1, 2, 4))]
    convolutions = [nn.Conv2d(i, o, 4, 2, 1, bias=not batch) for i, o in zip(widths, [*widths[1:], 1], strict=True)]
    return Critic(convolutions, config.norm, config.noise)


def video_critic(config: MoCoGANConfig, categories: int, frames: int, height: int, width: int) -> Critic:
    """The critic D_V of clips [B, 3, T, H, W]: logits [B, 1 + categories, t, h, w], the first channel for real."""
    batch = config.norm == "batch"
    widths = [3, *(config.ndf * m for m in (1, 2, 4, 8))]
    convolutions: list[nn.Conv2d | nn.Conv3d] = []
    for i, o in pairwise(widths):
        kernel = min(4, frames)
        frames -= kernel - 1
        convolutions.append(nn.Conv3d(i, o, (kernel, 4, 4), (1, 2, 2), (0, 1, 1), bias=not batch))
    kernel = (min(4, frames), min(4, height // 16), min(4, width // 16))
    convolutions.append(nn.Conv3d(widths[-1], 1 + categories, kernel, bias=not batch))
    return Critic(convolutions, config.norm, config.noise)


class MoCoGAN(Family):
    """Motion and content decomposed GAN; conditioned on the label where it was trained with labels."""

    accepts = frozenset({"label"})
    streams = frozenset({"content", "motion"})

    generator: Generator
    image_critic: Critic | None

    def __init__(self, config: MoCoGANConfig) -> None:
        super().__init__()
        frames, height, width, categories = config.filled("frames", "height", "width", "categories")
        if min(height, width) < 16 or height % 16 or width % 16:
            raise ValueError(f"mocogan: height and width must be multiples of 16, not {height} and {width}")
        self.config = config
        self.generator = Generator(config, categories, height, width)
        self.image_critic = image_critic(config) if config.ndf_image else None
        self.video_critic = video_critic(config, categories, frames, height, width)
        keep_scale(self)
        self.penalty = Penalty(config.penalty, config.penalty_falls)

    def turns(self) -> Sequence[Turn]:
        """Both critics, then the generator against both (equation 4, and 5 for the categories)."""
        turns = (
            Turn("video_critic", self.video_critic, self._video_critic_loss, self.penalty.play),
            Turn("generator", self.generator, self._generator_loss),
        )
        if self.image_critic is None:
            return turns
        return (Turn("image_critic", self.image_critic, self._image_critic_loss), *turns)

    def _imagine(self, batch: Batch, generator: torch.Generator, frames: int) -> tuple[Tensor, Tensor]:
        """Generated clips, as many as in `batch`, and their categories [B]: the batch's labels, or drawn.

        `frames` consecutive frames at a random place of a path as long as the batch's: [B, frames, 3, H, W].
        """
        (size, length), device = batch.frames.shape[:2], batch.frames.device
        draw = partial(torch.randn, generator=generator, device=device)
        category = batch.given.label
        if category is None:
            category = torch.randint(max(1, self.generator.categories), (size,), generator=generator, device=device)
        noise, start = draw(size, length, self.generator.motion), draw(size, self.generator.motion)
        motion, _ = self.generator.walk(category, noise, start)
        motion = _windows(motion, frames, generator)
        return self.generator(draw(size, self.generator.content), category, motion), category

    def _frames_seen(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """What D_I sees of clips: one frame of each at random [B, 3, H, W] (S_1 of section 3.2)."""
        frames = _windows(clips, 1, generator)
        return (augment(frames, generator) if self.config.augment else frames)[:, 0]

    def _clips_seen(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """What D_V sees of clips: all of them, [B, 3, T, H, W]."""
        return clips_seen(clips, generator, self.config.augment)

    def _image_critic_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            images, _ = self._imagine(batch, generator, frames=1)
        real, fake = self._frames_seen(batch.frames, generator), self._frames_seen(images, generator)
        assert self.image_critic is not None  # or there is no such turn
        critic = partial(self.image_critic, generator=generator)
        loss = critic_loss(self.config.loss, critic(real), critic(fake))
        return loss + self.penalty(critic, real, fake), {"image_critic": loss}

    def _video_critic_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            clips, category = self._imagine(batch, generator, batch.frames.shape[1])
        real, fake = self._clips_seen(batch.frames, generator), self._clips_seen(clips, generator)
        critic = partial(self.video_critic, generator=generator)
        on_real, on_fake = critic(real), critic(fake)
        loss = critic_loss(self.config.loss, on_real[:, 0], on_fake[:, 0])
        scalars = {"video_critic": loss}
        total = loss + self.penalty(lambda x: critic(x)[:, 0], real, fake, batch.frames.shape[1])
        if self.generator.categories:  # learned from real clips where they are labelled, else from the generator's
            scalars["categories"] = _category_loss(on_fake if batch.given.label is None else on_real, category)
            total = total + scalars["categories"]
        return total, scalars

    def _generator_loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        def play(critic: Critic, see: See, fake: Tensor) -> tuple[Tensor, Tensor]:
            on_fake = critic(see(fake, generator), generator)
            loss = generator_loss(
                self.config.loss, on_fake[:, 0], lambda: critic(see(batch.frames, generator), generator)[:, 0]
            )
            return loss, on_fake

        scalars = {}
        if self.image_critic is not None:
            images, _ = self._imagine(batch, generator, frames=1)
            scalars["generator_image"], _ = play(self.image_critic, self._frames_seen, images)
        clips, category = self._imagine(batch, generator, batch.frames.shape[1])
        scalars["generator_video"], on_fake = play(self.video_critic, self._clips_seen, clips)
        total = torch.stack(list(scalars.values())).sum()
        if self.generator.categories:
            scalars["information"] = _category_loss(on_fake, category)
            total = total + self.config.information * scalars["information"]
        return total, scalars

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the frames in chunks; a category that is not given is drawn as motion."""
        self.refuse_unusable(given)
        device = next(self.generator.parameters()).device
        category = labels(given, self.generator.categories, noise, "motion", device)
        content = noise.normal("content", self.generator.content, device=device)
        state = noise.normal("motion", self.generator.motion, device=device)
        for first in range(0, frames, CHUNK):
            steps = min(CHUNK, frames - first)
            fresh = noise.normal("motion", steps, self.generator.motion, device=device)
            motion, state = self.generator.walk(category, fresh, state)
            yield self.generator(content, category, motion)


def _windows(x: Float[Tensor, "B T *D"], length: int, generator: torch.Generator) -> Float[Tensor, "B length *D"]:
    """`length` consecutive steps of each sequence, from a random place."""
    start = torch.randint(x.shape[1] - length + 1, (len(x), 1), generator=generator, device=x.device)
    return x[torch.arange(len(x), device=x.device)[:, None], start + torch.arange(length, device=x.device)]


def _category_loss(logits: Float[Tensor, "B K t h w"], category: Int64[Tensor, " B"]) -> Float[Tensor, ""]:
    """Cross-entropy of the categories, from all but the first channel of D_V's logits (equation 5's L_I)."""
    return F.cross_entropy(logits[:, 1:].float().mean((2, 3, 4)), category)
