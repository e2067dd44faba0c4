"""kinema train: train a family on a folder of clips, or let kinema choose all settings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from kinema.cli.arguments import flag_value, parse
from kinema.cli.reading import open_and_report, report
from kinema.cli.results import write_results
from kinema.cli.say import say
from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.family import FamilyConfig
from kinema.presets import PRESETS, preset
from kinema.registry import CODECS, FAMILIES
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import load_experiment
from kinema.training.checkpoint import is_complete
from kinema.training.choose import Reason, choose
from kinema.training.loop import train, validate
from kinema.training.plan import Plan, make_plan
from kinema.training.watch import Watcher
from kinema.zoo.files import list_checkpoints

__all__ = ["Arguments", "main", "overruled", "parse_experiment", "plan_rows", "show"]

SHIPPED = {"sprites": "latent-dit"}  # shipped models and their families, which have presets of the same name


@dataclass(frozen=True)
class Arguments:
    """Train a model and write its checkpoints.

    Without a family kinema looks at the clips and chooses all settings for them and this machine; flags overrule it. At
    the end it writes a sheet and clips beside real ones, and measures them.

    Example: kinema train --data clips/ --out runs/x --minutes 30
    """

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FAMILY]")] = None
    """The family to train, or sprites: the shipped model, with its preset. None: kinema chooses."""
    source: Annotated[str | None, tyro.conf.arg(name="data", metavar="FOLDER")] = None
    """A folder of clips, or the name of a procedural world (same as --data.source)."""
    out: str = tyro.MISSING
    """The run's folder, for checkpoints, samples and TensorBoard logs."""
    minutes: float | None = None
    """Stop after this many minutes of training in all, those before --resume included (same as --train.minutes)."""
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
    arguments, reasons = parse_experiment(words, Arguments, "kinema train")
    out = Path(arguments.out)
    validate(arguments.train, out, arguments.resume, arguments.data.source)
    keep_freed_memory()
    runtime = detect_runtime(arguments.device, arguments.train.precision)
    experiment = Experiment(arguments.family, arguments.data, arguments.train)
    source = open_and_report(experiment.data, quiet=runtime.rank > 0)
    if runtime.rank:
        train(experiment, out, source=source, runtime=runtime, resume=arguments.resume)
        return
    console = Console(file=sys.stderr)
    show(console, reasons)
    if runtime.ranks == 1 and not arguments.resume:
        show(console, plan_rows(experiment, make_plan(experiment, source, runtime)))
    known, before = {*source.skipped}, list_checkpoints(out)  # some files are decoded later
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
    report([file for file in source.skipped if file not in known])
    needs_known = experiment.family.context_frames or FAMILIES.name_of(type(experiment.family)) in CODECS
    known = " --known CLIP" if needs_known else ""
    spent = last in before
    done = (
        "nothing is left of the budget: give more --steps or --minutes in all, those before included" if spent else ""
    )
    say(f"{done or f'saved {last}'}; clips: kinema sample {out}{known} --out {out}/clips", console)
    if spent and (out / "results" / "report.html").exists():
        return
    if arguments.name is None and is_complete(last, experiment.train):
        try:
            write_results(out, experiment.data, arguments.device)
        except ValueError as error:  # the model is there all the same
            line = f"the results could not be written: {error}"
            say(line, console)


