"""Predicting Moving MNIST: SVG-LP and its deterministic baseline against repeating the last frame.

    python benchmarks/moving_mnist.py --digits FOLDER --minutes 60 --out runs/moving-mnist

FOLDER holds MNIST's t10k-images-idx3-ubyte.gz: digits 0 to 7,999 are trained on, 8,000 to 9,999 held out. Both models
are trained for so many minutes each; the same command goes on where an earlier one stopped, and only measures where
nothing is left to train.

The clips are those of Denton and Fergus 2018 (arXiv 1802.07687, section 4.1; the repository edenton/svg,
data/moving_mnist.py): two digits of 32x32 pixels move over 64x64 at up to 4 pixels a frame each way; at a wall a digit
takes a new random velocity away from it. Between walls nothing is random.

Measured are held-out clips: 5 frames given, 25 predicted (10 were trained). For each clip SVG-LP draws many futures and
the one with the best mean PSNR, or SSIM, over the frames counts, as in the paper; one future taken blindly is shown
too. PSNR and SSIM are those of metrics/paired.py on pixels in [0, 1]; the paper's are on a scale of its own (its code
leaves the range of pixels to the library, which takes 2 for it), so compare here, not with its figures. Intervals
are bootstrapped over clips. Out come a table, curves.csv, psnr.png, ssim.png and futures.png under --out.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from kinema import run
from kinema.commands.sample import write_sheet
from kinema.data.folder import Skipped
from kinema.data.plot import plot
from kinema.data.write import contact_sheet, to_uint8
from kinema.family import Facts
from kinema.metrics.bootstrap import mean_interval
from kinema.metrics.paired import psnr, ssim
from kinema.presets import PRESETS, preset
from kinema.sample import Model, load, stream
from kinema.train import train
from kinema.types import Batch, Conditions, Noise
from kinema.watch import Watcher

DIGITS, HELD_OUT = "t10k-images-idx3-ubyte.gz", 2_000
SIDE, DIGIT, FASTEST = 64, 32, 4  # pixels; the last a frame
GIVEN, TRAINED, PREDICTED = 5, 10, 25  # frames
SHOWN = 4  # clips on the sheet
METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"PSNR": psnr, "SSIM": ssim}

Curves = dict[str, dict[str, Tensor]]  # by method and metric [clips, predicted frames]


class MovingMNIST:
    """Two digits of `digits` that bounce about: clips without end, drawn as they are needed."""

    skipped: tuple[Skipped, ...] = ()

    def __init__(self, digits: UInt8[np.ndarray, "N 32 32"], frames: int) -> None:
        self.digits = digits
        self.facts = Facts(frames, SIDE, SIDE)
        self.key = f"moving-mnist {zlib.crc32(digits.tobytes())} {self.facts}"

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips of a training step, the same whenever `seed`, `step` and `rank` are."""
        rng, frames = np.random.default_rng((seed, step, rank)), self.facts.frames
        canvas = np.zeros((size, frames, SIDE, SIDE), np.uint16)
        windows = sliding_window_view(canvas, (DIGIT, DIGIT), axis=(2, 3), writeable=True)
        clip, frame = np.ogrid[:size, :frames]
        for _ in range(2):
            rows, columns = np.moveaxis(_bounce(rng, size, frames), -1, 0)
            windows[clip, frame, rows, columns] += self.digits[rng.integers(len(self.digits), size=size)][:, None]
        grey = torch.from_numpy(canvas.clip(max=255).astype(np.float32)).div_(127.5).sub_(1)
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


def trained(latent: int | None, out: Path, digits: np.ndarray, arguments: argparse.Namespace) -> Model:
    """A model that has been trained for as long as was asked."""
    settings = {} if latent is None else {"latent": latent}
    experiment = preset("svg-lp", arguments.preset).changed(
        family={"past": GIVEN, **settings},
        data={"source": "moving-mnist", "frames": GIVEN + TRAINED},
        train={"minutes": arguments.minutes},
    )
    source, place = MovingMNIST(digits, GIVEN + TRAINED), run.start()
    with Watcher(out, experiment.train) as watch:
        train(experiment, out, source=source, run=place, resume=any(out.glob("step-*")), watch=watch)
    return load(out, place)


def futures(model: Model, truth: Tensor, count: int) -> Tensor:
    """What a model expects after the first frames of one clip [T, 1, H, W], count times: [count, 25, 1, H, W]."""
    known = truth[None, :GIVEN].expand(count, -1, 3, -1, -1)
    noise = Noise(tuple(range(count)))
    chunks = stream(model.family, model.run, noise, GIVEN + PREDICTED, Conditions().beginning(known))
    return torch.cat(list(chunks), 1)[:, GIVEN:, :1].cpu()


