"""Reading LeRobot datasets: the episodes of robots, each filmed by one or more cameras."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from kinema.data import tables
from kinema.data.readers.actions import to_actions
from kinema.data.readers.base import Clip, ClipInfo, DecodeFrame, Reader, ReadError
from kinema.data.readers.image import read_image
from kinema.data.readers.video import VideoReader

__all__ = ["ACTION", "INFO", "LeRobotReader"]

INFO = Path("meta/info.json")
ACTION = "action"  # the column of the actions
DAMAGED = (  # what is raised of files that are damaged
    AttributeError, IndexError, MemoryError, OSError, OverflowError, RecursionError, TypeError, ValueError,
)  # fmt: skip
PLACES = re.compile(r"\{\w+(:0?\d\d?d?)?\}")  # in the patterns of paths
ROW = 64  # bytes of memory that a row of numbers takes, about
NEAR = 0.25  # intervals between frames; a picture counts for a row whose time is no farther


class LeRobotReader(Reader):
    """Reads LeRobot datasets of the formats v2.0, v2.1 and v3.0: folders with a `meta/info.json`.

    An episode is a clip for each camera, and a group, so that whole episodes are held out; its tasks are the caption.
    Frame k is the picture at the time of row k of the episode's table, and the action of that row is its own: what the
    robot was commanded when it saw the frame. `observation.state` and other columns are not read.

    Source: https://huggingface.co/docs/lerobot/lerobot-dataset-v3
    """

    suffixes = frozenset()
    groups_are = "episode"

    def can_read(self, path: Path) -> bool:
        """Whether it is a folder with a `meta/info.json`."""
        with suppress(OSError):  # of a folder that may not be entered, or whose path is too long
            return (path / INFO).is_file()
        return False

    def clips(self, path: Path) -> Sequence[Clip]:
        """A clip for each episode and camera; one for a bad dataset."""
        try:
            dataset = _open(path)
        except ReadError:
            return [Clip(path)]  # which is named when it is read
        return [
            Clip(
                path,
                member,
                caption=episode.caption,
                camera=camera,
                actions=episode.table if dataset.has_actions else None,
                split=episode.split,
                group=f"episode {episode.number}",
            )
            for member, (episode, camera) in dataset.members.items()
        ]

    def version(self, clip: Clip) -> Hashable:
        """The sizes and times of the metadata, the table and the video."""
        _, episode, camera = _find(clip)
        video = episode.videos.get(camera)
        return _stamps(clip.path, [*_metadata(clip.path), episode.table, *([] if video is None else [video.path])])

    def fingerprint(self, clip: Clip) -> str:
        """A hash of the sizes and times of the files, which may be hours long."""
        return hashlib.blake2b(repr(self.version(clip)).encode(), digest_size=16).hexdigest()

    def info(self, clip: Clip) -> ClipInfo:
        """What the metadata says."""
        dataset, episode, camera = _find(clip)
        height, width = dataset.cameras[camera].size
        return ClipInfo(width, height, dataset.fps, None, episode.frames, episode.frames / dataset.fps)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the picture at the time of each row."""
        dataset, episode, camera = _find(clip)
        video, column = episode.videos.get(camera), dataset.cameras[camera].column
        with _named(clip.path):
            table = _rows(episode, ["timestamp", *([] if video else [column])])
            times = table["timestamp"].to_numpy().astype(np.float64)
            if video is not None:
                pictures = _at_times(video, times, NEAR / dataset.fps, threads)
            else:
                pictures = (partial(_decode, clip.path, image["bytes"]) for image in table[column].to_pylist())
            for time, picture in zip(times, pictures, strict=True):
                yield float(time - times[0]), 1 / dataset.fps, picture

    def actions(self, clip: Clip) -> Float32[np.ndarray, "T A"] | None:
        """The episode's actions, in the order of its frames, where no other table gives some."""
        _, episode, _ = _find(clip)
        if clip.actions != episode.table:
            return super().actions(clip)
        with _named(clip.path):
            return to_actions(episode.table, _matrix(_rows(episode, [ACTION])[ACTION]))


@dataclass(frozen=True, slots=True)
class _Camera:
    column: str
    size: tuple[int, int]  # height, width


