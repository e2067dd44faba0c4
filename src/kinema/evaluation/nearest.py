"""How near generated clips are to the clips that their model was trained on, and those that are nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int64, UInt8

from kinema.evaluation.clip_sets import FolderClipSet, GeneratedClipSet
from kinema.evaluation.rows import Rows
from kinema.metrics.memorisation import Nearest, nearest, thumbnails, typical_distance
from kinema.types import Progress, no_progress

__all__ = ["NEAREST", "Memorisation", "NearestClips"]

NEAREST = "nearest training clip"  # the name of the measure
SHOWN = 4  # pairs


@dataclass(frozen=True, slots=True, eq=False)
class NearestClips:
    """The generated clips that are nearest to a training clip, the nearest first; frames are made when asked for."""

    generated: GeneratedClipSet
    training: FolderClipSet
    given: int  # first frames of a clip that are shown but not compared
    numbers: Int64[np.ndarray, " K"]  # of the generated clips
    found: Nearest  # of these clips
    ratios: Float[np.ndarray, " K"]  # of the distance to that of unseen real clips

    def frames(self) -> tuple[UInt8[np.ndarray, "K T H W 3"], UInt8[np.ndarray, "K T H W 3"]]:
        """The generated clips, and the training clips with as many frames before those that were compared."""
        made = np.stack([self.generated.clip(number) for number in self.numbers.tolist()])
        starts = (self.found.starts - self.given).tolist()
        videos = [self.training.source.frames(video) for video in self.found.videos.tolist()]
        return made, np.stack([v[start : start + made.shape[1]] for v, start in zip(videos, starts, strict=True)])

    def files(self) -> list[str]:
        """The names of the training clips' files."""
        return [self.training.source.clips[video].path.name for video in self.found.videos.tolist()]


class Memorisation:
    """Compares clips with every stretch of the files of `training`, beside held-out clips where there are some.

    `rows` are those of `training`; the first `given` frames of clips are not compared. `progress` counts files.
    """

    def __init__(
        self,
        training: FolderClipSet,
        rows: Rows,
        held_out: Rows | None,
        given: int = 0,
        progress: Progress = no_progress,
    ) -> None:
        self.training, self.given = training, given
        self.files, self.videos = list[int](), list[np.ndarray]()
        for file, small in self._thumbnails(progress):
            self.files.append(file)
            self.videos.append(small[given:])  # so that as many frames are before each stretch
        if held_out is not None:
            unseen = nearest(held_out.thumbnails, self.videos)
        else:
            groups = np.array([training.file_group(file) for file in self.files])
            unseen = nearest(rows.thumbnails, self.videos, (rows.groups, groups))
        self.typical = typical_distance(unseen.distances)

    def _thumbnails(self, progress: Progress) -> Iterator[tuple[int, np.ndarray]]:
        """Each file's number and frames."""
        source = self.training.source
        count = len(source.clips)
        for done, (file, frames) in enumerate(source.decode(range(count)), 1):
            if frames:
                yield file, thumbnails(source.frames(file)[None])[0]
            progress(done, count)

    def measured(self, rows: Rows) -> Rows:
        """The same rows with the measure of each clip."""
        ratios = nearest(rows.thumbnails, self.videos).distances / self.typical
        return replace(rows, per_clip=rows.per_clip | {NEAREST: ratios})

    def nearest_clips(self, generated: GeneratedClipSet, rows: Rows) -> NearestClips | None:
        """Of `measured` rows, the generated clips that are nearest to a training clip; None where it is undefined."""
        if np.isnan(self.typical):
            return None
        ratios = rows.per_clip[NEAREST]
        numbers = np.argsort(ratios, kind="stable")[:SHOWN]
        found = nearest(rows.thumbnails[numbers], self.videos)
        files = np.array(self.files)[found.videos]
        found = Nearest(found.distances, files, found.starts + self.given)
        return NearestClips(generated, self.training, self.given, numbers, found, ratios[numbers])
