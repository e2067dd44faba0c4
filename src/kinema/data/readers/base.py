"""The contract of readers, the clips that they read, and the reader of a file."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from kinema.data.limits import most_frames, most_pixels
from kinema.data.readers.actions import read_actions
from kinema.data.readers.errors import ReadError
from kinema.registry import READERS
from kinema.runtime.memory import available_memory

__all__ = [
    "MAX_FRAME_SECONDS",
    "NOMINAL_FPS",
    "Clip",
    "ClipInfo",
    "DecodeFrame",
    "ReadError",
    "Reader",
    "by_rows",
    "check_pixels",
    "clip_info",
    "find_reader",
    "over_black",
    "probe",
    "read_audio",
    "read_frames",
    "registered_readers",
    "select_frames",
]

T = TypeVar("T")

DecodeFrame = Callable[[], UInt8[np.ndarray, "H W 3"]]  # gives a frame as upright RGB

NOMINAL_FPS = 25.0  # frames a second of what states no rate
PIXEL_BYTES = 90  # of memory that decoding takes for each pixel, at most: H.264 with 16 frames that others refer to
LEAST_CHECKED = 2**27  # bytes
RATES = 1e-6, 1e6  # frames a second, at least and at most
MAX_FRAME_SECONDS = 2.0  # seconds that a frame is shown at most, where frames are taken by their time
ROUNDED = 6e-3  # seconds that a frame may come late where frames are taken by time, as a GIF rounds to hundredths
EARLY = 0.25  # of an interval; the same where frames are many
BLOCK = 2**20  # pixels that are converted at once
TOLERANCE = 1e-3  # seconds; Matroska and FLV round time stamps to the millisecond, so a frame may come this much late


@dataclass(frozen=True, slots=True)
class Clip:
    """A stretch of something that can be read, and what is known about it."""

    path: Path  # a file, or a folder that a reader takes for one clip
    member: str = ""  # the name of one of several clips in `path`
    start: float = 0.0  # seconds from the recording's first frame
    stop: float | None = None  # seconds from the recording's first frame; None: its end
    fps: float | None = None  # frames a second, where what the file says is wrong or missing
    label: str | None = None
    caption: str | None = None
    camera: str = ""  # what filmed it, where there are clips of several cameras in `path`
    actions: Path | None = None  # where a row of numbers for each frame is, a .npy or .csv or what its reader reads
    split: str | None = None  # such as train or test
    group: str | None = None  # what clips have in common that must not be both trained on and held out, as a patient


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What can be known of a clip without decoding all of it."""

    width: int  # pixels, of the upright picture
    height: int
    fps: float  # average frames a second
    sample_rate: int | None  # samples a second; None: there is no audio track
    frames: int | None = None  # None: only decoding tells
    seconds: float | None = None  # that the header states; None: it states none


class Reader(ABC):
    """Reads the clips in one kind of file; the registry READERS holds classes that are made without arguments.

    All methods raise ReadError where a clip cannot be read, `frames` at the latest after the last good frame.
    """

    suffixes: frozenset[str]  # of its files, in lower case with the dot
    states_rate: bool = True  # whether its files say their frames a second
    groups_are: str = "group"  # what `Clip.group` is, where the reader gives one

    def can_read(self, path: Path) -> bool:
        """Whether a folder's file, or a subfolder, is this reader's; it is not opened."""
        return path.suffix.lower() in self.suffixes and not path.is_dir()

    def clips(self, path: Path) -> Sequence[Clip]:
        """The clips in a file: one, which is all of it, or several, each with a `member` of its own."""
        return (Clip(path),)

    def version(self, clip: Clip) -> Hashable:
        """What differs once the files that a clip is read from were changed: their sizes and times."""
        stat = clip.path.stat()
        return stat.st_size, stat.st_mtime_ns

    def fingerprint(self, clip: Clip) -> str:
        """A hash of the contents that a clip is read from."""
        with clip.path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    @abstractmethod
    def info(self, clip: Clip) -> ClipInfo:
        """What can be known of a clip without decoding all of it."""

    @abstractmethod
    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the start and the duration in seconds, and the picture, of all frames in the file or member.

        Seconds are from the first frame's start, and starts grow. Those before the clip's start may be left out, but
        not where it has an `fps`, by which they are counted. `threads` are those of a decoder, 0 being one a core: for
        files that are read side by side 1 is faster.
        """

    def frames(self, clip: Clip, fps: float | None = None, threads: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the frames of a clip as upright RGB; `select_frames` says which of them."""
        for _, frame in self.numbered(clip, fps, threads):
            yield frame

    def numbered(
        self, clip: Clip, fps: float | None = None, threads: int = 0
    ) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
        """Yield the same frames, each with its number among all frames of the clip; raises ReadError for too many."""
        known, frame, most = -1, None, most_frames()
        timed: Iterable[tuple[float, float, DecodeFrame]] = self.recording(clip, threads)
        if clip.fps is not None:
            timed = ((k / clip.fps, 1 / clip.fps, picture) for k, (_, _, picture) in enumerate(timed))
        for count, (number, picture) in enumerate(select_frames(timed, clip, fps)):
            if count == most:
                raise ReadError(clip.path, f"it has over {most} frames: cut it, or set $KINEMA_MOST_FRAMES higher")
            if number != known or frame is None:  # not shown again
                try:
                    known, frame = number, picture()
                except ReadError as error:  # of a video inside another file
                    raise ReadError(clip.path, error.reason) from error
            yield number, frame

    def actions(self, clip: Clip) -> Float32[np.ndarray, "T A"] | None:
        """The actions of a clip, where it has some: row k is that of frame k of the clip, before any resampling."""
        return None if clip.actions is None else read_actions(clip.actions)

    def notes(self, clip: Clip) -> list[str]:
        """What a person should know of how a clip is read, in plain words; all of its time stamps may be read."""
        return []

    def audio(self, clip: Clip, rate: int) -> Float32[np.ndarray, " samples"]:
        """The sound of a clip, mono in [-1, 1] at `rate` samples a second, from its first frame on."""
        raise ReadError(clip.path, "there is no audio track in it")


