"""Every format of clips that kinema reads: the same clips in each, and what reading them takes while a model trains.

    python benchmarks/formats.py --data FOLDER --out runs/formats

The clips of a folder are written in each format: mp4 files, folders of PNG images, .npy and HDF5 arrays, a LeRobot
dataset, WebDataset shards and DICOM cines. Of each, over --rounds in turn:

- found: milliseconds a clip until the source is open, without decoding
- decoded: milliseconds a clip until its frames are in the cache; beside it as a share of that of mp4
- batch: milliseconds to read a batch of 16 windows from the cache
- wait: the share of a training step of latent-dit's preset in which no batch was there yet, with all clips decoded
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from kinema.data import lerobot_writing, webdataset_writing
from kinema.data.clips import DataConfig, FolderClips, FolderSource
from kinema.data.folder import Folder, scan
from kinema.data.readers.base import find_reader
from kinema.data.writing import write_video
from kinema.presets import preset
from kinema.runtime.device import detect_runtime
from kinema.training.loop import Trainer
from kinema.types import Batch

FRAMES, SIDE, BATCH, SEED = 17, 64, 16, 0
STEPS = 6  # of training that are timed


def write_videos(clips: Folder, out: Path, suffix: str) -> None:
    """A file, or a folder of images, for each clip."""
    out.mkdir()
    for number, clip in enumerate(clips.clips):
        reader = find_reader(clip.path)
        write_video(out / f"{number:04d}{suffix}", np.stack(list(reader.frames(clip))), reader.info(clip).fps)


def write_hdf5(clips: Folder, out: Path) -> None:
    """A file of arrays, one for each clip, with the rate of the first."""
    import h5py

    out.mkdir()
    with h5py.File(out / "clips.h5", "w") as file:
        file["fps"] = find_reader(clips.clips[0].path).info(clips.clips[0]).fps
        for number, clip in enumerate(clips.clips):
            file[f"{number:04d}"] = np.stack(list(find_reader(clip.path).frames(clip)))


def _export(export: Callable[[Folder, Path], object], clips: Folder, out: Path) -> None:
    export(clips, out)


FORMATS: dict[str, Callable[[Folder, Path], None]] = {
    "mp4": partial(write_videos, suffix=".mp4"),
    "images": partial(write_videos, suffix=""),
    "npy": partial(write_videos, suffix=".npy"),
    "HDF5": write_hdf5,
    "LeRobot": partial(_export, lerobot_writing.export_clips),
    "WebDataset": partial(_export, webdataset_writing.export_clips),
    "DICOM": partial(write_videos, suffix=".dcm"),
}


class TimedSource:
    """A source that notes when each batch is asked for, and how long it takes."""

    def __init__(self, source: FolderSource) -> None:
        self.spec, self.skipped, self.source, self.key = source.spec, source.skipped, source, source.key
        self.ready: dict[int, float] = {}  # when the batch of each step was there

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """That of the other source."""
        batch = self.source.batch(step, size, seed=seed, rank=rank, ranks=ranks)
        self.ready[step] = time.perf_counter()
        return batch


def wait_share(config: DataConfig) -> float:
    """The share of training steps that a batch is waited for."""
    experiment = replace(preset("latent-dit", "cpu").changed(train={"batch": BATCH}), data=config)
    source = FolderSource(config)
    source.decode_all()
    trainer = Trainer(experiment, feed := TimedSource(source), detect_runtime())
    trainer.begin()
    trainer.advance()  # which nothing is loaded before
    waited, begun = 0.0, time.perf_counter()
    for step in range(1, STEPS + 1):
        asked = time.perf_counter()
        trainer.advance()
        waited += max(0.0, feed.ready.get(step, asked) - asked)
    share = waited / (time.perf_counter() - begun)
    trainer.close()
    return share


def main() -> None:
    """Write the clips, time the formats in turn, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of clips")
    parser.add_argument("--out", type=Path, required=True, help="for the clips and the cache")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    clips, cache = scan(arguments.data), arguments.out / "cache"
    for name, write in FORMATS.items():
        if not (arguments.out / name).exists():
            write(clips, arguments.out / name)
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in FORMATS}
    configs = {
        name: DataConfig(str(arguments.out / name), FRAMES, SIDE, SIDE, holdout=0.0, cache=str(cache))
        for name in FORMATS
    }
    for _ in range(arguments.rounds):
        for name, config in configs.items():
            shutil.rmtree(cache, ignore_errors=True)
            marks = [time.perf_counter()]
            FolderClips(config)
            marks.append(time.perf_counter())
            source = FolderSource(config)
            source.decode_all()
            marks.append(time.perf_counter())
            source.batch(0, BATCH, seed=SEED)
            marks.append(time.perf_counter())
            found, decoded, batch = np.diff(marks).tolist()
            times[name].append((found / len(source.clips), (decoded - found) / len(source.clips), batch))
    table = Table(title=f"{len(clips.clips)} clips of {arguments.data.name}, medians of {arguments.rounds} rounds")
    headers = ("format", "found, ms", "decoded, ms", "of mp4's", "batch, ms", "wait")
    for header in headers:
        table.add_column(header, justify="left" if header == "format" else "right")
    for name, config in configs.items():
        found, decoded, batch = (1000 * median(column) for column in zip(*times[name], strict=True))
        ratio = median(own[1] / mp4[1] for own, mp4 in zip(times[name], times["mp4"], strict=True))
        row = [f"{found:.2f}", f"{decoded:.1f}", f"{ratio:.2f}", f"{batch:.1f}", f"{wait_share(config):.1%}"]
        table.add_row(name, *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
