"""Families side by side on the same clips: one table of what each takes to train and to sample, and what comes of it.

    python benchmarks/leaderboard.py --minutes 20 --out runs/leaderboard
    python benchmarks/leaderboard.py --data FOLDER --fps 10 --side 64 --minutes 20 --out runs/leaderboard-robot
    python benchmarks/leaderboard.py --families --runs a=runs/a b=runs/b --out runs/compared
    python benchmarks/leaderboard.py --families mocogan tgan --seeds 3 --minutes 2 --out runs/leaderboard-seeds

Each family is trained for so many minutes with its preset; the same command goes on where an earlier one stopped, and
only measures where nothing is left to train. Runs that exist are as they are, and must be of one size. A family that
goes on from given frames is given those of real clips, and one that takes labels or captions theirs. One that cannot
be trained on clips of so many frames is told otherwise: --set FAMILY.data.frames=17; of its clips the first 16 count.
--seeds trains each family so many times, with seeds 0 and on. What one family takes from another's run of the same seed
is written with the place of the seed in it: --set token-transformer.family.codec=runs/all/codec-{seed}.

- weights: in millions, of all that sampling needs, a codec included.
- minutes: of training; a codec's own after a plus.
- s a clip: the median of 5 clips of the training length, one alone, after one that warms up.
- MB: the most that a fresh process has held (on a GPU, of its memory): one that samples those clips, and one that
  trains two more steps and saves them, which are thrown away.

Quality on Shape Motion is said at the head of shape_motion.py, which has the settings and the seeds of MoCoGAN's Table
1; control counts for families that take labels or captions. A family that is given frames is told the colour by them.

Of real clips there are statistics that need no other network, beside those of the clips themselves:

- sharpness, colour, motion: means of the curves of metrics/drift.py. Near the real ones' is necessary and proves
  little: they tell neither what is shown nor whether it differs from seed to seed.
- nearest: the mean PSNR of each clip and the real clip that is nearest to it, over all pixels (not those of given
  frames). Far above that of real clips among themselves it says that clips were learned by heart; but one that was,
  moved by a few pixels, has a low PSNR too, as has a clip that is nonsense, and a grey blur has a high one.

Real clips are those of another seed: what a world has not shown before, but other moments of a folder's same files.
Intervals are bootstrapped over clips. NAME.png under --out shows the first of each, and report.html what `kinema
evaluate` finds of each against the data. With several seeds a second table has its numbers by family: their mean
over the seeds, and the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from runs import add_models, experiments, made, named, peak, refuse_models, trained
from shape_motion import measure
from torch import Tensor

from kinema import checkpoint, run
from kinema.commands.evaluate import measured, write_report
from kinema.commands.reading import open_and_report
from kinema.commands.sample import write_sheet
from kinema.data.clips import DataConfig, FolderSource, Source
from kinema.data.write import contact_sheet, from_uint8, to_uint8
from kinema.evaluation.evaluate import Settings
from kinema.family import Family
from kinema.metrics.bootstrap import mean_interval
from kinema.metrics.control import MotionClassifier, motion_control, train_classifier
from kinema.metrics.drift import drift
from kinema.report.markdown import written
from kinema.sample import Model, load, stream
from kinema.train import Experiment, train
from kinema.types import Batch, Noise

FAMILIES = ("mocogan", "vgan", "tgan", "svg-lp")
WORLD = "shape-motion"
REAL = 1_000  # the seed of real clips; training's is 0
WARM_UPS, REPEATS, MORE = 1, 5, 2  # clips and steps
SHOWN = 8  # clips on a sheet
COSTS = ("weights", "minutes", "steps", "s a clip", "MB sampling", "MB training")

Quality = Callable[[np.ndarray, Family | None], list[str]]  # the cells of a family's clips, or of the real ones


def progress(path: Path) -> tuple[int, float]:
    """The steps and the minutes that a run was trained."""
    found = json.loads((checkpoint.find(path) / checkpoint.PROGRESS).read_text())
    return found["step"], found["seconds"] / 60


def apart(work: Callable[..., Any], *arguments: object) -> Any:
    """What `work` gives in a fresh process, whose peak of memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def sampling(path: Path, real: Batch) -> tuple[float, float]:
    """The median of the seconds that one clip takes, and the peak of this process in MB."""
    model, taken = load(path, run.start()), []
    given = model.family.conditions_of(real)
    for seed in range(WARM_UPS + REPEATS):
        begun = time.monotonic()
        for chunk in stream(model.family, model.run, Noise((seed,)), real.frames.shape[1], given):
            to_uint8(chunk)
        taken.append(time.monotonic() - begun)
    return median(taken[WARM_UPS:]), peak(model.run.device)


