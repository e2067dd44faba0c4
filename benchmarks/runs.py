"""What benchmarks share: runs that go on where they stopped, what a model is given, and the memory that it takes."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from pathlib import Path

import torch

from kinema import run
from kinema.data.clips import Source
from kinema.family import Family
from kinema.sample import Model, load
from kinema.train import Experiment, train
from kinema.types import Batch, Conditions
from kinema.watch import Watcher


def trained(experiment: Experiment, folder: Path, source: Source | None = None) -> Model:
    """The model of a run, which is begun here or goes on until its budget is spent."""
    place = run.start()
    with Watcher(folder, experiment.train) as watch:
        train(experiment, folder, source=source, run=place, resume=any(folder.glob("step-*")), watch=watch)
    return load(folder, place)


def named(words: Sequence[str]) -> dict[str, Path]:
    """Runs that exist, from words that are `name=path`."""
    pairs = [word.partition("=") for word in words]
    if wrong := [word for word, (_, equals, path) in zip(words, pairs, strict=True) if not equals or not path]:
        raise SystemExit(f"{wrong[0]!r} does not name a run: write it as name=path")
    return {name: Path(path) for name, _, path in pairs}


def given_of(batch: Batch, family: Family) -> Conditions:
    """What real clips give a family: the conditions that it accepts and, if it needs them, their first frames."""
    real = batch.given
    given = Conditions(**{name: getattr(real, name) for name in real.present & family.accepts})
    return given.beginning(batch.frames[:, : family.past]) if family.past else given


def peak(device: torch.device) -> float:
    """The most that this process has held, in MB: the GPU's memory where that is the device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins with what the parent held
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
