"""Families side by side on the same clips: one table of the cost of training and sampling each, and its quality.

    python benchmarks/leaderboard.py --minutes 20 --out runs/leaderboard
    python benchmarks/leaderboard.py --data FOLDER --fps 10 --side 64 --minutes 20 --out runs/leaderboard-robot
    python benchmarks/leaderboard.py --families --runs a=runs/a b=runs/b --out runs/compared
    python benchmarks/leaderboard.py --families mocogan tgan --seeds 3 --minutes 2 --out runs/leaderboard-seeds

Each family is trained for --minutes with its preset; the same command continues where an earlier one stopped, and only
measures where nothing is left to train. Existing runs (--runs) must have clips of one size. Families are given the
conditions and first frames of real clips that they accept. For one that needs another number of frames, set it: --set
FAMILY.data.frames=17; the first 16 frames of its clips count. --seeds trains each family with that many seeds, from 0
on. To use another family's run of the same seed, write {seed} in its place: --set
token-transformer.family.codec=runs/all/codec-{seed}.

- weights: in millions, of all that sampling needs, a codec included.
- minutes: of training; a codec's own after a plus.
- s a clip: the median of 5 single clips of the training length, after one that warms up.
- MB: the peak memory of a fresh process (on a GPU, of its memory): one that samples those clips, and one that trains
  two more steps and saves them, in a copy of the run.

For quality on Shape Motion see shape_motion.py, which has the settings and the seeds of MoCoGAN's Table 1; control
counts for families that accept labels or captions. Known first frames show a family the colour.

For a folder of real clips there are statistics that need no network, beside those of the real clips themselves:

- sharpness, colour, motion: means of the curves of rollout.py. To be near those of real clips is necessary, not
  sufficient: they depend neither on what is shown nor on whether it differs between seeds.
- nearest: the mean PSNR of each clip and the nearest real clip, over all pixels that were not known. Far above that of
  real clips among themselves, it means memorised clips; but a memorised clip that is moved by a few pixels has a low
  PSNR too, as nonsense has, and a grey blur a high one.

Real clips are those of another seed: new ones of a world, but other windows of a folder's same files. Intervals are
bootstrapped over clips. NAME.png under --out shows the first clips of each, and report.html is that of `kinema
evaluate` against the data. With several seeds a second table has its numbers by family: the mean over the seeds, and
the lowest and the highest.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import shutil
import sys
import tempfile
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
from rollout import drift
from runs import (
    add_models,
    existing_runs,
    experiments,
    generate_for,
    peak,
    real_clips,
    seconds,
    trained,
    validate_models,
)
from shape_measures import MotionClassifier, motion_control, train_classifier
from shape_motion import measure
from torch import Tensor

from kinema.cli.evaluate import measure_with_progress, write_report
from kinema.cli.reading import open_and_report
from kinema.data.clips import DataConfig, FolderSource, Source
from kinema.data.writing import contact_sheet, from_uint8, to_uint8, write_image
from kinema.evaluation.evaluate import EvaluationConfig
from kinema.experiment import Experiment
from kinema.family import Family, LatentFamily, LatentFamilyConfig
from kinema.metrics.statistics import mean_interval
from kinema.report.tables import format_number
from kinema.runtime.device import Runtime, detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load, load_experiment, stream
from kinema.training import checkpoint
from kinema.training.loop import train
from kinema.types import Batch, Seeds
from kinema.zoo.files import CODEC, find_model_file

FAMILIES = ("mocogan", "vgan", "tgan", "svg-lp")
WORLD = "shape-motion"
REAL = 1_000  # the seed of real clips; training's is 0
WARM_UPS, REPEATS, MORE = 1, 5, 2  # clips and steps
SHOWN = 8  # clips on a sheet
COSTS = ("weights", "minutes", "steps", "s a clip", "MB sampling", "MB training")

Quality = Callable[[np.ndarray, Family | None], list[str]]  # the cells of a family's clips, or of the real ones


def trained_for(path: Path) -> tuple[int, float]:
    """The steps and the minutes that a run was trained for."""
    state = checkpoint.load(path)
    return state.step, state.seconds / 60


def in_fresh_process(work: Callable[..., Any], *arguments: object) -> Any:
    """What `work` returns in a process of its own, for its peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def sampling(path: Path, real: Batch) -> tuple[float, float]:
    """The median seconds of one clip, and the peak memory of this process in MB."""
    model = load(path, detect_runtime())
    conditions = model.family.conditions_from(real)

    def sample(seed: int) -> None:
        for chunk in stream(model.family, model.runtime, Seeds((seed,)), real.frames.shape[1], conditions):
            to_uint8(chunk)

    times = [seconds(partial(sample, seed)) for seed in range(WARM_UPS + REPEATS)]
    return median(times[WARM_UPS:]), peak(model.runtime.device)


