"""What `kinema plan` says of runs, and what they take: seconds of a step and memory, for families and sizes.

    python benchmarks/plan.py --data clips/

Each configuration is planned and then trained for some steps, both in a process of its own, so that the memory of one
is not counted for another. Beside other work on the machine the seconds differ by more than the plan is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from statistics import median
from typing import NamedTuple

from kinema.data.clips import open_source
from kinema.presets import preset
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory, peak_memory
from kinema.training.loop import Trainer
from kinema.training.plan import make_plan

CONFIGURATIONS = (  # family, preset, side of the frames
    ("latent-dit", "cpu", 64),
    ("latent-dit", "cpu", 96),
    ("latent-dit", "cpu", 128),
    ("latent-dit", "cpu", 256),
    ("latent-dit", "pixels", 64),
    ("mocogan", "cpu", 64),
    ("mocogan", "cpu", 128),
    ("tgan", "cpu", 64),
    ("vgan", "cpu", 64),
    ("svg-lp", "cpu", 64),
    ("video-vae", "cpu", 64),
    ("video-vae", "cpu", 128),
)
WARM = 3  # steps that are not timed


class Took(NamedTuple):
    """A step's seconds and the peak memory in bytes."""

    seconds: float
    memory: float


def main() -> None:
    """Plan and train each configuration, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="a folder of clips")
    add("--steps", type=int, default=20, help="that are timed (%(default)s)")
    add("--only", type=int, nargs="+", help="numbers of configurations, from 0; all without it")
    arguments = parser.parse_args()
    print("| configuration | step planned, s | step took, s | ratio | memory planned, GB | took, GB | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    numbers = range(len(CONFIGURATIONS)) if arguments.only is None else arguments.only
    for number in numbers:
        family, name, side = CONFIGURATIONS[number]
        words = (family, name, side, arguments.data)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            planned, took = pool.apply(plan, words), pool.apply(run, (*words, arguments.steps))
        print(
            f"| {family} {name} {side}x{side} | {planned.seconds:.3f} | {took.seconds:.3f} | "
            f"{planned.seconds / took.seconds:.2f} | {planned.memory / 1e9:.2f} | {took.memory / 1e9:.2f} | "
            f"{planned.memory / took.memory:.2f} |",
            flush=True,
        )


def plan(family: str, name: str, side: int, data: str) -> Took:
    """What the plan says."""
    experiment = preset(family, name).changed(data={"source": data, "height": side, "width": side})
    keep_freed_memory()
    made = make_plan(experiment.changed(train={"steps": 1}), open_source(experiment.data), detect_runtime())
    return Took(made.seconds, made.memory or float("nan"))


def run(family: str, name: str, side: int, data: str, steps: int) -> Took:
    """The median of the steps' seconds, and the memory of the process."""
    experiment = preset(family, name).changed(data={"source": data, "height": side, "width": side})
    keep_freed_memory()
    runtime = detect_runtime()
    trainer = Trainer(experiment.changed(train={"steps": 1}), open_source(experiment.data), runtime)
    trainer.begin()
    seconds = []
    for step in range(WARM + steps):
        begun = time.perf_counter()
        trainer.advance()
        if step >= WARM:
            seconds.append(time.perf_counter() - begun)
    trainer.close()
    return Took(median(seconds), peak_memory(runtime.device) or float("nan"))


if __name__ == "__main__":
    main()
