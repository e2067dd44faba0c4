"""What benchmarks share: runs that continue where they stopped, clips of a model, seconds and memory."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from kinema.config import from_dict, to_dict
from kinema.data.clips import FolderSource, Source
from kinema.experiment import Experiment
from kinema.presets import PRESETS, preset
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import peak_memory
from kinema.sampling.model import Model, load, stream
from kinema.training.loop import train
from kinema.training.watch import Watcher
from kinema.types import Batch, Seeds

T = TypeVar("T")

CPU = torch.device("cpu")
AT_ONCE = 8  # clips in memory
PARTS = ("family", "data", "train")  # of an experiment


def add_models(parser: argparse.ArgumentParser, families: Sequence[str]) -> None:
    """Add the flags that choose models: families to train, and existing runs."""
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
    add("--runs", nargs="+", default=[], metavar="NAME=PATH", help="existing runs to measure beside them")


def validate_models(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End with an error where the flags of `add_models` do not fit together."""
    if not arguments.families and not arguments.runs:
        parser.error("there is no model: name --families to train, or existing --runs")
    if arguments.families and (arguments.minutes is None or arguments.minutes <= 0):
        parser.error("--minutes must be given, and more than 0, where there are families to train")
    if wrong := [word for word in arguments.set if word.split(".")[0] not in arguments.families]:
        parser.error(f"--set {wrong[0]}: no such family is trained here")
    if wrong := [word for word in arguments.set if word.partition(".")[2].partition(".")[0] not in PARTS]:
        parser.error(f"--set {wrong[0]}: after the family comes one of {', '.join(PARTS)}")
    if wrong := [word for word in arguments.runs if not all(word.partition("="))]:
        parser.error(f"--runs {wrong[0]} does not name a run: write it as name=path")
    if missing := [word for word in arguments.runs if not Path(word.partition("=")[2]).exists()]:
        parser.error(f"--runs {missing[0]}: there is nothing")


def existing_runs(arguments: argparse.Namespace) -> dict[str, Path]:
    """The folders of --runs, by name."""
    return {name: Path(path) for name, _, path in (word.partition("=") for word in arguments.runs)}


def with_settings(config: T, words: Sequence[str], where: str) -> T:
    """The same configuration with other fields, each word a `name=value` whose value is JSON or else plain text.

    Raises a ValueError of one line that starts with `where` and names the field.
    """
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{where}: {word!r} has no value: write it as name=value")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return from_dict(type(config), to_dict(config) | values, where)


def experiments(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, seed: int = 0, **data: Any
) -> dict[str, Experiment]:
    """The experiment of each family: its preset on these data for --minutes, changed by --set.

    {seed} in the words of --set stands for the seed.
    """
    found = {}
    for family in arguments.families:
        words = [word.removeprefix(f"{family}.") for word in arguments.set if word.startswith(f"{family}.")]
        words = [word.replace("{seed}", str(seed)) for word in words]
        try:
            budget = {"minutes": arguments.minutes, "seed": seed}
            experiment = preset(family, arguments.preset).changed(data=data, train=budget)
            for part in PARTS:
                some = [word.removeprefix(f"{part}.") for word in words if word.startswith(f"{part}.")]
                changed = with_settings(getattr(experiment, part), some, f"--set {family}.{part}")
                experiment = replace(experiment, **{part: changed})
        except ValueError as error:
            parser.error(str(error))
        found[family] = experiment
    return found


def trained(experiment: Experiment, folder: Path, source: Source | None = None) -> Model:
    """The model of a run, which is begun here, or continued until its budget is spent."""
    runtime = detect_runtime()
    with Watcher(folder, experiment.train) as watch:
        train(experiment, folder, source=source, runtime=runtime, resume=any(folder.glob("step-*")), watch=watch)
    return load(folder, runtime)


def real_clips(source: Source, most: int, seed: int) -> Batch:
    """Clips of a source in [-1, 1], on the CPU: at most `most`, and no more than a folder has files."""
    count = min(most, len(source.clips)) if isinstance(source, FolderSource) else most
    return source.batch(0, count, seed=seed).to(CPU)


def generate_for(model: Model, real: Batch, frames: int) -> Iterator[Iterator[Float[Tensor, "B t 3 H W"]]]:
    """Yield the chunks of a few clips at a time: one for each real clip, under its conditions, seeds from 0 on."""
    for first in range(0, len(real.frames), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        part = Batch(real.frames[some], real.conditions[some])
        seeds = Seeds(tuple(range(first, first + len(part.frames))))
        yield stream(model.family, model.runtime, seeds, frames, model.family.conditions_from(part))


def seconds(call: Callable[[], object]) -> float:
    """How long `call` takes, to the end of what it started on a GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    begun = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begun


def peak(device: torch.device) -> float:
    """The most memory that this process has used, in MB: the GPU's where that is the device."""
    status = Path("/proc/self/status")
    if device.type != "cuda" and status.exists():  # on Linux ru_maxrss begins with what the parent used
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return (peak_memory(device) or float("nan")) / 2**20


def machine(device: torch.device) -> str:
    """The name of a GPU, or the number of CPU threads."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
