"""kinema demo: clips of a few prompts, by the model that ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinema import run
from kinema.commands.arguments import parse
from kinema.commands.sample import write_sheet
from kinema.data.write import contact_sheet, tile, write_video
from kinema.sample import load
from kinema.types import Noise
from kinema.weights import shipped

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
ENLARGED = 2  # times, so that small frames can be seen


@dataclass(frozen=True)
class Arguments:
    """Make clips of a few prompts with the model that ships: demo.mp4, demo.gif and demo.png.

    Example: kinema demo --out out
    """

    out: str = "out"
    """The folder to write to."""


def main(words: Sequence[str]) -> None:
    """Generate, write, and say what was written."""
    arguments = parse(Arguments, "kinema demo", words)
    if MODEL not in shipped():
        raise ValueError(f"no model called {MODEL} came with this installation: train one with kinema train")
    run.keep_freed_memory()
    out, model = Path(arguments.out), load(MODEL)
    assert model.facts.fps is not None  # the world states it
    clips = model.clips(Noise(tuple(range(len(PROMPTS)))), text=PROMPTS)
    out.mkdir(parents=True, exist_ok=True)
    large = clips.repeat(ENLARGED, axis=2).repeat(ENLARGED, axis=3)
    film = tile(large.reshape(-1, COLUMNS, *large.shape[1:]))
    for path in (
        write_video(out / "demo.mp4", film, model.facts.fps),
        write_video(out / "demo.gif", film, model.facts.fps),
        write_sheet(out / "demo.png", contact_sheet(clips, labels=PROMPTS)),
    ):
        print(f"wrote {path}")
    print(f'your own: kinema generate "{PROMPTS[0]}" -o {out}/mine.mp4')
