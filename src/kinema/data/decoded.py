"""Clips as training sees them: each decoded, resized and cropped once, into the cache."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.cache import atomic_write, cache_folder, cache_limit, class_digest, code_digest, digest, entry_lock
from kinema.data.readers.base import Clip, ClipInfo, Reader, ReadError, clip_info, find_reader
from kinema.data.stored import ArrayWriter, Damaged, StoredArray, read_metadata, write_metadata

__all__ = ["SAMPLE_BYTES", "ClipCache", "ClipEntry", "DecodedClip", "Fit", "Opened", "resize"]

Fit = Literal["crop", "pad", "stretch"]

SAMPLE_BYTES, FULL_SCALE = 2, 32767  # of a sample in the cache
BLANK = 8  # levels between the least and the greatest of a frame; with fewer it is of one colour
DARK = 64  # level; clips without a brighter pixel are noted
MOST_BYTES = 2**26  # of frames that are resized at once
BLOCK = 16  # frames that are resized at once
LARGE = 1e9  # bytes of a decoded clip that any cache takes


@dataclass(frozen=True, slots=True)
class ClipEntry:
    """A clip that is there, of which nothing is read yet."""

    clip: Clip
    reader: Reader
    version: Hashable  # of `Reader.version`
    path: Path  # of its frames in the cache, once it is decoded


class Opened(NamedTuple):
    """What is known of a clip before it is decoded."""

    fps: float  # of its frames in the cache
    actions: int  # numbers a frame; 0: there are none


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A clip's frames on disk."""

    stored: StoredArray  # uint8 [T, H, W, 3]
    fps: float
    info: ClipInfo  # of the file
    notes: tuple[str, ...] = ()  # of `Reader.notes`, and of its brightness
    numbers: tuple[int, ...] | None = None  # of the frames among those of the clip; None: they are all
    actions: Float32[np.ndarray, "T A"] | None = None

    @property
    def length(self) -> int:
        """How many frames there are."""
        return self.stored.shape[0]

    def touch(self) -> None:
        """Mark it as used now; raises FileNotFoundError where the cache had no room for it any longer."""
        try:
            os.utime(self.stored.path)
        except FileNotFoundError:
            raise
        except OSError:  # a cache that may only be read
            pass

    def read(self, start: int, frames: int) -> UInt8[np.ndarray, "T H W 3"]:
        """Frames `start` to `start + frames`, the last one repeated after the clip's end; raises Damaged."""
        found = self.stored.read(start, start + frames)
        missing = frames - len(found)
        return np.concatenate([found, found[-1:].repeat(missing, 0)]) if missing else found

    def audio(self, start: float, seconds: float) -> Float32[np.ndarray, " samples"]:
        """The sound of a stretch of the clip, with silence after its end; raises Damaged."""
        samples = StoredArray.open(_audio_path(self.stored.path), SAMPLE_RATE)
        first, count = round(start * SAMPLE_RATE), round(seconds * SAMPLE_RATE)
        audio = samples.read(first, first + count).astype(np.float32) / FULL_SCALE
        return np.pad(audio, (0, count - len(audio)))


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the cache keeps beside a clip's frames."""

    fps: float
    info: dict[str, Any]  # of `ClipInfo`
    content: str  # a hash of the file
    notes: list[str]  # of `Reader.notes`, and of its brightness
    numbers: list[int] | None  # of the frames among those of the clip; None: they are all


