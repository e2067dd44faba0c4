"""Drift in long clips: sharpness, colour and motion, second by second, of clips many times as long as in training.

    python benchmarks/rollout.py runs/x --out out/rollout
    python benchmarks/rollout.py runs/x --data FOLDER --sampling context_noise=0 context_noise=0.1 --out out/rollout

Clips are 8 times as long as those of training. Each --sampling is a set of sampling settings, name=value with commas
between them; without it, those of the run. All have the same seeds. Clips have the conditions of real ones that the
family accepts and, if it needs them, their first frames, which count in the first second.

Real clips are those of --data, a folder of files that the run was not trained on, and otherwise the run's own source
under another seed: new clips of a world, but other windows of the same files of a folder. They are as long as
training's, so one value is shown of them for all seconds.

The curves are in 8-bit levels: sharpness and saturation as in metrics/image.py; colour, the distance of a frame's mean
RGB from the mean over real clips; and motion, the mean absolute change from the frame before. Intervals are
bootstrapped over clips. Under --out are a table, drift.csv, a plot of each curve, and sheet.png, frames of the first
clips evenly spaced in time.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from runs import generate_for, real_clips, with_settings
from torch import Tensor

from kinema.cli.reading import open_and_report
from kinema.cli.writing import NOMINAL_FPS
from kinema.data.writing import contact_sheet, to_uint8, write_image
from kinema.metrics.image import saturation, sharpness
from kinema.metrics.statistics import mean_interval
from kinema.metrics.temporal import changes
from kinema.report.plot import plot
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load
from kinema.types import Batch

REAL = 1_000  # the seed of real clips; training's is 0
SHOWN, COLUMNS = 3, 16  # clips of each setting on the sheet, and frames of each
CURVES = ("sharpness", "colour", "saturation", "motion")


@dataclass(frozen=True, slots=True)
class Drift:
    """The curves of N clips over T frames, in 8-bit levels."""

    sharpness: Float[np.ndarray, "N T"]
    colour: Float[np.ndarray, "N T 3"]  # the mean RGB
    saturation: Float[np.ndarray, "N T"]
    motion: Float[np.ndarray, "N T"]  # NaN in the first frame

    def beside(self, real: Drift) -> dict[str, Float[np.ndarray, "N T"]]:
        """The curves by name, colour as the distance from the mean colour of `real` clips."""
        distance = np.linalg.norm(self.colour - real.colour.mean((0, 1)), axis=-1)
        return {"sharpness": self.sharpness, "colour": distance, "saturation": self.saturation, "motion": self.motion}


def drift(chunks: Iterable[UInt8[np.ndarray, "N t H W 3"]]) -> Drift:
    """The curves of clips that come in chunks of frames, of which one is in memory."""
    last: np.ndarray | None = None
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in chunks:
        joined = chunk if last is None else np.concatenate([last, chunk], 1)
        change = changes(joined) if joined.shape[1] > 1 else np.empty((len(chunk), 0))
        first = np.full((len(chunk), chunk.shape[1] - change.shape[1]), np.nan)
        motion = np.concatenate([first, change], 1)
        parts.append((sharpness(chunk), chunk.mean((2, 3)), saturation(chunk), motion))
        last = chunk[:, -1:].copy()  # a view would keep the chunk
    return Drift(*(np.concatenate(curve, 1) for curve in zip(*parts, strict=True)))


def each_second(curve: Float[np.ndarray, "N T"], fps: float) -> Float[np.ndarray, "seconds 3"]:
    """The mean of each second and the ends of its 95 % interval over clips; the last may be a part of one.

    NaN, such as the motion in the first frame, does not count.
    """
    second = (np.arange(curve.shape[1]) / fps).astype(int)
    return np.array([mean_interval(np.nanmean(curve[:, second == number], 1)) for number in np.unique(second)])


def roll_out(model: Model, real: Batch, frames: int) -> tuple[Drift, UInt8[np.ndarray, "S C H W 3"]]:
    """The curves of a clip for each real one, and the frames of the first that the sheet shows."""
    found, shown = [], []
    for chunks in generate_for(model, real, frames):
        found.append(drift(_as_bytes(chunks, frames, [] if found else shown)))
    curves = [np.concatenate([getattr(one, name) for one in found]) for name in Drift.__dataclass_fields__]
    return Drift(*curves), np.stack(shown, 1)


def _as_bytes(
    chunks: Iterator[Tensor], frames: int, shown: list[np.ndarray]
) -> Iterator[UInt8[np.ndarray, "N t H W 3"]]:
    """Yield the chunks as bytes, and append the frames that the sheet shows to `shown`."""
    wanted, done = set(np.linspace(0, frames - 1, COLUMNS).round().astype(int)), 0
    for chunk in map(to_uint8, chunks):
        shown += [chunk[:SHOWN, t].copy() for t in range(chunk.shape[1]) if done + t in wanted]
        done += chunk.shape[1]
        yield chunk


def samplings(model: Model, choices: list[str]) -> dict[str, object]:
    """The sampling settings of each choice, by its words; raises ValueError where a setting does not exist."""
    default = model.family.sampling
    if not choices:
        return {"as trained": default}
    if default is None:
        raise ValueError(f"{type(model.family).__name__} has no sampling settings: leave --sampling out")
    return {choice: with_settings(default, choice.split(","), f"--sampling {choice}") for choice in choices}


def main() -> None:
    """Sample, measure, print the table and write the curves and the sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="RUN", help="its folder, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="for what is measured")
    parser.add_argument("--sampling", nargs="+", default=[], metavar="NAME=VALUE", help="settings, each measured")
    parser.add_argument("--data", metavar="FOLDER", help="of real clips; the run's own source if not given")
    parser.add_argument("--clips", type=int, default=32, help="generated and real, at most (%(default)s)")
    parser.add_argument("--times", type=int, default=8, help="the length of training (%(default)s)")
    arguments = parser.parse_args()
    if arguments.clips < 2 or arguments.times < 1:
        parser.error("--clips must be at least 2 and --times at least 1")

    keep_freed_memory()
    try:
        model = load(arguments.model, detect_runtime())
        chosen = samplings(model, arguments.sampling)
        data = model.experiment.data
        source = open_and_report(replace(data, source=arguments.data or data.source))
    except ValueError as error:
        parser.error(str(error))
    frames, out, fps = arguments.times * model.spec.frames, arguments.out, model.spec.fps or NOMINAL_FPS
    if model.family.max_frames is not None:
        parser.error(f"{type(model.family).__name__} makes at most {model.family.max_frames} frames: it cannot go on")
    real = real_clips(source, arguments.clips, REAL)
    truth = drift([to_uint8(real.frames)])

    found, rows, names = {}, [], []
    for name, sampling in chosen.items():
        model.family.sampling = sampling
        found[name], shown = roll_out(model, real, frames)
        rows += [*shown]
        names += [f"{name} {seed}" for seed in range(len(shown))]
    write_image(out / "sheet.png", contact_sheet(np.stack(rows), columns=COLUMNS, labels=names))

    every = {curve: np.array([mean_interval(np.nanmean(values, 1))]) for curve, values in truth.beside(truth).items()}
    seconds = {
        name: {curve: each_second(values, fps) for curve, values in one.beside(truth).items()}
        for name, one in found.items()
    }
    write(out, every, seconds)
    title = f"{arguments.model}: {len(real.frames)} clips of {frames} frames, {arguments.times} times those of training"
    Console(width=140).print(_table(title, every, seconds))