@dataclass(frozen=True, slots=True)
class _Video:
    path: Path
    begin: float  # seconds from the file's first frame, at which the episode begins


@dataclass(frozen=True, slots=True)
class _Episode:
    number: int
    frames: int
    table: Path  # a parquet file with a row for each frame, of other episodes too
    videos: Mapping[str, _Video]  # by camera; of the others the pictures are in the table
    caption: str | None
    split: str | None


@dataclass(frozen=True, slots=True)
class _Dataset:
    fps: float
    cameras: Mapping[str, _Camera]
    has_actions: bool
    members: Mapping[str, tuple[_Episode, str]]  # by the name of a clip; the camera's name


def _find(clip: Clip) -> tuple[_Dataset, _Episode, str]:
    """The dataset, the episode and the camera of a clip."""
    dataset = _open(clip.path)
    if clip.member not in dataset.members:
        raise ReadError(clip.path, f"it has no {clip.member or 'such episode'}")
    return dataset, *dataset.members[clip.member]


def _open(path: Path) -> _Dataset:
    """The dataset in a folder, read again where its metadata was changed."""
    return _load(path, _stamps(path, _metadata(path)))


def _metadata(path: Path) -> list[Path]:
    """The files with what is said of the dataset and of its episodes."""
    return [path / INFO, *sorted(path.glob("meta/episodes.jsonl")), *sorted(path.glob("meta/episodes/**/*.parquet"))]


