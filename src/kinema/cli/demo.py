"""kinema demo: make clips of a few prompts with the shipped model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinema.cli.arguments import parse
from kinema.data.writing import contact_sheet, tile, write_image, write_video
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import load
from kinema.sampling.request import GenerateRequest
from kinema.zoo import shipped

MODEL = "sprites"
PROMPTS = (
    "a small red star bouncing, then a blue square moving left",
    "a large yellow circle moving up and to the right",
    "a green triangle spinning on a black background",
    "a small white cross orbiting",
    "a big cyan ring moving down and a small orange square zigzagging",
    "a purple star growing over stripes",
    "a medium red ball bouncing off the walls over clouds",
    "a blue cross appearing and a tiny yellow disc moving to the left",
)
COLUMNS = 4
SCALE = 2  # enlarges small frames


@dataclass(frozen=True)
class Arguments:
    """Make clips of a few prompts with the shipped model: demo.mp4, demo.gif and demo.png.

    Example: kinema demo --out out
    """

    out: str = "out"
    """The folder to write to."""


def main(words: Sequence[str]) -> None:
    """Generate the clips, write them, and print the files."""
    arguments = parse(Arguments, "kinema demo", words)
    if MODEL not in shipped():
        raise ValueError(f"no model called {MODEL} came with this installation: train one with kinema train")
    keep_freed_memory()
    out, model = Path(arguments.out), load(MODEL)
    assert model.spec.fps is not None  # the sprite world has a frame rate
    clips = model.generate(GenerateRequest(seeds=tuple(range(len(PROMPTS))), text=PROMPTS))
    out.mkdir(parents=True, exist_ok=True)
    large = clips.repeat(SCALE, axis=2).repeat(SCALE, axis=3)
    film = tile(large.reshape(-1, COLUMNS, *large.shape[1:]))
    for path in (
        write_video(out / "demo.mp4", film, model.spec.fps),
        write_video(out / "demo.gif", film, model.spec.fps),
        write_image(out / "demo.png", contact_sheet(clips, labels=PROMPTS)),
    ):
        print(f"wrote {path}")
    print(f'your own (.venv/bin/kinema after make): kinema generate "{PROMPTS[0]}" -o {out}/mine.mp4')
