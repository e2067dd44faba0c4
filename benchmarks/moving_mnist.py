"""Predicting Moving MNIST: SVG-LP, its deterministic baseline and other models against repeating the last frame.

    python benchmarks/moving_mnist.py --digits FOLDER --minutes 60 --out runs/moving-mnist
    python benchmarks/moving_mnist.py --digits FOLDER --minutes 60 --given 10 --predicted 10 --out runs/moving-mnist-10
    python benchmarks/moving_mnist.py --digits FOLDER --families --runs mine=runs/mine --out runs/moving-mnist

FOLDER holds MNIST's t10k-images-idx3-ubyte.gz: digits 0 to 7,999 are trained on, 8,000 to 9,999 held out. Every family
is trained for --minutes; the same command continues where an earlier one stopped, and only measures where nothing is
left to train. Existing runs are added by --runs, whatever they were trained on, if their frames are of 64x64 pixels.

The clips are those of Denton and Fergus 2018 (arXiv 1802.07687, section 4.1; the repository edenton/svg,
data/moving_mnist.py): two digits of 32x32 pixels move over 64x64 at up to 4 pixels a frame each way; at a wall a digit
takes a new random velocity away from it. Between walls nothing is random.

Measured are held-out clips: 5 frames given, 25 predicted (10 were trained), or as --given and --predicted say. Training
clips have 10 frames more than are given; --set FAMILY.data.frames=21 changes that for a family that needs it. A model
that draws noise makes many futures of each clip, and the one with the best mean of a metric over the frames counts, as
in the paper; the first future is shown too. PSNR and SSIM are those of metrics/paired.py on pixels in [0, 1];
the paper's are on a scale of its own (its code leaves the range of pixels to the library, which takes 2 for it), so
compare here, not with its figures. MSE is the squared error of pixels in [0, 1], summed over a frame. Intervals are
bootstrapped over clips. Writes a table, curves.csv, a plot of each metric and futures.png under --out.

Other tasks are shown on sheets of held-out clips as long as training's, NAME-interpolation.png (two frames at each end
are known) and NAME-in-painting.png (all but a square in the middle), for the models that can do them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
import zlib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from rich.console import Console
from rich.table import Table
from runs import CPU, add_models, existing_runs, experiments, trained, validate_models
from torch import Tensor

from kinema.data.folder import Skipped
from kinema.data.writing import contact_sheet, to_uint8, write_image
from kinema.experiment import Experiment
from kinema.metrics.paired import psnr, ssim
from kinema.metrics.statistics import mean_interval
from kinema.report.plot import plot
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load, stream
from kinema.training.loop import Trainer
from kinema.types import Batch, ClipSpec, Conditions, Seeds

DIGITS, HELD_OUT = "t10k-images-idx3-ubyte.gz", 2_000
SIDE, DIGIT, FASTEST = 64, 32, 4  # pixels; the last a frame
GIVEN, TRAINED, PREDICTED = 5, 10, 25  # frames
ENDS, HIDDEN = 2, 32  # frames given at each end to interpolate, and pixels of the square that is to be painted
AT_ONCE = 50  # futures in memory
SHOWN = 4  # clips on a sheet

Curves = dict[str, dict[str, Tensor]]  # by method and metric [clips, predicted frames]


def frame_error(predicted: Tensor, truth: Tensor) -> Tensor:
    """The squared error of pixels in [0, 1], summed over each frame, as tables of Moving MNIST have it."""
    return ((predicted - truth) / 2).square().sum((-3, -2, -1))


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"PSNR": psnr, "SSIM": ssim, "MSE": frame_error}
DECIMALS = {"PSNR": 2, "SSIM": 3, "MSE": 1}


class MovingMNIST:
    """Two digits of `digits` that bounce about: clips without end, drawn as they are needed."""

    skipped: tuple[Skipped, ...] = ()

    def __init__(self, digits: UInt8[np.ndarray, "N 32 32"], frames: int) -> None:
        self.digits = digits
        self.spec = ClipSpec(frames, SIDE, SIDE)
        self.key = f"moving-mnist {zlib.crc32(digits.tobytes())} {self.spec}"

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips of a training step, the same whenever `seed`, `step` and `rank` are."""
        rng, frames = np.random.default_rng((seed, step, rank)), self.spec.frames
        canvas = np.zeros((size, frames, SIDE, SIDE), np.uint16)
        windows = sliding_window_view(canvas, (DIGIT, DIGIT), axis=(2, 3), writeable=True)
        clip, frame = np.ogrid[:size, :frames]
        for _ in range(2):
            rows, columns = np.moveaxis(_bounce(rng, size, frames), -1, 0)
            windows[clip, frame, rows, columns] += self.digits[rng.integers(len(self.digits), size=size)][:, None]
        grey = torch.from_numpy(canvas.clip(max=255).astype(np.uint8))
        return Batch(grey[:, :, None].expand(-1, -1, 3, -1, -1))