def training(path: Path) -> float | None:
    """The peak of this process in MB over two more steps, which are not kept; None where its clips are not there."""
    run.keep_freed_memory()  # as `kinema train` does
    last, place = checkpoint.find(path), run.start()
    values = json.loads((last / checkpoint.CONFIG).read_text())
    more = Experiment.from_dict(values, str(last))[0].changed(
        train={"steps": progress(last)[0] + MORE, "minutes": None}
    )
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(last, Path(folder, last.name))
        try:
            train(more, folder, run=place, resume=True)
        except ValueError as error:
            print(f"{path}: no memory of training: {error}", file=sys.stderr)
            return None
    return peak(place.device)


def costs(path: Path, model: Model, real: Batch) -> list[str]:
    """The cells of COSTS."""
    steps, minutes = progress(path)
    weights = sum(parameter.numel() for parameter in model.family.generator.parameters()) / 1e6
    codec = getattr(model.experiment.family, "codec", None)
    spent = f"{minutes:.1f}" + (f" + {progress(Path(codec))[1]:.1f}" if codec and Path(codec).exists() else "")
    seconds, sampled = apart(sampling, path, Batch(real.frames[:1], real.given[:1]))
    learned = apart(training, path)
    held = "-" if learned is None else f"{learned:.0f}"
    return [f"{weights:.2f}", spent, f"{steps:,}", f"{seconds:.3f}", f"{sampled:.0f}", held]


def of_shapes(
    classifier: MotionClassifier, asked: Tensor, place: run.Run, clips: np.ndarray, family: Family | None
) -> list[str]:
    """The quality of Shape Motion's clips; motion control counts where the motion was told."""
    frames = from_uint8(clips)
    distance, between, spots, of_spots = measure(frames)
    control = ["-", "-"]
    if family is None or family.accepts & {"label", "text"}:
        control = _cells(motion_control(classifier, frames, asked, place), 3)
    return [*_cells(distance, 2), f"{between:.1f}", f"{spots.mean():.2f}", f"{of_spots.nanmean():.2f}", *control]


def of_real(real: UInt8[np.ndarray, "M T H W 3"], clips: np.ndarray, family: Family | None) -> list[str]:
    """The statistics of a folder's clips; the real ones are compared with each other."""
    curves, past = drift([clips]).beside(drift([real])), family.past if family else 0
    near = nearest(clips[:, past:], real[:, past:], themselves=family is None)
    found = [_cells(curves[name].nanmean(1), 2) for name in ("sharpness", "colour", "motion")]
    return [cell for cells in (*found, _cells(near, 2)) for cell in cells]


def nearest(
    clips: UInt8[np.ndarray, "N T H W 3"], real: UInt8[np.ndarray, "M T H W 3"], themselves: bool
) -> Float[Tensor, " N"]:
    """The PSNR in dB of each clip and the nearest real one, which is another where they are the same clips."""
    error = torch.zeros(len(clips), len(real))
    for t in range(clips.shape[1]):
        a, b = (torch.from_numpy(frames[:, t]).flatten(1).float() / 255 for frames in (clips, real))
        error += torch.cdist(a, b).square()
    if themselves:
        error.fill_diagonal_(torch.inf)
    return -10 * (error.amin(1) / clips[0].size).clamp(min=1e-10).log10()


def _cells(values: Float[Tensor, " N"], digits: int) -> list[str]:
    value, low, high = (f"{number:.{digits}f}" for number in mean_interval(values))
    return [value, f"{low} to {high}"]


