"""kinema metrics audit: whether measures see what a person sees, on clips of one's own."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from kinema import run
from kinema.commands.arguments import parse
from kinema.commands.reading import report
from kinema.data.clips import DataConfig, FolderClips, open_clips
from kinema.data.plot import plot
from kinema.data.write import contact_sheet
from kinema.evaluation.audit import STRENGTHS, Audit, audit
from kinema.evaluation.sides import PIECE, Real, World
from kinema.metrics.corruptions import SPATIAL, TEMPORAL, corrupted
from kinema.metrics.features import NETWORKS
from kinema.metrics.protocol import finite_only


@dataclass(frozen=True)
class Arguments:
    """Spoil clips in ten ways, more and more, and see which measures tell, how early, and whether in order.

    Example: kinema metrics audit --on clips/ --out out/audit
    """

    on: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """A folder of clips, or an embedded world."""
    clips: int = 512
    """How many at most; half of them, by files, are spoiled and held against the others."""
    frames: int = 16
    """Frames of a clip."""
    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    fps: float | None = None
    """That videos are resampled to."""
    features: str = "kinema"
    """The network whose distances are tried: kinema, i3d-stylegan-v, i3d-videogpt, v-jepa or videomae."""
    weights: str | None = None
    """Its file of weights, or folder, where these do not come with kinema."""
    out: str | None = None
    """A folder for audit.json, audit.md, a plot of each measure and a sheet of spoiled clips."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Run the audit, print its table, and write what was asked for."""
    arguments = parse(Arguments, "kinema metrics audit", words)
    size = {"frames": arguments.frames, "height": arguments.height, "width": arguments.width, "fps": arguments.fps}
    if arguments.features not in NETWORKS:
        raise ValueError(f"there are no features called {arguments.features!r}; there are {', '.join(NETWORKS)}")
    run.keep_freed_memory()
    wanted = arguments.clips
    if wanted < 2:
        raise ValueError(f"--clips must be 32 or more, not {wanted}: half of them are held against the others")
    source = open_clips(DataConfig(arguments.on, **size))
    side = Real(arguments.on, source, 0) if isinstance(source, FolderClips) else World(arguments.on, source, 0)
    clips = np.concatenate([side.read(p, min(PIECE, wanted - p * PIECE)).frames for p in range(-(-wanted // PIECE))])
    report(source.skipped)
    count = len(clips)
    place = run.start(arguments.device)
    networks = {arguments.features: NETWORKS[arguments.features](arguments.weights, place.device)}
    groups = np.array([side.group(clip) for clip in range(count)])
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("spoiling clips", total=None)
        found = audit(clips, groups, networks, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{count} clips of {arguments.on}, {arguments.frames} frames of {arguments.width}x{arguments.height}")
    Console(width=150).print(_table(found))
    if arguments.out:
        _write(Path(arguments.out), found, clips, arguments)


def _rows(found: Audit) -> list[list[str]]:
    """Of each measure: its rank for each corruption, and how it sees time against space."""
    rows = []
    for measure, curves in found.curves.items():
        values = [*(found.rank(measure, name) for name in curves), found.time_against_space(measure)]
        rows.append([measure, *("-" if math.isnan(value) else f"{value:.2f}" for value in values)])
    return rows


def _heads(found: Audit) -> list[str]:
    return ["measure", *next(iter(found.curves.values())), "time / space"]


def _table(found: Audit) -> Table:
    table = Table(title="Spearman's correlation with the strength, and time against space", title_justify="left")
    for head in _heads(found):
        table.add_column(head, justify="left" if head == "measure" else "right")
    for row in _rows(found):
        table.add_row(*row)
    return table


def _write(folder: Path, found: Audit, clips: np.ndarray, arguments: Arguments) -> None:
    """The numbers, the same table as Markdown, plots, and what the corruptions look like."""
    folder.mkdir(parents=True, exist_ok=True)
    heads, rows = _heads(found), _rows(found)
    lines = [heads, ["---"] * len(heads), *rows]
    (folder / "audit.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    values = {
        "on": arguments.on,
        "clips": len(clips),
        "strengths": found.strengths,
        "error": {name: errors.tolist() for name, errors in found.error.items()},
        "floors": dict(found.floors),
        "curves": {m: {name: v.tolist() for name, v in of.items()} for m, of in found.curves.items()},
        "seen": {m: {name: found.seen(m, name) for name in of} for m, of in found.curves.items()},
        "time_against_space": {m: {n: found.against_space(m, n) for n in TEMPORAL} for m in found.curves},
    }
    (folder / "audit.json").write_text(json.dumps(finite_only(values), indent=1, allow_nan=False) + "\n")
    for measure, curves in found.curves.items():
        for kind, names in (("space", SPATIAL), ("time", TEMPORAL)):
            lines_of = {name: (np.array(STRENGTHS), curves[name]) for name in names}
            title = f"{measure}: {kind}"
            picture = plot(lines_of, title=title, x="strength", level=found.floors[measure])
            Image.fromarray(picture).save(folder / f"{measure.replace(' ', '-')}-{kind}.png")
    spoiled = [corrupted(clips[:1], name, s)[0] for name in SPATIAL | TEMPORAL for s in (0.2, 0.6, 1.0)]
    labels = [f"{name} {s}" for name in SPATIAL | TEMPORAL for s in (0.2, 0.6, 1.0)]
    Image.fromarray(contact_sheet(np.stack(spoiled), labels=labels)).save(folder / "corruptions.png")
    print(f"wrote {folder}: audit.md, audit.json, plots and corruptions.png")
