"""kinema export-clips: write clips as a LeRobot dataset."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress as Bar

from kinema.cli.arguments import parse
from kinema.cli.reading import report
from kinema.data.folder import scan
from kinema.data.lerobot_writing import export_clips


@dataclass(frozen=True)
class Arguments:
    """Write a folder of clips, real or generated, as a LeRobot dataset (v3.0) with their captions and actions.

    Example: kinema export-clips clips/ --out robot/
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder of clips of one size, with metadata where there are captions and actions."""
    out: str
    """The folder to make."""


def main(words: Sequence[str]) -> None:
    """Write the dataset, name what is not in it, and print how many episodes are."""
    arguments = parse(Arguments, "kinema export-clips", words)
    folder, console = scan(arguments.source), Console(file=sys.stderr)
    for line in folder.notes:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing clips", total=None)
        out = Path(arguments.out).expanduser()
        count, skipped = export_clips(folder, out, lambda done, total: bar.update(task, completed=done, total=total))
    report(skipped)
    print(f"{out}: {count} episodes")
