"""Transform codec: the Karhunen-Loeve transform of blocks of pixels, computed from the clips in about a second.

Blocks of `time` frames by `space` x `space` pixels are projected on the eigenvectors of their covariance with the
largest eigenvalues, which of all linear codecs of as many channels has the least squared error (Karhunen 1947; Loeve
1948; Jain 1989, "Fundamentals of Digital Image Processing", section 5.11). A video's first frame is coded alone, by the
transform of single frames, so an image is a video of one frame, and no block depends on another.

A latent's channels are divided by the square root of their standard deviation and then by one number for all, so that
their mean square is 1: divided by the deviation itself, a diffusion model's errors in weak channels would be as large
as in strong ones and show as blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from kinema.config import MOST_CHANNELS, check_ranges
from kinema.family import Codec
from kinema.types import ClipSpec

__all__ = ["RateDistortion", "Transform", "TransformConfig", "rate_distortion"]

SMALLEST, MOST_BLOCKS = 4, 400  # side of a block in pixels, and blocks of a frame, where they are chosen
BLOCKS = 1024  # that are taken of a batch of clips
LEAST_DEVIATION = 1e-4  # of a channel, where pixels are in [-1, 1]: clips may have fewer colours than channels


@dataclass(frozen=True)
class TransformConfig:
    """By default blocks grow with the frames.

    17 frames of 64x64 are 5x16x16 latents of 16 channels, 17 of 128x128 are 5x16x16 latents of 32 channels.
    """

    space: int = 0
    """Pixels of a block's side; 0: taken from the clips, 4, or 8 or more for larger frames that are whole blocks."""
    time: int = 4
    """Frames of a block."""
    channels: int = 0
    """Values that are kept of a block; 0: four for each pixel of its side."""

    def __post_init__(self) -> None:
        check_ranges(self, space=(0, 1024), time=(1, 1024), channels=(0, MOST_CHANNELS))
        if self.space and self.channels > (most := 3 * self.space**2):
            raise ValueError(
                f"transform: a frame's block of {self.space}x{self.space} pixels has {most} values, so channels must "
                f"be at most {most}, not {self.channels}"
            )

    @property
    def latent_channels(self) -> int:
        """C."""
        return self.channels

    @property
    def levels(self) -> tuple[int, ...]:
        """Latents are continuous."""
        return ()

    def fitted(self, spec: ClipSpec) -> TransformConfig:
        """The configuration with sizes for these clips; raises ValueError unless they are whole blocks."""
        if not self.space or not self.channels:
            space = self.space or _suitable_space(spec)
            return replace(self, space=space, channels=self.channels or min(4 * space, 3 * space**2)).fitted(spec)
        if remainder := (spec.frames - 1) % self.time:
            raise ValueError(
                f"transform: a clip is 1 frame and then groups of {self.time}, so {spec.frames} frames cannot be "
                f"coded: make --data.frames {spec.frames - remainder} or {spec.frames - remainder + self.time}"
            )
        if spec.height % self.space or spec.width % self.space:
            raise ValueError(
                f"transform: height and width must be multiples of {self.space}, not {spec.height} and {spec.width}: "
                "choose others with --data.height and --data.width"
            )
        return self

    def for_inference(self) -> TransformConfig:
        """The same configuration."""
        return self

    def build(self) -> Transform:
        """The codec before it is calibrated; raises ValueError if sizes are left open."""
        if not self.space or not self.channels:
            raise ValueError("transform: space and channels are left open: complete them with fitted(spec)")
        return Transform(self)


def _suitable_space(spec: ClipSpec) -> int:
    """The smallest blocks with which a frame has at most `MOST_BLOCKS`, or the largest that leave pairs of blocks."""
    space = SMALLEST
    while spec.height * spec.width > MOST_BLOCKS * space**2:
        if spec.height % (4 * space) or spec.width % (4 * space):  # pairs of blocks of twice the side
            break
        space *= 2
    return space