def _stamps(folder: Path, files: Iterable[Path]) -> tuple[tuple[int, int], ...]:
    """The sizes and times of files."""
    with _named(folder):
        stats = [file.stat() for file in files]
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Errors in the body become ReadErrors of a dataset that name the file in it."""
    try:
        import pyarrow
    except ImportError:
        raise ReadError(folder, "LeRobot datasets need pyarrow: pip install 'kinema[parquet]'") from None
    try:
        yield
    except ReadError as error:
        inside = error.path != folder and error.path.is_relative_to(folder)
        reason = f"{error.path.relative_to(folder).as_posix()}: {error.reason}" if inside else error.reason
        raise ReadError(folder, reason) from error
    except KeyError as error:
        raise ReadError(folder, f"its files say nothing of {error}") from error
    except (*DAMAGED, pyarrow.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].replace(f"{folder}/", "")
        raise ReadError(folder, f"it cannot be read as a LeRobot dataset ({reason})") from error


@lru_cache(maxsize=4)
def _load(path: Path, stamps: Hashable) -> _Dataset:
    """The dataset in a folder; `stamps` are another after a change."""
    with _named(path):
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
        version = str(info["codebase_version"])
        if not version.startswith(("v2.", "v3.")):
            raise ReadError(path, f"its LeRobot format is {version}, and those read are v2 and v3: convert it first")
        fps, features = float(info["fps"]), info["features"]
        if not 0 < fps < float("inf"):
            raise ReadError(path, f"its fps is {fps:g}")
        cameras = {
            column.removeprefix("observation.").removeprefix("images."): _Camera(column, _size(feature["shape"]))
            for column, feature in sorted(features.items())
            if feature["dtype"] in ("video", "image")
        }
        filmed = {name: one.column for name, one in cameras.items() if features[one.column]["dtype"] == "video"}
        rows = _v3(path) if version.startswith("v3.") else _v2(path)
        episodes = [_episode(path, info, row, filmed) for row in rows]
        if not cameras or not episodes:
            raise ReadError(path, f"there are no {'episodes' if cameras else 'cameras'} in it")
        members = {f"episode {one.number:06d} {camera}": (one, camera) for camera in cameras for one in episodes}
        return _Dataset(fps, cameras, ACTION in features, members)


def _size(shape: Sequence[int]) -> tuple[int, int]:
    """The height and width of pictures, whose channels are first or last."""
    height, width = shape[:2] if shape[2] <= 4 else shape[1:]
    return int(height), int(width)


def _v3(path: Path) -> Iterator[dict[str, Any]]:
    """What v3 says of its episodes, without their statistics."""
    import pyarrow.parquet

    for file in _metadata(path)[1:]:
        tables.check_parquet(file)
        names = [name for name in pyarrow.parquet.read_schema(file).names if not name.startswith("stats/")]
        yield from pyarrow.parquet.ParquetFile(file).read(names).to_pylist()


def _v2(path: Path) -> Iterator[dict[str, Any]]:
    """What v2 says of its episodes."""
    for line in (path / "meta/episodes.jsonl").read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield json.loads(line)


def _episode(folder: Path, info: Mapping[str, Any], row: Mapping[str, Any], filmed: Mapping[str, str]) -> _Episode:
    """An episode by its row of the metadata; `filmed` are the columns of cameras with videos."""
    number = int(row["episode_index"])
    own = {"episode_index": number, "episode_chunk": number // int(info.get("chunks_size") or 1000)}  # of v2

    def place(kind: str, prefix: str, **names: str) -> Path:
        in_file = {name: row[f"{prefix}/{name}"] for name in ("chunk_index", "file_index") if f"{prefix}/{name}" in row}
        bad = ReadError(folder, f"its {kind} is {info[kind]!r}")
        if {"{", "}"} & {*PLACES.sub("", info[kind])}:
            raise bad
        place = Path(info[kind].format(**own, **in_file, **names))
        if place.is_absolute() or ".." in place.parts:  # not in its folder
            raise bad
        return folder / place

    videos = {
        camera: _Video(
            place("video_path", f"videos/{column}", video_key=column),
            float(row.get(f"videos/{column}/from_timestamp") or 0.0),
        )
        for camera, column in filmed.items()
    }
    tasks = row.get("tasks") or ()
    caption = "; ".join([tasks] if isinstance(tasks, str) else tasks) or None
    return _Episode(number, int(row["length"]), place("data_path", "data"), videos, caption, _split(info, number))


def _split(info: Mapping[str, Any], number: int) -> str | None:
    """The split that an episode is in, such as train of {"train": "0:50"}."""
    for name, numbers in (info.get("splits") or {}).items():
        first, _, last = str(numbers).partition(":")
        if first.isdecimal() and last.isdecimal() and int(first) <= number < int(last):
            return name
    return None


def _rows(episode: _Episode, columns: Sequence[str]) -> Any:
    """These columns of an episode, an Arrow table in the order of the frames."""
    import pyarrow.parquet

    if not episode.table.is_file():
        raise ReadError(episode.table, "there is no such file")
    tables.check_parquet(episode.table, ROW)
    names = pyarrow.parquet.read_schema(episode.table).names
    if missing := [name for name in ("episode_index", "frame_index", *columns) if name not in names]:
        raise ReadError(episode.table, f"it has no column {missing[0]}")
    table = pyarrow.parquet.read_table(
        episode.table,
        columns=["frame_index", *columns],
        filters=[("episode_index", "=", episode.number)],
        partitioning=None,  # pyright: ignore[reportArgumentType] - or a folder called a=b would be a column
    ).sort_by("frame_index")
    if not len(table):
        raise ReadError(episode.table, f"it has no row of episode {episode.number}")
    return table


def _matrix(column: Any) -> np.ndarray:
    """A column of numbers, or of lists of as many numbers each, with a row for each of its entries."""
    import pyarrow.compute
    import pyarrow.types

    if pyarrow.types.is_nested(column.type):
        return pyarrow.compute.list_flatten(column).to_numpy().reshape(len(column), -1)  # pyright: ignore[reportAttributeAccessIssue]
    return column.to_numpy()


def _at_times(video: _Video, times: Float64[np.ndarray, " T"], near: float, threads: int) -> Iterator[DecodeFrame]:
    """Yield the frame of a video at each of the times, in seconds from the episode's beginning."""
    frame = 0
    for start, _, picture in VideoReader().recording(Clip(video.path, start=video.begin), threads):
        time = start - video.begin
        if time > times[frame] + near:
            break
        if time >= times[frame] - near:
            yield picture
            frame += 1
            if frame == len(times):
                return
    at = video.begin + times[frame]
    raise ReadError(
        video.path, f"it has no picture at {at:.3f} s, for frame {frame} of the {len(times)} of the episode"
    )


def _decode(folder: Path, image: bytes | None) -> UInt8[np.ndarray, "H W 3"]:
    """A picture that is stored as a file in a table of the dataset."""
    with _named(folder):
        if image is None:
            raise ReadError(folder, "its images are not in its tables")
        return read_image(folder, image)
