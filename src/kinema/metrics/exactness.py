"""What the networks that measure have in common: arithmetic that is the same everywhere, files known by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["exact", "first_line", "sha256"]


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Compute in true float32, without gradients: no autocast, and no convolutions that round to TF32 on a GPU."""
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.no_grad(), torch.autocast(device.type, enabled=False), flags:
        yield


def sha256(*files: Path) -> str:
    """The SHA-256 of files' content, one after the other, in hexadecimal: of one file what `sha256sum` says."""
    hashed = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                hashed.update(block)
    return hashed.hexdigest()


def first_line(error: Exception) -> str:
    """What an error says first, or else what it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
