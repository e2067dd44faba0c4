"""kinema's own video encoder: small, shipped, and a sense of motion as well as of pictures.

Distances in its features are no FVD, and are never called so: the network is a hundredth of I3D's size and was trained
on little. It learned without labels, on clips that may be shipped (`benchmarks/encoder.py` trains it):

- two cuts of a clip belong together, and apart from other clips and from the same one spoiled (contrastive learning
  with InfoNCE: van den Oord et al. 2018, arXiv 1807.03748);
- how a clip was spoiled, and how much, can be read from the features by a line (for changes in time: Jenni et al. 2020,
  arXiv 2007.10730). What it is spoiled by in training is not what `metrics/corruptions.py` tries measures on.

The network: frames and their changes from the frame before, the strong ones damped so that a face that hardly moves is
seen as a car that does (asinh, which is the logarithm of a large value), as patches of 4x4 pixels, then three levels of
convolutions over space and time apart (R(2+1)D: Tran et al. 2018, arXiv 1711.11248); the mean and the deviation over
all places and times of the last two, and one linear layer. Features vary by one over what it was trained on.
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

from kinema.metrics.exactness import exact, sha256
from kinema.run import channels_last

__all__ = ["Encoder", "KinemaFeatures", "prepared"]

SIDE = 64  # pixels
PATCH = 4
WIDTHS = (48, 96, 192, 256)
DIMENSIONS = 128
FAINT, SLIGHT = 2 / 127.5, 0.2  # so that changes by 2, 20 and 200 levels of 255 are seen as 0.2, 0.6 and 1.1
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
        seen: list[Tensor] = []
        for level in self.levels:
            x = level(x, len(clips))
            flat = rearrange(x, "(b t) c h w -> b c (t h w)", b=len(clips)).float()
            seen += [flat.mean(2), (flat.var(2, correction=0) + 1e-5).sqrt()]
        return (self.read(torch.cat(seen[2:], 1)) - self.mean) / self.deviation


class _Level(nn.Module):
    """Convolutions over space and then over time that divide sides and times by their strides."""

    def __init__(self, width: int, wider: int, time: int, side: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(width, wider, 3, side, 1, bias=False)
        self.time = nn.Conv2d(wider, wider, (3, 1), (time, 1), (1, 0), bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(wider) for _ in range(2))

    def forward(self, x: Tensor, clips: int) -> Tensor:
        """Of frames [B T, C, H, W] those of the next level."""
        x = F.relu(self.norms[0](self.space(x)))
        height = x.shape[2]
        x = rearrange(x, "(b t) c h w -> b c t (h w)", b=clips)  # 2D convolutions are quicker on a CPU
        x = F.relu(self.norms[1](self.time(x)))
        return rearrange(x, "b c t (h w) -> (b t) c h w", h=height)


def prepared(clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 3 T 64 64"]:
    """Clips of any size as the encoder sees them: resized as a whole, bilinear and antialiased, in [-1, 1]."""
    frames = rearrange(clips, "b t h w c -> (b t) c h w").float()
    if frames.shape[-2:] != (SIDE, SIDE):
        frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
    return rearrange(frames / 127.5 - 1, "(b t) c h w -> b c t h w", b=len(clips))


class KinemaFeatures:
    """The shipped encoder as a `FeatureNetwork`, in float32."""

    name = "kinema"
    preprocessing = f"frames resized as a whole to {SIDE}x{SIDE} (bilinear, antialiased)"
    dimensions = DIMENSIONS
    least = LEAST

    def __init__(self, device: torch.device | None = None) -> None:
        self.checksum = sha256(WEIGHTS)
        self.device = device or torch.device("cpu")
        encoder = Encoder()
        counters = {name: x for name, x in encoder.state_dict().items() if name.endswith("num_batches_tracked")}
        encoder.load_state_dict(counters | {name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
        channels_last(encoder)
        self.encoder = encoder.to(self.device).eval()

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 128"]:
        """The features of clips of 4 frames or more."""
        with exact(self.device):
            return self.encoder(prepared(clips.to(self.device)))
