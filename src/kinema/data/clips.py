"""Sources of training batches: windows cut at random from a folder of clips, each decoded once into a cache."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float32, UInt8

from kinema.conditions.audio import RATE
from kinema.conditions.text import vocabulary
from kinema.data.actions import read_actions
from kinema.data.cache import cache_folder, digest, whole, write_header
from kinema.data.folder import ClipFile, Skipped, scan
from kinema.data.video import VideoError, frame_rate, read_audio, read_frames
from kinema.family import Facts
from kinema.types import Batch, Conditions
from kinema.worlds import WORLDS

__all__ = ["DataConfig", "FolderSource", "Progress", "Source", "fit", "open_source", "shuffled"]

SOUND = 32767  # of a sample at full volume, as it is kept
AT_ONCE = 16  # frames that are resized
CACHE_VERSION = 2  # part of every key: raise it when the same file would give other frames

Progress = Callable[[int, int], None]  # called with how many are done, and of how many


@dataclass(frozen=True)
class DataConfig:
    """What to train on, and how clips are cut from it."""

    source: str = "shape-motion"
    """The name of an embedded world, or a folder of clips."""
    frames: int = 16
    """Frames of a training clip."""
    height: int = 64
    """Pixels; frames are resized to cover height x width and cropped at the centre."""
    width: int = 64
    """Pixels."""
    fps: float | None = None
    """Frames a second that videos are resampled to; None takes every frame as it is."""
    flip: bool = False
    """Mirror half of the clips, chosen at random."""
    audio: bool = False
    """Take the sound of every clip along, for families that listen; clips without sound are skipped."""
    latents: int = 0
    """Windows of clips that are encoded once and kept on disk, for families that work on a codec's latents; 0: every
    batch is drawn from all clips and encoded anew."""
    cache: str | None = None
    """Folder for decoded frames and kept latents; None is $KINEMA_CACHE or ~/.cache/kinema."""

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.latents < 0:
            raise ValueError(f"latents is {self.latents}: it must be 0 or more")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps is {self.fps:g}: it must be above 0")


@runtime_checkable
class Source(Protocol):
    """Training clips without end, in an order that a seed fixes."""

    facts: Facts
    skipped: tuple[Skipped, ...]

    @property
    def key(self) -> str:
        """A name for the clips that it gives and what it says of them: of the same name are the same."""
        ...

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips that process `rank` of `ranks` learns from at `step`: a pure function of its arguments."""
        ...


def open_source(config: DataConfig, progress: Progress | None = None) -> Source:
    """The world or the folder of clips that `config.source` names; a world's name wins over a folder's."""
    if config.source in WORLDS:
        if config.fps is not None or config.flip or config.audio:
            raise ValueError(f"fps, flip and audio are for folders of clips: the world {config.source} decides them")
        return WORLDS[config.source](frames=config.frames, height=config.height, width=config.width)
    if not Path(config.source).expanduser().is_dir():
        worlds = ", ".join(sorted(WORLDS))
        raise ValueError(f"{config.source}: no such folder, nor one of the embedded worlds, which are {worlds}")
    return FolderSource(config, progress)