class ClipCache:
    """Decoded, resized and cropped clips: one .npy of uint8 [T, H, W, 3] each, and a .json with the rest beside it.

    Of several processes that decode the same clips each clip is decoded by one, while others wait for it. Where a clip
    cannot be used, methods return the reason, in one line. `least` is how many frames a clip needs and `clips` how many
    clips there are to decode.
    """

    def __init__(
        self,
        least: int,
        height: int,
        width: int,
        fit: Fit,
        fps: float | None,
        audio: bool,
        folder: str | None,
        clips: int,
    ) -> None:
        self.least, self.size, self.fps, self.audio = least, (height, width), fps, audio
        self.fit: Fit = fit
        self.threads = int(clips >= (os.cpu_count() or 1))  # of a decoder; 0 is one a core
        self.folder = cache_folder(folder, "clips")
        self.limit = cache_limit(self.folder.parent)

    def entry(self, clip: Clip) -> ClipEntry | str:
        """The place of a clip in the cache, or the reason why it cannot be used; nothing of it is read."""
        try:
            reader = find_reader(clip.path)
            code = code_digest("data.decoded", "data.readers"), class_digest(type(reader))
            stretch = clip.member, clip.start, clip.stop, clip.fps
            version, by_time = reader.version(clip), self.fps or ("its own" if self.audio else None)
            path = digest(code, str(clip.path.resolve()), stretch, version, self.size, self.fit, by_time)
            return ClipEntry(clip, reader, version, self.folder / f"{path}.npy")
        except ReadError as error:
            return error.reason if error.path == clip.path else str(error)
        except OSError as error:
            return str(error.strerror)

    def opened(self, entry: ClipEntry) -> Opened | str:
        """What the head of a clip says, without decoding it, or the reason why it cannot be used."""
        clip, known = entry.clip, _metadata(entry.path)
        try:
            fps = known.fps if known else self.fps or clip_info(clip).fps
            actions = entry.reader.actions(clip)
        except ReadError as error:
            return error.reason if error.path == clip.path else str(error)
        except OSError as error:
            return str(error.strerror)
        return Opened(fps, 0 if actions is None else actions.shape[1])

    def key(self, entry: ClipEntry) -> tuple[object, ...]:
        """What decides the decoded clip and its conditions, beside the settings of the cache; the file is read for it.

        Of a clip that cannot be read, why.
        """
        clip = entry.clip
        try:
            content, actions = self.content(entry), entry.reader.actions(clip)
        except ReadError as error:
            content, actions = error.reason, None
        own = class_digest(type(entry.reader)), content, clip.member, clip.start, clip.stop, clip.fps
        return *own, clip.label, clip.caption, None if actions is None else actions.tobytes()

    def content(self, entry: ClipEntry) -> str:
        """A hash of what a clip is read from."""
        known = _metadata(entry.path)
        return known.content if known else entry.reader.fingerprint(entry.clip)

    def decode(self, entry: ClipEntry) -> DecodedClip | str:
        """The clip, decoded now if the cache does not hold it, or the reason why it cannot be used."""
        clip = entry.clip
        try:
            decoded = self._find(entry)
            if decoded is None:
                with entry_lock(entry.path):
                    decoded = self._find(entry) or self._write(entry)
            frames = decoded.length
            if frames < self.least:
                return f"{frames} frame{'s' * (frames != 1)} at {decoded.fps:.4g} fps, {self.least} are needed"
            return replace(decoded, actions=_actions_of(entry, decoded))
        except ReadError as error:
            return error.reason if error.path == clip.path else str(error)
        except OSError as error:
            return str(error.strerror)

    def remove(self, entry: ClipEntry) -> None:
        """Take a clip that is damaged out of the cache, and say so."""
        clip = f"{entry.clip.path.name}:{entry.clip.member}" if entry.clip.member else entry.clip.path.name
        warnings.warn(f"{clip}: what the cache held of it was damaged, and is decoded again", stacklevel=1)
        for path in (entry.path, entry.path.with_suffix(".json"), _audio_path(entry.path)):
            with suppress(OSError):  # of a cache that may only be read
                path.unlink()

    def _find(self, entry: ClipEntry) -> DecodedClip | None:
        """What the cache holds of a clip, now marked as used; None where it is missing, and where it was damaged."""
        try:
            decoded = _open_frames(entry.path)
            if decoded is None or (self.audio and not _audio_path(entry.path).exists()):
                return None
        except Damaged:
            self.remove(entry)
            return None
        with suppress(FileNotFoundError):
            decoded.touch()
        return decoded

    def _write(self, entry: ClipEntry) -> DecodedClip:
        if entry.reader.version(entry.clip) != entry.version:
            raise ReadError(entry.clip.path, "it was changed since it was found: start again")
        decoded = _open_frames(entry.path)
        if decoded is None:
            decoded = self._write_frames(entry)
            self.limit.written(math.prod(decoded.stored.shape))
        if self.audio and decoded.length >= self.least:
            samples = np.round(FULL_SCALE * entry.reader.audio(entry.clip, SAMPLE_RATE)).astype(np.int16)
            path = _audio_path(entry.path)
            with atomic_write(path) as file:
                writer = ArrayWriter(file, path, samples.dtype, (), SAMPLE_RATE)
                writer.write(samples)
                writer.finish()
            self.limit.written(samples.nbytes)
        return decoded

    def _write_frames(self, entry: ClipEntry) -> DecodedClip:
        height, width = self.size
        info = clip_info(entry.clip)
        own = self.fps or info.fps
        fps, numbers, brightest, blank = own if self.fps or self.audio else None, [], 0, 0
        room = LARGE
        frames = entry.reader.numbered(entry.clip, fps, self.threads)
        with atomic_write(entry.path) as file:
            writer = ArrayWriter(file, entry.path, np.dtype(np.uint8), (height, width, 3))
            for shape, same_size in groupby(frames, lambda numbered: numbered[1].shape):
                while block := list(islice(same_size, max(1, min(BLOCK, MOST_BYTES // math.prod(shape))))):
                    resized = resize(np.stack([frame for _, frame in block]), height, width, self.fit)
                    writer.write(resized)
                    if writer.count * resized[0].nbytes > room:
                        room = max(room, self.limit.limit_bytes())
                        if writer.count * resized[0].nbytes > room:
                            reason = f"decoded, it takes over {room / 1e9:.3g} GB, more than the cache may take"
                            raise ReadError(entry.clip.path, f"{reason}: cut it, or set $KINEMA_CACHE_GB higher")
                    brightest = max(brightest, int(resized.max()))
                    blank += int((np.ptp(resized, axis=(1, 2, 3)) < BLANK).sum())
                    numbers += [number for number, _ in block]
            stored = writer.finish()
            notes = entry.reader.notes(entry.clip)
            if brightest < DARK:
                notes.append(f"dark: no pixel is brighter than {brightest} of 255")
            if 0 < blank < len(numbers):
                notes.append(f"{blank} of its {len(numbers)} frames are of one colour: is it damaged?")
            content = entry.reader.fingerprint(entry.clip)
            known = Metadata(own, asdict(info), content, notes, None if fps is None else numbers)
            write_metadata(entry.path.with_suffix(".json"), asdict(known))
        return _decoded(stored, known)


def _audio_path(path: Path) -> Path:
    return path.with_suffix(".audio.npy")


def _metadata(path: Path) -> Metadata | None:
    """What is known of the clip whose frames are in the cache at `path`; None where it is missing or damaged."""
    with suppress(OSError, Damaged):
        return Metadata(**read_metadata(path.with_suffix(".json")))
    return None


def _open_frames(path: Path) -> DecodedClip | None:
    """The frames in the cache at `path`; None where they are missing; raises Damaged."""
    with suppress(OSError):
        return _decoded(StoredArray.open(path), Metadata(**read_metadata(path.with_suffix(".json"))))
    return None


def _decoded(stored: StoredArray, known: Metadata) -> DecodedClip:
    numbers = None if known.numbers is None else tuple(known.numbers)
    return DecodedClip(stored, known.fps, ClipInfo(**known.info), tuple(known.notes), numbers)


def _actions_of(entry: ClipEntry, decoded: DecodedClip) -> Float32[np.ndarray, "T A"] | None:
    """The actions of a decoded clip's frames, some of which are dropped or repeated where they were taken by time."""
    table = entry.reader.actions(entry.clip)
    if table is None:
        return None
    rows = np.arange(decoded.length) if decoded.numbers is None else np.array(decoded.numbers)
    if rows[-1] >= len(table):
        path = entry.clip.actions or entry.clip.path
        raise ReadError(path, f"it has {len(table)} rows for the clip's {rows[-1] + 1} frames")
    return table[rows]


def resize(
    frames: UInt8[np.ndarray, "*n h w 3"], height: int, width: int, fit: Fit = "crop"
) -> UInt8[np.ndarray, "*n H W 3"]:
    """Resize frames to height x width (bicubic, antialiased).

    "crop" takes the largest centred region of that aspect ratio, "pad" takes all and lays it on black, "stretch" takes
    all and changes its aspect ratio.
    """
    *_, h, w, _ = frames.shape
    if (h, w) == (height, width):
        return frames
    scale = max(height / h, width / w)
    rows, columns = min(max(round(height / scale), 1), h), min(max(round(width / scale), 1), w)
    if fit != "crop":
        rows, columns = h, w
    top, left = (h - rows) // 2, (w - columns) // 2
    cropped = np.array(frames[..., top : top + rows, left : left + columns, :]).reshape(-1, rows, columns, 3)
    pixels = torch.from_numpy(cropped).movedim(-1, 1)  # uint8, channels last: a fifth of the time that Pillow takes
    inner = height, width
    if fit == "pad":
        scale = min(height / h, width / w)
        inner = max(1, round(scale * h)), max(1, round(scale * w))
    resized = F.interpolate(pixels, inner, mode="bicubic", antialias=True).movedim(1, -1)
    above, before = (height - inner[0]) // 2, (width - inner[1]) // 2
    if inner != (height, width):
        resized = F.pad(resized, (0, 0, before, width - inner[1] - before, above, height - inner[0] - above))
    return np.ascontiguousarray(resized.numpy()).reshape(*frames.shape[:-3], height, width, 3)
