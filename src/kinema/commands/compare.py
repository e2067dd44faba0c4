"""kinema compare: several sources under one protocol, as a leaderboard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kinema.commands.arguments import parse
from kinema.commands.evaluate import measured, print_table, write_report
from kinema.evaluation.compare import differences, refuse_other_protocols
from kinema.evaluation.evaluate import Settings
from kinema.metrics.protocol import Result
from kinema.report.markdown import Difference, written, written_p


@dataclass(frozen=True)
class Arguments(Settings):
    """Measure several models, runs or folders of clips by one protocol, and say how far each is from the first.

    Results that were kept (a results.json each) are put side by side if their protocols are the same, and else refused.

    Example: kinema compare runs/a runs/b --against clips/ --out out/
    """

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = tyro.MISSING
    """Runs, checkpoints, exported models, folders of clips, worlds or saved features; or results.json files only."""
    against: str | None = None
    """What all are measured against; mostly a folder of real clips."""
    out: str | None = None
    """A folder for report.html, report.md and results.json."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Measure what is not measured yet, print the leaderboard and the differences, and write what was asked for."""
    arguments = parse(Arguments, "kinema compare", words)
    if len(arguments.sources) < 2:
        raise ValueError("a comparison is of two sources or more: name another, or use kinema evaluate")
    kept = [name for name in arguments.sources if name.endswith(".json")]
    if kept and (len(kept) < len(arguments.sources) or arguments.against or arguments.out):
        raise ValueError(
            "results.json files are compared with each other only, as they are, without --against and --out"
        )
    if kept:
        results = [result for name in kept for result in _results(Path(name))]
        refuse_other_protocols(results)
        print_table(results, None)
        return
    found, reference = measured(arguments.sources, arguments.against, arguments, arguments.device)
    apart = differences(found, reference)
    print_table([one.result for one in found], arguments.against)
    _print_differences(apart)
    if arguments.out:
        write_report(Path(arguments.out), found, reference, arguments.against, apart)


def _results(path: Path) -> list[Result]:
    """What kinema evaluate or compare wrote."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as results of kinema evaluate: {error}") from None
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise ValueError(f"{path} holds no results of kinema evaluate: make them with its --out")
    return [Result.from_dict(one, str(path)) for one in values]


def _print_differences(apart: Sequence[Difference]) -> None:
    table = Table("", "less", "by", "difference", "95 %", "p", title="Differences from the first", title_justify="left")
    for one in apart:
        value, low, high = written(one.difference, one.low, one.high)
        p = "" if one.p != one.p else written_p(one.p)
        table.add_row(escape(one.a), escape(one.b), escape(one.metric), value, f"{low} to {high}", p)
    if apart:
        Console(width=120).print(table)
