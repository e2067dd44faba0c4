"""kinema compare: several sources under one protocol, as a leaderboard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kinema.cli.arguments import parse
from kinema.cli.evaluate import measure_with_progress, print_numbers, write_report
from kinema.evaluation.compare import check_same_protocol, differences
from kinema.evaluation.evaluate import EvaluationConfig, with_baselines
from kinema.metrics.protocol import Result


@dataclass(frozen=True)
class Arguments:
    """Measure several models, runs or folders of clips by one protocol, and how much each differs from the first.

    Results of earlier commands (a results.json each) are compared if their protocols are the same.

    Example: kinema compare runs/a runs/b --against clips/ --out out/
    """

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Runs, checkpoints, exported models, folders of clips, worlds or saved features; or results.json files only."""
    against: str | None = None
    """The reference; mostly a folder of real clips."""
    out: str | None = None
    """A folder for report.html, report.md and results.json."""
    measuring: tyro.conf.OmitArgPrefixes[EvaluationConfig] = EvaluationConfig()
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Measure, print the numbers and the differences, and write what was asked for."""
    arguments = parse(Arguments, "kinema compare", words)
    if len(arguments.sources) < 2:
        raise ValueError("a comparison is of two sources or more: name another, or use kinema evaluate")
    files = [name for name in arguments.sources if name.endswith(".json")]
    if files and (len(files) < len(arguments.sources) or arguments.against or arguments.out):
        raise ValueError("results.json files are compared with each other only, without --against and --out")
    if files:
        loaded = [result for name in files for result in _load_results(Path(name))]
        check_same_protocol(loaded)
        baselines = {result.source: result for result in loaded if result.kind == "baseline"}
        results = [*(result for result in loaded if result.kind != "baseline"), *baselines.values()]
        print_numbers(results, None)
        return
    found, reference = measure_with_progress(
        arguments.sources, arguments.against, arguments.measuring, arguments.device
    )
    rows = differences(found, reference)
    print_numbers([one.result for one in with_baselines(found)], arguments.against, rows)
    if arguments.out:
        write_report(Path(arguments.out), found, reference, arguments.against, rows)


def _load_results(path: Path) -> list[Result]:
    """The results that kinema evaluate or compare wrote."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as results of kinema evaluate: {error}") from None
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise ValueError(f"{path} holds no results of kinema evaluate: make them with its --out")
    return [Result.from_dict(one, str(path)) for one in values]