def training(path: Path) -> float | None:
    """The peak memory of this process in MB over two more steps, of a copy; None where its clips are missing."""
    keep_freed_memory()  # as `kinema train` does
    state, last, runtime = checkpoint.load(path), find_model_file(path).parent, detect_runtime()
    experiment, _ = Experiment.from_dict(state.config, str(path))
    more = experiment.changed(train={"steps": state.step + MORE, "minutes": None})
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(last, Path(folder, last.name))
        if (codec := last.parent / CODEC).is_file():
            shutil.copy(codec, folder)
        try:
            train(more, folder, runtime=runtime, resume=True)
        except ValueError as error:
            print(f"{path}: no memory of training: {error}", file=sys.stderr)
            return None
    return peak(runtime.device)


def costs(path: Path, model: Model, real: Batch) -> list[str]:
    """The cells of COSTS."""
    (steps, minutes), family, config = trained_for(path), model.family, model.experiment.family
    modules = [family.generator, *([family.codec] if isinstance(family, LatentFamily) and family.codec else [])]
    weights = sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6
    codec = config.codec if isinstance(config, LatentFamilyConfig) else None
    spent = f"{minutes:.1f}" + (f" + {trained_for(Path(codec))[1]:.1f}" if codec and Path(codec).exists() else "")
    a_clip, sampling_peak = in_fresh_process(sampling, path, Batch(real.frames[:1], real.conditions[:1]))
    training_peak = in_fresh_process(training, path)
    of_training = "-" if training_peak is None else f"{training_peak:.0f}"
    return [f"{weights:.2f}", spent, f"{steps:,}", f"{a_clip:.3f}", f"{sampling_peak:.0f}", of_training]


def of_shapes(
    classifier: MotionClassifier, labels: Tensor, runtime: Runtime, clips: np.ndarray, family: Family | None
) -> list[str]:
    """The quality of Shape Motion's clips; motion control counts where the motion was a condition."""
    frames = from_uint8(clips)
    distance, between, spots, of_spots = measure(frames)
    control = ["-", "-"]
    if family is None or family.accepts & {"label", "text"}:
        control = _cells(motion_control(classifier, frames, labels, runtime), 3)
    return [*_cells(distance, 2), f"{between:.1f}", f"{spots.mean():.2f}", f"{of_spots.nanmean():.2f}", *control]


def of_real(real: UInt8[np.ndarray, "M T H W 3"], clips: np.ndarray, family: Family | None) -> list[str]:
    """The statistics of a folder's clips; the real ones are compared with each other."""
    curves, known = drift([clips]).beside(drift([real])), family.context_frames if family else 0
    near = nearest(clips[:, known:], real[:, known:], themselves=family is None)
    found = [_cells(np.nanmean(curves[name], 1), 2) for name in ("sharpness", "colour", "motion")]
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


