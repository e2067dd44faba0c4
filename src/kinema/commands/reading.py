"""Opening clips for a command: a line while they are decoded, and what was left out."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import Progress as Bar

from kinema.data.clips import DataConfig, Source, open_source

__all__ = ["open_and_report"]

NAMED = 20  # skipped files that are named; the rest are counted


def open_and_report(config: DataConfig) -> Source:
    """The source, with what was skipped and why on stderr: never silent, each file named once."""
    console = Console(file=sys.stderr)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("decoding clips", total=None)
        source = open_source(config, lambda done, total: bar.update(task, completed=done, total=total))
    for skipped in source.skipped[:NAMED]:
        console.print(f"skipped {skipped.name}: {skipped.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(source.skipped) > NAMED:
        console.print(f"... and {len(source.skipped) - NAMED} more: kinema data check names them all", highlight=False)
    return source
