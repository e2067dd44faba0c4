"""What benchmarks share: runs that go on where they stopped, what a model is given, and the memory that it takes."""

from __future__ import annotations

import argparse
import resource
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kinema import run
from kinema.config import assigned
from kinema.data.clips import Source
from kinema.presets import PRESETS, preset
from kinema.sample import Model, load, stream
from kinema.train import Experiment, train
from kinema.types import Batch, Noise
from kinema.watch import Watcher

AT_ONCE = 8  # clips in memory
PARTS = ("family", "data", "train")  # of an experiment


def add_models(parser: argparse.ArgumentParser, families: Sequence[str]) -> None:
    """Add the flags that say which models there are: families to train, and runs that exist."""
    add = parser.add_argument
    add("--families", nargs="*", choices=PRESETS, default=list(families), help="to train (%(default)s)")
    add("--minutes", type=float, help="of training for each family, in all")
    add("--preset", default="cpu", help="of each family (%(default)s)")
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="FAMILY.NAME=VALUE",
        help="such as vgan.family.ngf=16 vgan.train.lr=0.01",
    )
    add("--runs", nargs="+", default=[], metavar="NAME=PATH", help="runs that exist, measured beside them")


def refuse_models(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with an error where the flags of `add_models` do not fit together."""
    if not arguments.families and not arguments.runs:
        parser.error("there is no model: name --families to train, or --runs that exist")
    if arguments.families and (arguments.minutes is None or arguments.minutes <= 0):
        parser.error("--minutes must be given, and more than 0, where there are families to train")
    if wrong := [word for word in arguments.set if word.split(".")[0] not in arguments.families]:
        parser.error(f"--set {wrong[0]} is of no family that is trained here")
    if wrong := [word for word in arguments.set if word.partition(".")[2].partition(".")[0] not in PARTS]:
        parser.error(f"--set {wrong[0]}: after the family comes one of {', '.join(PARTS)}")
    if wrong := [word for word in arguments.runs if not all(word.partition("="))]:
        parser.error(f"--runs {wrong[0]} does not name a run: write it as name=path")
    if missing := [word for word in arguments.runs if not Path(word.partition("=")[2]).exists()]:
        parser.error(f"--runs {missing[0]}: there is nothing")


def named(arguments: argparse.Namespace) -> dict[str, Path]:
    """The runs that exist, by name."""
    return {name: Path(path) for name, _, path in (word.partition("=") for word in arguments.runs)}


def experiments(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, seed: int = 0, **data: Any
) -> dict[str, Experiment]:
    """How each family is trained for as long as was asked: its preset on these data, and what --set says.

    In the latter {seed} stands for the seed.
    """
    found = {}
    for family in arguments.families:
        words = [word.removeprefix(f"{family}.") for word in arguments.set if word.startswith(f"{family}.")]
        words = [word.replace("{seed}", str(seed)) for word in words]
        try:
            budget = {"minutes": arguments.minutes, "seed": seed}
            chosen = preset(family, arguments.preset).changed(data=data, train=budget)
            for part in PARTS:
                some = [word.removeprefix(f"{part}.") for word in words if word.startswith(f"{part}.")]
                changed = assigned(getattr(chosen, part), some, f"--set {family}.{part}")
                chosen = replace(chosen, **{part: changed})
        except ValueError as error:
            parser.error(str(error))
        found[family] = chosen
    return found


def trained(experiment: Experiment, folder: Path, source: Source | None = None) -> Model:
    """The model of a run, which is begun here or goes on until its budget is spent."""
    place = run.start()
    with Watcher(folder, experiment.train) as watch:
        train(experiment, folder, source=source, run=place, resume=any(folder.glob("step-*")), watch=watch)
    return load(folder, place)


def made(model: Model, real: Batch, frames: int) -> Iterator[Iterator[Float[Tensor, "B t 3 H W"]]]:
    """Yield the chunks of a clip for each real one, a few at a time, seeds 0 and on, on what the real ones give."""
    for first in range(0, len(real.frames), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        part = Batch(real.frames[some], real.given[some])
        noise = Noise(tuple(range(first, first + len(part.frames))))
        yield stream(model.family, model.run, noise, frames, model.family.conditions_of(part))


def peak(device: torch.device) -> float:
    """The most that this process has held, in MB: the GPU's memory where that is the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins with what the parent held
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
