"""Writing clips to files while they are generated: memory does not grow with their length."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32
from rich.console import Console
from rich.progress import Progress as Bar

from kinema.data.writing import ContactSheet, open_video, tile
from kinema.sampling.model import BATCH, Model
from kinema.sampling.request import GenerateRequest
from kinema.types import Progress

__all__ = ["NOMINAL_FPS", "write_clips", "write_grid"]

T = TypeVar("T")

NOMINAL_FPS = 25.0  # if the frame rate of the training clips is unknown


def write_clips(
    model: Model,
    request: GenerateRequest,
    names: Sequence[Path],
    fps: float,
    sound: Float32[np.ndarray, " samples"] | None = None,
    sheet: ContactSheet | None = None,
) -> list[Path]:
    """Generate the request's clips with a progress bar and write each to its file; return the files.

    Their folder is made with the first frames: a request that cannot be met leaves nothing.
    """

    def write(progress: Progress) -> list[Path]:
        paths: list[Path] = []
        with ExitStack() as opened:
            writers = []
            for first_clip, first_frame, frames in model.stream(request, progress):
                if first_frame == 0:  # a new batch: the one before is complete
                    opened.close()
                    _make_folder(names[0].parent)
                    batch = names[first_clip : first_clip + len(frames)]
                    writers = [opened.enter_context(open_video(name, fps, sound)) for name in batch]
                    paths += [writer.path for writer in writers]
                for writer, clip in zip(writers, frames, strict=True):
                    writer.write(clip)
                if sheet is not None:
                    sheet.add(first_frame, frames, first_clip)
        return paths

    return _with_bar(write)


def write_grid(
    model: Model, request: GenerateRequest, rows: int, columns: int, path: Path, fps: float
) -> tuple[Path, np.ndarray]:
    """Generate the request's clips and write them as one grid video; return its path and its middle frame."""
    frames = model.spec.frames if request.frames is None else request.frames

    def write(progress: Progress) -> tuple[Path, np.ndarray]:
        still = writer = None
        with ExitStack() as opened:
            for _, first_frame, clips in model.stream(request, progress, batch=max(BATCH, rows * columns)):
                if writer is None:
                    _make_folder(path.parent)
                    writer = opened.enter_context(open_video(path, fps))
                grid = tile(clips.reshape(rows, columns, *clips.shape[1:]))
                writer.write(grid)
                if first_frame <= frames // 2 < first_frame + len(grid):
                    still = grid[frames // 2 - first_frame]
        assert writer is not None and still is not None
        return writer.path, still

    return _with_bar(write)


def _make_folder(folder: Path) -> None:
    """Make a folder; raises ValueError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be made ({error.strerror})") from None


def _with_bar(work: Callable[[Progress], T]) -> T:
    """The result of `work`, with a progress bar if stderr is a terminal."""
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("making clips", total=None)
        return work(lambda done, total: bar.update(task, completed=done, total=total))
