"""How near generated clips are to the clips that their model was trained on, and those that are nearest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64, UInt8

from kinema.evaluation.clip_sets import FolderClipSet, GeneratedClipSet
from kinema.evaluation.rows import Rows
from kinema.metrics.memorisation import nearest, typical_distance

__all__ = ["NEAREST", "Memorisation", "NearestClips"]

NEAREST = "nearest training clip"  # the name of the measure
SHOWN = 4  # pairs


@dataclass(frozen=True, slots=True, eq=False)
class NearestClips:
    """The generated clips that are nearest to a training clip, the nearest first; frames are made when asked for."""

    generated: GeneratedClipSet
    training: FolderClipSet
    numbers: Int64[np.ndarray, " K"]  # of the generated clips
    indices: Int64[np.ndarray, " K"]  # of the training clips
    ratios: Float[np.ndarray, " K"]  # of the distance to that of unseen real clips

    def frames(self) -> tuple[UInt8[np.ndarray, "K T H W 3"], UInt8[np.ndarray, "K T H W 3"]]:
        """The generated clips, and the training clips."""
        made = [self.generated.clip(number) for number in self.numbers.tolist()]
        return np.stack(made), np.stack([self.training.clip(index) for index in self.indices.tolist()])

    def files(self) -> list[str]:
        """The names of the training clips' files."""
        return [self.training.file(index) for index in self.indices.tolist()]


class Memorisation:
    """Measures how near clips are to `training`, whose rows are `rows`, beside held-out ones where there are some."""

    def __init__(self, training: FolderClipSet, rows: Rows, held_out: Rows | None) -> None:
        self.training, self.rows = training, rows
        features = None if held_out is None else held_out.features
        self.typical = typical_distance(rows.features, rows.groups, features)

    def measured(self, rows: Rows) -> Rows:
        """The same rows with the measure of each clip."""
        ratios = nearest(rows.features, self.rows.features).distances / self.typical
        return replace(rows, per_clip=rows.per_clip | {NEAREST: ratios})

    def nearest_clips(self, generated: GeneratedClipSet, rows: Rows) -> NearestClips | None:
        """The generated clips that are nearest to a training clip; None where that is not defined."""
        if np.isnan(self.typical):
            return None
        found = nearest(rows.features, self.rows.features)
        numbers = np.argsort(found.distances, kind="stable")[:SHOWN]
        ratios = found.distances[numbers] / self.typical
        return NearestClips(generated, self.training, numbers, found.indices[numbers], ratios)
