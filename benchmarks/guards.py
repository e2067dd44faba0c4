"""Seconds of a normal run's parts with and without a change to kinema, such as more checks of what is read.

    python benchmarks/guards.py --against ../other-checkout

Each checkout is a process of its own on the same clips, with caches and runs of its own. They take turns, one part each
and the order swapped every time, so that they never compete and the machine's noise is shared. "over" is the median of
the ratios of neighbouring turns, this checkout over the other one, and the range holds its true value with 95 %.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

SOURCE = Path(__file__).parents[1] / "src"
CLIPS, FRAMES, SIDE = 64, 48, 64
RESAMPLES = 2000  # for the range of a median


def write_clips(folder: Path) -> None:
    """Clips of a moving pattern."""
    from kinema.data.writing import write_video

    folder.mkdir()
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for clip in range(CLIPS):
        waves = [np.sin((rows * np.cos(clip) + columns * np.sin(clip) + t) / 5) for t in range(FRAMES)]
        grey = (127 + 120 * np.stack(waves)).astype(np.uint8)
        write_video(folder / f"{clip:02d}.mp4", np.repeat(grey[..., None], 3, -1), 25.0)


def parts(clips: Path, own: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name; all is made once before."""
    from kinema.data.clips import FolderSource
    from kinema.presets import preset
    from kinema.runtime.device import detect_runtime
    from kinema.sampling.model import load
    from kinema.training import checkpoint
    from kinema.training.loop import Trainer, train

    experiment = preset("latent-dit", "cpu").changed(
        data={"source": str(clips), "cache": str(own / "cache")}, train={"steps": 2, "minutes": None}
    )
    runtime, run = detect_runtime("cpu"), own / "run"
    source = FolderSource(experiment.data)
    train(experiment, run, source=source, runtime=runtime)
    trainer = Trainer(experiment, source, runtime)
    trainer.restore(checkpoint.load(run))
    batches = iter(range(10**9))

    return {
        "a training step": trainer.advance,
        "a batch of clips": lambda: source.batch(next(batches), experiment.train.batch, seed=0),
        "open a folder of cached clips": lambda: FolderSource(experiment.data),
        "save a checkpoint": lambda: checkpoint.save_step(own / "saved", trainer.state()),
        "load a model to sample": lambda: load(run, runtime),
        "load a checkpoint to resume": lambda: trainer.restore(checkpoint.load(run)),
    }


def work(clips: Path, own: Path) -> None:
    """Time a part for every name on standard input."""
    found = parts(clips, own)
    print(json.dumps([*found]), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        found[line.strip()]()
        print(time.perf_counter() - begun, flush=True)


def start(source: Path, clips: Path, own: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """A process of a checkout, and the names of its parts."""
    command = [sys.executable, __file__, "--work", str(clips), str(own)]
    environment = os.environ | {"PYTHONPATH": str(source)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def seconds(process: subprocess.Popen[str], part: str) -> float:
    """How long a part takes a process now."""
    assert process.stdin is not None and process.stdout is not None
    print(part, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", type=Path, help="another checkout of kinema")
    parser.add_argument("--pairs", type=int, default=60, help="turns of each part (%(default)s)")
    parser.add_argument("--work", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        return
    if arguments.against is None:
        parser.error("--against is missing")
    table = Table("part", "other, ms", "this, ms", "over", "range")
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder, "clips")
        write_clips(clips)
        sources = {"this": SOURCE, "other": arguments.against.resolve() / "src"}
        started = {name: start(source, clips, Path(folder, name)) for name, source in sources.items()}
        for part in started["this"][1]:
            times: dict[str, list[float]] = {name: [] for name in started}
            for turn in range(arguments.pairs):
                for name in [*started][:: 1 if turn % 2 else -1]:
                    times[name].append(seconds(started[name][0], part))
            ratios = np.array(times["this"]) / np.array(times["other"])
            drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
            low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
            row = (1e3 * median(times["other"]), 1e3 * median(times["this"]), float(np.median(ratios)))
            table.add_row(part, *(f"{value:.4g}" for value in row[:2]), f"{row[2]:.3f}", f"{low:.3f} to {high:.3f}")
        for process, _ in started.values():
            process.communicate()
    Console().print(table)


if __name__ == "__main__":
    main()
