"""Opening clips for a command, with a progress bar and a line for each skipped file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, UInt8
from rich.console import Console
from rich.progress import Progress as Bar

from kinema.cli.say import say
from kinema.data.clips import DataConfig, FolderSource, Source, open_source
from kinema.data.decoded import resize
from kinema.data.folder import Skipped, clip_name, labels_are_names, scan
from kinema.data.readers.base import Clip, ReadError, find_reader
from kinema.data.readers.image import SUFFIXES, is_still, read_image
from kinema.sampling.model import Model

__all__ = ["first_frames", "frames_for", "notes", "open_and_report", "read_each", "read_mask", "report"]

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
            line = f"{held_out} of {held_out + source.usable} clips are held out of training (--data.holdout)"
            say(line, console)
        for line in notes(source):
            say(line, console)
    return source


def notes(source: Source) -> list[str]:
    """What a person should know of how a folder's clips are used, a line each."""
    if not isinstance(source, FolderSource):
        return []
    lines = [*source.notes]
    if source.mixed_rates:
        low, high = source.rates
        lines.append(
            f"clips have {low:.4g} to {high:.4g} frames a second, and all count as {source.spec.fps:.4g}, the median: "
            "--data.fps brings them to one rate"
        )
    if (total := source.decoded_bytes()) > (limit := source.cache_bytes()):
        lines.append(
            f"decoded, the clips take about {total / 1e9:.3g} GB, and the cache may take {limit / 1e9:.3g} GB: "
            "some are decoded again in every epoch ($KINEMA_CACHE_GB allows it more)"
        )
    if source.padded:
        seconds = f" at {source.spec.fps:.4g} fps" if source.spec.fps else ""
        lines.append(
            f"{source.padded} of {len(source.clips)} clips are shorter than {source.spec.frames} frames{seconds}: "
            "their last frame is held (--data.short skip leaves them out)"
        )
    if labels_are_names(source.spec.classes, len(source.clips)):
        lines.append(
            f"there are {len(source.spec.classes)} labels for {len(source.clips)} clips: if they are names of clips, "
            "not classes, leave them out with --data.label none"
        )
    return lines


def report(skipped: Sequence[Skipped]) -> None:
    """Print the skipped files and the reasons on stderr."""
    console = Console(file=sys.stderr)
    for file in skipped[:NAMED]:
        say(f"skipped {file.name}: {file.reason}", console)
    if len(skipped) > NAMED:
        console.print(f"... and {len(skipped) - NAMED} more: kinema data check lists them all", highlight=False)


def read_each(path: str, read: Callable[[Clip], T], most: int | None = None, stills: bool = False) -> list[T]:
    """The results of `read` for a clip, or for the clips of a folder until there are `most`.

    A clip of a folder for which it raises ReadError is skipped and reported. With `stills` each image of a folder is a
    clip, where they would be the frames of one otherwise. Raises ValueError if no clip is left.
    """
    root = Path(path).expanduser()
    images = sorted(file for file in root.iterdir() if file.suffix.lower() in SUFFIXES) if root.is_dir() else []
    if not root.is_dir():
        clips, skipped = list(find_reader(root).clips(root)), []
    elif stills and images:
        clips, skipped = [Clip(image) for image in images], []
    else:
        folder = scan(root)
        clips, skipped = list(folder.clips), list(folder.skipped)
    if not clips:
        raise ValueError(f"{root}: there are no clips in it")
    found = []
    for clip in clips:
        try:
            found.append(read(clip))
        except ReadError as error:
            if not root.is_dir():
                raise
            skipped.append(Skipped(clip_name(clip, root), error.reason))
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
        yield resize(frame, model.spec.height, model.spec.width, model.experiment.data.fit)


def first_frames(model: Model, clip: Clip, count: int) -> UInt8[np.ndarray, "count H W 3"]:
    """The first `count` frames of a clip at the model's rate and size; an image is repeated.

    Raises ReadError if the clip has fewer frames or cannot be read.
    """
    if is_still(clip.path):
        fit = model.experiment.data.fit
        frame = resize(read_image(clip.path), model.spec.height, model.spec.width, fit)
        return np.repeat(frame[None], count, 0)
    frames = list(islice(frames_for(model, clip), count))
    if len(frames) < count:
        raise ReadError(clip.path, f"it has {len(frames)} of the {count} frames that are needed")
    return np.stack(frames)


def read_mask(model: Model, path: str) -> Bool[np.ndarray, "H W"]:
    """Where a mask image is black (kept), resized to the model's size as frames are.

    Raises ValueError if it cannot be read, or is all black or all white.
    """
    fit = model.experiment.data.fit
    kept = resize(read_image(Path(path).expanduser()), model.spec.height, model.spec.width, fit).mean(-1) < 128
    if kept.all() or not kept.any():
        raise ValueError(f"{path} is all {'black' if kept.all() else 'white'}: black is kept, white is generated")
    return kept
