"""kinema data check: say what is in a folder of clips, and show what training would see."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from kinema.commands.arguments import parse
from kinema.commands.sample import write_sheet
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import Folder, Skipped, scan
from kinema.data.video import VideoError, VideoInfo, probe
from kinema.data.write import contact_sheet, to_uint8

SHOWN = 8  # clips on the sheet


@dataclass(frozen=True)
class Arguments:
    """Say how many clips a folder has, of what lengths, sizes, rates, labels, captions and sound, and which are bad.

    Example: kinema data check clips/ --data.fps 12.5
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A folder of clips, with class folders or metadata.csv where there are labels."""
    out: str = "sheet.png"
    """Where to write the sheet of clips exactly as training sees them first."""
    data: DataConfig = field(default_factory=DataConfig)


def main(words: Sequence[str]) -> None:
    """Read every file, print the table, write the sheet."""
    arguments = parse(Arguments, "kinema data check", words)
    folder = scan(arguments.folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        infos = [info for info in pool.map(_probe, (clip.path for clip in folder.clips)) if info is not None]
    source = FolderSource(replace(arguments.data, source=arguments.folder))
    console = Console()
    console.print(_table(folder, infos, len(source.clips), source.skipped))
    for skipped in source.skipped:
        console.print(f"skipped {skipped.name}: {skipped.reason}", markup=False, highlight=False, soft_wrap=True)
    frames = source.batch(0, min(SHOWN, len(source.clips)), seed=0).frames
    console.print(f"wrote {write_sheet(Path(arguments.out), contact_sheet(to_uint8(frames)))}", highlight=False)


def _probe(path: Path) -> VideoInfo | None:
    try:
        return probe(path)
    except VideoError:
        return None  # the source names it, with the reason


def _table(folder: Folder, infos: list[VideoInfo], usable: int, skipped: tuple[Skipped, ...]) -> Table:
    table = Table(title=str(folder.root), show_header=False)
    lengths, seconds = [info.frames for info in infos], [info.seconds for info in infos]
    labels = Counter(clip.label for clip in folder.clips if clip.label is not None)
    captions = sum(clip.caption is not None for clip in folder.clips)
    table.add_row("clips", f"{usable + len(skipped)} found, {usable} usable, {len(skipped)} skipped")
    if infos:
        table.add_row("frames", f"{min(lengths)} to {max(lengths)}, {sum(lengths):,} in all")
        table.add_row("seconds", f"{min(seconds):.2f} to {max(seconds):.2f}, {sum(seconds):,.1f} in all")
        table.add_row("sizes", _counts(Counter(f"{info.width}x{info.height}" for info in infos)))
        table.add_row("frame rates", _counts(Counter(f"{info.fps:.4g}" for info in infos)))
        table.add_row("sound", _counts(Counter(f"{info.sound} Hz" for info in infos if info.sound)) or "none")
    table.add_row("labels", _counts(Counter({name: labels[name] for name in folder.classes}), len(labels)) or "none")
    table.add_row("captions", f"{captions} of {len(folder.clips)}" if captions else "none")
    return table


def _counts(counter: Counter[str], most: int = 6) -> str:
    """The commonest values and how many clips have each."""
    shown = ", ".join(f"{value} ({count})" for value, count in counter.most_common(most))
    return shown + (f", and {len(counter) - most} more" if len(counter) > most else "")
