"""kinema train: train a family on a folder of clips."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from kinema.cli.arguments import flag_value, parse
from kinema.cli.reading import open_and_report
from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.family import FamilyConfig
from kinema.presets import PRESETS, preset
from kinema.registry import FAMILIES
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import load_experiment
from kinema.training.loop import train, validate
from kinema.training.watch import Watcher

SHIPPED = {"sprites": "latent-dit"}  # shipped models and their families, which have presets of the same name


@dataclass(frozen=True)
class Arguments:
    """Train a model and write its checkpoints.

    Example: kinema train mocogan --data clips/ --out runs/x --minutes 60
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
    """The family to train, or sprites: the shipped model, with its preset."""
    source: Annotated[str | None, tyro.conf.arg(name="data", metavar="FOLDER")] = None
    """A folder of clips, or the name of a procedural world (same as --data.source)."""
    out: str = tyro.MISSING
    """The run's folder, for checkpoints and TensorBoard logs."""
    minutes: float | None = None
    """Stop after this many minutes of training (same as --train.minutes)."""
    resume: bool = False
    """Continue the run in --out from its newest checkpoint, with its configuration."""
    preset: str = "cpu"
    """The configuration to start from."""
    steps: int | None = None
    """Stop after this many steps (same as --train.steps)."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    family: FamilyConfig = field(kw_only=True)


def main(words: Sequence[str]) -> None:
    """Train, and print where the model is."""
    arguments = _parse(words)
    out = Path(arguments.out)
    validate(arguments.train, out, arguments.resume)  # before the clips are decoded, which may take long
    keep_freed_memory()
    runtime = detect_runtime(arguments.device, arguments.train.precision)
    experiment = Experiment(arguments.family, arguments.data, arguments.train)
    if runtime.rank:
        source = open_and_report(experiment.data, quiet=True)
        train(experiment, out, source=source, runtime=runtime, resume=arguments.resume)
        return
    source = open_and_report(experiment.data)
    console = Console(file=sys.stderr)
    with Watcher(out, experiment.train) as watch:
        last = train(
            experiment,
            out,
            source=source,
            runtime=runtime,
            resume=arguments.resume,
            watch=watch,
            encoding=watch.encoding,
        )
    known = " --known CLIP" if experiment.family.context_frames else ""
    line = f"saved {last}; clips: kinema sample {out}{known} --out {out}/clips"
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _parse(words: Sequence[str]) -> Arguments:
    """The arguments, with defaults from the preset or from the run that is resumed."""
    name = next((word for word in words[:1] if not word.startswith("-")), None)
    help_asked = bool({"-h", "--help"} & set(words))
    if name is None and not help_asked:
        raise ValueError(f"which family? kinema train FAMILY ..., one of {', '.join(FAMILIES.names)}")
    family = SHIPPED.get(name or "", name or FAMILIES.names[0])
    out = flag_value(words, "--out", "")
    if "--resume" in words and out and not help_asked:
        experiment, _ = load_experiment(Path(out))
        if (own := FAMILIES.name_of(type(experiment.family))) != family:
            raise ValueError(f"{out} is a run of {own}, not of {family}: kinema train {own} --out {out} --resume")
    else:
        experiment = preset(family, flag_value(words, "--preset", name if name in SHIPPED else "cpu"))
    summary = "presets: " + "; ".join(
        f"{family}: " + ", ".join(f"{n} ({_first_line(p.__doc__)})" for n, p in presets.items())
        for family, presets in PRESETS.items()
    )
    parts = [(part, type(value := getattr(experiment, part)), value) for part in ("data", "train", "family")]
    complete = make_dataclass("Complete", parts, bases=(Arguments,), frozen=True)  # with the experiment as defaults
    description = f"{inspect.getdoc(Arguments)}\n\n{summary}"
    # or tyro makes a subcommand of a codec's configuration
    arguments = parse(complete, "kinema train", words, description=description, config=(tyro.conf.AvoidSubcommands,))
    given = [k for k in ("steps", "minutes") if getattr(arguments, k) is not None]
    if arguments.resume and len(given) == 1:  # the other one was the budget of the run so far
        arguments = replace(arguments, train=replace(arguments.train, steps=None, minutes=None))
    budget = {k: getattr(arguments, k) for k in ("steps", "minutes") if getattr(arguments, k) is not None}
    data = arguments.data if arguments.source is None else replace(arguments.data, source=arguments.source)
    return replace(arguments, train=replace(arguments.train, **budget), data=data)


def _first_line(doc: str | None) -> str:
    """The first line of a docstring without its full stop."""
    return (doc or "").partition("\n")[0].rstrip(".")
