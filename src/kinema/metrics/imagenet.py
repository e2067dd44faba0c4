"""Features of clips by a network that was trained to classify pictures: what is in the frames, and how it changes.

The Frechet distance of pictures is known by such features (FID: Heusel et al. 2017, arXiv 1706.08500). Of a clip the
network gives a vector for each frame, which is brought to one length, so that noise, to which the network responds
weakly, is as far from pictures as its direction is. The features of the clip are the mean of the vectors over time
beside the mean absolute change from frame to frame, so that a clip that stands still is far from one that moves. The
network is EfficientNet-Lite0, a small one that installs with kinema, not FID's Inception: distances in its features are
no FID and no FVD.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.metrics.features import exact
from kinema.nn.efficientnet import HEAD, WEIGHTS_SHA256, pretrained

__all__ = ["ImageNetFeatures"]

SIDE = 128  # pixels; with 64 it ranks failures worse, and 224 takes three times as long
CHANGE = 3.0  # weight of the changes; with 2 clips that stand still are nearer than slightly blurred ones
LEAST = 2  # frames: there is no change in one
FRAMES = 16  # that the network is given at once: the activations of more do not fit in a CPU's cache


class ImageNetFeatures:
    """EfficientNet-Lite0 over the frames of a clip, in float32: a `FeatureNetwork`."""

    name = "imagenet"
    preprocessing = (
        f"frames resized without cropping to {SIDE}x{SIDE} (bilinear, antialiased); the mean of their features, of "
        f"mean square 1, and {CHANGE:g} times the mean absolute change from frame to frame"
    )
    checksum = WEIGHTS_SHA256
    dimensions = 2 * HEAD
    least = LEAST

    def __init__(self, weights: str | None = None, device: torch.device | str = "cpu") -> None:
        if weights is not None:
            raise ValueError("the ImageNet network has its weights: leave --weights out, or choose other --features")
        self.device = torch.device(device)
        self.network = pretrained(self.device)

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 2560"]:
        """The features of clips of 2 frames or more; raises ValueError for fewer."""
        if clips.shape[1] < LEAST:
            raise ValueError(f"imagenet features need {LEAST} frames of a clip or more, not {clips.shape[1]}")
        with exact(self.device):
            frames = rearrange(clips, "b t h w c -> (b t) h w c")
            distinct, numbers = torch.unique_consecutive(frames, return_inverse=True, dim=0)  # clips may stand still
            found = [self.network(_prepared(part.to(self.device))) for part in distinct.split(FRAMES)]
            vectors = HEAD**0.5 * F.normalize(torch.cat(found))
            of_frames = vectors[numbers.to(self.device)].unflatten(0, clips.shape[:2])  # [B, T, 1280]
            return torch.cat([of_frames.mean(1), CHANGE * of_frames.diff(dim=1).abs().mean(1)], 1)


def _prepared(frames: UInt8[Tensor, "N H W 3"]) -> Float[Tensor, "N 3 128 128"]:
    """Frames of any size, resized without cropping, in [-1, 1]."""
    values = rearrange(frames, "n h w c -> n c h w").float()
    if values.shape[-2:] != (SIDE, SIDE):
        values = F.interpolate(values, (SIDE, SIDE), mode="bilinear", antialias=True)
    return (values / 127.5 - 1).contiguous(memory_format=torch.channels_last)
