"""kinema plan: say what a training run would take, and train nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kinema.cli.reading import open_and_report
from kinema.cli.train import Arguments as TrainArguments
from kinema.cli.train import parse_experiment, plan_rows, show
from kinema.experiment import Experiment
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.training.loop import validate
from kinema.training.plan import make_plan


@dataclass(frozen=True)
class Arguments(TrainArguments):
    """Say what training would take: time, memory and disk, by a few steps at the real sizes that are thrown away.

    It has the flags of kinema train. Without a family it prints the settings that kinema would choose, and why.

    Example: kinema plan --data clips/ --minutes 30
    """

    out: str = "runs/plan"
    """The run's folder, in which nothing is written."""


def main(words: Sequence[str]) -> None:
    """Measure a few steps, and print the plan."""
    arguments, reasons = parse_experiment(words, Arguments, "kinema plan")
    validate(arguments.train, Path(arguments.out), arguments.resume, arguments.data.source)
    keep_freed_memory()
    runtime = detect_runtime(arguments.device, arguments.train.precision)
    experiment = Experiment(arguments.family, arguments.data, arguments.train)
    source = open_and_report(experiment.data)
    console = Console()
    show(console, [*reasons, *plan_rows(experiment, make_plan(experiment, source, runtime))])
    if sys.stdout.isatty():
        console.print("the same words after kinema train start it", highlight=False)