def registered_readers() -> list[Reader]:
    """A reader of each registered kind."""
    readers = []
    for name in READERS.names:
        try:
            readers.append(READERS[name]())
        except ValueError as error:  # another package's: the others still read
            warnings.warn(str(error), stacklevel=2)
    return readers


def find_reader(path: Path) -> Reader:
    """The first registered reader that can read `path`, or else FFmpeg's, which looks at the contents."""
    return next((reader for reader in registered_readers() if reader.can_read(path)), None) or READERS["video"]()


def select_frames(timed: Iterable[tuple[float, float, T]], clip: Clip, fps: float | None) -> Iterator[tuple[int, T]]:
    """Of a recording's frames with their start and duration in seconds, yield those of the clip, numbered from 0.

    They are those that start in the clip's stretch. With `fps` None each comes once. Otherwise the one that is shown
    k / `fps` seconds after the clip's start comes k-th, so that frames are dropped or repeated; a frame that lasts
    longer than `MAX_FRAME_SECONDS` seconds is taken to last as long, and time goes on with the next.
    """
    if fps is not None and fps <= 0:
        raise ValueError(f"fps is {fps:g}: it must be above 0")
    stop, late = float("inf") if clip.stop is None else clip.stop, 0.0 if fps is None else min(ROUNDED, EARLY / fps)
    count, number, origin, begin, end, shown = 0, -1, clip.start, 0.0, 0.0, None
    for start, seconds, frame in timed:
        if start >= stop - TOLERANCE:
            break
        if start < clip.start - TOLERANCE:
            continue
        if fps is None:
            number += 1
            yield number, frame
            continue
        if shown is not None:
            origin += max(0.0, start - origin - begin - MAX_FRAME_SECONDS)  # the rest of a pause is left out
        begin = start - origin
        while shown is not None and count / fps < begin - late:
            yield number, shown
            count += 1
        number, shown, end = number + 1, frame, begin + min(seconds, stop - start, MAX_FRAME_SECONDS)
    while fps is not None and shown is not None and (count == 0 or count / fps < end - late):
        yield number, shown
        count += 1


def check_pixels(path: Path, width: int, height: int) -> None:
    """Raise ReadError, before they are decoded, for pictures of more pixels than `most_pixels` or than memory holds.

    Memory is what is free on the machine, or what `ulimit -v` leaves.
    """
    if width * height > (most := most_pixels()):
        large = f"its pictures of {width}x{height} have over {most} pixels"
        raise ReadError(path, f"{large}: make them smaller, or set $KINEMA_MOST_PIXELS higher")
    if (needed := PIXEL_BYTES * width * height) > LEAST_CHECKED:
        free = available_memory(torch.device("cpu"))
        if needed > free:
            large = f"to decode pictures of {width}x{height} may take {needed / 1e9:.1f} GB"
            raise ReadError(path, f"{large}, and {free / 1e9:.1f} GB are free: make them smaller, or free memory")


def over_black(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    """Pixels with an alpha channel, blended over black."""
    out = np.ascontiguousarray(rgba[..., :3])
    if rgba[..., 3].min() == 255:
        return out
    return by_rows(_blended, rgba)


def _blended(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    wide = rgba.astype(np.uint16)
    return ((wide[..., :3] * wide[..., 3:] + 127) // 255).astype(np.uint8)


def by_rows(convert: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """What `convert` makes of an image [H, W, ...], some rows at once: of all, wider numbers may take gigabytes."""
    step = max(1, BLOCK // max(1, image.shape[1]))
    if len(image) <= step:
        return convert(image)
    return np.concatenate([convert(image[top : top + step]) for top in range(0, len(image), step)])


def read_frames(path: str | Path, *, fps: float | None = None) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield the frames of a file as upright RGB, at its own rate or at `fps`; raises ReadError where it is bad."""
    path = Path(path)
    reader = find_reader(path)
    yield from reader.frames(next(iter(reader.clips(path)), Clip(path)), fps)


def read_audio(path: str | Path, rate: int, seconds: float | None = None) -> Float32[np.ndarray, " samples"]:
    """The sound of a file, or of its first `seconds`, mono in [-1, 1] at `rate` samples a second.

    Raises ReadError where there is none.
    """
    path = Path(path)
    return find_reader(path).audio(Clip(path, stop=seconds), rate)


def clip_info(clip: Clip) -> ClipInfo:
    """What can be known of a clip without decoding all of it, at the rate of `Clip.fps` where it has one.

    Raises ReadError where it cannot be read.
    """
    try:
        info = find_reader(clip.path).info(clip)
    except OSError as error:
        raise ReadError(clip.path, str(error.strerror or error)) from error
    if not RATES[0] <= (clip.fps or info.fps) <= RATES[1]:
        raise ReadError(clip.path, f"{clip.fps or info.fps:g} frames a second cannot be right")
    if clip.fps is None:
        return info
    seconds = None if info.seconds is None else info.seconds * info.fps / clip.fps
    return replace(info, fps=clip.fps, seconds=seconds)


def probe(clip: Clip) -> ClipInfo:
    """What a clip holds, its frames counted by decoding all of them; raises ReadError where it is bad."""
    return replace(clip_info(clip), frames=sum(1 for _ in find_reader(clip.path).frames(clip)))
