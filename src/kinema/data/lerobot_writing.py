"""Writing clips as a LeRobot dataset, which robots' policies are trained on."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from kinema.data.exporting import Action, FolderWriter, export_each, frames_and_actions
from kinema.data.folder import Folder, Skipped
from kinema.data.readers.base import Clip, ClipInfo, ReadError, clip_info, find_reader
from kinema.data.readers.lerobot import ACTION, INFO
from kinema.data.writing import open_video
from kinema.types import Progress, no_progress

__all__ = ["CAMERA", "LeRobotWriter", "export_clips"]

CAMERA = "observation.images.main"
CHUNK = 1000  # files in a folder
PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA, VIDEO, EPISODES = f"data/{PLACE}.parquet", f"videos/{{video_key}}/{PLACE}.mp4", f"meta/episodes/{PLACE}.parquet"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
LEVELS = 256  # of a pixel
BY_TASK = {  # what pandas writes of a table whose index is the task, by which LeRobot finds it
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, kind, numpy_type in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ],
    "pandas_version": "2.0.0",
}
SAME_RATE = 0.01  # share by which rates may differ


def export_clips(folder: Folder, out: Path, progress: Progress = no_progress) -> tuple[int, tuple[Skipped, ...]]:
    """Write a folder's clips as a LeRobot dataset; return how many were written, and those that were not and why.

    Their captions, or else their labels, are the tasks. All have the size that most clips have, and others are skipped;
    all have the rate that most have, and others are resampled to it with their actions. Clips whose actions have other
    numbers a frame than the first are skipped. A warning names what the format has no place for, and what is changed.
    Raises ValueError where no clip can be written, or `out` is there already.
    """
    with ThreadPoolExecutor(cpu_count()) as pool:
        infos = dict(zip(folder.clips, pool.map(_info, folder.clips), strict=True))
    found = [info for info in infos.values() if isinstance(info, ClipInfo)]
    if not found:
        first = folder.clips[0]
        raise ValueError(f"{folder.root}: no clip can be read; the first is {first.path}: {infos[first]}")
    size = Counter((info.width, info.height) for info in found).most_common(1)[0][0]
    fps = Counter(round(info.fps, 3) for info in found).most_common(1)[0][0]
    widths: list[int] = []  # of the actions of clips that were begun
    with LeRobotWriter(out, fps) as writer:

        def write(clip: Clip) -> None:
            info = infos[clip]
            if not isinstance(info, ClipInfo):
                raise ReadError(clip.path, info)
            rate = None if _is_same(info.fps, fps) else fps
            actions = find_reader(clip.path).actions(clip)
            width = 0 if actions is None else actions.shape[1]
            if writer.episodes and width != widths[-1]:
                raise ReadError(clip.path, f"its actions have {width} numbers a frame, and others {widths[-1]}")
            widths.append(width)
            writer.write(_frames(clip, size, rate), clip.caption or clip.label or "")

        skipped = export_each(folder, write, progress)
    for line in _changes(folder.clips, found, size, fps):
        warnings.warn(f"{out}: {line}", stacklevel=1)  # of kinema, for the command line to show
    return writer.episodes, skipped


def _is_same(a: float, b: float) -> bool:
    """Whether two rates are the same."""
    return abs(a / b - 1) < SAME_RATE


def _changes(clips: Sequence[Clip], infos: Sequence[ClipInfo], size: tuple[int, int], fps: float) -> list[str]:
    """What is left out of a dataset or changed, a line each."""
    has = {
        "sound": any(info.sample_rate for info in infos),
        "labels": any(clip.label is not None and clip.caption for clip in clips),  # else they are the tasks
        "splits": any(clip.split for clip in clips),
        "groups, such as patients": any(clip.group for clip in clips),
    }
    lines = []
    if left_out := [name for name, there in has.items() if there]:
        lines.append(f"a LeRobot dataset has no {', '.join(left_out)}: they are left out (--format webdataset has)")
    if other := sum(not _is_same(info.fps, fps) for info in infos):
        are = "1 clip is" if other == 1 else f"{other} clips are"
        lines.append(f"{are} resampled to {fps:g} frames a second, the rate of most")
    if size[0] % 2 or size[1] % 2:
        lines.append(f"sides of {size[0]}x{size[1]} pixels become even, the last row or column repeated")
    return lines


def _info(clip: Clip) -> ClipInfo | str:
    """What is known of a clip, or why it cannot be read."""
    try:
        return clip_info(clip)
    except ReadError as error:
        return error.reason


def _frames(
    clip: Clip, size: tuple[int, int], fps: float | None
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], Action | None]]:
    """Yield the frames of a clip, of this width and height and resampled to `fps`, each with its row of actions."""
    for frame, action in frames_and_actions(clip, fps):
        height, width, _ = frame.shape
        if (width, height) != size:
            raise ReadError(clip.path, f"{width}x{height} pixels, and most clips have {size[0]}x{size[1]}")
        yield frame, action


class LeRobotWriter(FolderWriter):
    """A LeRobot dataset of format v3.0 that is being written: one camera, `CAMERA`, and a video for each episode.

    Videos are H.264 of even sides, the last row or column repeated where they were odd. Statistics are of all pixels
    and rows. Raises ValueError where pyarrow is missing.

    Source: https://huggingface.co/docs/lerobot/lerobot-dataset-v3
    """

    def __init__(self, path: Path, fps: float) -> None:
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ValueError("LeRobot datasets need pyarrow: pip install 'kinema[parquet]'") from None
        super().__init__(path)
        self._fps = float(Fraction(fps).limit_denominator(1001))  # as `open_video` has it
        self._tasks = dict[str, int]()
        self._rows: list[dict[str, Any]] = []  # of the metadata, by episode
        self._tables: list[dict[str, np.ndarray]] = []  # by episode: the columns of its frames
        self._levels: list[Int64[np.ndarray, "3 256"]] = []  # by episode: how many pixels have each level
        self._size: tuple[int, ...] = ()

    @property
    def episodes(self) -> int:
        """How many were written."""
        return len(self._rows)

    def write(self, frames: Iterable[tuple[UInt8[np.ndarray, "H W 3"], Action | None]], task: str) -> None:
        """Append an episode of frames, each with its action or, in all episodes, none.

        Raises what `frames` raises, and ValueError for frames of another size or actions of another length than those
        before; the episode is left out then.
        """
        number, first = self.episodes, sum(row["length"] for row in self._rows)
        place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        video = self._folder / VIDEO.format(video_key=CAMERA, **place)
        video.parent.mkdir(parents=True, exist_ok=True)
        levels, actions, size = np.zeros((3, LEVELS), np.int64), [], self._size
        with open_video(video, self._fps) as writer:
            for frame, action in frames:
                size = size or frame.shape
                if frame.shape != size:
                    raise ValueError(f"{self.path}: a frame of {frame.shape} after some of {size}: give all one size")
                writer.write(frame[None])
                levels += np.stack([np.bincount(frame[..., c].ravel(), minlength=LEVELS) for c in range(3)])
                actions.append(action)
            table = self._table(number, first, len(actions), self._tasks.get(task, len(self._tasks)))
            if any(action is not None for action in actions):
                table[ACTION] = np.stack([np.zeros(0) if action is None else action for action in actions])
            if self._tables and _widths(table) != _widths(self._tables[0]):
                raise ValueError(f"{self.path}: its episodes differ in the numbers of an action: give all the same")
        self._size = size
        self._tasks.setdefault(task, len(self._tasks))
        self._levels.append(levels)
        self._tables.append(table)
        where = {f"videos/{CAMERA}/{name}": value for name, value in place.items()}
        self._rows.append(
            {
                "episode_index": number,
                "tasks": [task],
                "length": len(actions),
                "data/chunk_index": 0,
                "data/file_index": 0,
                "dataset_from_index": first,
                "dataset_to_index": first + len(actions),
                **where,
                f"videos/{CAMERA}/from_timestamp": 0.0,
                f"videos/{CAMERA}/to_timestamp": len(actions) / self._fps,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
        )

    def _table(self, number: int, first: int, frames: int, task: int) -> dict[str, np.ndarray]:
        """The columns that every dataset has."""
        return {
            "timestamp": (np.arange(frames) / self._fps).astype(np.float32),
            "frame_index": np.arange(frames),
            "episode_index": np.full(frames, number),
            "index": np.arange(first, first + frames),
            "task_index": np.full(frames, task),
        }

    def _complete(self) -> None:
        """Write all but the videos."""
        import pyarrow
        import pyarrow.parquet

        if not self._rows:
            raise ValueError(f"{self.path}: there are no episodes to write")
        columns = {name: np.concatenate([table[name] for table in self._tables]) for name in self._tables[0]}
        info, stats = self._folder / INFO, _stats(columns, np.sum(self._levels, axis=0))
        info.parent.mkdir()
        info.write_text(json.dumps(self._info(columns), indent=4))
        info.with_name("stats.json").write_text(json.dumps(stats, indent=4))
        rows = []
        for row, table, levels in zip(self._rows, self._tables, self._levels, strict=True):
            named = _stats(table, levels).items()
            rows.append(row | {f"stats/{name}/{kind}": value for name, one in named for kind, value in one.items()})
        first = {"chunk_index": 0, "file_index": 0}
        data, episodes = self._folder / DATA.format(**first), self._folder / EPISODES.format(**first)
        for path in (data, episodes):
            path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), episodes)
        tables = [pyarrow.table({name: _arrow(values) for name, values in table.items()}) for table in self._tables]
        with pyarrow.parquet.ParquetWriter(data, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)  # a group of rows for each episode, which is found without the others
        tasks = pyarrow.table({"task_index": list(self._tasks.values()), "task": list(self._tasks)})
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(BY_TASK)})
        pyarrow.parquet.write_table(tasks, info.with_name("tasks.parquet"))

    def _info(self, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """What `meta/info.json` says."""
        height, width = (side + side % 2 for side in self._size[:2])
        fps = int(self._fps) if self._fps == int(self._fps) else self._fps
        video = {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        }
        shape = {"shape": [height, width, 3], "names": ["height", "width", "channels"]}
        features: dict[str, Any] = {CAMERA: {"dtype": "video", **shape, "info": video}}
        for name, values in columns.items():
            names = [f"{name}_{k}" for k in range(values.shape[1])] if values.ndim > 1 else None
            features[name] = {"dtype": str(values.dtype), "shape": [*values.shape[1:]] or [1], "names": names}
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(self._rows),
            "total_frames": len(columns["index"]),
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": fps,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": DATA,
            "video_path": VIDEO,
            "features": features,
        }


def _widths(table: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The columns of a table, and how many numbers each has in a row."""
    return {name: values.shape[1:] for name, values in table.items()}


