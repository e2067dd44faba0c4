"""kinema data check: describe a folder of clips, and show what training would see."""

from __future__ import annotations

import inspect
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from einops import rearrange
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kinema.cli.arguments import flag_value, parse
from kinema.cli.reading import notes
from kinema.cli.say import say
from kinema.cli.train import overruled, show
from kinema.codecs.transform import rate_distortion
from kinema.data.clips import DataConfig, FolderClips, FolderSource, NoClips
from kinema.data.folder import Folder, Skipped
from kinema.data.readers.base import ClipInfo
from kinema.data.writing import contact_sheet, write_image
from kinema.printable import printable
from kinema.runtime.device import detect_runtime
from kinema.training.choose import choose

SHEET_CLIPS = 8
SPACES, TIME, CHANNELS, CODED = (4, 8, 16), 4, (8, 16, 32, 64), 8  # of the codec transform; clips and batches of it


@dataclass(frozen=True)
class Arguments:
    """Count the clips of a folder, list their lengths, sizes, rates and conditions, and name the bad ones.

    It also says what kinema train would choose for them, and why, and the command. Flags overrule the choice.

    Example: kinema data check clips/ --data.fps 12.5
    """

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A folder of clips, with class folders or metadata.csv where there are labels."""
    out: str = "sheet.png"
    """Where to write a sheet of clips exactly as training sees them."""
    data: DataConfig = field(default_factory=DataConfig)


def main(words: Sequence[str]) -> None:
    """Read every clip, print the table and the choice, write the sheet."""
    choice, cls = None, Arguments
    if words and not words[0].startswith("-") and not {"-h", "--help"} & {*words}:
        label, camera = flag_value(words, "--data.label", "label"), flag_value(words, "--data.camera", "")
        choice = choose(words[0], detect_runtime(), label, camera, "--data.outside" in words)
        default = ("data", DataConfig, field(default=choice.experiment.data))
        cls = make_dataclass("Complete", [default], bases=(Arguments,), frozen=True)
    arguments = parse(cls, "kinema data check", words, description=inspect.getdoc(Arguments))
    if flag_value(words, "--data.source", arguments.folder) != arguments.folder:
        raise ValueError("kinema data check FOLDER: leave --data.source out")
    config = replace(arguments.data, source=arguments.folder)
    source = FolderSource(config)
    source.decode_all()
    folder = source.folder
    held_out, unusable, others = _held_out(config) if source.other_clips else ([], (), [])
    all_skipped = tuple(sorted({*source.skipped, *unusable}, key=lambda one: one.name))
    console = Console()
    infos = [*source.infos, *others]
    console.print(_table(folder, infos, source.lengths, held_out, all_skipped, source.spec.fps))
    for line in notes(source):
        say(line, console)
    for skipped in all_skipped:
        say(f"skipped {skipped.name}: {skipped.reason}", console)
    windows = dict(source.chosen(0, len(source.clips), seed=0))  # one of each clip
    shown = [*windows.items()][:SHEET_CLIPS]
    frames = source.read(shown).frames.numpy()
    names = [source.name(clip) for clip, _ in shown]
    sheet = contact_sheet(rearrange(frames, "b t c h w -> b t h w c"), labels=names)
    say(f"wrote {write_image(Path(arguments.out), sheet)}", console)
    if choice is None:
        console.print("put FOLDER first, and it is said what kinema train would choose", highlight=False)
        return
    for line in _codec_lines(source):
        console.print(line, highlight=False, soft_wrap=True)
    console.print("what kinema train would choose:")
    show(console, overruled(choice.reasons, choice.experiment.data, config))
    flags: list[str] = []  # of data, with what follows each
    for word in words[1:]:
        of_data = word.startswith("--data.") or (flags[-1:] != [] and flags[-1] != "" and not word.startswith("--"))
        flags.append(word if of_data else "")
    flags = [word for word in flags if word]
    command = shlex.join(["kinema", "train", "--data", arguments.folder, "--out", "runs/x", "--minutes", "30", *flags])
    say(command, console)


def _codec_lines(source: FolderSource) -> list[str]:
    """What the codec transform would keep of the clips, a line for each shape of blocks that fits them."""
    spec = source.spec
    sizes = [space for space in SPACES if not (spec.height % space or spec.width % space)]
    if spec.frames <= TIME or not sizes:
        return []
    batches = [source.batch(step, CODED, seed=0).to(torch.device("cpu")).frames for step in range(CODED)]
    lines = []
    for space in sizes:
        rows = rate_distortion(batches, [(space, TIME)], CHANNELS)
        kept = ", ".join(f"{row.channels} channels {row.psnr:.1f} dB" for row in rows)
        lines.append(f"codec transform of {space}x{space} pixels x {TIME} frames: {kept}")
    return lines


def _held_out(config: DataConfig) -> tuple[list[int], tuple[Skipped, ...], list[ClipInfo]]:
    """The frames of the held-out clips that can be used, those that cannot, and what the files are."""
    clips, lengths = FolderClips(config, "held out"), []
    with suppress(NoClips):
        lengths += [frames for _, frames in clips.decode(range(len(clips.clips))) if frames]
    return lengths, clips.skipped, clips.infos


def _table(
    folder: Folder,
    infos: list[ClipInfo],
    training: list[int],
    held_out: list[int],
    skipped: tuple[Skipped, ...],
    fps: float | None,
) -> Table:
    """What there is: `training` and `held_out` are the frames of clips as training sees them, `fps` a second."""
    table = Table(title=escape(printable(str(folder.root))), show_header=False)
    lengths = [*training, *held_out]
    labels = Counter(clip.label for clip in folder.clips if clip.label is not None)
    captions = sum(bool(clip.caption) for clip in folder.clips)
    usable = len(lengths)
    table.add_row("clips", f"{usable + len(skipped)} found, {usable} usable, {len(skipped)} skipped")
    by = f"whole groups by {escape(printable(', '.join(folder.grouped_by)))}" if folder.grouped_by else "by file"
    by = "by the splits of the folder" if any(clip.split for clip in folder.clips) else by
    table.add_row("held out of training", f"{len(held_out)} of {usable}, {by}" if held_out else "none")
    seconds = "" if fps is None else f": {min(lengths) / fps:.2f} to {max(lengths) / fps:.2f} s at {fps:.4g} a second"
    table.add_row("frames", f"{min(lengths)} to {max(lengths)}, {sum(lengths):,} in all{seconds}")
    table.add_row("sizes", _counts(Counter(f"{info.width}x{info.height}" for info in infos)))
    table.add_row("frame rates", _counts(Counter(f"{info.fps:.4g}" for info in infos)))
    sample_rates = Counter(f"{info.sample_rate} Hz" for info in infos if info.sample_rate)
    table.add_row("sound", _counts(sample_rates) or "none")
    table.add_row("labels", _counts(Counter({name: labels[name] for name in folder.classes}), len(labels)) or "none")
    table.add_row("captions", f"{captions} of {len(folder.clips)}" if captions else "none")
    actions = sum(clip.actions is not None for clip in folder.clips)
    table.add_row("actions", f"{actions} of {len(folder.clips)}" if actions else "none")
    return table


def _counts(counter: Counter[str], most: int = 6) -> str:
    """The commonest values and how many clips have each."""
    listed = ", ".join(f"{value} ({count})" for value, count in counter.most_common(most))
    listed = escape(printable(listed))
    return listed + (f", and {len(counter) - most} more" if len(counter) > most else "")
