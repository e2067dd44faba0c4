"""Opening clips for a command, with a progress bar and a line for each skipped file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, UInt8
from rich.console import Console
from rich.progress import Progress as Bar

from kinema.data.clips import DataConfig, FolderSource, Source, open_source
from kinema.data.decoded import crop_and_resize
from kinema.data.folder import Skipped, scan
from kinema.data.readers.base import Clip, ReadError, find_reader
from kinema.data.readers.strip import is_still, read_image
from kinema.sampling.model import Model

__all__ = ["first_frames", "frames_for", "open_and_report", "read_each", "read_mask", "report"]

T = TypeVar("T")

NAMED = 20  # skipped files that are listed; the rest are counted


def open_and_report(config: DataConfig, quiet: bool = False) -> Source:
    """Open the source and report skipped files on stderr; `quiet` reports nothing, for ranks other than 0."""
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("decoding clips", total=None)
        source = open_source(config, lambda done, total: bar.update(task, completed=done, total=total))
    if not quiet:
        report(source.skipped)
        if isinstance(source, FolderSource) and (held_out := len(source.other_clips)):
            line = f"{held_out} of {held_out + len(source.clips)} clips are held out of training (--data.holdout)"
            console.print(line, highlight=False, soft_wrap=True)
    return source


def report(skipped: Sequence[Skipped]) -> None:
    """Print the skipped files and the reasons on stderr."""
    console = Console(file=sys.stderr)
    for file in skipped[:NAMED]:
        console.print(f"skipped {file.name}: {file.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(skipped) > NAMED:
        console.print(f"... and {len(skipped) - NAMED} more: kinema data check lists them all", highlight=False)


def read_each(path: str, read: Callable[[Clip], T], most: int | None = None) -> list[T]:
    """The results of `read` for a clip, or for the clips of a folder until there are `most`.

    A clip of a folder for which it raises ReadError is skipped and reported. Raises ValueError if no clip is left.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        return [read(clip) for clip in find_reader(root).clips(root)[:most]]
    folder, found = scan(root), []
    skipped = list(folder.skipped)
    for clip in folder.clips:
        try:
            found.append(read(clip))
        except ReadError as error:
            skipped.append(Skipped(Path(os.path.relpath(clip.path, folder.root)).as_posix(), error.reason))
        if len(found) == most:
            break
    if not found:
        first = f"{skipped[0].name}: {skipped[0].reason}"
        raise ValueError(f"{root}: none of its {len(skipped)} clips can be used; the first is {first}")
    report(skipped)
    return found


def frames_for(model: Model, clip: Clip) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield a clip's frames at the frame rate and the size of the model's training clips."""
    for frame in find_reader(clip.path).frames(clip, model.experiment.data.fps):
        yield crop_and_resize(frame, model.spec.height, model.spec.width)


def first_frames(model: Model, clip: Clip, count: int) -> UInt8[np.ndarray, "count H W 3"]:
    """The first `count` frames of a clip at the model's rate and size; an image is repeated.

    Raises ReadError if the clip has fewer frames or cannot be read.
    """
    if is_still(clip.path):
        frame = crop_and_resize(read_image(clip.path), model.spec.height, model.spec.width)
        return np.repeat(frame[None], count, 0)
    frames = list(islice(frames_for(model, clip), count))
    if len(frames) < count:
        raise ReadError(clip.path, f"it has {len(frames)} of the {count} frames that are needed")
    return np.stack(frames)


def read_mask(model: Model, path: str) -> Bool[np.ndarray, "H W"]:
    """Where a mask image is black (kept), cropped and resized to the model's size as frames are.

    Raises ValueError if it cannot be read, or is all black or all white.
    """
    kept = crop_and_resize(read_image(path), model.spec.height, model.spec.width).mean(-1) < 128
    if kept.all() or not kept.any():
        raise ValueError(f"{path} is all {'black' if kept.all() else 'white'}: black is kept, white is generated")
    return kept
