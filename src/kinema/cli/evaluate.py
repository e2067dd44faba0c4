"""kinema evaluate: measure clips, generated or real, by themselves or against others."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress as Bar

from kinema.cli.arguments import parse
from kinema.cli.reading import NAMED
from kinema.cli.say import say
from kinema.cli.writing import NOMINAL_FPS
from kinema.data.atomic import write_text
from kinema.evaluation.evaluate import Evaluation, EvaluationConfig, evaluate, with_baselines
from kinema.evaluation.measure import frechet_extrapolation
from kinema.evaluation.nearest import NearestClips
from kinema.evaluation.saved import save_features
from kinema.metrics.protocol import Difference, Result
from kinema.report.html import ClipColumn, ClipGroup, Plot, html_page
from kinema.report.plot import plot
from kinema.report.tables import Report, build_report
from kinema.report.text import markdown, terminal_table
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory

__all__ = ["main", "measure_with_progress", "print_numbers", "write_report"]

TITLED = 4  # sources that are named in a title; more are counted


@dataclass(frozen=True)
class Arguments:
    """Measure a model, a run, a folder of clips, a procedural world or saved features, by itself or against another.

    Every number has a 95 % interval and the hash of the protocol it was measured by; only numbers of one protocol
    compare. What was computed is kept, so that the same command continues where it was stopped.

    Example: kinema evaluate runs/x --against clips/ --out out/
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run, a checkpoint, an exported model or one that ships; a folder of clips; a procedural world; or saved
    features."""
    against: str | None = None
    """The reference, of the same kinds; mostly a folder of real clips."""
    out: str | None = None
    """A folder for report.html, report.md and results.json."""
    save_features: str | None = None
    """An .npz file for the features of SOURCE, which can be the reference in place of the clips."""
    measuring: tyro.conf.OmitArgPrefixes[EvaluationConfig] = EvaluationConfig()
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Measure, print the numbers, and write what was asked for."""
    arguments = parse(Arguments, "kinema evaluate", words)
    if arguments.save_features and not arguments.save_features.endswith(".npz"):
        raise ValueError(f"--save-features {arguments.save_features}: name a file that ends in .npz")
    (found,), reference = measure_with_progress(
        [arguments.source], arguments.against, arguments.measuring, arguments.device
    )
    print_numbers([one.result for one in with_baselines([found])], arguments.against)
    if arguments.save_features:
        save_features(Path(arguments.save_features), found.rows, found.result.protocol)
        say(f"wrote {arguments.save_features}")
    if arguments.out:
        write_report(Path(arguments.out), [found], reference, arguments.against)


def measure_with_progress(
    names: Sequence[str], against: str | None, config: EvaluationConfig, device: str
) -> tuple[list[Evaluation], Evaluation | None]:
    """What `evaluate` finds, with a progress bar; skipped files are listed on stderr."""
    keep_freed_memory()
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in (*names, *([against] if against else []))}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:  # a baseline
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], completed=done, total=total)

        found, reference = evaluate(names, against, config, detect_runtime(device), show)
    skipped = [*dict.fromkeys(file for one in found for file in one.result.skipped)]
    for file in skipped[:NAMED]:
        say(f"skipped {file}", console)
    if len(skipped) > NAMED:
        console.print(f"... and {len(skipped) - NAMED} more", highlight=False)
    if (count := found[0].result.protocol.clips) < config.clips:
        console.print(f"{count} clips of each set are measured: there are no more that do not overlap", highlight=False)
    return found, reference


def print_numbers(results: Sequence[Result], against: str | None, differences: Sequence[Difference] = ()) -> None:
    """Print the numbers of results of one protocol, and their differences."""
    report, protocol = _report(results, against, differences), results[0].protocol
    console = Console(width=max(120, 50 + 34 * len(results)))
    for section in report.sections[: 2 if differences else 1]:
        numbers = section is report.sections[0]
        title = f"{report.title}: {report.lead} Protocol {protocol.hash}" if numbers else section.title
        console.print(terminal_table(section.tables[0], title))
        for index, note in enumerate(section.notes, 1):
            say(f"[{index}] {note}", console)


