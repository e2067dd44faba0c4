"""How long a model lasts: sharpness, colour and motion, second by second, of clips many times as long as it was taught.

    python benchmarks/rollout.py runs/x --out out/rollout
    python benchmarks/rollout.py runs/x --data FOLDER --choose context_noise=0 context_noise=0.1 --out out/rollout

Clips are 8 times as long as those of training. Each --choose is one way to sample: fields of the family's `sampling`,
as name=value with commas between them; without one, the way that the run's configuration says. All have the same seeds.
A family that goes on from given frames is given the first ones of real clips, which count in the first second, and one
that takes labels or captions theirs.

Real clips are those of --data, a folder of files that the run was not trained on, and otherwise the run's own source
under another seed: clips that a world has not shown before, but other moments of the same files of a folder. They are
as long as training's, as no longer ones need be there, so what is shown of them is one value for all seconds.

What the curves mean is said in metrics/drift.py; intervals are bootstrapped over clips. Out come a table, drift.csv, a
plot of each curve and sheet.png, frames of the first clips evenly spaced in time, under --out.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from runs import made
from torch import Tensor

from kinema import run
from kinema.commands.reading import open_and_report
from kinema.commands.sample import NOMINAL_FPS, write_sheet
from kinema.config import assigned
from kinema.data.clips import FolderSource
from kinema.data.plot import plot
from kinema.data.write import contact_sheet, to_uint8
from kinema.metrics.bootstrap import mean_interval
from kinema.metrics.drift import Drift, drift, each_second
from kinema.sample import Model, load
from kinema.types import Batch

REAL = 1_000  # the seed of real clips; training's is 0
SHOWN, COLUMNS = 3, 16  # clips of each way on the sheet, and frames of each
CURVES = ("sharpness", "colour", "saturation", "motion")


def rolled_out(model: Model, real: Batch, frames: int) -> tuple[Drift, UInt8[np.ndarray, "S C H W 3"]]:
    """The curves of a clip for each real one, and the frames of the first that the sheet shows."""
    found, shown = [], []
    for chunks in made(model, real, frames):
        found.append(drift(_kept(chunks, frames, [] if found else shown)))
    curves = [torch.cat([getattr(one, name) for one in found]) for name in Drift.__dataclass_fields__]
    return Drift(*curves), np.stack(shown, 1)


def _kept(chunks: Iterator[Tensor], frames: int, shown: list[np.ndarray]) -> Iterator[UInt8[np.ndarray, "N t H W 3"]]:
    """Yield the chunks as bytes; those frames that the sheet shows gather in `shown`."""
    wanted, done = set(np.linspace(0, frames - 1, COLUMNS).round().astype(int)), 0
    for chunk in map(to_uint8, chunks):
        shown += [chunk[:SHOWN, t].copy() for t in range(chunk.shape[1]) if done + t in wanted]
        done += chunk.shape[1]
        yield chunk


def ways(model: Model, choices: list[str]) -> dict[str, object]:
    """What `sampling` is in each way, by the words that say it; raises ValueError where they say no way to sample."""
    default = model.family.sampling
    if not choices:
        return {"as trained": default}
    if default is None:
        raise ValueError(f"{type(model.family).__name__} has nothing to choose in sampling: leave --choose out")
    return {choice: assigned(default, choice.split(","), f"--choose {choice}") for choice in choices}


def main() -> None:
    """Sample, measure, print the table and write the curves and the sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="RUN", help="its folder, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="for what is measured")
    parser.add_argument("--choose", nargs="+", default=[], metavar="NAME=VALUE", help="ways to sample, in turn")
    parser.add_argument("--data", metavar="FOLDER", help="of real clips; the run's own source if not given")
    parser.add_argument("--clips", type=int, default=32, help="made and real, at most (%(default)s)")
    parser.add_argument("--times", type=int, default=8, help="the length of training (%(default)s)")
    arguments = parser.parse_args()
    if arguments.clips < 2 or arguments.times < 1:
        parser.error("--clips must be at least 2 and --times at least 1")

    run.keep_freed_memory()
    try:
        model = load(arguments.model, run.start())
        chosen = ways(model, arguments.choose)
        data = model.experiment.data
        source = open_and_report(replace(data, source=arguments.data or data.source))
    except ValueError as error:
        parser.error(str(error))
    frames, out, fps = arguments.times * model.facts.frames, arguments.out, model.facts.fps or NOMINAL_FPS
    if model.family.longest is not None:
        parser.error(f"{type(model.family).__name__} draws at most {model.family.longest} frames: it cannot go on")
    count = min(arguments.clips, len(source.clips)) if isinstance(source, FolderSource) else arguments.clips
    real = source.batch(0, count, seed=REAL)
    truth = drift([to_uint8(real.frames)])

    found, rows, names = {}, [], []
    for name, sampling in chosen.items():
        model.family.sampling = sampling
        found[name], shown = rolled_out(model, real, frames)
        rows += [*shown]
        names += [f"{name} {seed}" for seed in range(len(shown))]
    write_sheet(out / "sheet.png", contact_sheet(np.stack(rows), columns=COLUMNS, labels=names))

    every = {curve: np.array([mean_interval(values.nanmean(1))]) for curve, values in truth.beside(truth).items()}
    seconds = {
        name: {curve: each_second(values, fps) for curve, values in one.beside(truth).items()}
        for name, one in found.items()
    }
    write(out, every, seconds)
    title = f"{arguments.model}: {count} clips of {frames} frames, {arguments.times} times as long as in training"
    Console(width=140).print(_table(title, every, seconds))


def write(out: Path, real: dict[str, np.ndarray], seconds: dict[str, dict[str, np.ndarray]]) -> None:
    """A picture of each curve, and all of them as a table."""
    last = max(len(values) for one in seconds.values() for values in one.values())
    for curve in CURVES:
        lines = {"real": (np.arange(last), np.full(last, real[curve][0, 0]))}
        lines |= {name: (np.arange(len(one[curve])), one[curve][:, 0]) for name, one in seconds.items()}
        write_sheet(out / f"{curve}.png", plot(lines, title=f"{curve}, 0 to 255", x="second"))
    with (out / "drift.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["way", "curve", "second", "mean", "low", "high"])
        for name, one in {"real": real, **seconds}.items():
            for curve, values in one.items():
                for second, value in enumerate(values.tolist()):
                    writer.writerow([name, curve, "" if name == "real" else second, *(f"{v:.4f}" for v in value)])


def _table(title: str, real: dict[str, np.ndarray], seconds: dict[str, dict[str, np.ndarray]]) -> Table:
    table = Table(title=title, caption="means over clips and 95 % intervals, 0 to 255")
    for header in ("sampled", "second", *CURVES):
        table.add_column(header, justify="left" if header == "sampled" else "right")
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