def main() -> None:
    """Train, measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="for the runs and their sheets")
    add_models(parser, FAMILIES)
    parser.add_argument("--seeds", type=int, default=1, help="of each family, from 0 on (%(default)s)")
    parser.add_argument("--data", metavar="FOLDER", help="of real clips, in place of Shape Motion")
    parser.add_argument("--fps", type=float, help="that real clips are resampled to; as they are if not given")
    parser.add_argument("--frames", type=int, default=16, help="of a clip (%(default)s)")
    parser.add_argument("--side", type=int, default=32, help="pixels (%(default)s)")
    parser.add_argument("--clips", type=int, default=288, help="measured of each run, at most (%(default)s)")
    arguments = parser.parse_args()
    refuse_models(parser, arguments)
    if arguments.clips < 2:
        parser.error("--clips must be at least 2")
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    if arguments.fps is not None and arguments.data is None:
        parser.error("--fps is for --data")

    run.keep_freed_memory()
    size = {"frames": arguments.frames, "height": arguments.side, "width": arguments.side}
    paths = named(arguments)
    if not arguments.families:
        facts = [load(path).facts for path in paths.values()]
        size = {"frames": min(one.frames for one in facts), "height": facts[0].height, "width": facts[0].width}
    data = DataConfig(source=arguments.data or WORLD, fps=arguments.fps, **size)
    models = {}
    for seed in range(arguments.seeds):
        for family, experiment in experiments(parser, arguments, seed, **vars(data)).items():
            name = family if arguments.seeds == 1 else f"{family}-{seed}"
            paths[name] = arguments.out / name
            models[name] = trained(experiment, paths[name])
    models |= {name: load(path) for name, path in named(arguments).items()}
    for name, model in models.items():
        if (model.facts.height, model.facts.width) != (data.height, data.width) or model.facts.frames < data.frames:
            parser.error(f"{name} makes other clips than {data.frames} frames of {data.width}x{data.height}")

    source = open_and_report(data)
    count = min(arguments.clips, len(source.clips)) if isinstance(source, FolderSource) else arguments.clips
    real = source.batch(0, count, seed=REAL)
    truth = to_uint8(real.frames)
    headers, quality = judge(source, real, truth)
    shown = f"{count} clips of {data.frames} frames of {data.width}x{data.height}"
    table = Table(title=f"{arguments.data or 'Shape Motion'}, {shown}, {run.start().device}")
    for header in ("", *COSTS, *headers):
        table.add_column(header, justify="right" if header else "left")
    table.add_row("real", *[""] * len(COSTS), *quality(truth, None))
    for name, model in models.items():
        parts = [np.concatenate([*map(to_uint8, chunks)], 1) for chunks in made(model, real, data.frames)]
        clips = np.concatenate(parts)
        write_sheet(arguments.out / f"{name}.png", contact_sheet(clips[:SHOWN], columns=8))
        table.add_row(name, *costs(paths[name], model, real), *quality(clips, model.family))
    Console(width=200).print(table)
    report({name: paths[name] for name in models}, data, arguments)


def report(paths: dict[str, Path], data: DataConfig, arguments: argparse.Namespace) -> None:
    """Write what `kinema evaluate` finds of the runs against the data, and print it by family where there are seeds."""
    settings = Settings(arguments.clips, data.frames, data.height, data.width, data.fps)
    try:
        found, reference = measured([*map(str, paths.values())], data.source, settings, "auto")
    except ValueError as error:  # such as a world's clips of 17 frames, which are slower than those of 16
        print(f"no report: {error}", file=sys.stderr)
        return
    found = [replace(one, result=replace(one.result, source=name)) for name, one in zip(paths, found, strict=True)]
    write_report(arguments.out, found, reference, data.source)
    if arguments.seeds == 1:
        return
    every = [one.result.numbers for one in found]
    names = list(dict.fromkeys(name for numbers in every for name in numbers if math.isfinite(numbers[name].value)))
    table = Table(title=f"By family, mean of {arguments.seeds} seeds (lowest to highest)", title_justify="left")
    for header in ("", *arguments.families, "reference or floor"):
        table.add_column(header, justify="right" if header else "left")
    for name in names:
        cells = []
        for family in arguments.families:
            runs = [one.result.numbers for one in found if one.result.source.rpartition("-")[0] == family]
            values = [numbers[name].value for numbers in runs if name in numbers]
            if not values:  # of a family that is not told what this number is about
                cells.append("-")
                continue
            ends = (min(values), max(values))
            value, low, high = written(sum(values) / len(values), *ends)
            cells.append(f"{value} ({low} to {high})")
        real = next(numbers[name].real for numbers in every if name in numbers)
        table.add_row(name, *cells, "" if real is None else written(real, *ends)[0])
    Console(width=60 + 24 * len(arguments.families)).print(table)


def judge(source: Source, real: Batch, truth: UInt8[np.ndarray, "N T H W 3"]) -> tuple[tuple[str, ...], Quality]:
    """What quality is measured by: the headers, and what gives their cells."""
    if isinstance(source, FolderSource):
        headers = ("sharpness", "95 %", "colour", "95 %", "motion", "95 %", "nearest", "95 %")
        return headers, partial(of_real, truth)
    place, asked = run.start(), real.given.label
    assert asked is not None
    headers = ("ACD", "95 %", "between", "spots", "of spots", "control", "95 %")
    return headers, partial(of_shapes, train_classifier(source, place), asked, place)


if __name__ == "__main__":
    main()
