"""The seconds and the quality of latent-dit's clips, by solver and number of steps, on Shape Motion.

    python benchmarks/solvers.py runs/leaderboard/latent-dit --out out/solvers

The run is one of latent-dit on Shape Motion at 32x32, as benchmarks/leaderboard.py trains it. Clips have the same seeds
and labels in every row. Seconds are the median of single clips; calls are those of the network, of which Heun's solver
needs two a step but the last. "far" is how far pixels are, a root mean square of 0 to 255, from the same
solver's with the most steps: what more steps would still change. ddpm draws fresh noise, so its clips stay far. The
other columns are those of benchmarks/shape_motion.py. Writes a table, acd.png and spots.png by seconds, and a sheet.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import get_args

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from runs import seconds
from shape_measures import motion_control, train_classifier
from shape_motion import FIRST, FRAMES, LABELS, SIDE, Measured, measure
from torch import Tensor

from kinema.data.writing import contact_sheet, from_uint8, to_uint8, write_image
from kinema.diffusion.solvers import Solver
from kinema.families.latent_dit import LatentDiT
from kinema.metrics.statistics import mean_interval
from kinema.report.plot import plot
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load
from kinema.sampling.request import GenerateRequest
from kinema.worlds.shape_motion import ShapeMotion

REPEATS, SHOWN = 3, 3  # single clips that are timed, and clips on the sheet
HEADERS = ("solver", "steps", "calls", "s a clip", "ACD", "95 %", "between", "spots", "control", "95 %", "far")


def seconds_of_one(model: Model) -> float:
    """The median seconds of one clip."""
    requests = [GenerateRequest((seed,), FRAMES, labels=LABELS[:1]) for seed in range(REPEATS)]
    return median(seconds(partial(model.generate, request)) for request in requests)


def cells(solver: Solver, steps: int, a_clip: float, found: Measured) -> list[str]:
    """A row of the table but its last."""
    assert found.control is not None
    distance, control = (mean_interval(values) for values in (found.acd, found.control))
    return [
        solver, f"{steps}", f"{2 * steps - 1 if solver == 'heun' else steps}", f"{a_clip:.2f}",
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

    keep_freed_memory()
    model, world = load(arguments.model, detect_runtime()), ShapeMotion(FRAMES, SIDE, SIDE)
    spec = model.spec
    if not isinstance(model.family, LatentDiT) or (spec.frames, spec.height, spec.width) != (FRAMES, SIDE, SIDE):
        parser.error(f"{arguments.model} is no latent-dit of {FRAMES} frames of {SIDE}x{SIDE}")
    classifier = train_classifier(world, model.runtime)
    wanted = torch.tensor([LABELS[i % len(LABELS)] for i in range(arguments.clips)])
    steps = sorted(arguments.steps)
    request = GenerateRequest(tuple(range(FIRST, FIRST + arguments.clips)), FRAMES, labels=LABELS)
    table = Table(title=f"{arguments.model} on {model.runtime.device}, {arguments.clips} clips of each")
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "solver" else "right")
    curves: dict[str, dict[str, list[float]]] = {"acd": {}, "spots": {}, "seconds": {}}
    shown, names = [], []
    for solver in get_args(Solver):
        made: dict[int, Tensor] = {}
        table.add_section()
        for count in reversed(steps):  # the most first, as the others are compared with it
            chosen = model.with_sampling(solver=solver, steps=count)
            made[count] = from_uint8(chosen.generate(request))
        for count in steps:
            frames, chosen = made[count], model.with_sampling(solver=solver, steps=count)
            found = Measured(*measure(frames), motion_control(classifier, frames, wanted, model.runtime))
            far = (127.5 * (frames - made[steps[-1]])).square().mean().sqrt()
            a_clip = seconds_of_one(chosen)
            table.add_row(*cells(solver, count, a_clip, found), f"{far:.1f}")
            for name, value in (("acd", found.acd.mean()), ("spots", found.spots.mean()), ("seconds", a_clip)):
                curves[name].setdefault(solver, []).append(float(value))
            shown += [*to_uint8(frames[:SHOWN])]
            names += [f"{solver} {count}"] * min(SHOWN, arguments.clips)
    for name in ("acd", "spots"):
        lines = {s: (np.array(curves["seconds"][s]), np.array(values)) for s, values in curves[name].items()}
        write_image(arguments.out / f"{name}.png", plot(lines, title=name, x="seconds a clip"))
    write_image(arguments.out / "sheet.png", contact_sheet(np.stack(shown), columns=8, labels=names))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