def measure(stochastic: Model, deterministic: Model, truth: Tensor, count: int) -> tuple[Curves, list[Tensor]]:
    """The curves of every method over the clips [N, T, 1, H, W], and what the sheet shows of the first."""
    names = [f"best of {count}", "one future", "deterministic", "last frame"]
    curves: Curves = {name: {metric: torch.empty(len(truth), PREDICTED) for metric in METRICS} for name in names}
    sheet = []
    for index, clip in enumerate(truth):
        drawn, fixed = futures(stochastic, clip, count), futures(deterministic, clip, 1)
        real, still = clip[GIVEN:], clip[GIVEN - 1].expand(PREDICTED, -1, -1, -1)
        best = drawn[:1]
        for metric, of in METRICS.items():
            each = of(drawn, real.expand_as(drawn))  # [count, 25]
            first = int(each.mean(1).argmax())
            best = drawn[first, None] if metric == "SSIM" else best
            for name, values in zip(names, (each[first], each[0], of(fixed[0], real), of(still, real)), strict=True):
                curves[name][metric][index] = values
        if index < SHOWN:
            sheet += [torch.cat([clip[:GIVEN], part]) for part in (real, best[0], *drawn[:2], fixed[0])]
        print(f"\rmeasured {index + 1} of {len(truth)} clips", end="", file=sys.stderr)
    print(file=sys.stderr)
    return curves, sheet


def main() -> None:
    """Train both models, measure them, print the table and write the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--digits", type=Path, required=True, metavar="FOLDER", help=f"with {DIGITS}")
    parser.add_argument("--out", type=Path, required=True, help="for the two runs and what is measured")
    parser.add_argument("--minutes", type=float, required=True, help="of training for each model, in all")
    parser.add_argument("--preset", choices=PRESETS["svg-lp"], default="cpu", help="%(default)s if not given")
    parser.add_argument("--clips", type=int, default=100, help="held-out clips measured (%(default)s)")
    parser.add_argument("--futures", type=int, default=100, help="drawn for each clip (%(default)s)")
    arguments = parser.parse_args()
    if arguments.clips < 2 or arguments.futures < 1 or arguments.minutes <= 0:
        parser.error("--clips must be at least 2, --futures at least 1 and --minutes more than 0")

    run.keep_freed_memory()
    digits, out = read_digits(arguments.digits), arguments.out
    seen, held_out = digits[:-HELD_OUT], digits[-HELD_OUT:]
    stochastic = trained(None, out / "svg-lp", seen, arguments)
    deterministic = trained(0, out / "deterministic", seen, arguments)
    truth = MovingMNIST(held_out, GIVEN + PREDICTED).batch(0, arguments.clips, seed=0).frames[:, :, :1]
    curves, sheet = measure(stochastic, deterministic, truth, arguments.futures)

    frame = np.arange(1, PREDICTED + 1)
    for metric in METRICS:
        unit = "PSNR, dB" if metric == "PSNR" else metric
        lines = {name: (frame, values[metric].mean(0).numpy()) for name, values in curves.items()}
        write_sheet(out / f"{metric.lower()}.png", plot(lines, title=unit, x="frame after those given"))
    rows = ["real", "best", "a future", "another", "determin."] * min(SHOWN, arguments.clips)
    pixels = to_uint8(torch.stack(sheet).expand(-1, -1, 3, -1, -1))
    write_sheet(out / "futures.png", contact_sheet(pixels, columns=15, labels=rows))
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "metric", *(f"frame {k}" for k in frame)])
        for name, values in curves.items():
            for metric, each in values.items():
                writer.writerow([name, metric, *(f"{v:.4f}" for v in each.mean(0).tolist())])
    Console(width=120).print(_table(curves, arguments))


def _table(curves: Curves, arguments: argparse.Namespace) -> Table:
    places = (1, 5, 10, 15, 20, 25)
    table = Table(
        title=f"{arguments.clips} held-out clips, {GIVEN} frames given, {PREDICTED} predicted; preset "
        f"{arguments.preset}, {arguments.minutes:g} minutes of training each",
    )
    for header in ("method", "metric", "mean", "95 %", *(f"frame {k}" for k in places)):
        table.add_column(header, justify="left" if header in ("method", "metric") else "right")
    for metric in METRICS:
        digits = 2 if metric == "PSNR" else 3
        for name, values in curves.items():
            mean, low, high = (f"{v:.{digits}f}" for v in mean_interval(values[metric].mean(1)))
            at = [f"{values[metric][:, k - 1].mean():.{digits}f}" for k in places]
            table.add_row(name, metric, mean, f"{low} to {high}", *at)
    return table


if __name__ == "__main__":
    main()
