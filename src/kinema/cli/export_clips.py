"""kinema export-clips: write clips as a LeRobot dataset, or as WebDataset shards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress as Bar

from kinema.cli.arguments import parse
from kinema.cli.reading import report
from kinema.cli.say import say
from kinema.data import lerobot_writing, webdataset_writing
from kinema.data.folder import scan

FORMATS = {
    "lerobot": (lerobot_writing.export_clips, "episode"),
    "webdataset": (webdataset_writing.export_clips, "sample"),
}


@dataclass(frozen=True)
class Arguments:
    """Write a folder of clips, real or generated, as a LeRobot dataset (v3.0) or as WebDataset shards.

    Captions and actions come along, and in shards sound, labels, splits and groups too. A LeRobot dataset has clips of
    one size and rate; in shards each video file stays as it is, and what is no video file becomes one.

    Example: kinema export-clips clips/ --out robot/
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A folder of clips, with metadata where there are captions and actions."""
    out: str
    """The folder to make."""
    format: Literal["lerobot", "webdataset"] = "lerobot"
    """What to write."""
    outside: bool = False
    """Read files outside of the folder that its metadata names."""


def main(words: Sequence[str]) -> None:
    """Write the clips, name what is left out, and print how many there are."""
    arguments = parse(Arguments, "kinema export-clips", words)
    folder, console = scan(arguments.source, outside=arguments.outside), Console(file=sys.stderr)
    for line in folder.notes:
        say(line, console)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing clips", total=None)
        out = Path(arguments.out).expanduser()
        export, what = FORMATS[arguments.format]
        count, skipped = export(folder, out, lambda done, total: bar.update(task, completed=done, total=total))
    report(skipped)
    say(f"{out}: {count} {what}{'' if count == 1 else 's'}")