def _cells(values: Float[Tensor, " N"] | Float[np.ndarray, " N"], digits: int) -> list[str]:
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
    validate_models(parser, arguments)
    if arguments.clips < 2:
        parser.error("--clips must be at least 2")
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    if arguments.fps is not None and arguments.data is None:
        parser.error("--fps is for --data")

    keep_freed_memory()
    size = {"frames": arguments.frames, "height": arguments.side, "width": arguments.side}
    paths = existing_runs(arguments)
    if not arguments.families:
        specs = [load_experiment(path)[1] for path in paths.values()]
        size = {"frames": min(spec.frames for spec in specs), "height": specs[0].height, "width": specs[0].width}
    data = DataConfig(source=arguments.data or WORLD, fps=arguments.fps, **size)
    models = {}
    for seed in range(arguments.seeds):
        for family, experiment in experiments(parser, arguments, seed, **vars(data)).items():
            name = family if arguments.seeds == 1 else f"{family}-{seed}"
            paths[name] = arguments.out / name
            models[name] = trained(experiment, paths[name])
    models |= {name: load(path) for name, path in existing_runs(arguments).items()}
    for name, model in models.items():
        if (model.spec.height, model.spec.width) != (data.height, data.width) or model.spec.frames < data.frames:
            parser.error(f"{name} makes other clips than {data.frames} frames of {data.width}x{data.height}")

    source = open_and_report(data)
    real = real_clips(source, arguments.clips, REAL)
    truth = to_uint8(real.frames)
    headers, quality = judge(source, real, truth)
    shown = f"{len(truth)} clips of {data.frames} frames of {data.width}x{data.height}"
    table = Table(title=f"{arguments.data or 'Shape Motion'}, {shown}, {detect_runtime().device}")
    for header in ("", *COSTS, *headers):
        table.add_column(header, justify="right" if header else "left")
    table.add_row("real", *[""] * len(COSTS), *quality(truth, None))
    for name, model in models.items():
        parts = [np.concatenate([*map(to_uint8, chunks)], 1) for chunks in generate_for(model, real, data.frames)]
        clips = np.concatenate(parts)
        write_image(arguments.out / f"{name}.png", contact_sheet(clips[:SHOWN], columns=8))
        table.add_row(name, *costs(paths[name], model, real), *quality(clips, model.family))
    Console(width=200).print(table)
    report({name: paths[name] for name in models}, data, arguments)


def report(paths: dict[str, Path], data: DataConfig, arguments: argparse.Namespace) -> None:
    """Write the report of `kinema evaluate` on the runs, and print its numbers by family where there are seeds."""
    config = EvaluationConfig(arguments.clips, data.frames, data.height, data.width, data.fps)
    try:
        found, reference = measure_with_progress([*map(str, paths.values())], data.source, config, "auto")
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
            if not values:  # of a family without the condition that this number is about
                cells.append("-")
                continue
            ends = (min(values), max(values))
            value, low, high = format_number(sum(values) / len(values), *ends)
            cells.append(f"{value} ({low} to {high})")
        real = next(numbers[name].real for numbers in every if name in numbers)
        table.add_row(name, *cells, "" if real is None else format_number(real, *ends)[0])
    Console(width=60 + 24 * len(arguments.families)).print(table)


def judge(source: Source, real: Batch, truth: UInt8[np.ndarray, "N T H W 3"]) -> tuple[tuple[str, ...], Quality]:
    """The headers of the measures of quality, and the function that gives their cells."""
    if isinstance(source, FolderSource):
        headers = ("sharpness", "95 %", "colour", "95 %", "motion", "95 %", "nearest", "95 %")
        return headers, partial(of_real, truth)
    runtime, labels = detect_runtime(), real.conditions.label
    assert labels is not None
    headers = ("ACD", "95 %", "between", "spots", "of spots", "control", "95 %")
    return headers, partial(of_shapes, train_classifier(source, runtime), labels, runtime)


if __name__ == "__main__":
    main()
