"""Networks whose features of clips are compared, behind one small protocol.

A distance between two sets of clips is as good as the features that it is taken in, and no two networks give the same
number. So each says its name, the checksum of its weights, and what becomes of clips before it sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.metrics.encoder import KinemaFeatures
from kinema.metrics.i3d import I3DStyleGANV, I3DVideoGPT
from kinema.metrics.pretrained import v_jepa, videomae

__all__ = ["NETWORKS", "FeatureNetwork"]


@runtime_checkable
class FeatureNetwork(Protocol):
    """What makes a vector of each clip."""

    name: str
    """Of the network and its dialect; a distance is named after it."""
    checksum: str
    """SHA-256 of the file of weights, in hexadecimal."""
    preprocessing: str
    """What becomes of a clip before the network sees it, in words."""
    dimensions: int
    """D of a vector."""
    least: int
    """Frames that a clip must have."""

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B D"]:
        """The float32 features of clips of 8-bit RGB, computed without gradients, on the network's own device."""
        ...


def _kinema(weights: str | None, device: torch.device) -> FeatureNetwork:
    if weights is not None:
        raise ValueError("kinema's own encoder comes with its weights: leave --weights out, or choose other --features")
    return KinemaFeatures(device)


def _v_jepa(weights: str | None, device: torch.device) -> FeatureNetwork:
    return v_jepa(weights, device) if weights else v_jepa(device=device)


def _videomae(weights: str | None, device: torch.device) -> FeatureNetwork:
    return videomae(weights, device) if weights else videomae(device=device)


NETWORKS: dict[str, Callable[[str | None, torch.device], FeatureNetwork]] = {
    "kinema": _kinema,
    "i3d-stylegan-v": I3DStyleGANV,
    "i3d-videogpt": I3DVideoGPT,
    "v-jepa": _v_jepa,
    "videomae": _videomae,
}
"""What opens a network, by name, from a file or folder of weights or from where it is looked for without one."""
