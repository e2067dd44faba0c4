"""kinema demo: from nothing to clips in about two minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinema import run
from kinema.commands.arguments import parse
from kinema.commands.sample import write_sheet
from kinema.data.write import contact_sheet, tile, write_video
from kinema.presets import preset
from kinema.sample import load
from kinema.train import train
from kinema.types import Noise
from kinema.watch import Watcher

ROWS, COLUMNS = 4, 6  # contents and motions that are shown
ENLARGED = 3  # times, so that small frames can be seen


@dataclass(frozen=True)
class Arguments:
    """Train a small MoCoGAN on the embedded Shape Motion world and write demo.mp4, demo.gif and demo.png.

    Example: kinema demo --out out
    """

    out: str = "out"
    """The folder to write to; a second demo there trains no more."""
    minutes: float = 2.0
    """How long to train."""


def main(words: Sequence[str]) -> None:
    """Train, sample, write, and say what was written."""
    arguments = parse(Arguments, "kinema demo", words)
    run.keep_freed_memory()
    out, place = Path(arguments.out), run.start()
    experiment = preset("mocogan", "demo").changed(train={"minutes": arguments.minutes})
    folder = out / "demo-run"
    begun = any(folder.glob("step-*"))
    print(f"MoCoGAN on the {experiment.data.source} world: {arguments.minutes:g} minutes of training, kept in {folder}")
    with Watcher(folder, experiment.train) as watch:
        train(experiment, folder, run=place, resume=begun, watch=watch)
    model = load(folder, place)
    assert model.facts.fps is not None  # the world states it
    cells = range(ROWS * COLUMNS)
    streams = {"content": tuple(i // COLUMNS for i in cells), "motion": tuple(i % COLUMNS for i in cells)}
    clips = model.clips(Noise(tuple(cells), streams), labels=[i % 2 for i in cells])
    large = clips.repeat(ENLARGED, axis=2).repeat(ENLARGED, axis=3)
    film = tile(large.reshape(ROWS, COLUMNS, *large.shape[1:]))
    for path in (
        write_video(out / "demo.mp4", film, model.facts.fps),
        write_video(out / "demo.gif", film, model.facts.fps),
        write_sheet(out / "demo.png", contact_sheet(clips[:COLUMNS])),
    ):
        print(f"wrote {path}")
    print(f"a row shares its content, a column its motion; more: kinema sample {folder} --out {out}/clips")