def _bounce(rng: np.random.Generator, count: int, frames: int) -> Int64[np.ndarray, "count frames 2"]:
    """The corners of digits that move: row and column in every frame."""
    last = SIDE - DIGIT - 1
    place = rng.integers(0, last + 1, (count, 2))
    velocity = rng.integers(-FASTEST, FASTEST + 1, (count, 2))
    path = np.empty((count, frames, 2), np.int64)
    for t in range(frames):
        for axis in (0, 1):
            before, beyond = place[:, axis] < 0, place[:, axis] > last
            fresh = rng.integers(-FASTEST, FASTEST + 1, (count, 2))
            fresh[:, axis] = rng.integers(1, FASTEST + 1, count) * np.where(before, 1, -1)
            velocity = np.where((before | beyond)[:, None], fresh, velocity)
            place[:, axis] = place[:, axis].clip(0, last)
        path[:, t] = place
        place = place + velocity
    return path


def read_digits(folder: Path) -> UInt8[np.ndarray, "N 32 32"]:
    """MNIST's test digits, enlarged from 28x28."""
    try:
        with gzip.open(folder / DIGITS) as file:
            content = file.read()
    except OSError as error:
        sys.exit(f"{folder / DIGITS}: {error.strerror or error}: give MNIST's folder as --digits")
    digits = np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)  # after four numbers of 4 bytes
    return np.stack([np.asarray(Image.fromarray(d).resize((DIGIT, DIGIT), Image.Resampling.BILINEAR)) for d in digits])


def models_of(digits: np.ndarray, chosen: dict[str, Experiment], arguments: argparse.Namespace) -> dict[str, Model]:
    """The models by name: the families, trained, and the existing runs."""
    models = {}
    for family, experiment in chosen.items():
        source = MovingMNIST(digits, experiment.data.frames)
        if "context_frames" in {field.name for field in fields(experiment.family)}:
            experiment = experiment.changed(family={"context_frames": arguments.given})
        if not {"known", "mask"} <= Trainer(experiment, source, detect_runtime()).family.accepts:
            print(f"{family} is left out: it cannot continue frames", file=sys.stderr)
            continue
        models[family] = trained(experiment, arguments.out / family, source)
        if family == "svg-lp":
            baseline = experiment.changed(family={"latent": 0})
            models["deterministic"] = trained(baseline, arguments.out / "deterministic", source)
    return models | {name: load(path, detect_runtime()) for name, path in existing_runs(arguments).items()}


def futures(model: Model, truth: Tensor, count: int, arguments: argparse.Namespace) -> Tensor:
    """`count` predictions [count, predicted, 1, H, W] of what follows the first frames of a clip [T, 1, H, W]."""
    parts = []
    for seeds in torch.arange(count).split(AT_ONCE):
        known = truth[None, : arguments.given].expand(len(seeds), -1, 3, -1, -1)
        frames, conditions = arguments.given + arguments.predicted, Conditions().with_first_frames(known)
        chunks = stream(model.family, model.runtime, Seeds(tuple(seeds.tolist())), frames, conditions)
        parts.append(torch.cat(list(chunks), 1)[:, arguments.given :, :1].cpu())
    return torch.cat(parts)


def predicts(name: str, model: Model, truth: Tensor, arguments: argparse.Namespace) -> bool:
    """Whether a model can predict; prints the reason where it cannot."""
    try:
        futures(model, truth[0], 1, arguments)
    except ValueError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True


def measure(
    models: dict[str, Model], truth: Tensor, arguments: argparse.Namespace
) -> tuple[Curves, list[tuple[str, Tensor]]]:
    """The curves of every method over the clips [N, T, 1, H, W], and the rows of the sheet of the first."""
    curves: Curves = {}
    sheet: list[tuple[str, Tensor]] = []

    def keep(method: str, metric: str, index: int, values: Tensor) -> None:
        every = curves.setdefault(method, {})
        every.setdefault(metric, torch.empty(len(truth), arguments.predicted))[index] = values

    for index, clip in enumerate(truth):
        before, real = clip[: arguments.given], clip[arguments.given :]
        rows = [("real", real)]
        for name, model in models.items():
            drawn = futures(model, clip, arguments.futures if model.family.streams else 1, arguments)
            for metric, of in METRICS.items():
                each = of(drawn, real.expand_as(drawn))  # [count, predicted]
                quality = -each.mean(1) if metric == "MSE" else each.mean(1)
                best = int(quality.argmax())
                if len(drawn) == 1:
                    keep(name, metric, index, each[0])
                    continue
                keep(f"{name}, best of {len(drawn)}", metric, index, each[best])
                keep(f"{name}, one future", metric, index, each[0])
                if metric == "SSIM":
                    rows.append((f"{name}, best", drawn[best]))
            rows += [(name, future) for future in drawn[:2]]
        for metric, of in METRICS.items():
            keep("last frame", metric, index, of(before[-1].expand_as(real), real))
        if index < SHOWN:
            sheet += [(name, torch.cat([before, part])) for name, part in rows]
        print(f"\rmeasured {index + 1} of {len(truth)} clips", end="", file=sys.stderr)
    print(file=sys.stderr)
    return curves, sheet


