"""kinema metrics audit: whether measures rise with visible corruptions, on clips of one's own."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from kinema.cli.arguments import parse
from kinema.cli.reading import report
from kinema.cli.say import say
from kinema.config import check_number
from kinema.data.atomic import write_text
from kinema.data.clips import DataConfig, FolderClips, open_clips
from kinema.data.writing import contact_sheet, write_image
from kinema.evaluation.audit import STRENGTHS, Audit, FailureAudit, audit, audit_failures
from kinema.evaluation.clip_sets import BATCH, FolderClipSet, WorldClipSet
from kinema.evaluation.evaluate import MOST_CLIPS
from kinema.metrics.corruptions import SPATIAL, TEMPORAL, corrupted
from kinema.metrics.failures import PREFERENCE, failed
from kinema.metrics.features import load_network
from kinema.metrics.protocol import finite_only
from kinema.report.plot import plot
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.types import Progress

SHOWN = 64  # clips that the failures of a sheet are drawn from

Rows = tuple[str, list[str], list[list[str]]]  # of a table: its title, its heads and its rows


@dataclass(frozen=True)
class Arguments:
    """See whether distances rank the failures of models as a person does, and measures rise with visible corruptions.

    The failures are drawn from real clips: blurred and blocked ones, frozen ones, one for every seed, noise and others.
    Corruptions are of ten kinds at five strengths.

    Example: kinema metrics audit --on clips/ --out out/audit
    """

    on: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """A folder of clips, or a procedural world."""
    out: str | None = None
    """A folder for audit.json, audit.md, plots of measures, and sheets of failures and corrupted clips."""
    clips: int = 512
    """How many at most; half of them, by files, are made worse and measured against the others."""
    frames: int = 16
    """Frames of a clip."""
    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    fps: float | None = None
    """Frames a second that videos are resampled to."""
    features: tuple[str, ...] = ("imagenet", "kinema")
    """The networks whose distances are audited: imagenet, kinema, i3d-stylegan-v, i3d-videogpt, v-jepa or videomae."""
    weights: str | None = None
    """The network's file or folder of weights, where these do not ship with kinema."""
    failures_only: bool = False
    """Only how distances rank the failures of models, in a fifth of the time: no corruptions."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Run the audit, print its table, and write what was asked for."""
    arguments = parse(Arguments, "kinema metrics audit", words)
    size = {"frames": arguments.frames, "height": arguments.height, "width": arguments.width, "fps": arguments.fps}
    check_number("--clips", wanted := arguments.clips, 2, MOST_CLIPS)  # half are measured against the others
    config = DataConfig(arguments.on, short="skip", **size)
    keep_freed_memory()
    device = detect_runtime(arguments.device).device
    networks = {name: load_network(name, arguments.weights, device) for name in arguments.features}
    source = open_clips(config)
    name = arguments.on
    clip_set = FolderClipSet(name, source, 0) if isinstance(source, FolderClips) else WorldClipSet(name, source, 0)
    sizes = [min(BATCH, wanted - first) for first in range(0, wanted, BATCH)]
    clips = np.concatenate([clip_set.read(index, size).frames for index, size in enumerate(sizes)])
    report(source.skipped)
    count = len(clips)
    groups = np.array([clip_set.group(clip) for clip in range(count)])
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        failures = audit_failures(clips, groups, networks, _task(bar, "drawing failures"))
        found = None if arguments.failures_only else audit(clips, groups, networks, _task(bar, "corrupting clips"))
    say(f"{count} clips of {arguments.on}, {arguments.frames} frames of {arguments.width}x{arguments.height}")
    tables = [_failures(failures), *([_corruptions(found)] if found else [])]
    for table in tables:
        Console(width=160).print(_printed(*table))
    pairs = [f"{name}: {_pairs(failures, name)}" for name in failures.values]
    print("Wrong pairs, the one that a person prefers first:", *pairs, sep="\n  ")
    if arguments.out:
        folder = Path(arguments.out)
        _write_numbers(folder, tables, failures, found, len(clips), arguments.on)
        _write_pictures(folder, found, clips)
        say(f"wrote {folder}: audit.md, audit.json and pictures")


