"""kinema's own video encoder, which ships with it: a small network that sees motion as well as pictures.

Distances in its features are no FVD and are never called so: the network has a hundredth of I3D's size and was trained
on little. It was trained without labels (`benchmarks/encoder.py`) on clips whose licences allow it:

- two crops of a clip are alike, and unlike other clips and corruptions of the same one (contrastive learning with
  InfoNCE: van den Oord et al. 2018, arXiv 1807.03748);
- the kind and the strength of a corruption are a linear function of the features (for changes in time: Jenni et al.
  2020, arXiv 2007.10730). The corruptions of training are not those of `metrics/corruptions.py`.

The network: frames and their differences, compressed by asinh so that a face that hardly moves counts as a car that
does, as patches of 4x4 pixels; three levels of separate spatial and temporal convolutions (R(2+1)D: Tran et al. 2018,
arXiv 1711.11248); the mean and deviation over all places and times of the last two levels; one linear layer. Features
have variance 1 over the training clips.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from kinema.metrics.features import exact, sha256
from kinema.runtime.device import channels_last

__all__ = ["Encoder", "KinemaFeatures", "prepared"]

SIDE = 64  # pixels
PATCH = 4
WIDTHS = (48, 96, 192, 256)
DIMENSIONS = 128
FAINT, SLIGHT = 2 / 127.5, 0.2  # changes by 2, 20 and 200 levels of 255 become 0.2, 0.6 and 1.1
LEAST = 4  # frames: time is halved twice
WEIGHTS = Path(__file__).parent / "encoder.safetensors"


class Encoder(nn.Module):
    """Clips [B, 3, T, 64, 64] in [-1, 1], of 4 frames or more, to features [B, 128]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(6, WIDTHS[0], PATCH, PATCH)
        strides = ((1, 2), (2, 2), (2, 1))  # of time and of a side
        self.levels = nn.ModuleList(_Level(*io, *s) for io, s in zip(pairwise(WIDTHS), strides, strict=True))
        self.read = nn.Linear(2 * sum(WIDTHS[2:]), DIMENSIONS)
        self.register_buffer("mean", torch.zeros(DIMENSIONS))
        self.register_buffer("deviation", torch.ones(DIMENSIONS))

    def forward(self, clips: Float[Tensor, "B 3 T 64 64"]) -> Float[Tensor, "B 128"]:
        change = F.pad(SLIGHT * torch.asinh(clips.diff(dim=2) / FAINT), (0, 0, 0, 0, 1, 0))
        x = self.patches(rearrange(torch.cat([clips, change], 1), "b c t h w -> (b t) c h w"))
        pooled: list[Tensor] = []
        for level in self.levels:
            x = level(x, len(clips))
            flat = rearrange(x, "(b t) c h w -> b c (t h w)", b=len(clips)).float()
            pooled += [flat.mean(2), (flat.var(2, correction=0) + 1e-5).sqrt()]
        return (self.read(torch.cat(pooled[2:], 1)) - self.mean) / self.deviation


class _Level(nn.Module):
    """A convolution over space, then one over time, each with a stride."""

    def __init__(self, width: int, wider: int, time: int, side: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, wider, 3, side, 1, bias=False)
        self.time = nn.Conv2d(wider, wider, (3, 1), (time, 1), (1, 0), bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(wider) for _ in range(2))

    def forward(self, x: Tensor, clips: int) -> Tensor:
        """Frames [B T, C, H, W] to those of the next level."""
        x = F.relu(self.norms[0](self.space(x)))
        height = x.shape[2]
        x = rearrange(x, "(b t) c h w -> b c t (h w)", b=clips)  # 2D convolutions are faster on a CPU
        x = F.relu(self.norms[1](self.time(x)))
        return rearrange(x, "b c t (h w) -> (b t) c h w", h=height)


def prepared(clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 3 T 64 64"]:
    """Clips of any size, resized without cropping (bilinear, antialiased), in [-1, 1]."""
    frames = rearrange(clips, "b t h w c -> (b t) c h w").float()
    if frames.shape[-2:] != (SIDE, SIDE):
        frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
    return rearrange(frames / 127.5 - 1, "(b t) c h w -> b c t h w", b=len(clips))


class KinemaFeatures:
    """The encoder with its shipped weights, in float32: a `FeatureNetwork`."""

    name = "kinema"
    preprocessing = f"frames resized without cropping to {SIDE}x{SIDE} (bilinear, antialiased)"
    dimensions = DIMENSIONS
    least = LEAST

    def __init__(self, weights: str | None = None, device: torch.device | str = "cpu") -> None:
        if weights is not None:
            raise ValueError("kinema's own encoder has its weights: leave --weights out, or choose other --features")
        self.checksum, self.device = sha256(WEIGHTS), torch.device(device)
        encoder = Encoder()
        counters = {name: x for name, x in encoder.state_dict().items() if name.endswith("num_batches_tracked")}
        encoder.load_state_dict(counters | {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
        channels_last(encoder)
        self.encoder = encoder.to(self.device).eval()

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 128"]:
        """The features of clips of 4 frames or more."""
        with exact(self.device):
            return self.encoder(prepared(clips.to(self.device)))
