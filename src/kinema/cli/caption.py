"""kinema caption: caption clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from kinema.cli.arguments import parse
from kinema.cli.reading import first_frames, read_each
from kinema.cli.say import say
from kinema.data.readers.base import Clip
from kinema.data.writing import from_uint8
from kinema.runtime.device import detect_runtime
from kinema.sampling.model import caption, load


@dataclass(frozen=True)
class Arguments:
    """Caption clips: print one line for each, with its file and its caption.

    Example: kinema caption runs/x clips/
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A shipped model, a run's folder, a checkpoint, or a .safetensors file, of a family trained to caption."""
    video: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """A clip or a folder of clips; of each, the first frames are read, as many as in training."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Read each clip and print its caption."""
    arguments = parse(Arguments, "kinema caption", words)
    model = load(arguments.model, detect_runtime(arguments.device))

    def print_caption(clip: Clip) -> None:
        frames = from_uint8(first_frames(model, clip, model.spec.frames)[None])
        (text,) = caption(model.family, model.runtime, frames)
        name = f"{clip.path}{' ' * bool(clip.member)}{clip.member}"
        say(f"{name}: {text}")

    read_each(arguments.video, print_caption)