class Transform(Codec):
    """A linear codec of blocks, computed from clips by `calibrate`."""

    config: TransformConfig

    def __init__(self, config: TransformConfig) -> None:
        super().__init__()
        self.config, self.space, self.time, self.channels = config, config.space, config.time, config.channels
        self.first = _Basis(1, config.space, config.channels)
        self.groups = _Basis(config.time, config.space, config.channels)

    def calibrate(self, clips: Iterable[Float[Tensor, "B T 3 H W"]]) -> None:
        """Compute the transforms from clips in [-1, 1]; the same clips give the same codec."""
        firsts, groups = _Covariance(1, self.space), _Covariance(self.time, self.space)
        for frames in clips:
            groups.add(frames[:, 1:])
            if self.time > 1:
                firsts.add(frames)
        self.groups.set(*groups.eigenvectors(self.channels))
        if self.time == 1:  # all frames are coded alike
            self.first.set(*groups.eigenvectors(self.channels))
            return
        mean, vectors, deviations = firsts.eigenvectors(self.channels)
        # in the channels whose patterns in groups are the most like theirs, so that a channel means one thing
        still = self.groups.vectors.cpu().unflatten(0, (self.time, -1)).sum(0)
        alike = vectors.T @ still  # [of frames, of groups]
        of_frames, of_groups = linear_sum_assignment(-alike.abs().numpy())
        order = torch.from_numpy(of_frames[of_groups.argsort()])
        signs = torch.where(alike[order, torch.arange(self.channels)] < 0, -1.0, 1.0)
        self.first.set(mean, vectors[:, order] * signs, deviations[order])

    def encode(
        self, frames: Float[Tensor, "B T 3 H W"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B L C h w"], tuple[Tensor, ...]]:
        """The latents of the next frames; the state is empty."""
        self.check_chunk(frames, state)
        single = 1 if state is None else 0
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames.float()
            parts = [self.first.encode(frames[:, :single]), self.groups.encode(frames[:, single:])]
        return torch.cat(parts, 1), ()

    def decode(
        self, latents: Float[Tensor, "B L C h w"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B T 3 H W"], tuple[Tensor, ...]]:
        """The frames of the next latents, clamped to [-1, 1]; the state is empty."""
        single = 1 if state is None else 0
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            parts = [self.first.decode(latents[:, :single]), self.groups.decode(latents[:, single:])]
        return torch.cat(parts, 1).clamp(-1, 1), ()

    def inference_state(self) -> dict[str, Tensor]:
        """The transforms."""
        return self.state_dict()

    def load_inference_state(self, weights: dict[str, Tensor]) -> None:
        """Load the transforms; raises RuntimeError if they do not fit."""
        self.load_state_dict(weights)


class _Basis(nn.Module):
    """The transform of blocks of one length."""

    mean: Tensor
    vectors: Tensor
    scale: Tensor

    def __init__(self, time: int, space: int, channels: int) -> None:
        super().__init__()
        self.sizes, values = {"t": time, "p": space, "q": space}, 3 * time * space**2
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("vectors", torch.zeros(values, channels))
        self.register_buffer("scale", torch.ones(channels))  # that latents are divided by

    def set(self, mean: Tensor, vectors: Tensor, deviations: Tensor) -> None:
        """Set the transform, given the standard deviation of each channel."""
        scale = deviations.clamp(min=LEAST_DEVIATION).sqrt()
        scale = scale * (deviations / scale).square().mean().sqrt().clamp(min=LEAST_DEVIATION)
        self.mean.copy_(mean)
        self.vectors.copy_(vectors)
        self.scale.copy_(scale)

    def encode(self, frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B L C h w"]:
        blocks = rearrange(frames, "b (l t) c (h p) (w q) -> b l h w (t c p q)", **self.sizes)
        return ((blocks - self.mean) @ (self.vectors / self.scale)).movedim(-1, 2)

    def decode(self, latents: Float[Tensor, "B L C h w"]) -> Float[Tensor, "B T 3 H W"]:
        blocks = latents.movedim(2, -1) @ (self.vectors * self.scale).T + self.mean
        return rearrange(blocks, "b l h w (t c p q) -> b (l t) c (h p) (w q)", c=3, **self.sizes)


class _Covariance:
    """The mean and covariance of blocks, from a sample of the blocks of each batch of clips."""

    def __init__(self, time: int, space: int) -> None:
        self.time, self.sizes = time, {"t": time, "p": space, "q": space}
        self.count, self.sum, self.products = 0, torch.zeros(()), torch.zeros(())
        self.generator = torch.Generator().manual_seed(0)

    def add(self, frames: Float[Tensor, "B T 3 H W"]) -> None:
        """Add clips, without the frames at their end that make no group."""
        frames = frames[:, : frames.shape[1] // self.time * self.time]
        blocks = rearrange(frames, "b (l t) c (h p) (w q) -> (b l h w) (t c p q)", **self.sizes).float().cpu()
        blocks = blocks[torch.randperm(len(blocks), generator=self.generator)[:BLOCKS]]
        self.count += len(blocks)
        self.sum = self.sum + blocks.sum(0, dtype=torch.float64)
        self.products = self.products + (blocks.T @ blocks).double()

    def spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, the eigenvalues, the largest first, and the eigenvectors as columns."""
        if not self.count:
            raise ValueError(f"there is no group of {self.time} frames to fit the codec to: take longer clips")
        mean = self.sum / self.count
        values, vectors = torch.linalg.eigh(self.products / self.count - torch.outer(mean, mean))
        return mean, values.flip(0).clamp(min=0), vectors.flip(1)

    def eigenvectors(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean, the leading eigenvectors and their deviations, with positive sums of the vectors' values."""
        mean, values, vectors = self.spectrum()
        vectors = vectors[:, :count]
        signs = (vectors.sum(0) >= 0).double() * 2 - 1
        return mean.float(), (vectors * signs).float(), values[:count].sqrt().float()


class RateDistortion(NamedTuple):
    """What a transform keeps of clips."""

    space: int
    time: int
    channels: int
    psnr: float  # dB, of groups after the first frame, of the clips that it was fitted to


def rate_distortion(
    clips: Sequence[Float[Tensor, "B T 3 H W"]], shapes: Iterable[tuple[int, int]], channels: Iterable[int]
) -> list[RateDistortion]:
    """The PSNR of transforms of these shapes (space, time) and numbers of channels, one eigenproblem a shape."""
    table, channels = [], list(channels)
    for space, time in shapes:
        covariance = _Covariance(time, space)
        for frames in clips:
            covariance.add(frames[:, 1:])
        _, values, _ = covariance.spectrum()
        for count in channels:
            if count <= 3 * space**2:
                error = float(values[count:].sum()) / len(values) / 4  # pixels span 2
                table.append(RateDistortion(space, time, count, -10 * math.log10(max(error, 1e-10))))
    return table