def parse_experiment(words: Sequence[str], cls: type[Arguments], prog: str) -> tuple[Arguments, tuple[Reason, ...]]:
    """The arguments, with defaults from the preset, the run that is resumed, or the choice for the clips and why."""
    name = next((word for word in words[:1] if not word.startswith("-")), None)
    help_asked = bool({"-h", "--help"} & set(words))
    family = SHIPPED.get(name or "", name or "latent-dit")
    out, data = flag_value(words, "--out", ""), flag_value(words, "--data", flag_value(words, "--data.source", ""))
    reasons: tuple[Reason, ...] = ()
    if "--resume" in words and out and not help_asked:
        experiment, _ = load_experiment(Path(out))
        own = FAMILIES.name_of(type(experiment.family))
        if name is not None and own != family:
            raise ValueError(f"{out} is a run of {own}, not of {family}: kinema train {own} --out {out} --resume")
    elif name is None and not help_asked:
        if not data:
            raise ValueError(
                "train on what? kinema train --data FOLDER chooses all settings, kinema train FAMILY those of "
                f"a family, one of {', '.join(FAMILIES.names)}"
            )
        label, camera = flag_value(words, "--data.label", "label"), flag_value(words, "--data.camera", "")
        runtime = detect_runtime(flag_value(words, "--device", "auto"))
        choice = choose(data, runtime, label, camera, "--data.outside" in words)
        experiment, reasons = choice.experiment, choice.reasons
    else:
        experiment = preset(family, flag_value(words, "--preset", name if name in SHIPPED else "cpu"))
    parts = [(part, type(value := getattr(experiment, part)), value) for part in ("data", "train", "family")]
    complete = make_dataclass("Complete", parts, bases=(cls,), frozen=True)  # with the experiment as defaults
    described = (PRESETS if name is None else [family]) if help_asked else []
    description = "\n\n".join([inspect.getdoc(cls) or "", *(_describe(family) for family in described)])
    # or tyro makes a subcommand of a codec's configuration
    arguments = parse(complete, prog, words, description=description, config=(tyro.conf.AvoidSubcommands,))
    if arguments.name != name:
        raise ValueError(f"put {arguments.name} first: {prog} {arguments.name} ...")
    if name is None and flag_value(words, "--preset", ""):
        raise ValueError(f"--preset is of a family: {prog} FAMILY --preset ..., or leave it out")
    given = [k for k in ("steps", "minutes") if getattr(arguments, k) is not None]
    if arguments.resume and len(given) == 1:  # the other one was the budget of the run so far
        arguments = replace(arguments, train=replace(arguments.train, steps=None, minutes=None))
    budget = {k: getattr(arguments, k) for k in ("steps", "minutes") if getattr(arguments, k) is not None}
    chosen_data = arguments.data if arguments.source is None else replace(arguments.data, source=arguments.source)
    return replace(arguments, train=replace(arguments.train, **budget), data=chosen_data), overruled(
        reasons, experiment.data, chosen_data
    )


def _describe(family: str) -> str:
    """What a family is for, and its presets."""
    presets = PRESETS.get(family, {})
    listed = "; ".join(f"{name} ({_first_line(make.__doc__)})" for name, make in presets.items())
    return f"{family}: {FAMILIES[family].about} Presets: {listed or 'cpu'}."


def overruled(rows: Sequence[Reason], chosen: DataConfig, given: DataConfig) -> tuple[Reason, ...]:
    """The choices, those that flags changed marked so."""
    return tuple(
        row
        if all(getattr(given, name) == getattr(chosen, name) for name in row.settings)
        else Reason(row.what, "as given", f"kinema would choose {row.choice}")
        for row in rows
    )


def show(console: Console, rows: Sequence[Reason]) -> None:
    """Print choices and their reasons, a line each."""
    for row in rows:
        line = f"{row.what:<11} {row.choice} ({row.why})"
        say(line, console)


def plan_rows(experiment: Experiment, plan: Plan) -> list[Reason]:
    """What a run will take, as rows for `show`."""
    batch = experiment.train.batch
    passes = "" if plan.passes is None else f", {plan.passes:,.0f} windows of each clip"
    memory = "unknown" if plan.memory is None else f"{plan.memory / 1e9:.1f} GB"
    rows = [
        Reason("steps", f"{plan.steps:,}{passes}", f"{batch} clips a step, {plan.seconds:.2f} s each"),
        Reason("duration", _duration(plan.steps * plan.seconds), "of training, here and now"),
        Reason("memory", memory, f"{plan.weights / 1e6:.2f}M trained weights"),
        Reason("disk", f"{plan.disk / 1e6:.0f} MB", "for the newest two checkpoints"),
    ]
    if plan.codec_psnr is not None:
        rows.append(Reason("codec PSNR", f"{plan.codec_psnr:.1f} dB", "of clips that it decodes: the most to hope for"))
    return rows


def _duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, or as days."""
    return str(timedelta(seconds=round(seconds))) if seconds < 1e7 else f"{seconds / 86400:,.0f} days"


def _first_line(doc: str | None) -> str:
    """The first line of a docstring without its full stop."""
    return (doc or "").partition("\n")[0].rstrip(".")
