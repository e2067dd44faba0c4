"""Features of clips as a file: small enough to publish where clips are not, and enough for every distance."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from kinema.data.atomic import atomic_path
from kinema.data.cache import digest
from kinema.evaluation.rows import Rows
from kinema.metrics.protocol import Protocol

__all__ = ["SavedFeatures", "load_features", "save_features"]


@dataclass(frozen=True, slots=True)
class SavedFeatures:
    """Features of N clips and the protocol they were computed by; takes the place of a `ClipSet`."""

    name: str
    features: Float[np.ndarray, "N D"]
    groups: Int64[np.ndarray, " N"]
    protocol: Protocol
    kind = "features"
    skipped = ()

    @property
    def fps(self) -> float | None:
        """Frames a second of the clips."""
        return self.protocol.fps

    @property
    def content(self) -> str:
        """A hash of the features."""
        return digest(self.features.tobytes())

    def rows(self, count: int) -> Rows:
        """Those of the first clips, of which only the features are known."""
        features, samples = self.features[:count], np.zeros((0, 1, 1, 1, 3), np.uint8)
        small = np.zeros((0, 1, 8, 8, 3), np.uint8)
        return Rows(features, self.groups[:count], ("",) * count, {}, {}, np.zeros((count, 8)), samples, (), small)

    def check_protocol(self, protocol: Protocol) -> None:
        """Raise ValueError where the features were computed otherwise than by `protocol`."""
        for name in ("features", "frames", "given", "height", "width", "resize", "version"):
            theirs, ours = getattr(self.protocol, name), getattr(protocol, name)
            if theirs != ours:
                raise ValueError(f"{self.name} was made with {name} {theirs}, and this is {ours}: measure both alike")


def save_features(path: Path, rows: Rows, protocol: Protocol) -> None:
    """Write the features of clips to an .npz file; raises ValueError where it cannot be written."""
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, features=rows.features, groups=rows.groups, protocol=json.dumps(asdict(protocol)))


def load_features(path: Path) -> SavedFeatures:
    """The features that `save_features` wrote; raises ValueError for other files and features that are not finite."""
    try:
        with np.load(path, allow_pickle=False) as found:
            features, groups = found["features"].astype(np.float32), found["groups"].astype(np.int64)
            protocol = Protocol(**json.loads(str(found["protocol"])))
    except Exception as error:  # of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{path} holds no features ({reason}): make it with kinema evaluate --save-features") from None
    if features.ndim != 2 or groups.shape != features.shape[:1]:
        raise ValueError(f"{path}: features must be a table with a row and a group for each clip, not {features.shape}")
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"{path}: the features of {len(bad)} clips are not numbers, the first in row {bad[0]}")
    return SavedFeatures(str(path), features, groups, protocol)
