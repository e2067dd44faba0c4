"""How a run's clips depend on settings of its sampling: their distance from real clips, sharpness and motion.

    python benchmarks/sampling.py runs/x solver=dpm++,shift=2 solver=ddpm,shift=16

A row for each word, whose settings are those of `kinema sample`. All have the same seeds and conditions. The Fréchet
distance is that of `kinema evaluate` in the features imagenet, here from windows of the clips that were trained on, so
it is lower than from held-out ones. Sharpness is the mean difference of neighbouring pixels of a row, motion that of
successive frames, both in levels of 255. With --out a sheet of each row is written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from kinema.data.clips import open_source
from kinema.data.writing import contact_sheet, to_uint8, write_image
from kinema.evaluation.measure import DIRECTIONS
from kinema.metrics.frechet import frechet_in_directions, principal_directions
from kinema.metrics.imagenet import ImageNetFeatures
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load, stream
from kinema.types import Seeds

AT_ONCE, SHOWN, EVERY = 16, 6, 2  # clips in memory, clips and frames of a sheet
REAL = 1_000  # the seed of real clips; training's is 0


def main() -> None:
    """Sample with each word's settings, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", help="its folder, or a checkpoint")
    add("settings", nargs="+", metavar="NAME=VALUE,...", help="such as solver=ddpm,steps=24")
    add("--clips", type=int, default=64, help="of each (%(default)s)")
    add("--out", type=Path, help="for the sheets")
    arguments = parser.parse_args()

    keep_freed_memory()
    model = load(arguments.run, detect_runtime())
    source = open_source(model.experiment.data)
    real = torch.cat([source.batch(0, AT_ONCE, seed=REAL + k).to(torch.device("cpu")).frames for k in range(6)])
    network = ImageNetFeatures()
    features = network(torch.from_numpy(to_uint8(real))).numpy()
    directions = principal_directions(features, DIRECTIONS["imagenet"])
    print("| settings | FD imagenet | sharpness | motion | s a clip |\n|---|---|---|---|---|")
    print(f"| real clips | | {sharpness(real):.2f} | {motion(real):.2f} | |", flush=True)
    for number, words in enumerate(arguments.settings):
        settings = {name: parsed(value) for name, value in (word.split("=") for word in words.split(","))}
        begun = time.perf_counter()
        made = torch.cat(list(clips(model.with_sampling(**settings), arguments.clips)))
        seconds = (time.perf_counter() - begun) / arguments.clips
        distance = frechet_in_directions(features, network(torch.from_numpy(to_uint8(made))).numpy(), directions)
        row = f"{distance:.1f} | {sharpness(made):.2f} | {motion(made):.2f} | {seconds:.2f}"
        print(f"| {words} | {row} |", flush=True)
        if arguments.out:
            write_image(arguments.out / f"{number}.png", contact_sheet(to_uint8(made[:SHOWN])[:, ::EVERY]))


def parsed(value: str) -> int | float | str:
    """A number where it is one."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


def clips(model: Model, number: int) -> Iterator[Tensor]:
    """Yield clips [B, T, 3, H, W] without conditions."""
    for first in range(0, number, AT_ONCE):
        seeds = Seeds(tuple(range(first, min(first + AT_ONCE, number))))
        yield torch.cat(list(stream(model.family, model.runtime, seeds, model.spec.frames)), 1)


def sharpness(frames: Tensor) -> float:
    """The mean difference of neighbouring pixels of a row, in levels."""
    return 127.5 * float(frames.diff(dim=4).abs().mean())


def motion(frames: Tensor) -> float:
    """The mean difference of successive frames, in levels."""
    return 127.5 * float(frames.diff(dim=1).abs().mean())


if __name__ == "__main__":
    main()