class FolderSource:
    """A folder of clips, resized and cropped, from whose every file windows of `config.frames` frames are cut.

    The first use decodes each file into the cache, which later ones read; `progress` follows it. Files that cannot
    be read or are too short are listed in `skipped`. Raises ValueError where no file can be used or the cache
    cannot be written.
    """

    def __init__(self, config: DataConfig, progress: Progress | None = None) -> None:
        folder = scan(config.source)
        cache = _Cache(config, len(folder.clips))
        skipped = list(folder.skipped)
        self.clips: list[ClipFile] = []
        self._decoded: list[_Decoded] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, (clip, decoded) in enumerate(
                zip(folder.clips, pool.map(cache.get, folder.clips), strict=True), 1
            ):
                if isinstance(decoded, _Decoded):
                    self.clips.append(clip)
                    self._decoded.append(decoded)
                else:
                    skipped.append(Skipped(Path(os.path.relpath(clip.path, folder.root)).as_posix(), decoded))
                if progress:
                    progress(done, len(folder.clips))
        self.skipped = tuple(skipped)
        if not self.clips:
            first = f"{skipped[0].name}: {skipped[0].reason}"
            raise ValueError(f"{folder.root}: none of its {len(skipped)} clips can be used; the first is {first}")

        rates = [decoded.fps for decoded in self._decoded]
        fps = float(np.median(rates)) if max(rates) <= 1.01 * min(rates) else None
        columns = {0 if decoded.actions is None else decoded.actions.shape[1] for decoded in self._decoded}
        if len(columns) > 1:
            raise ValueError(f"{folder.root}: its actions have {sorted(columns)} numbers a frame: give all as many")
        if config.flip and columns != {0}:
            raise ValueError("flip mirrors clips but not what was done in them: leave it out where there are actions")
        if config.audio and fps is None:
            raise ValueError(
                f"{folder.root}: its clips differ in frames a second: give --data.fps, or evaluate's --fps, for sound"
            )
        self.config = config
        self._labels = [folder.classes.index(clip.label) for clip in self.clips if clip.label is not None]
        captions = [clip.caption for clip in self.clips if clip.caption is not None]
        self._captions = captions if len(captions) == len(self.clips) else []
        told = vocabulary(captions).words if len(set(self._captions)) > 1 else ()  # what is said of all tells nothing
        facts = Facts(config.frames, config.height, config.width, fps, folder.classes)
        self.facts = replace(facts, words=told, actions=columns.pop(), audio=config.audio)
        known = [(decoded.content, c.label, c.caption) for decoded, c in zip(self._decoded, self.clips, strict=True)]
        done = [None if decoded.actions is None else decoded.actions.tobytes() for decoded in self._decoded]
        self.key = digest(
            CACHE_VERSION, self.facts, config.fps, config.flip, known, *(done if self.facts.actions else ())
        )

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """Windows of `size` clips, each starting anywhere in its clip, all clips once before any comes again.

        A pure function of its arguments. Frames float32 [size, T, 3, H, W] in [-1, 1]; labels int64 where the folder
        has classes, texts where every clip has a caption, actions [size, T, A] where it has some, and sound at RATE
        [size, samples] if `config.audio`.
        """
        config, first = self.config, (step * ranks + rank) * size
        chosen = shuffled(len(self.clips), first, size, seed)
        # The 1 sets this stream apart from the order's 0: numpy takes (seed, 3) and (seed, 3, 0) for one seed.
        random = np.random.default_rng((seed, 1, step, rank))
        starts, flips = random.random(size), random.random(size) < 0.5
        begins = [
            int(start * (self._decoded[c].shape[0] - config.frames + 1))
            for c, start in zip(chosen, starts, strict=True)
        ]
        return self.read(list(zip(chosen, begins, strict=True)), flips if config.flip else None)

    def content(self, clip: int) -> str:
        """A hash of the file of the clip of this number."""
        return self._decoded[clip].content

    @property
    def windows(self) -> list[tuple[int, int]]:
        """The number of its clip and the first frame of every window, those of a clip one after the other."""
        step = self.config.frames
        return [(c, n * step) for c, decoded in enumerate(self._decoded) for n in range(decoded.shape[0] // step)]

    def read(self, windows: Sequence[tuple[int, int]], flips: Bool[np.ndarray, " size"] | None = None) -> Batch:
        """The windows that begin at these frames of clips of these numbers, mirrored where `flips` says so."""
        config, size = self.config, len(windows)
        frames = np.empty((size, config.frames, 3, config.height, config.width), np.uint8)
        actions, sounds = [], []
        for place, (clip, begin) in enumerate(windows):
            decoded = self._decoded[clip]
            cut = decoded.read(begin, config.frames)
            mirrored = flips is not None and flips[place]
            frames[place] = rearrange(cut[:, :, ::-1] if mirrored else cut, "t h w c -> t c h w")
            if decoded.actions is not None:
                actions.append(decoded.actions[begin : begin + config.frames])
            if self.facts.audio and self.facts.fps:
                sounds.append(decoded.sound(begin / self.facts.fps, config.frames / self.facts.fps))
        clips = [clip for clip, _ in windows]
        return Batch(
            torch.from_numpy(frames).float().div_(127.5).sub_(1),
            Conditions(
                text=tuple(self._captions[clip] for clip in clips) if self._captions else None,
                label=torch.tensor([self._labels[clip] for clip in clips]) if self._labels else None,
                audio=torch.from_numpy(np.stack(sounds)) if sounds else None,
                actions=torch.from_numpy(np.stack(actions)) if actions else None,
            ),
        )


def shuffled(count: int, first: int, size: int, seed: int) -> list[int]:
    """Entries `first` to `first + size` of an endless row of permutations of `count` numbers, one an epoch."""
    epochs = range(first // count, (first + size - 1) // count + 1)
    row = np.concatenate([np.random.default_rng((seed, 0, epoch)).permutation(count) for epoch in epochs])
    return row[first % count :][:size].tolist()


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A clip's frames on disk."""

    path: Path
    offset: int  # bytes before the first frame
    shape: tuple[int, int, int, int]  # T H W 3
    fps: float
    content: str  # a hash of the file
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


class _Cache:
    """Decoded, resized and cropped clips: one .npy of uint8 [T, H, W, 3] each, beside it a .json with the rest."""

    def __init__(self, config: DataConfig, clips: int) -> None:
        self.config, self.threads = config, int(clips >= (os.cpu_count() or 1))  # of a decoder; 0 is one a core
        self.folder = cache_folder(config.cache, "clips")

    def get(self, clip: ClipFile) -> _Decoded | str:
        """The clip, decoded now if the cache does not hold it, or the reason why it cannot be used."""
        config = self.config
        try:
            stat = clip.path.stat()
        except OSError as error:
            return str(error.strerror)
        identity = (str(clip.path.resolve()), stat.st_size, stat.st_mtime_ns, config.height, config.width, config.fps)
        path = self.folder / f"{digest(CACHE_VERSION, *identity)}.npy"
        decoded = self._find(path)
        if decoded is None:
            try:
                self._fill(path, clip.path)
            except VideoError as error:
                return error.reason
            decoded = self._find(path)
            assert decoded is not None, path
        frames = decoded.shape[0]
        if frames < config.frames:
            return f"{frames} frame{'s' * (frames > 1)} at {decoded.fps:.4g} fps, {config.frames} are needed"
        try:
            if config.audio:
                self._keep_sound(path.with_suffix(".sound.npy"), clip.path)
            return decoded if clip.actions is None else replace(decoded, actions=_actions(clip, frames, config.fps))
        except VideoError as error:
            return error.reason if error.path == clip.path else str(error)

    def _keep_sound(self, path: Path, clip: Path) -> None:
        if not path.exists():
            sound = np.round(SOUND * read_audio(clip, RATE)).astype(np.int16)
            with whole(path) as file:
                np.save(file, sound)

    def _find(self, path: Path) -> _Decoded | None:
        """What is in the cache at `path`; None where there is nothing or not all of it."""
        try:
            frames = np.load(path, mmap_mode="r")  # raises where the file is shorter than its header says
            beside = json.loads(path.with_suffix(".json").read_text())
            return _Decoded(path, frames.offset, frames.shape, beside["fps"], beside["content"])
        except (OSError, ValueError, EOFError, KeyError):
            return None

    def _fill(self, path: Path, clip: Path) -> None:
        config = self.config
        decoded = read_frames(clip, fps=config.fps, threads=self.threads)
        with whole(path) as file:
            count = 0
            write_header(file, "|u1", (count, config.height, config.width, 3))
            for _, alike in groupby(decoded, np.shape):
                while some := list(islice(alike, AT_ONCE)):
                    file.write(fit(np.stack(some), config.height, config.width).tobytes())
                    count += len(some)
            file.seek(0)  # the clip's length is known at its end only
            write_header(file, "|u1", (count, config.height, config.width, 3))
            with clip.open("rb") as bytes_of:
                content = hashlib.file_digest(bytes_of, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            beside = {"fps": config.fps or frame_rate(clip), "content": content}
            path.with_suffix(".json").write_text(json.dumps(beside))


def _actions(clip: ClipFile, frames: int, fps: float | None) -> Float32[np.ndarray, "T A"]:
    """The actions of a clip's frames, of which a rate of its own shows some again or not at all."""
    assert clip.actions is not None
    table = read_actions(clip.actions)
    shown = np.arange(frames) if fps is None else (np.arange(frames) * frame_rate(clip.path) / fps + 1e-3).astype(int)
    if shown[-1] >= len(table):
        raise VideoError(clip.actions, f"it has {len(table)} rows for the clip's {shown[-1] + 1} frames")
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
