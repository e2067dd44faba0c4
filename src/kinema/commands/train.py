"""kinema train: train a family on a folder of clips."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from kinema import checkpoint, run
from kinema.commands.arguments import parse
from kinema.commands.reading import open_and_report
from kinema.data.clips import DataConfig
from kinema.families import FAMILIES
from kinema.family import FamilyConfig
from kinema.presets import PRESETS, preset
from kinema.train import Experiment, TrainConfig, refuse, train
from kinema.watch import Watcher

SHIPS = {"sprites": "latent-dit"}  # the families of models that ship, whose presets have their names


@dataclass(frozen=True)
class Arguments:
    """Train a model and keep its checkpoints.

    Example: kinema train mocogan --data clips/ --out runs/x --minutes 60
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
    """The family to train, or sprites: the model that ships, by its own preset."""
    out: str
    """The run's folder: checkpoints and TensorBoard logs."""
    source: Annotated[str | None, tyro.conf.arg(name="data", metavar="FOLDER")] = None
    """A folder of clips, or the name of an embedded world (as --data.source)."""
    steps: int | None = None
    """Stop after so many steps (as --train.steps)."""
    minutes: float | None = None
    """Stop after so many minutes of training (as --train.minutes)."""
    preset: str = "cpu"
    """The configuration to start from."""
    resume: bool = False
    """Go on with the run in --out, from its newest checkpoint and with its configuration."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    family: FamilyConfig = field(kw_only=True)


def main(words: Sequence[str]) -> None:
    """Parse, train, and say where the model is."""
    arguments = _parse(words)
    out = Path(arguments.out)
    refuse(arguments.train, out, arguments.resume)  # before clips are decoded, which may take long
    run.keep_freed_memory()
    place = run.start(arguments.device, arguments.train.precision)
    experiment = Experiment(arguments.family, arguments.data, arguments.train)
    source = open_and_report(experiment.data)
    if place.rank:
        train(experiment, out, source=source, run=place, resume=arguments.resume)
        return
    console = Console(file=sys.stderr)
    with Watcher(out, experiment.train) as watch:
        last = train(
            experiment,
            out,
            source=source,
            run=place,
            resume=arguments.resume,
            watch=watch,
            encoding=watch.encoding,
        )
    known = " --known CLIP" if experiment.family.fitted(source.facts).build().past else ""
    console.print(f"saved {last}; clips: kinema sample {out}{known} --out {out}/clips", highlight=False, soft_wrap=True)


def _parse(words: Sequence[str]) -> Arguments:
    """The arguments, over the defaults of the preset or of the run that goes on."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", nargs="?")  # without a value: tyro says so below
    first.add_argument("--resume", action="store_true")
    first.add_argument("--out", nargs="?", default="", const="")
    known, _ = first.parse_known_args(words)
    name = next((w for w in words[:1] if not w.startswith("-")), None)
    if name in SHIPS:
        name, known.preset = SHIPS[name], known.preset or name
    if name is None and not {"-h", "--help"} & set(words):
        raise ValueError(f"which family? kinema train FAMILY ..., one of {', '.join(FAMILIES)}")
    if known.resume and known.out:
        found = checkpoint.find(known.out)
        experiment, _ = Experiment.from_dict(checkpoint.load_generator(found)[0], str(found))
    else:
        experiment = preset(name or next(iter(FAMILIES)), known.preset or "cpu")
    summary = "presets: " + "; ".join(
        f"{family}: " + ", ".join(f"{n} ({(p.__doc__ or '').splitlines()[0].rstrip('.')})" for n, p in presets.items())
        for family, presets in PRESETS.items()
    )
    parts = [(part, type(value := getattr(experiment, part)), value) for part in ("data", "train", "family")]
    complete = make_dataclass("Complete", parts, bases=(Arguments,), frozen=True)  # with these as its defaults
    description = f"{inspect.getdoc(Arguments)}\n\n{summary}"
    # what is filled in from elsewhere, such as a codec's configuration, is no subcommand
    arguments = parse(complete, "kinema train", words, description=description, config=(tyro.conf.AvoidSubcommands,))
    budget = {k: getattr(arguments, k) for k in ("steps", "minutes") if getattr(arguments, k) is not None}
    data = arguments.data if arguments.source is None else replace(arguments.data, source=arguments.source)
    return replace(arguments, train=replace(arguments.train, **budget), data=data)
