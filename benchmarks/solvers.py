"""What a clip of the latent DiT takes and is worth, by solver and number of steps, on Shape Motion.

    python benchmarks/solvers.py runs/leaderboard/latent-dit --out out/solvers

The run is one of latent-dit on Shape Motion at 32x32, as benchmarks/leaderboard.py trains it. Clips have the same seeds
and labels in every row. Seconds are the median of single clips; calls are how often the network was asked, of which
Heun's solver needs two a step but the last. "far" is how far pixels are, a root mean square of 0 to 255, from the same
solver's with the most steps: what more steps would still change. ddpm draws fresh noise, so its clips stay far. The
other columns are those of benchmarks/shape_motion.py. Out come a table, acd.png and spots.png by seconds, and a sheet.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from shape_motion import FIRST, FRAMES, LABELS, SIDE, Measured, measure
from torch import Tensor

from kinema import run
from kinema.commands.sample import write_sheet
from kinema.data.plot import plot
from kinema.data.write import contact_sheet, from_uint8, to_uint8
from kinema.families.latent_dit import LatentDiT
from kinema.flow import Solver
from kinema.metrics.bootstrap import mean_interval
from kinema.metrics.control import motion_control, train_classifier
from kinema.sample import Model, load
from kinema.types import Noise
from kinema.worlds.shape_motion import ShapeMotion

REPEATS, SHOWN = 3, 3  # single clips that are timed, and clips on the sheet
HEADERS = ("solver", "steps", "calls", "s a clip", "ACD", "95 %", "between", "spots", "control", "95 %", "far")


def single(model: Model) -> float:
    """Seconds of one clip."""
    taken = []
    for seed in range(REPEATS):
        begun = time.perf_counter()
        model.clips(Noise((seed,)), FRAMES, labels=LABELS[:1])
        taken.append(time.perf_counter() - begun)
    return median(taken)


def cells(solver: Solver, steps: int, seconds: float, found: Measured) -> list[str]:
    """A row of the table but its last."""
    assert found.control is not None
    distance, control = (mean_interval(values) for values in (found.acd, found.control))
    return [
        solver, f"{steps}", f"{2 * steps - 1 if solver == 'heun' else steps}", f"{seconds:.2f}",
        f"{distance[0]:.2f}", f"{distance[1]:.2f} to {distance[2]:.2f}", f"{found.between:.1f}",
        f"{found.spots.mean():.2f}", f"{control[0]:.3f}", f"{control[1]:.3f} to {control[2]:.3f}",
    ]  # fmt: skip


def main() -> None:
    """Sample, measure, print the table and write the curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="RUN", help="its folder, or a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="for the curves and the sheet")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16, 32], help="%(default)s if not given")
    parser.add_argument("--clips", type=int, default=64, help="measured of each (%(default)s)")
    arguments = parser.parse_args()
    if arguments.clips < 2 or min(arguments.steps) < 1:
        parser.error("--clips must be at least 2 and --steps at least 1")

    run.keep_freed_memory()
    model, world = load(arguments.model, run.start()), ShapeMotion(FRAMES, SIDE, SIDE)
    facts = model.facts
    if not isinstance(model.family, LatentDiT) or (facts.frames, facts.height, facts.width) != (FRAMES, SIDE, SIDE):
        parser.error(f"{arguments.model} is no latent-dit of {FRAMES} frames of {SIDE}x{SIDE}")
    classifier = train_classifier(world, model.run)
    asked = torch.tensor([LABELS[i % len(LABELS)] for i in range(arguments.clips)])
    steps, noise = sorted(arguments.steps), Noise(tuple(range(FIRST, FIRST + arguments.clips)))
    table = Table(title=f"{arguments.model} on {model.run.device}, {arguments.clips} clips of each")
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "solver" else "right")
    curves: dict[str, dict[str, list[float]]] = {"acd": {}, "spots": {}, "seconds": {}}
    shown, names = [], []
    for solver in get_args(Solver):
        made: dict[int, Tensor] = {}
        table.add_section()
        for count in reversed(steps):  # the most first, as the others are compared with it
            chosen = model.choosing(solver=solver, steps=count)
            made[count] = from_uint8(chosen.clips(noise, FRAMES, labels=LABELS))
        for count in steps:
            frames, chosen = made[count], model.choosing(solver=solver, steps=count)
            found = Measured(*measure(frames), motion_control(classifier, frames, asked, model.run))
            far = (127.5 * (frames - made[steps[-1]])).square().mean().sqrt()
            seconds = single(chosen)
            table.add_row(*cells(solver, count, seconds, found), f"{far:.1f}")
            for name, value in (("acd", found.acd.mean()), ("spots", found.spots.mean()), ("seconds", seconds)):
                curves[name].setdefault(solver, []).append(float(value))
            shown += [*to_uint8(frames[:SHOWN])]
            names += [f"{solver} {count}"] * SHOWN
    for name in ("acd", "spots"):
        lines = {s: (np.array(curves["seconds"][s]), np.array(values)) for s, values in curves[name].items()}
        write_sheet(arguments.out / f"{name}.png", plot(lines, title=name, x="seconds a clip"))
    write_sheet(arguments.out / "sheet.png", contact_sheet(np.stack(shown), columns=8, labels=names))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
