"""Writing clips as WebDataset shards: tar files that trainings on many machines read in one pass."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.exporting import FolderWriter, export_each, frames_and_actions
from kinema.data.folder import Folder, Skipped, clip_name
from kinema.data.readers.base import Clip, ClipInfo, ReadError, clip_info, find_reader
from kinema.data.readers.video import VideoReader
from kinema.data.writing import FPS_RANGE, open_video
from kinema.types import Progress, no_progress

__all__ = ["WebDatasetWriter", "export_clips"]

SHARD = "clips-{:06d}.tar"
MOST_SAMPLES = 1000  # of a shard
MOST_BYTES = 10**9  # of a shard; a larger sample has one to itself


def export_clips(folder: Folder, out: Path, progress: Progress = no_progress) -> tuple[int, tuple[Skipped, ...]]:
    """Write a folder's clips as WebDataset shards; return how many were written, and those that were not and why.

    Members of a sample: the video, copied byte for byte with its own suffix where the clip is a whole video file and
    else `mp4` with sound at SAMPLE_RATE; `txt`, its caption; `cls`, its label, where all labels are integers, as
    the package webdataset takes it for one; `npy`, its actions, float32 [T, A]; and `json`: `source`, its name in the
    folder, `fps`, `frames`, and where it has them `label`, `group`, `split` and `camera`. Raises ValueError where no
    clip can be written, or `out` is there already.
    """
    numbers = all(label.isascii() and label.isdecimal() for label in folder.classes)
    with WebDatasetWriter(out) as writer:

        def write(clip: Clip) -> None:
            info = clip_info(clip)
            video, frames, actions = _whole_file(clip) if _is_whole_file(clip) else _encode(clip, info, writer.scratch)
            known = {"label": clip.label, "group": clip.group, "split": clip.split, "camera": clip.camera}
            row = {"source": clip_name(clip, folder.root), "fps": info.fps, "frames": frames}
            row |= {name: value for name, value in known.items() if value}
            members: dict[str, bytes | Path] = {video.suffix[1:].lower(): video}
            if clip.caption is not None:
                members["txt"] = clip.caption.encode(errors="replace")
            if clip.label is not None and numbers:
                members["cls"] = clip.label.encode()
            if actions is not None:
                members["npy"] = _npy(actions)
            writer.write(members | {"json": json.dumps(row).encode()})

        skipped = export_each(folder, write, progress)
        if not writer.samples:
            raise ValueError(
                f"{folder.root}: no clip can be written; the first is {skipped[0].name}: {skipped[0].reason}"
            )
        return writer.samples, skipped


def _is_whole_file(clip: Clip) -> bool:
    """Whether a clip is a video file with nothing to cut and its own rate, of a suffix that its reader knows."""
    return (
        type(find_reader(clip.path)) is VideoReader
        and clip.path.suffix.lower() in VideoReader.suffixes
        and not clip.member
        and clip.start == 0
        and clip.stop is None
        and clip.fps is None
    )


def _whole_file(clip: Clip) -> tuple[Path, int, Float32[np.ndarray, "T A"] | None]:
    """A clip's file, its number of frames and a row of actions for each; raises ReadError where it is bad."""
    reader = find_reader(clip.path)
    frames, actions = sum(1 for _ in reader.recording(clip)), reader.actions(clip)
    if actions is not None and len(actions) < frames:
        raise ReadError(clip.path, f"it has {len(actions)} rows of actions, and {frames} frames")
    return clip.path, frames, None if actions is None else actions[:frames]


def _encode(clip: Clip, info: ClipInfo, path: Path) -> tuple[Path, int, Float32[np.ndarray, "T A"] | None]:
    """The same of a clip that is written to `path`; with sound its frames are taken by their time."""
    if not FPS_RANGE[0] <= info.fps <= FPS_RANGE[1]:
        raise ReadError(clip.path, f"its {info.fps:g} frames a second cannot be written")
    sound = None if info.sample_rate is None else find_reader(clip.path).audio(clip, SAMPLE_RATE)
    actions = []
    with open_video(path, info.fps, sound) as video:
        for frame, action in frames_and_actions(clip, None if sound is None else info.fps):
            video.write(frame[None])
            actions.append(action)
        if not actions:
            raise ReadError(clip.path, "there are no frames in it")
    return path, len(actions), None if actions[0] is None else np.stack(actions)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


class WebDatasetWriter(FolderWriter):
    """WebDataset shards that are being written: a folder of `clips-000000.tar`, `clips-000001.tar` and on.

    A shard has at most `most_samples` samples and, with more than one, about `most_bytes` bytes.

    Source: https://github.com/webdataset/webdataset, the README's section on the format.
    """

    def __init__(self, path: Path, most_samples: int = MOST_SAMPLES, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(path)
        self.samples = self.shards = 0  # written so far
        self._most_samples, self._most_bytes = most_samples, most_bytes
        self._in_shard = self._bytes = 0
        self._opened = self._stack.enter_context(ExitStack())
        self._tar: tarfile.TarFile | None = None

    @property
    def scratch(self) -> Path:
        """Where an .mp4 may be written before it is a member; it is removed with what is unfinished."""
        return self._folder.with_name(f"{self.path.name}.clip.mp4")

    def write(self, members: Mapping[str, bytes | Path]) -> None:
        """Append a sample of members by their suffix, contents or files; its key is its number.

        Raises OSError where a file cannot be read or written, after which nothing should be appended.
        """
        sizes = [len(one) if isinstance(one, bytes) else one.stat().st_size for one in members.values()]
        full = self._in_shard >= self._most_samples or (self._in_shard and self._bytes + sum(sizes) > self._most_bytes)
        if self._tar is None or full:
            self._opened.close()
            name = self._folder / SHARD.format(self.shards)
            self._tar = tarfile.open(name, "w")  # noqa: SIM115 - it is closed with the writer, or before the next
            self._opened.enter_context(self._tar)
            self.shards, self._in_shard, self._bytes = self.shards + 1, 0, 0
        for suffix, content in members.items():
            info = tarfile.TarInfo(f"{self.samples:06d}.{suffix}")
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                info.size = file.seek(0, io.SEEK_END)
                file.seek(0)
                self._tar.addfile(info, file)
        self.samples, self._in_shard, self._bytes = self.samples + 1, self._in_shard + 1, self._bytes + sum(sizes)

    def _complete(self) -> None:
        if not self.samples:
            raise ValueError(f"{self.path}: there are no samples to write")