def masks(frames: int) -> dict[str, Tensor]:
    """Masks of the known pixels of a clip [T, 1, H, W], by task."""
    ends, around = (torch.full((frames, 1, SIDE, SIDE), known) for known in (False, True))
    ends[:ENDS] = ends[-ENDS:] = True
    hidden = slice((SIDE - HIDDEN) // 2, (SIDE + HIDDEN) // 2)
    around[:, :, hidden, hidden] = False
    return {"interpolation": ends, "in-painting": around}


def show_masks(name: str, model: Model, digits: np.ndarray, out: Path) -> None:
    """Write a sheet of each task that a model can do, and print which it cannot."""
    frames = model.spec.frames
    truth = MovingMNIST(digits, frames).batch(0, SHOWN, seed=1).to(CPU).frames
    for task, mask in masks(frames).items():
        every = mask.expand(SHOWN, -1, -1, -1, -1)
        known = torch.where(every, truth, 0.0)  # grey where it is unknown
        conditions, seeds = Conditions(known=known, mask=every), Seeds(tuple(range(SHOWN)))
        try:
            chunks = stream(model.family, model.runtime, seeds, frames, conditions)
            made = torch.cat(list(chunks), 1).cpu()
        except ValueError as error:
            print(f"{name}: no {task}: {error}", file=sys.stderr)
            continue
        rows = torch.stack([known, made, truth], 1).flatten(0, 1)
        labels = ["known", "made", "truth"] * SHOWN
        write_image(out / f"{name}-{task}.png", contact_sheet(to_uint8(rows), columns=15, labels=labels))


def main() -> None:
    """Train the models, measure them, print the table and write the curves and the sheets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--digits", type=Path, required=True, metavar="FOLDER", help=f"with {DIGITS}")
    parser.add_argument("--out", type=Path, required=True, help="for the runs and what is measured")
    add_models(parser, ["svg-lp"])
    parser.add_argument("--given", type=int, default=GIVEN, help="first frames (%(default)s)")
    parser.add_argument("--predicted", type=int, default=PREDICTED, help="frames after them (%(default)s)")
    parser.add_argument("--clips", type=int, default=100, help="held-out clips measured (%(default)s)")
    parser.add_argument("--futures", type=int, default=100, help="drawn for each clip (%(default)s)")
    arguments = parser.parse_args()
    validate_models(parser, arguments)
    if arguments.clips < 2 or min(arguments.futures, arguments.given, arguments.predicted) < 1:
        parser.error("--clips must be at least 2, --futures, --given and --predicted at least 1")
    size = {"frames": arguments.given + TRAINED, "height": SIDE, "width": SIDE}
    chosen = experiments(parser, arguments, source="moving-mnist", **size)

    keep_freed_memory()
    digits, out = read_digits(arguments.digits), arguments.out
    seen, held_out = digits[:-HELD_OUT], digits[-HELD_OUT:]
    source = MovingMNIST(held_out, arguments.given + arguments.predicted)
    truth = source.batch(0, arguments.clips, seed=0).to(CPU).frames[:, :, :1]
    models = models_of(seen, chosen, arguments)
    models = {name: model for name, model in models.items() if predicts(name, model, truth, arguments)}
    curves, sheet = measure(models, truth, arguments)

    frame = np.arange(1, arguments.predicted + 1)
    for metric in METRICS:
        unit = "PSNR, dB" if metric == "PSNR" else metric
        lines = {name: (frame, values[metric].mean(0).numpy()) for name, values in curves.items()}
        write_image(out / f"{metric.lower()}.png", plot(lines, title=unit, x="frame after those given"))
    names, rows = zip(*sheet, strict=True)
    pixels = to_uint8(torch.stack(rows).expand(-1, -1, 3, -1, -1))
    write_image(out / "futures.png", contact_sheet(pixels, columns=15, labels=names))
    for name, model in models.items():
        show_masks(name, model, held_out, out)
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "metric", *(f"frame {k}" for k in frame)])
        for name, values in curves.items():
            for metric, each in values.items():
                writer.writerow([name, metric, *(f"{v:.4f}" for v in each.mean(0).tolist())])
    Console(width=140).print(_table(curves, arguments))


def _table(curves: Curves, arguments: argparse.Namespace) -> Table:
    last = arguments.predicted
    places = [1, *range(5, last, 5), last] if last > 1 else [1]
    title = f"{arguments.clips} held-out clips, {arguments.given} frames given, {last} predicted"
    if arguments.families:
        title += f"; preset {arguments.preset}, {arguments.minutes:g} minutes of training each"
    table = Table(title=title)
    for header in ("method", "metric", "mean", "95 %", *(f"frame {k}" for k in places)):
        table.add_column(header, justify="left" if header in ("method", "metric") else "right")
    for metric, digits in DECIMALS.items():
        for name, values in curves.items():
            mean, low, high = (f"{v:.{digits}f}" for v in mean_interval(values[metric].mean(1)))
            at = [f"{values[metric][:, k - 1].mean():.{digits}f}" for k in places]
            table.add_row(name, metric, mean, f"{low} to {high}", *at)
    return table


if __name__ == "__main__":
    main()
