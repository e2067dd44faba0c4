"""kinema metrics audit: whether measures rise with visible corruptions, on clips of one's own."""

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

from kinema.cli.arguments import parse
from kinema.cli.reading import report
from kinema.data.clips import DataConfig, FolderClips, open_clips
from kinema.data.writing import contact_sheet
from kinema.evaluation.audit import STRENGTHS, Audit, audit
from kinema.evaluation.clip_sets import BATCH, FolderClipSet, WorldClipSet
from kinema.metrics.corruptions import SPATIAL, TEMPORAL, corrupted
from kinema.metrics.features import load_network
from kinema.metrics.protocol import finite_only
from kinema.report.plot import plot
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory


@dataclass(frozen=True)
class Arguments:
    """Corrupt clips in ten ways at five strengths, and see which measures detect it, and whether they rise with it.

    Example: kinema metrics audit --on clips/ --out out/audit
    """

    on: Annotated[str, tyro.conf.arg(metavar="FOLDER")]
    """A folder of clips, or a procedural world."""
    out: str | None = None
    """A folder for audit.json, audit.md, a plot of each measure and a sheet of corrupted clips."""
    clips: int = 512
    """How many at most; half of them, by files, are corrupted and measured against the others."""
    frames: int = 16
    """Frames of a clip."""
    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    fps: float | None = None
    """Frames a second that videos are resampled to."""
    features: str = "kinema"
    """The network whose distances are audited: kinema, i3d-stylegan-v, i3d-videogpt, v-jepa or videomae."""
    weights: str | None = None
    """The network's file or folder of weights, where these do not ship with kinema."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Run the audit, print its table, and write what was asked for."""
    arguments = parse(Arguments, "kinema metrics audit", words)
    size = {"frames": arguments.frames, "height": arguments.height, "width": arguments.width, "fps": arguments.fps}
    keep_freed_memory()
    device = detect_runtime(arguments.device).device
    networks = {arguments.features: load_network(arguments.features, arguments.weights, device)}
    wanted = arguments.clips
    if wanted < 2:
        raise ValueError(f"--clips must be 32 or more, not {wanted}: half of them are measured against the others")
    source = open_clips(DataConfig(arguments.on, **size))
    name = arguments.on
    clip_set = FolderClipSet(name, source, 0) if isinstance(source, FolderClips) else WorldClipSet(name, source, 0)
    sizes = [min(BATCH, wanted - first) for first in range(0, wanted, BATCH)]
    clips = np.concatenate([clip_set.read(index, size).frames for index, size in enumerate(sizes)])
    report(source.skipped)
    count = len(clips)
    groups = np.array([clip_set.group(clip) for clip in range(count)])
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("corrupting clips", total=None)
        found = audit(clips, groups, networks, lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{count} clips of {arguments.on}, {arguments.frames} frames of {arguments.width}x{arguments.height}")
    Console(width=150).print(_table(found))
    if arguments.out:
        _write(Path(arguments.out), found, clips, arguments)


def _rows(found: Audit) -> list[list[str]]:
    """For each measure: its rank correlation for each corruption, and its temporal sensitivity."""
    rows = []
    for measure, curves in found.curves.items():
        values = [*(found.rank_correlation(measure, name) for name in curves), found.temporal_sensitivity(measure)]
        rows.append([measure, *("-" if math.isnan(value) else f"{value:.2f}" for value in values)])
    return rows


def _heads(found: Audit) -> list[str]:
    return ["measure", *next(iter(found.curves.values())), "time / space"]


def _table(found: Audit) -> Table:
    table = Table(
        title="Spearman's correlation with the strength, and sensitivity to time over that to space",
        title_justify="left",
    )
    for head in _heads(found):
        table.add_column(head, justify="left" if head == "measure" else "right")
    for row in _rows(found):
        table.add_row(*row)
    return table


def _write(folder: Path, found: Audit, clips: np.ndarray, arguments: Arguments) -> None:
    """Write the numbers, the table as Markdown, plots, and a sheet of the corruptions."""
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
        "detection": {m: {name: found.detection(m, name) for name in of} for m, of in found.curves.items()},
        "relative_sensitivity": {m: {n: found.relative_sensitivity(m, n) for n in TEMPORAL} for m in found.curves},
    }
    (folder / "audit.json").write_text(json.dumps(finite_only(values), indent=1, allow_nan=False) + "\n")
    for measure, curves in found.curves.items():
        for kind, names in (("space", SPATIAL), ("time", TEMPORAL)):
            lines_of = {name: (np.array(STRENGTHS), curves[name]) for name in names}
            title = f"{measure}: {kind}"
            picture = plot(lines_of, title=title, x="strength", level=found.floors[measure])
            Image.fromarray(picture).save(folder / f"{measure.replace(' ', '-')}-{kind}.png")
    examples = [corrupted(clips[:1], name, s)[0] for name in SPATIAL | TEMPORAL for s in (0.2, 0.6, 1.0)]
    labels = [f"{name} {s}" for name in SPATIAL | TEMPORAL for s in (0.2, 0.6, 1.0)]
    Image.fromarray(contact_sheet(np.stack(examples), labels=labels)).save(folder / "corruptions.png")
    print(f"wrote {folder}: audit.md, audit.json, plots and corruptions.png")
