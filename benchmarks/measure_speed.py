"""Clips measured a second: kinema against a plain loop of the same protocol, in one run.

    python benchmarks/measure_speed.py ../shared/data/robot_g1_pick
    python benchmarks/measure_speed.py ../shared/data/robot_g1_pick --enlarge 2

The plain loop reads one video after the other with PyAV, crops and resizes each frame with Pillow, cuts windows, and
computes the features and then the measures of 16 windows at a time: nothing in parallel and nothing cached. kinema
decodes files in parallel, computes the measures of clips in parallel, and decodes the next files meanwhile. "cold"
begins with an empty cache, "decoded" with the decoded frames of an earlier command, "again" with all of it measured.
"features" leaves the measures of single clips out of both. --enlarge first writes the clips at that many times their
size: twice 160x128 is about the 320x240 of UCF-101. Medians of --repeats runs, in turn.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median
from unittest.mock import patch

import av
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from runs import seconds

from kinema.data.clips import DataConfig, FolderClips
from kinema.data.folder import scan
from kinema.data.readers.base import find_reader, read_frames
from kinema.data.writing import write_video
from kinema.evaluation import rows
from kinema.evaluation.clip_sets import BATCH, FolderClipSet
from kinema.evaluation.rows import clip_measures, measure_clips
from kinema.metrics.encoder import KinemaFeatures
from kinema.runtime.memory import keep_freed_memory

FRAMES, SIDE = 16, 64


def plain(folder: Path, network: KinemaFeatures, each: bool) -> int:
    """Measure all windows of a folder, one after the other; return their number."""
    windows: list[np.ndarray] = []
    count = 0
    for clip in scan(folder).clips:
        with av.open(str(clip.path)) as video:
            decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        frames = np.stack([square(frame) for frame in decoded])
        windows += [frames[k : k + FRAMES] for k in range(0, len(frames) - FRAMES + 1, FRAMES)]
        while len(windows) >= BATCH:
            some, windows = np.stack(windows[:BATCH]), windows[BATCH:]
            network(torch.from_numpy(some))
            if each:
                clip_measures(some)
            count += BATCH
    return count


def square(frame: np.ndarray) -> np.ndarray:
    """The middle of a frame at the size that is measured."""
    height, width, _ = frame.shape
    less = min(height, width)
    left, top = (width - less) // 2, (height - less) // 2
    image = Image.fromarray(frame).crop((left, top, left + less, top + less))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def ours(folder: Path, network: KinemaFeatures, each: bool, cache: str, clips: int) -> None:
    """The same by kinema."""
    source = FolderClips(DataConfig(str(folder), frames=FRAMES, height=SIDE, width=SIDE, cache=cache))
    nothing = patch.object(rows, "clip_measures", lambda frames: ({}, np.zeros((len(frames), 8))))
    if each:
        measure_clips(FolderClipSet("x", source, 0), clips, network, cache=cache)
    else:
        with nothing:
            measure_clips(FolderClipSet("x", source, 0), clips, network, cache=cache)


def enlarged(folder: Path, times: int, place: Path) -> Path:
    """A folder of its videos at `times` times their size."""
    for clip in scan(folder).clips:
        large = (
            np.asarray(Image.fromarray(f).resize((f.shape[1] * times, f.shape[0] * times)))
            for f in read_frames(clip.path)
        )
        fps = find_reader(clip.path).info(clip).fps
        write_video(place / f"{clip.path.stem}.mp4", (frame[None] for frame in large), fps)
    return place


def main() -> None:
    """Make the clips, and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--enlarge", type=int, metavar="TIMES", help="each side of the clips")
    arguments = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.folder
        compare(enlarged(folder, arguments.enlarge, Path(place)) if arguments.enlarge else folder, arguments.repeats)


def compare(folder: Path, repeats: int) -> None:
    """Time both, in turn, and print the table."""
    network = KinemaFeatures()
    clips = plain(folder, network, False)
    if clips == 0:
        raise SystemExit(f"{folder}: its clips have fewer than {BATCH} windows of {FRAMES} frames: give more")
    table = Table("", "plain", "cold", "decoded", "again", "cold / plain", title=f"Clips a second, {clips} clips")
    for name, each in (("features", False), ("all measures", True)):
        times: dict[str, list[float]] = {"plain": [], "cold": [], "decoded": [], "again": []}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:

                def work(each: bool = each, cache: str = cache) -> None:
                    ours(folder, network, each, cache, clips)

                times["plain"].append(seconds(lambda each=each: plain(folder, network, each)))
                times["cold"].append(seconds(work))
                shutil.rmtree(Path(cache, "measured"))
                times["decoded"].append(seconds(work))
                times["again"].append(seconds(work))
        rates = [clips / median(values) for values in times.values()]
        table.add_row(name, *(f"{rate:.1f}" for rate in rates), f"{rates[1] / rates[0]:.2f}x")
    Console().print(table)


if __name__ == "__main__":
    main()
