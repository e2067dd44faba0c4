"""Opening clips for a command: a line while they are decoded, and what was left out."""

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

from kinema.data.clips import DataConfig, Source, open_source
from kinema.data.decoded import fit
from kinema.data.folder import Skipped, scan
from kinema.data.video import VideoError, is_still, read_frames, read_image
from kinema.sample import Model

__all__ = ["first_frames", "frames_for", "kept_region", "open_and_report", "read_each", "report"]

T = TypeVar("T")

NAMED = 20  # skipped files that are named; the rest are counted


def open_and_report(config: DataConfig) -> Source:
    """The source, with what was skipped and why on stderr: never silent, each file named once."""
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("decoding clips", total=None)
        source = open_source(config, lambda done, total: bar.update(task, completed=done, total=total))
    report(source.skipped)
    return source


def report(left_out: Sequence[Skipped]) -> None:
    """Say on stderr which files were skipped and why."""
    console = Console(file=sys.stderr)
    for skipped in left_out[:NAMED]:
        console.print(f"skipped {skipped.name}: {skipped.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(left_out) > NAMED:
        console.print(f"... and {len(left_out) - NAMED} more: kinema data check names them all", highlight=False)


def read_each(path: str, read: Callable[[Path], T], most: int | None = None) -> list[T]:
    """What `read` makes of a clip, or of each clip of a folder until there are `most`.

    A clip of a folder for which it raises VideoError is skipped and reported; raises ValueError where none is left.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        return [read(root)]
    folder, found = scan(root), []
    skipped = list(folder.skipped)
    for clip in folder.clips:
        try:
            found.append(read(clip.path))
        except VideoError as error:
            skipped.append(Skipped(Path(os.path.relpath(clip.path, folder.root)).as_posix(), error.reason))
        if len(found) == most:
            break
    if not found:
        first = f"{skipped[0].name}: {skipped[0].reason}"
        raise ValueError(f"{root}: none of its {len(skipped)} clips can be used; the first is {first}")
    report(skipped)
    return found


def frames_for(model: Model, path: Path) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield a video's frames at the rate and the size that the model was trained at."""
    for frame in read_frames(path, fps=model.experiment.data.fps):
        yield fit(frame, model.facts.height, model.facts.width)


def first_frames(model: Model, path: Path, count: int) -> UInt8[np.ndarray, "count H W 3"]:
    """The first `count` frames of a clip, as the model was trained on them, or an image as often.

    Raises VideoError where a clip has fewer, and where it cannot be read.
    """
    if is_still(path):
        frame = fit(read_image(path), model.facts.height, model.facts.width)
        return np.repeat(frame[None], count, 0)
    frames = list(islice(frames_for(model, path), count))
    if len(frames) < count:
        raise VideoError(path, f"it has {len(frames)} of the {count} frames that are needed")
    return np.stack(frames)


def kept_region(model: Model, path: str) -> Bool[np.ndarray, "H W"]:
    """Where the mask in an image is black, in frames of the model's size, to which it is resized as they are.

    Raises ValueError where it cannot be read, and where it is all black or all white.
    """
    kept = fit(read_image(path), model.facts.height, model.facts.width).mean(-1) < 128
    if kept.all() or not kept.any():
        raise ValueError(f"{path} is all {'black' if kept.all() else 'white'}: black is kept, white is painted anew")
    return kept
