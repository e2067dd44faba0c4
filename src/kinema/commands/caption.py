"""kinema caption: say what clips show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kinema import run
from kinema.commands.arguments import parse
from kinema.commands.reading import first_frames, read_each
from kinema.data.write import from_uint8
from kinema.sample import caption, load


@dataclass(frozen=True)
class Arguments:
    """Say what clips show: a line for each, with its file and its caption.

    Example: kinema caption runs/x clips/
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder, a checkpoint, or a generator.safetensors file, of a family that was trained with captions."""
    video: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """A clip or a folder of clips; of each, as many first frames are read as a training clip had."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Read clip after clip and print what each shows."""
    arguments = parse(Arguments, "kinema caption", words)
    model = load(arguments.model, run.start(arguments.device))

    def tell(path: Path) -> None:
        frames = from_uint8(first_frames(model, path, model.facts.frames)[None])
        (said,) = caption(model.family, model.run, frames)
        print(f"{path}: {''.join(c if c.isprintable() else ' ' for c in said)}", flush=True)

    read_each(arguments.video, tell)
