"""Clips as they are learned from: each file decoded, resized and cropped once, into the cache."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8

from kinema.conditions.audio import RATE
from kinema.data.actions import read_actions
from kinema.data.cache import cache_folder, digest, whole, write_header
from kinema.data.folder import ClipFile
from kinema.data.video import VideoError, frame_rate, read_audio, read_frames

__all__ = ["CACHE_VERSION", "ClipCache", "Decoded", "Listed", "fit"]

SOUND = 32767  # of a sample at full volume, as it is kept
AT_ONCE = 16  # frames that are resized
CACHE_VERSION = 2  # part of every key: raise it when the same file would give other frames


@dataclass(frozen=True, slots=True)
class Listed:
    """A file that can be opened, and what is known of it before it is decoded."""

    file: ClipFile
    kept: Path  # its frames in the cache, once it is decoded
    fps: float  # at which they are taken
    content: str  # a hash of the file
    actions: Float32[np.ndarray, "rows A"] | None  # as they are in the file's table


@dataclass(frozen=True, slots=True)
class Decoded:
    """A clip's frames on disk."""

    path: Path
    offset: int  # bytes before the first frame
    shape: tuple[int, int, int, int]  # T H W 3
    actions: Float32[np.ndarray, "T A"] | None = None

    def read(self, start: int, frames: int) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames `start` to `start + frames`: one plain read is several times as quick as opening a memory map."""
        bytes_each = math.prod(self.shape[1:])
        flat = np.fromfile(self.path, np.uint8, frames * bytes_each, offset=self.offset + start * bytes_each)
        return flat.reshape(frames, *self.shape[1:])

    def sound(self, start: float, seconds: float) -> Float32[np.ndarray, " samples"]:
        """The sound of a stretch of the clip, with silence after its end."""
        kept = np.load(self.path.with_suffix(".sound.npy"), mmap_mode="r")
        first, count = round(start * RATE), round(seconds * RATE)
        cut = kept[first : first + count].astype(np.float32) / SOUND
        return np.pad(cut, (0, count - len(cut)))


class ClipCache:
    """Decoded, resized and cropped clips: one .npy of uint8 [T, H, W, 3] each, beside it a .json with the rest.

    Files that cannot be used are told of by the reason, in one line. `files` is how many there are to be decoded.
    """

    def __init__(
        self, frames: int, height: int, width: int, fps: float | None, audio: bool, folder: str | None, files: int
    ) -> None:
        self.frames, self.size, self.fps, self.audio = frames, (height, width), fps, audio
        self.threads = int(files >= (os.cpu_count() or 1))  # of a decoder; 0 is one a core
        self.folder = cache_folder(folder, "clips")

    def list(self, clip: ClipFile) -> Listed | str:
        """What is known of a file without decoding it, or the reason why it cannot be used."""
        try:
            stat = clip.path.stat()
            identity = (str(clip.path.resolve()), stat.st_size, stat.st_mtime_ns, *self.size, self.fps)
            path = self.folder / f"{digest(CACHE_VERSION, *identity)}.npy"
            beside = _beside(path)
            if beside is None:
                with clip.path.open("rb") as file:
                    content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
                beside = self.fps or frame_rate(clip.path), content
            return Listed(clip, path, *beside, None if clip.actions is None else read_actions(clip.actions))
        except VideoError as error:
            return error.reason if error.path == clip.path else str(error)
        except OSError as error:
            return str(error.strerror)

    def get(self, clip: Listed) -> Decoded | str:
        """The clip, decoded now if the cache does not hold it, or the reason why it cannot be used."""
        try:
            decoded = _find(clip.kept)
            if decoded is None:
                self._fill(clip)
                decoded = _find(clip.kept)
                assert decoded is not None, clip.kept
            frames = decoded.shape[0]
            if frames < self.frames:
                return f"{frames} frame{'s' * (frames > 1)} at {clip.fps:.4g} fps, {self.frames} are needed"
            if self.audio:
                _keep_sound(clip.kept.with_suffix(".sound.npy"), clip.file.path)
            return decoded if clip.actions is None else replace(decoded, actions=_shown(clip, frames, self.fps))
        except VideoError as error:
            return error.reason if error.path == clip.file.path else str(error)

    def _fill(self, clip: Listed) -> None:
        height, width = self.size
        decoded = read_frames(clip.file.path, fps=self.fps, threads=self.threads)
        with whole(clip.kept) as file:
            count = 0
            write_header(file, "|u1", (count, height, width, 3))
            for _, alike in groupby(decoded, np.shape):
                while some := list(islice(alike, AT_ONCE)):
                    file.write(fit(np.stack(some), height, width).tobytes())
                    count += len(some)
            file.seek(0)  # the clip's length is known at its end only
            write_header(file, "|u1", (count, height, width, 3))
            beside = {"fps": clip.fps, "content": clip.content}
            clip.kept.with_suffix(".json").write_text(json.dumps(beside))


def _beside(path: Path) -> tuple[float, str] | None:
    """The rate and the hash of the clip whose frames are in the cache at `path`; None where they are not there."""
    try:
        beside = json.loads(path.with_suffix(".json").read_text())
        return beside["fps"], beside["content"]
    except (OSError, ValueError, KeyError):
        return None


def _find(path: Path) -> Decoded | None:
    """What is in the cache at `path`; None where there is nothing or not all of it."""
    try:
        frames = np.load(path, mmap_mode="r")  # raises where the file is shorter than its header says
        return None if _beside(path) is None else Decoded(path, frames.offset, frames.shape)
    except (OSError, ValueError, EOFError):
        return None


def _keep_sound(path: Path, clip: Path) -> None:
    if not path.exists():
        sound = np.round(SOUND * read_audio(clip, RATE)).astype(np.int16)
        with whole(path) as file:
            np.save(file, sound)


def _shown(clip: Listed, frames: int, fps: float | None) -> Float32[np.ndarray, "T A"]:
    """The actions of a clip's frames, of which a rate of its own shows some again or not at all."""
    table, path = clip.actions, clip.file.actions
    assert table is not None and path is not None
    shown = np.arange(frames)
    if fps is not None:
        shown = (shown * frame_rate(clip.file.path) / fps + 1e-3).astype(int)
    if shown[-1] >= len(table):
        raise VideoError(path, f"it has {len(table)} rows for the clip's {shown[-1] + 1} frames")
    return table[shown]


def fit(frames: UInt8[np.ndarray, "*n h w 3"], height: int, width: int) -> UInt8[np.ndarray, "*n H W 3"]:
    """Crop whole pixels about the centre, of the shape of height x width, and resize them (bicubic, antialiased)."""
    *_, h, w, _ = frames.shape
    if (h, w) == (height, width):
        return frames
    scale = max(height / h, width / w)
    rows, columns = min(max(round(height / scale), 1), h), min(max(round(width / scale), 1), w)
    top, left = (h - rows) // 2, (w - columns) // 2
    cut = np.array(frames[..., top : top + rows, left : left + columns, :]).reshape(-1, rows, columns, 3)
    pixels = torch.from_numpy(cut).movedim(-1, 1)  # bytes, channels last: a fifth of the time that Pillow takes
    resized = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True).movedim(1, -1)
    return np.ascontiguousarray(resized.numpy()).reshape(*frames.shape[:-3], height, width, 3)
