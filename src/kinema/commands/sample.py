"""kinema sample: make clips with a trained model."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import tyro

from kinema import checkpoint, run
from kinema.commands.arguments import parse
from kinema.commands.parts import Parts, known_parts
from kinema.data.write import FORMATS, contact_sheet, tile, write_video
from kinema.sample import Model, load
from kinema.types import Noise

T = TypeVar("T")

NOMINAL_FPS = 25.0  # where the training clips did not say


@dataclass(frozen=True)
class Arguments(Parts):
    """Make clips with a trained model; the same seed gives the same clip, alone or among others.

    MODEL --help lists what can be chosen for that model's family too, such as how many steps a solver takes.

    Example: kinema sample runs/x --count 8 --seed 0 --frames 32 --label 1 --out out/
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder, a checkpoint, or a generator.safetensors file."""
    out: str
    """A folder for numbered clips and sheet.png, or one file name such as clip.gif."""
    count: int = 8
    """How many clips."""
    seed: int = 0
    """Of the first clip; the next one has the next seed."""
    frames: int | None = None
    """Frames a clip; as many as in training if not given. Families that draw all frames at once have no more."""
    label: tuple[str, ...] = ()
    """Names or numbers of classes, taken in turn; drawn at random if not given."""
    known: Annotated[str | None, tyro.conf.arg(metavar="CLIP")] = None
    """A clip of which parts are given, or a folder of clips, taken in turn: for families that predict or fill in."""
    content_seed: int | None = None
    """One content for all clips, while their motions differ."""
    motion_seed: int | None = None
    """One motion for all clips, while their contents differ."""
    grid: tuple[int, int] | None = None
    """ROWS COLUMNS: one file in which a row shares its content and a column its motion; --count is not used."""
    format: str = "mp4"
    """In a folder: mp4, webm, gif, png (numbered images) or npy."""
    fps: float | None = None
    """Frames a second of the files; as in training if not given."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Parse, sample, write, and say what was written."""
    model, arguments = _parse(words)
    if f".{arguments.format}" not in FORMATS:
        raise ValueError(f"--format {arguments.format}: clips are written as {', '.join(f[1:] for f in FORMATS)}")
    if arguments.count < 1 or (arguments.grid and min(arguments.grid) < 1):
        raise ValueError("nothing to make: --count and --grid are at least 1")
    if arguments.fps is not None and arguments.fps <= 0:
        raise ValueError(f"--fps {arguments.fps:g}: it must be above 0")
    run.keep_freed_memory()
    for path in write_clips(model, arguments):
        print(path)


def _parse(words: Sequence[str]) -> tuple[Model, Arguments]:
    """The model and the arguments, among which its family's own are."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--device", "--out", "--known", "--mask"):  # paths that may be a run's, but are not the model's
        first.add_argument(flag, nargs="?")
    found, others = first.parse_known_args(words)
    path = next(filter(_is_model, others), None)
    if path is None:  # there is help or an error to be shown, or weights under an unusual name
        arguments = parse(Arguments, "kinema sample", words)
        return load(arguments.model, run.start(arguments.device)), arguments
    return parse_for(load(path, run.start(found.device or "auto")), Arguments, f"kinema sample {path}", words)


def parse_for(model: Model, cls: type[T], prog: str, words: Sequence[str]) -> tuple[Model, T]:
    """The model as its `sampling` is chosen, each field of which is a flag, and the other arguments."""
    sampling = model.family.sampling
    if sampling is None:
        return model, parse(cls, prog, words)
    part = ("sampling", tyro.conf.OmitArgPrefixes[type(sampling)], field(default=sampling, kw_only=True))
    complete = make_dataclass("Complete", [part], bases=(cls,), frozen=True)
    arguments = parse(complete, prog, words, description=inspect.getdoc(cls))
    chosen = vars(arguments)["sampling"]
    return model.choosing(**{f.name: getattr(chosen, f.name) for f in fields(chosen)}), arguments


def _is_model(word: str) -> bool:
    """Whether a word is the path of a run's folder, a checkpoint or its weights."""
    if os.path.isdir(word):
        return (Path(word) / checkpoint.CONFIG).exists() or any(Path(word).glob("step-*"))
    return word.endswith(".safetensors") and os.path.isfile(word)


def write_clips(model: Model, arguments: Arguments) -> list[Path]:
    """Sample as asked and write the clips and their sheet; return the paths."""
    out = Path(arguments.out)
    to_file = out.suffix.lower() in FORMATS
    if out.suffix and not to_file and not out.is_dir():
        raise ValueError(f"{out}: clips are written as {', '.join(FORMATS)}, or into a folder")
    fps = model.facts.fps or NOMINAL_FPS if arguments.fps is None else arguments.fps
    noise = _noise(arguments)
    known, mask = known_parts(model, arguments, "--known", arguments.known, arguments.frames, len(noise))
    clips = model.clips(noise, arguments.frames, arguments.label or None, known=known, mask=mask)
    folder = out.parent if to_file else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be made ({error.strerror})") from None
    suffix = out.suffix if to_file else f".{arguments.format}"
    stem = out.with_suffix("") if to_file else out / ("grid" if arguments.grid else "clip")
    if arguments.grid:
        grid = clips.reshape(*arguments.grid, *clips.shape[1:])
        middle = tile(grid[:, :, clips.shape[1] // 2, None])
        sheet = contact_sheet(middle[None])
        paths = [write_video(f"{stem}{suffix}", tile(grid), fps)]
    else:
        sheet = contact_sheet(clips, labels=_names(noise, arguments))
        if len(clips) == 1 and to_file:
            names = [f"{stem}{suffix}"]
        else:
            names = [f"{stem}-{index:03d}{suffix}" for index in range(len(clips))]
        paths = [write_video(name, clip, fps) for name, clip in zip(names, clips, strict=True)]
    return [*paths, write_sheet(folder / f"{out.stem}-sheet.png" if to_file else folder / "sheet.png", sheet)]


def write_sheet(path: Path, sheet: np.ndarray) -> Path:
    """Write a uint8 [H, W, 3] image; raises ValueError where it cannot be."""
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(path)
    except (OSError, ValueError) as error:  # ValueError: a suffix that is no image's
        raise ValueError(f"{path} could not be written: {getattr(error, 'strerror', None) or error}") from error
    return path


def _noise(arguments: Arguments) -> Noise:
    """One seed a clip, with content or motion held where that is asked."""
    if arguments.grid:
        rows, columns = arguments.grid
        content = arguments.seed if arguments.content_seed is None else arguments.content_seed
        motion = arguments.seed if arguments.motion_seed is None else arguments.motion_seed
        seeds = tuple(range(arguments.seed, arguments.seed + rows * columns))
        return Noise(
            seeds,
            {
                "content": tuple(content + i // columns for i in range(len(seeds))),
                "motion": tuple(motion + i % columns for i in range(len(seeds))),
            },
        )
    seeds = tuple(range(arguments.seed, arguments.seed + arguments.count))
    held = {"content": arguments.content_seed, "motion": arguments.motion_seed}
    return Noise(seeds, {name: (seed,) * len(seeds) for name, seed in held.items() if seed is not None})


def _names(noise: Noise, arguments: Arguments) -> list[str]:
    """What stands beside each row of the sheet."""
    labels = arguments.label
    return [f"{seed}" + (f" {labels[i % len(labels)]}" if labels else "") for i, seed in enumerate(noise.seeds)]
