"""Features of clips as a file: small enough to give away where clips are not, and enough for every distance."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int64

from kinema.data.cache import digest, whole
from kinema.evaluation.rows import Rows
from kinema.metrics.protocol import Protocol

__all__ = ["Saved", "load_saved", "save"]


@dataclass(frozen=True, slots=True)
class Saved:
    """Features of N clips and the protocol that they were made by."""

    name: str
    features: Float[np.ndarray, "N D"]
    groups: Int64[np.ndarray, " N"]
    protocol: Protocol
    kind = "features"
    skipped = ()

    @property
    def most(self) -> int:
        """N."""
        return len(self.features)

    @property
    def fps(self) -> float | None:
        """Frames a second of the clips."""
        return self.protocol.fps

    @property
    def key(self) -> str:
        """A hash of the features."""
        return digest(self.features.tobytes())

    def rows(self, count: int) -> Rows:
        """Those of the first clips, of which nothing but the features is known."""
        nothing, features = np.zeros((0, 1, 1, 1, 3), np.uint8), self.features[:count]
        return Rows(features, self.groups[:count], ("",) * count, {}, {}, np.zeros((count, 8)), nothing, ())

    def refuse_other(self, protocol: Protocol) -> None:
        """Raise ValueError where features were made in another way than `protocol` says."""
        for name in ("features", "frames", "height", "width", "resize", "version"):
            theirs, ours = getattr(self.protocol, name), getattr(protocol, name)
            if theirs != ours:
                raise ValueError(f"{self.name} was made with {name} {theirs}, and this is {ours}: measure both alike")


def save(path: Path, rows: Rows, protocol: Protocol) -> None:
    """Write the features of clips, that `load_saved` reads. Raises ValueError where it cannot be written."""
    with whole(path) as file:
        np.savez(file, features=rows.features, groups=rows.groups, protocol=json.dumps(asdict(protocol)))


def load_saved(path: Path) -> Saved:
    """What `save` wrote. Raises ValueError where it is something else, and for features that are not numbers."""
    try:
        with np.load(path, allow_pickle=False) as found:
            features, groups = found["features"].astype(np.float32), found["groups"].astype(np.int64)
            protocol = Protocol(**json.loads(str(found["protocol"])))
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path} holds no features ({error}): make it with kinema evaluate --save-features") from None
    if features.ndim != 2 or groups.shape != features.shape[:1]:
        raise ValueError(f"{path}: features must be a table with a row and a group for each clip, not {features.shape}")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"{path}: the features of {len(bad)} clips are not numbers, the first in row {bad[0]}")
    return Saved(str(path), features, groups, protocol)