def _task(bar: Bar, name: str) -> Progress:
    """A line of the progress bar."""
    task = bar.add_task(name, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _failures(found: FailureAudit) -> Rows:
    """For each distance: its value for real clips and for each failure, and how it ranks the failures."""
    order = [name for names in PREFERENCE for name in names]
    rows = []
    for name, of in found.values.items():
        values = [found.floors[name], *(of[failure] for failure in order)]
        rank = f"{found.rank_correlation(name):.2f}", str(len(found.wrong_pairs(name)))
        rows.append([name, *(f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}" for value in values), *rank])
    heads = ["distance", "real clips", *order, "Spearman", "wrong pairs"]
    return "Failures of models, in a person's order, best first; Spearman's correlation with it", heads, rows


def _pairs(found: FailureAudit, distance: str) -> str:
    return ", ".join(" - ".join(pair) for pair in found.wrong_pairs(distance)) or "none"


def _corruptions(found: Audit) -> Rows:
    """For each measure: its rank correlation for each corruption, and its temporal sensitivity."""
    rows = []
    for measure, curves in found.curves.items():
        values = [*(found.rank_correlation(measure, name) for name in curves), found.temporal_sensitivity(measure)]
        rows.append([measure, *("-" if math.isnan(value) else f"{value:.2f}" for value in values)])
    heads = ["measure", *next(iter(found.curves.values())), "time / space"]
    return "Spearman's correlation with the strength, and sensitivity to time over that to space", heads, rows


def _printed(title: str, heads: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _write_numbers(
    folder: Path, tables: Sequence[Rows], failures: FailureAudit, found: Audit | None, clips: int, on: str
) -> None:
    """Write the tables as Markdown, and all numbers."""
    lines = []
    for title, heads, rows in tables:
        lines += [title, "", *(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *rows)), ""]
    write_text(folder / "audit.md", "\n".join(lines))
    values: dict[str, object] = {
        "on": on,
        "clips": clips,
        "failures": {name: dict(of) for name, of in failures.values.items()},
        "failures_floors": dict(failures.floors),
        "failures_rank_correlation": {name: failures.rank_correlation(name) for name in failures.values},
        "failures_wrong_pairs": {name: failures.wrong_pairs(name) for name in failures.values},
    }
    if found:
        values |= {
            "strengths": found.strengths,
            "error": {name: errors.tolist() for name, errors in found.error.items()},
            "floors": dict(found.floors),
            "curves": {m: {name: v.tolist() for name, v in of.items()} for m, of in found.curves.items()},
            "detection": {m: {name: found.detection(m, name) for name in of} for m, of in found.curves.items()},
            "relative_sensitivity": {m: {n: found.relative_sensitivity(m, n) for n in TEMPORAL} for m in found.curves},
        }
    write_text(folder / "audit.json", json.dumps(finite_only(values), indent=1, allow_nan=False) + "\n")


def _write_pictures(folder: Path, found: Audit | None, clips: np.ndarray) -> None:
    """Write sheets of the failures and the corruptions, and a plot of each measure."""
    some = clips[:: max(1, len(clips) // SHOWN)]
    examples = {name: failed(some, name)[0] for names in PREFERENCE for name in names}
    _sheet(folder / "failures.png", {"real": some[0], **examples})
    if not found:
        return
    strengths = [(name, strength) for name in SPATIAL | TEMPORAL for strength in (0.2, 0.6, 1.0)]
    _sheet(folder / "corruptions.png", {f"{name} {s}": corrupted(clips[:1], name, s)[0] for name, s in strengths})
    for measure, curves in found.curves.items():
        for kind, names in (("space", SPATIAL), ("time", TEMPORAL)):
            lines_of = {name: (np.array(STRENGTHS), curves[name]) for name in names}
            title = f"{measure}: {kind}"
            picture = plot(lines_of, title=title, x="strength", level=found.floors[measure])
            write_image(folder / f"{measure.replace(' ', '-')}-{kind}.png", picture)


def _sheet(path: Path, clips: Mapping[str, np.ndarray]) -> None:
    write_image(path, contact_sheet(np.stack([*clips.values()]), labels=[*clips]))
