"""kinema sample: make clips with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Any

import tyro

from kinema.cli.arguments import parse, parse_with_sampling
from kinema.cli.known import KnownParts, read_known
from kinema.cli.say import say
from kinema.cli.writing import NOMINAL_FPS, write_clips, write_grid
from kinema.config import MOST_SEED, check_number
from kinema.data.writing import FORMATS, FPS_RANGE, ContactSheet, write_image
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load, load_experiment
from kinema.sampling.request import MOST_CLIPS, MOST_FRAMES, GenerateRequest

MOST_GRID = 4096  # clips of a grid, which is made in one batch


@dataclass(frozen=True)
class Arguments:
    """Make clips with a trained model; the same seed gives the same clip.

    kinema sample MODEL --help also lists the sampling settings of the model's family, such as --steps.

    Example: kinema sample runs/x --count 8 --seed 0 --frames 32 --label 1 --out out/
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A shipped model, a run's folder, a checkpoint, or a .safetensors file."""
    out: str
    """A folder for numbered clips and sheet.png, or a file name such as clip.gif."""
    count: int = 8
    """Number of clips."""
    seed: int = 0
    """Seed of the first clip; each further clip has the next seed."""
    frames: int | None = None
    """Frames of a clip; default: as many as in training, which is the maximum for some families."""
    label: tuple[str, ...] = ()
    """Names or numbers of classes, cycled over the clips; default: random."""
    text: tuple[str, ...] = ()
    """Prompts, cycled over the clips, for models trained with captions."""
    known: Annotated[str | None, tyro.conf.arg(metavar="CLIP")] = None
    """A clip with known parts, or a folder of clips, cycled: for prediction, interpolation and in-painting."""
    format: str = "mp4"
    """Format of clips in a folder: mp4, webm, gif, png (numbered images), npy or dcm (DICOM)."""
    fps: float | None = None
    """Frames a second of the files; default: as in training."""
    content_seed: int | None = None
    """Seed of the content of all clips, while their motions differ."""
    motion_seed: int | None = None
    """Seed of the motion of all clips, while their contents differ."""
    grid: tuple[int, int] | None = None
    """ROWS COLUMNS: one file with a grid whose rows share the content and columns the motion; --count is not used."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""
    parts: tyro.conf.OmitArgPrefixes[KnownParts] = KnownParts()


def main(words: Sequence[str]) -> None:
    """Generate the clips, write them, and print the files."""
    arguments, settings = _parse(words)
    if f".{arguments.format}" not in FORMATS:
        raise ValueError(f"--format {arguments.format}: clips are written as {', '.join(f[1:] for f in FORMATS)}")
    check_number("--count", arguments.count, 1, MOST_CLIPS)
    for side in arguments.grid or ():
        check_number("--grid", side, 1, MOST_GRID)
    if arguments.grid is not None:
        check_number("the clips of --grid", prod(arguments.grid), 1, MOST_GRID)
    for name, seed in (("seed", arguments.seed), *_fixed_seeds(arguments).items()):
        check_number(f"--{name}", seed, -MOST_SEED, MOST_SEED)
    if arguments.frames is not None:
        check_number("--frames", arguments.frames, 1, MOST_FRAMES)
    if arguments.fps is not None:
        check_number("--fps", arguments.fps, *FPS_RANGE)
    model = load(arguments.model, detect_runtime(arguments.device)).with_sampling(**settings)
    keep_freed_memory()
    for path in _write(model, arguments):
        say(path)


def _parse(words: Sequence[str]) -> tuple[Arguments, dict[str, Any]]:
    """The arguments and the sampling settings, by the model's configuration alone."""
    if not words or words[0].startswith("-"):
        if {"-h", "--help"} & {*words}:
            parse(Arguments, "kinema sample", words)
        raise ValueError("MODEL comes first: kinema sample MODEL --out OUT (kinema sample --help lists all)")
    sampling = load_experiment(words[0])[0].family.sampling
    return parse_with_sampling(Arguments, sampling, f"kinema sample {words[0]}", words)


def _write(model: Model, arguments: Arguments) -> list[Path]:
    """Generate and write the clips and their contact sheet; return the paths."""
    out = Path(arguments.out)
    to_file = out.suffix.lower() in FORMATS
    is_version = out.suffix[1:].isdecimal()  # a folder such as out/v1.2
    if out.suffix and not to_file and not is_version and not out.is_dir():
        raise ValueError(f"{out}: clips are written as {', '.join(FORMATS)}, or into a folder")
    fps = model.spec.fps or NOMINAL_FPS if arguments.fps is None else arguments.fps
    request = _request(model, arguments)
    folder = out.parent if to_file else out
    suffix = out.suffix if to_file else f".{arguments.format}"
    stem = out.with_suffix("") if to_file else out / ("grid" if arguments.grid else "clip")
    sheet_path = folder / f"{out.stem}-sheet.png" if to_file else folder / "sheet.png"
    if arguments.grid:
        path, still = write_grid(model, request, *arguments.grid, Path(f"{stem}{suffix}"), fps)
        return [path, write_image(sheet_path, still)]
    count = len(request.seeds)
    one = count == 1 and to_file
    names = [Path(f"{stem}{suffix}" if one else f"{stem}-{index:03d}{suffix}") for index in range(count)]
    frames = model.spec.frames if request.frames is None else request.frames
    sheet = ContactSheet(count, max(1, frames), labels=_row_labels(request, arguments))
    paths = write_clips(model, request, names, fps, sheet=sheet)
    return [*paths, write_image(sheet_path, sheet.image())]


def _request(model: Model, arguments: Arguments) -> GenerateRequest:
    seeds, streams = _seeds(arguments)
    known, mask = read_known(model, arguments.parts, "--known", arguments.known, arguments.frames, len(seeds))
    return GenerateRequest(
        seeds=seeds,
        frames=arguments.frames,
        text=arguments.text or None,
        labels=arguments.label or None,
        known=known,
        mask=mask,
        streams=streams,
    )


def _seeds(arguments: Arguments) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """The seeds of the clips, and those of the streams "content" and "motion" if they are set."""
    if arguments.grid:
        rows, columns = arguments.grid
        content = arguments.seed if arguments.content_seed is None else arguments.content_seed
        motion = arguments.seed if arguments.motion_seed is None else arguments.motion_seed
        seeds = tuple(range(arguments.seed, arguments.seed + rows * columns))
        return seeds, {
            "content": tuple(content + i // columns for i in range(len(seeds))),
            "motion": tuple(motion + i % columns for i in range(len(seeds))),
        }
    seeds = tuple(range(arguments.seed, arguments.seed + arguments.count))
    fixed = _fixed_seeds(arguments)
    return seeds, {name.removesuffix("-seed"): (seed,) * len(seeds) for name, seed in fixed.items()}


def _fixed_seeds(arguments: Arguments) -> dict[str, int]:
    """The seeds of single streams that are given, by the names of their flags."""
    seeds = {"content-seed": arguments.content_seed, "motion-seed": arguments.motion_seed}
    return {name: seed for name, seed in seeds.items() if seed is not None}


def _row_labels(request: GenerateRequest, arguments: Arguments) -> list[str]:
    """The label of each row of the contact sheet."""
    labels = arguments.label or arguments.text
    return [f"{seed}" + (f" {labels[i % len(labels)]}" if labels else "") for i, seed in enumerate(request.seeds)]
