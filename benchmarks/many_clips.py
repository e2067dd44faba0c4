"""A folder of very many clips: what `kinema data check` takes, and `kinema train` until its first steps.

    python benchmarks/many_clips.py --clips 10000 --out runs/many

Clips are mp4 files of 24 frames of 64x64, each of another colour. Both commands begin with an empty cache. "Planned" is
when the first step of the plan was taken, on a copy of the run; "trained" is when the run began its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from kinema.data.writing import write_video

FRAMES, SIDE, SQUARE, FPS = 24, 64, 16, 25
COLOURS = 100  # that are encoded; the other files are copies
BEGINS = ("conditions", "LatentDiT with")  # lines before the first step of the plan, and before that of the run


def make_clips(folder: Path, count: int) -> None:
    """Write the clips."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:06d}.mp4"
        if number >= COLOURS:
            shutil.copyfile(folder / f"{number % COLOURS:06d}.mp4", path)
            continue
        frames = np.full((FRAMES, SIDE, SIDE, 3), 60, np.uint8)
        for k in range(FRAMES):
            frames[k, 20 : 20 + SQUARE, k : k + SQUARE] = (200, 2 * number, 90)
        write_video(path, frames, FPS)


def main() -> None:
    """Make the clips, run the commands, and print the seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=10_000, help="%(default)s")
    parser.add_argument("--out", type=Path, required=True, help="for the clips, the cache and the run")
    arguments = parser.parse_args()
    clips, cache, run = (arguments.out / name for name in ("clips", "cache", "run"))
    if not clips.exists():
        make_clips(clips, arguments.clips)
    kinema = [sys.executable, "-m", "kinema.cli"]
    environment = os.environ | {"KINEMA_CACHE": str(cache)}

    shutil.rmtree(cache, ignore_errors=True)
    begun = time.perf_counter()
    check = [*kinema, "data", "check", str(clips), "--out", str(arguments.out / "sheet.png")]
    subprocess.run(check, env=environment, check=True, stdout=subprocess.DEVNULL)
    print(f"checked {time.perf_counter() - begun:.1f} s", flush=True)

    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(run, ignore_errors=True)
    begun = time.perf_counter()
    train = [*kinema, "train", "--data", str(clips), "--out", str(run), "--minutes", "2"]
    with subprocess.Popen(
        train, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            for name, begins in zip(("planned", "trained"), BEGINS, strict=True):
                if line.startswith(begins):
                    print(f"{name} {time.perf_counter() - begun:.1f} s", flush=True)
            if line.startswith(BEGINS[-1]):
                process.terminate()
                break


if __name__ == "__main__":
    main()
