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
from rich.markup import escape
from rich.progress import Progress as Bar
from rich.table import Table

from kinema import run
from kinema.commands.arguments import parse
from kinema.commands.reading import NAMED
from kinema.commands.sample import NOMINAL_FPS
from kinema.data.plot import plot
from kinema.evaluation.evaluate import Evaluation, Settings, evaluate
from kinema.evaluation.measure import extrapolation
from kinema.evaluation.saved import save
from kinema.metrics.protocol import Result
from kinema.report.html import Picture, Shown, page
from kinema.report.markdown import Difference, document, leaderboard

__all__ = ["main", "measured", "print_table", "write_report"]

TITLED = 4  # sources that are named in a title; more are counted


@dataclass(frozen=True)
class Arguments(Settings):
    """Measure a model, a run, a folder of clips, an embedded world or saved features, by itself or against another.

    Every number has a 95 % interval and the hash of the protocol that it was measured by; only numbers of one protocol
    compare. What was computed is kept, so that the same command goes on where it was stopped.

    Example: kinema evaluate runs/x --against clips/ --out out/
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = tyro.MISSING
    """A run, a checkpoint, an exported model or one that ships; a folder of clips; an embedded world; or saved
    features."""
    against: str | None = None
    """What it is measured against, of the same kinds; mostly a folder of real clips."""
    out: str | None = None
    """A folder for report.html, report.md and results.json."""
    save_features: str | None = None
    """An .npz file for the features of SOURCE, which can be measured against in place of the clips."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Measure, print the table, and write what was asked for."""
    arguments = parse(Arguments, "kinema evaluate", words)
    if arguments.save_features and not arguments.save_features.endswith(".npz"):
        raise ValueError(f"--save-features {arguments.save_features}: name a file that ends in .npz")
    (found,), reference = measured([arguments.source], arguments.against, arguments, arguments.device)
    print_table([found.result], arguments.against)
    if arguments.save_features:
        save(Path(arguments.save_features), found.rows, found.result.protocol)
        print(f"wrote {arguments.save_features}")
    if arguments.out:
        write_report(Path(arguments.out), [found], reference, arguments.against)


def measured(
    names: Sequence[str], against: str | None, settings: Settings, device: str
) -> tuple[list[Evaluation], Evaluation | None]:
    """What `evaluate` finds, with a bar while it lasts, and what was left out on stderr."""
    run.keep_freed_memory()
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in (*names, *([against] if against else []))}
        found, reference = evaluate(
            names,
            against,
            settings,
            run.start(device),
            lambda name, done, total: bar.update(tasks[name], completed=done, total=total),
        )
    left_out = [*dict.fromkeys(skipped for one in found for skipped in one.result.left_out)]
    for skipped in left_out[:NAMED]:
        console.print(f"skipped {skipped}", markup=False, highlight=False, soft_wrap=True)
    if len(left_out) > NAMED:
        console.print(f"... and {len(left_out) - NAMED} more", highlight=False)
    if (count := found[0].result.protocol.clips) < settings.clips:
        console.print(
            f"{count} clips of each side are measured: there are no more that do not overlap", highlight=False
        )
    return found, reference


def print_table(results: Sequence[Result], against: str | None) -> None:
    """The numbers of results of one protocol, a row each."""
    board, protocol = leaderboard(results), results[0].protocol
    of = f"{protocol.clips} clips of {protocol.frames} frames, {protocol.width}x{protocol.height}"
    table = Table(title=escape(f"{_title(results, against)}: {of}; protocol {protocol.hash}"), title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(escape(result.source) if len(results) > 1 else "value", justify="right")
        table.add_column("95 %", justify="right")
    table.add_column("reference or floor", justify="right")
    for place, (name, number) in enumerate(board.columns.items()):
        cells = []
        for row in board.rows:
            value, low, high = row[place].texts
            cells += [f"{value}{'*' if row[place].note else ''}", f"{low} to {high}" if low else ""]
        real = " to ".join(board.real[place])
        table.add_row(escape(f"{name}{f' ({number.unit})' if number.unit else ''}"), *cells, real)
    Console(width=max(100, 40 + 34 * len(results))).print(table)
    for note in board.notes:
        print(f"* {note}")


def write_report(
    folder: Path,
    found: Sequence[Evaluation],
    reference: Evaluation | None,
    against: str | None,
    differences: Sequence[Difference] = (),
) -> None:
    """Write report.html, report.md and results.json, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    results = [one.result for one in found]
    title = _title(results, against)
    columns = [*([reference] if reference else []), *(one for one in found if one is not reference)]
    shown = [_shown(one) for one in columns if len(one.rows.shown)]
    lines = [one for one in found if any(n.endswith("at infinity") for n in one.result.numbers)]
    pictures = [_line(one, reference) for one in lines if reference]
    pictures += [_by_frame(name, found) for name in dict.fromkeys(n for one in found for n in one.rows.by_frame)]
    named = against or ""
    html = page(results, title=title, reference=named, shown=shown, pictures=pictures, differences=differences)
    (folder / "report.html").write_text(html, encoding="utf-8")
    text = document(results, title=title, reference=named, differences=differences)
    (folder / "report.md").write_text(text, encoding="utf-8")
    everything = [result.to_dict() for result in results]
    (folder / "results.json").write_text(json.dumps(everything, indent=1, allow_nan=False) + "\n")
    print(f"wrote {folder / 'report.html'}, report.md and results.json")


def _title(results: Sequence[Result], against: str | None) -> str:
    """What is measured, by name where there are few, and against what."""
    names = [result.source for result in results]
    what = ", ".join(names) if len(names) <= TITLED else f"{len(names)} sources"
    return f"{what} against {against}" if against else what


def _shown(one: Evaluation) -> Shown:
    """The first clips of a source."""
    seed, rows = one.result.protocol.seed, one.rows
    seeds = range(seed, seed + len(rows.shown)) if one.result.kind == "generated" else ()
    return Shown(one.result.source, rows.shown, one.fps or NOMINAL_FPS, rows.said, tuple(seeds))


def _line(one: Evaluation, reference: Evaluation) -> Picture:
    """How the Frechet distance falls with more clips."""
    line = extrapolation(one.rows, reference.rows, one.result.protocol.features["name"])
    inverse = 1 / line.clips
    laid = line.value + line.slope * inverse
    curves = {"subsets": (inverse, line.means), "line": (inverse, laid)}
    title = f"Frechet distance of {one.result.source}"
    words = f"Of subsets, by one over their clips; the line meets 0, infinitely many clips, at {line.value:.4g}."
    return Picture(title, words, plot(curves, title=title, x="1 / clips"))


def _by_frame(name: str, found: Sequence[Evaluation]) -> Picture:
    """How predictions fare as they go on."""
    curves = {
        one.result.source: (np.arange(1, 1 + values.shape[1]), values.mean(0))
        for one in found
        if (values := one.rows.by_frame.get(name)) is not None
    }
    title = f"{name} of predicted frames"
    return Picture(
        title, "The mean over clips, by the number of the predicted frame.", plot(curves, title=title, x="frame")
    )