def write(out: Path, real: dict[str, np.ndarray], seconds: dict[str, dict[str, np.ndarray]]) -> None:
    """Write a picture of each curve, and all of them as a table."""
    last = max(len(values) for one in seconds.values() for values in one.values())
    for curve in CURVES:
        lines = {"real": (np.arange(last), np.full(last, real[curve][0, 0]))}
        lines |= {name: (np.arange(len(one[curve])), one[curve][:, 0]) for name, one in seconds.items()}
        write_image(out / f"{curve}.png", plot(lines, title=f"{curve}, 0 to 255", x="second"))
    with (out / "drift.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sampling", "curve", "second", "mean", "low", "high"])
        for name, one in {"real": real, **seconds}.items():
            for curve, values in one.items():
                for second, value in enumerate(values.tolist()):
                    writer.writerow([name, curve, "" if name == "real" else second, *(f"{v:.4f}" for v in value)])


def _table(title: str, real: dict[str, np.ndarray], seconds: dict[str, dict[str, np.ndarray]]) -> Table:
    table = Table(title=title, caption="means over clips and 95 % intervals, 0 to 255")
    for header in ("sampling", "second", *CURVES):
        table.add_column(header, justify="left" if header == "sampling" else "right")
    table.add_row("real", "", *(_cell(real[curve][0]) for curve in CURVES))
    for name, one in seconds.items():
        table.add_section()
        for second in range(len(one["motion"])):
            table.add_row(name, f"{second}", *(_cell(one[curve][second]) for curve in CURVES))
    return table


def _cell(values: Float[np.ndarray, " 3"]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*values)


if __name__ == "__main__":
    main()