def _arrow(values: np.ndarray) -> Any:
    """A column: lists of numbers, or numbers where there is one in a row."""
    import pyarrow

    flat = pyarrow.array(values.reshape(-1))
    return flat if values.size == len(values) else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _stats(columns: Mapping[str, np.ndarray], levels: Int64[np.ndarray, "3 256"]) -> dict[str, dict[str, list]]:
    """Statistics of the numbers in columns and, in [0, 1], of pixels by how many have each level."""
    found = {}
    for name, values in columns.items():
        rows = values.reshape(len(values), -1).astype(np.float64)
        kinds = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
        kinds |= {quantile: np.quantile(rows, at, axis=0) for quantile, at in QUANTILES.items()}
        found[name] = {kind: value.tolist() for kind, value in kinds.items()} | {"count": [len(rows)]}
    shares, level = levels / levels.sum(1, keepdims=True), np.arange(LEVELS) / (LEVELS - 1)
    mean, reached = shares @ level, shares.cumsum(1)
    there = [np.flatnonzero(one) for one in levels]
    kinds = {
        "min": level[[one[0] for one in there]],
        "max": level[[one[-1] for one in there]],
        "mean": mean,
        "std": np.sqrt(np.maximum(0.0, shares @ level**2 - mean**2)),
    }
    kinds |= {name: level[(reached < at - 1e-9).sum(1)] for name, at in QUANTILES.items()}
    pixels = {kind: value.reshape(3, 1, 1).tolist() for kind, value in kinds.items()}
    return found | {CAMERA: pixels | {"count": [len(columns["index"])]}}
