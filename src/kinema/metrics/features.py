"""Networks whose features of clips are compared, behind one protocol, and what they share.

No two networks give the same distance, so each has a name, the checksum of its weights and its preprocessing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = ["NETWORKS", "FeatureNetwork", "exact", "first_line", "load_network", "sha256"]


@runtime_checkable
class FeatureNetwork(Protocol):
    """Gives a vector for each clip."""

    name: str
    """Of the network and its preprocessing; a distance is named after it."""
    checksum: str
    """SHA-256 of the file of weights, in hexadecimal."""
    preprocessing: str
    """In words."""
    dimensions: int
    """D of a vector."""
    least: int
    """Frames that a clip must have."""

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B D"]:
        """The float32 features of 8-bit RGB clips, computed without gradients on the network's own device."""
        ...


NETWORKS = {
    "imagenet": "kinema.metrics.imagenet:ImageNetFeatures",
    "kinema": "kinema.metrics.encoder:KinemaFeatures",
    "i3d-stylegan-v": "kinema.metrics.i3d:I3DStyleGANV",
    "i3d-videogpt": "kinema.metrics.i3d:I3DVideoGPT",
    "v-jepa": "kinema.metrics.pretrained:v_jepa",
    "videomae": "kinema.metrics.pretrained:videomae",
}


def load_network(name: str, weights: str | None, device: torch.device) -> FeatureNetwork:
    """The network of this name; `weights` is its file, folder or hub name, None its default.

    Raises ValueError for an unknown name, and where the weights are missing or of another network.
    """
    if name not in NETWORKS:
        raise ValueError(f"there are no features called {name!r}; there are {', '.join(NETWORKS)}")
    module, attribute = NETWORKS[name].split(":")
    return getattr(import_module(module), attribute)(weights, device)


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Compute in float32 without gradients: no autocast, no TF32 convolutions, the same kernels each time."""
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.no_grad(), torch.autocast(device.type, enabled=False), flags:
        yield


def sha256(*files: Path) -> str:
    """The SHA-256 of the files' contents, one after the other, in hexadecimal."""
    hashed = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: hashed)
    return hashed.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