def write_report(
    folder: Path,
    found: Sequence[Evaluation],
    reference: Evaluation | None,
    against: str | None,
    differences: Sequence[Difference] = (),
) -> None:
    """Write report.html, report.md and results.json, and say so."""
    found = with_baselines(found)
    results = [one.result for one in found]
    columns = [*([reference] if reference else []), *found]
    clips = [_clips(one) for one in columns if len(one.rows.samples)]
    extrapolated = [one for one in found if any(name.endswith("at infinity") for name in one.result.numbers)]
    plots = [_extrapolation(one, reference) for one in extrapolated if reference]
    plots += [_per_frame(name, found) for name in dict.fromkeys(n for one in found for n in one.rows.per_frame)]
    report = _report(results, against, differences)
    groups = [_nearest(one, one.nearest) for one in found if one.nearest]
    write_text(folder / "report.html", html_page(report, clips, plots, groups))
    write_text(folder / "report.md", markdown(report))
    values = [result.to_dict() for result in results]
    write_text(folder / "results.json", json.dumps(values, indent=1, allow_nan=False) + "\n")
    say(f"wrote {folder / 'report.html'}, report.md and results.json")


def _report(results: Sequence[Result], against: str | None, differences: Sequence[Difference]) -> Report:
    names = [result.source for result in results if result.kind != "baseline"]
    what = ", ".join(names) if len(names) <= TITLED else f"{len(names)} sources"
    title = f"{what} against {against}" if against else what
    return build_report(results, title=title, reference=against or "", differences=differences)


def _clips(one: Evaluation) -> ClipColumn:
    """The first clips of a source."""
    seed, rows = one.result.protocol.seed, one.rows
    seeds = range(seed, seed + len(rows.samples)) if one.result.kind == "generated" else ()
    return ClipColumn(one.result.source, rows.samples, one.fps or NOMINAL_FPS, rows.captions, tuple(seeds))


def _nearest(one: Evaluation, nearest: NearestClips) -> ClipGroup:
    """The generated clips that are nearest to a training clip, beside it."""
    source, fps, (made, training) = one.result.source, one.fps or NOMINAL_FPS, nearest.frames()
    seeds = tuple(one.result.protocol.seed + number for number in nearest.numbers.tolist())
    columns = (
        ClipColumn(source, made, fps, [f"distance {ratio:.2f}" for ratio in nearest.ratios], seeds),
        ClipColumn("nearest training clip", training, fps, nearest.files()),
    )
    text = "The clips that are nearest to a training clip. A distance of 1 is that of unseen real clips; 0 is a copy."
    return ClipGroup(f"Nearest training clips of {source}", text, columns)


def _extrapolation(one: Evaluation, reference: Evaluation) -> Plot:
    """The Frechet distance by the number of clips."""
    line = frechet_extrapolation(one.rows, reference.rows, one.result.protocol.features["name"])
    inverse = 1 / line.clips
    curves = {"subsets": (inverse, line.means), "line": (inverse, line.value + line.slope * inverse)}
    title = f"Frechet distance of {one.result.source}"
    caption = f"Of subsets, by one over their clips; at 0, infinitely many clips, the line is at {line.value:.4g}."
    return Plot(title, caption, plot(curves, title=title, x="1 / clips"))


def _per_frame(name: str, found: Sequence[Evaluation]) -> Plot:
    """A measure of predictions by the number of the predicted frame."""
    curves = {
        one.result.source: (np.arange(1, 1 + values.shape[1]), values.mean(0))
        for one in found
        if (values := one.rows.per_frame.get(name)) is not None
    }
    title = f"{name} of predicted frames"
    caption = "The mean over clips, by the number of the predicted frame."
    return Plot(title, caption, plot(curves, title=title, x="frame"))
