"""What the writers of data sets share: the clips of a folder in turn, and those that cannot be written by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, UInt8

from kinema.data.folder import Folder, Skipped, clip_name
from kinema.data.readers.base import Clip, ReadError, find_reader
from kinema.data.writing import new_folder
from kinema.types import Progress

__all__ = ["Action", "FolderWriter", "export_each", "frames_and_actions"]

Action = Float32[np.ndarray, " A"]
W = TypeVar("W", bound="FolderWriter")


class FolderWriter(ABC):
    """A data set that is being written: a new folder, whose `path` must be free.

    As a context manager it completes the data set at the end of the block and gives it its name; where the block
    raises, nothing is left. Raises ValueError where `path` is there already, or nothing was written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._stack = path, ExitStack()
        self._folder = self._stack.enter_context(new_folder(path))

    @abstractmethod
    def _complete(self) -> None:
        """Write what comes at the end; raises ValueError where there is nothing."""

    def __enter__(self: W) -> W:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._complete()


def export_each(folder: Folder, write: Callable[[Clip], None], progress: Progress) -> tuple[Skipped, ...]:
    """Call `write` for each clip; return those of the folder that were not written, and those for which it raised
    ReadError, by name.
    """
    skipped = [*folder.skipped]
    for done, clip in enumerate(folder.clips, 1):
        try:
            write(clip)
        except ReadError as error:
            skipped.append(Skipped(clip_name(clip, folder.root), error.reason))
        progress(done, len(folder.clips))
    return tuple(sorted(skipped, key=lambda one: one.name))


def frames_and_actions(clip: Clip, fps: float | None) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], Action | None]]:
    """Yield the frames of a clip, resampled to `fps` where it is given, each with its row of actions.

    Raises ReadError where the clip is bad, its frames differ in size, or there are fewer actions than frames.
    """
    reader, size = find_reader(clip.path), None
    actions = reader.actions(clip)
    for number, frame in reader.numbered(clip, fps):
        size = size or frame.shape
        if frame.shape != size:
            (h, w, _), (height, width, _) = frame.shape, size
            raise ReadError(clip.path, f"it has a frame of {w}x{h} pixels after others of {width}x{height}")
        if actions is not None and number >= len(actions):
            raise ReadError(clip.path, f"it has {len(actions)} rows of actions, and more frames")
        yield frame, None if actions is None else actions[number]
