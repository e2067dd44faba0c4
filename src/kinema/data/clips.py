"""Sources of training batches: the worlds, and random windows of the clips in a folder."""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int64, UInt8

from kinema.conditions.audio import SAMPLE_RATE
from kinema.conditions.text import make_vocabulary
from kinema.config import CLIP_RANGES, MOST_FPS, check_ranges
from kinema.data.cache import code_digest, digest
from kinema.data.decoded import SAMPLE_BYTES, ClipCache, ClipEntry, DecodedClip, Fit, Opened
from kinema.data.folder import Skipped, clip_name, scan
from kinema.data.holdout import held_out
from kinema.data.readers.base import Clip, ClipInfo, ReadError
from kinema.data.stored import Damaged
from kinema.printable import printable
from kinema.registry import WORLDS
from kinema.runtime.memory import available_memory
from kinema.types import Batch, ClipSpec, Conditions, Progress, no_progress

__all__ = [
    "DataConfig",
    "FolderClips",
    "FolderSource",
    "NoClips",
    "Part",
    "Source",
    "open_clips",
    "open_source",
    "shuffled",
]

T = TypeVar("T")

Part = Literal["all", "training", "held out"]

PREFETCH = 64  # clips that are decoded before they are asked for
OPENED = 256  # clips whose heads are read to know the rate and the actions of all
AHEAD = 10.0  # seconds of decoding before training begins
ESTIMATE_AFTER = 0.2  # share of them after which the time for all clips is estimated


@dataclass(frozen=True)
class DataConfig:
    """What to train on, and the clips that are taken from it."""

    source: str = "shape-motion"
    """The name of a built-in world, or a folder of clips."""
    frames: int = 16
    """Frames of a training clip."""
    height: int = 64
    """Pixels."""
    width: int = 64
    """Pixels."""
    fit: Fit = "crop"
    """How frames of another shape are fitted: crop cuts at the sides, pad adds black, stretch changes the shape."""
    fps: float | None = None
    """Frames a second that videos are resampled to; None takes every frame."""
    short: Literal["hold", "skip"] = "hold"
    """Clips with fewer frames: hold the last frame of those that have at least half of them, or skip all of them."""
    label: str = "label"
    """The column of metadata with the labels; none: no labels, nor class folders."""
    camera: str = ""
    """The camera whose clips are read, of a robot's several; by default the first by name."""
    flip: bool = False
    """Mirror half of the clips at random."""
    audio: bool = False
    """Read the sound of every clip, for families that accept audio; clips without sound are skipped."""
    cache_latents: int = 0
    """Windows of clips that are encoded once and cached, for families that model a codec's latents; 0: every batch is
    new windows, encoded in the training step."""
    holdout: float = 0.1
    """Share of a folder's files that are not trained on but kept to measure with, whole groups by a patient, speaker,
    subject or group column of the metadata; none of fewer than five."""
    outside: bool = False
    """Read files outside of the folder that its metadata names."""
    cache: str | None = None
    """Folder for decoded frames and cached latents; None is $KINEMA_CACHE or ~/.cache/kinema."""

    def __post_init__(self) -> None:
        check_ranges(self, **CLIP_RANGES, fps=(1e-6, MOST_FPS), cache_latents=(0, 10**9), holdout=(0.0, 0.99))


@runtime_checkable
class Source(Protocol):
    """An endless supply of training clips, in an order that is a function of a seed."""

    spec: ClipSpec

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The clips that cannot be used."""
        ...

    @property
    def key(self) -> str:
        """A name for its clips and their conditions: sources with the same key give the same batches."""
        ...

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips of rank `rank` of `ranks` at `step`, frames uint8; a pure function of its arguments."""
        ...


def _check_memory(config: DataConfig) -> None:
    """Raise ValueError unless a clip, as bytes and in float32, fits into memory."""
    needed, room = 5 * 3 * config.frames * config.height * config.width, available_memory(torch.device("cpu"))
    if needed > room:
        raise ValueError(
            f"a clip of {config.frames} frames of {config.width}x{config.height} takes {needed / 1e9:,.1f} GB, and "
            f"{room / 1e9:,.1f} GB are free: make frames, height and width smaller"
        )


def open_source(config: DataConfig, progress: Progress = no_progress) -> Source:
    """The world, or the clips to train on of the folder, that `config.source` names; a world's name wins.

    `progress` follows the decoding of a folder.
    """
    _check_memory(config)
    return _world(config) or FolderSource(config, progress)


def open_clips(config: DataConfig, part: Part = "all") -> Source | FolderClips:
    """The same, with the clips of a folder, or those of a part of it, not decoded yet."""
    _check_memory(config)
    return _world(config) or FolderClips(config, part)


def _world(config: DataConfig) -> Source | None:
    """The world of this name; None where it is a folder, and ValueError where it is neither."""
    if config.source in WORLDS:
        if config.fps is not None or config.flip or config.audio:
            raise ValueError(f"fps, flip and audio are for folders of clips: leave them out for {config.source}")
        return WORLDS[config.source](frames=config.frames, height=config.height, width=config.width)
    if not Path(config.source).expanduser().is_dir():
        worlds = ", ".join(WORLDS.names)
        raise ValueError(f"{config.source}: no such folder, nor a built-in world, which are {worlds}")
    return None


class NoClips(ValueError):
    """No clip of a folder, or of the part of it that was asked for, can be used."""


class FolderClips:
    """A folder's clips, resized and cropped, which are decoded into the cache when they are asked for.

    `part` says which: all, those to train on, or those that `config.holdout` holds out of training. What the clips have
    in common (classes, words, actions and rate, in `spec`) is of all, whichever the part.

    Making it reads only what is known without decoding. Clips that cannot be opened, and of the decoded ones those
    that are damaged or too short, are in `skipped`. Raises NoClips where no clip can be used and ValueError where the
    cache cannot be written.
    """

    def __init__(self, config: DataConfig, part: Part = "all") -> None:
        self._scan(config, part)
        self._summarize()

    def _scan(self, config: DataConfig, part: Part) -> None:
        """Find the clips."""
        folder = scan(config.source, config.label, config.camera, config.outside)
        self.config, self.folder, self.classes, self._root = config, folder, folder.classes, folder.root
        self._skipped = [*folder.skipped]
        least = config.frames if config.short == "skip" else max(2, -(-config.frames // 2))
        size = config.height, config.width, config.fit
        self._cache = ClipCache(least, *size, config.fps, config.audio, config.cache, len(folder.clips))
        self._decoded: dict[int, DecodedClip] = {}
        self._bad: set[int] = set()  # numbers of clips that cannot be used
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(zip(folder.clips, pool.map(self._cache.entry, folder.clips), strict=True))
            entries = [(clip, entry) for clip, entry in found if isinstance(entry, ClipEntry)]
            places = np.unique(np.linspace(0, len(entries) - 1, min(OPENED, len(entries))).round().astype(int)).tolist()
            opened = dict(zip(places, pool.map(self._cache.opened, (entries[k][1] for k in places)), strict=True))
        for clip, reason in found:
            if isinstance(reason, str):
                self._skip(clip, reason)
        self._opened = [one for one in opened.values() if isinstance(one, Opened)]
        usable = [clip for number, (clip, _) in enumerate(entries) if not isinstance(opened.get(number), str)]
        held = held_out(replace(folder, clips=tuple(usable)), config.holdout)
        self._entries: list[ClipEntry] = []
        self._others: list[ClipEntry] = []  # of the other part
        for number, (clip, entry) in enumerate(entries):
            if isinstance(reason := opened.get(number), str):
                self._skip(clip, reason)
            else:
                is_held = clip_name(clip, folder.root) in held
                chosen = part == "all" or (part == "held out") == is_held
                (self._entries if chosen else self._others).append(entry)
        if not self._entries:
            raise self._no_clips()

    def _summarize(self) -> None:
        """Set what the clips have in common, `spec`, and what is the chosen ones': labels and captions."""
        config, clips, known = self.config, self.clips, [*self._entries, *self._others]
        rates = [one.fps for one in self._opened]
        self.rates = min(rates), max(rates)
        fps = float(np.median(rates))
        columns = Counter(one.actions for one in self._opened).most_common(1)[0][0]  # clips with others are skipped
        if config.flip and columns:
            raise ValueError("flip mirrors clips but not their actions: leave --data.flip out")
        if config.audio and self.mixed_rates:
            raise ValueError(
                f"{self._root}: its clips differ in frames a second: give --data.fps, or evaluate's --fps, for sound"
            )
        self._labels = [self.classes.index(clip.label) for clip in clips if clip.label is not None]
        captions = [entry.clip.caption for entry in known if entry.clip.caption is not None]
        self._captions = captions[: len(clips)] if len(captions) == len(known) else []
        # one caption for all clips tells them apart no more than none
        words = make_vocabulary(captions).words if len(captions) == len(known) and len(set(captions)) > 1 else ()
        spec = ClipSpec(config.frames, config.height, config.width, fps, self.classes)
        self.spec = replace(spec, words=words, actions=columns, audio=config.audio)

    @property
    def key(self) -> str:
        """A name for the clips and their conditions, by the contents of their files, which are all read for it."""
        return self._made_key

    @cached_property
    def _made_key(self) -> str:
        config = self.config
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            entries = list(pool.map(self._cache.key, self._entries))
        return digest(code_digest("data"), self.spec, config.fps, config.fit, config.short, config.flip, entries)

    @property
    def clips(self) -> list[Clip]:
        """The clips, by number."""
        return [entry.clip for entry in self._entries]

    @property
    def infos(self) -> list[ClipInfo]:
        """What the files of the decoded clips are."""
        return [decoded.info for decoded in self._decoded.values()]

    def decoded_bytes(self) -> float:
        """The bytes that all clips take once decoded, by those that are."""
        sizes = [math.prod(decoded.stored.shape) for decoded in self._decoded.values()]
        seconds = [decoded.length / decoded.fps for decoded in self._decoded.values()]
        sound = SAMPLE_BYTES * SAMPLE_RATE * float(np.mean(seconds or 0)) if self.config.audio else 0.0
        return len(self._entries) * (float(np.mean(sizes or 0)) + sound)

    def cache_bytes(self) -> float:
        """The bytes that the cache may take."""
        return self._cache.limit.limit_bytes()

    @property
    def mixed_rates(self) -> bool:
        """Whether clips differ in frames a second, by more than a hundredth."""
        return self.rates[1] > 1.01 * self.rates[0]

    @property
    def other_clips(self) -> list[Clip]:
        """Those that are not in this part of the folder."""
        return [entry.clip for entry in self._others]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The clips that could not be used so far, by name."""
        return tuple(sorted(self._skipped, key=lambda skipped: skipped.name))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is used of the folder and what not, and what was changed in decoded clips, a line each."""
        found: dict[str, list[tuple[str, str]]] = {}
        for number, decoded in sorted(self._decoded.items()):
            for note in decoded.notes:  # those that differ in numbers only are one
                found.setdefault(re.sub(r"\d[\d.]*", "", re.split(r":| \(", note)[0]), []).append(
                    (self.name(number), note)
                )
        of_clips = [
            f"{name}: {note}" if len(those) == 1 else f"{len(those)} clips, the first {name}: {note}"
            for those in found.values()
            for name, note in those[:1]
        ]
        return tuple(map(printable, (*self.folder.notes, *of_clips)))

    def name(self, clip: int) -> str:
        """What the clip of this number is called."""
        return clip_name(self._entries[clip].clip, self._root)

    def _skip(self, clip: Clip, reason: str) -> None:
        self._skipped.append(Skipped(clip_name(clip, self._root), reason))

    def _no_clips(self) -> NoClips:
        skipped = self.skipped
        if not skipped:
            return NoClips(f"{self._root}: no clips are in this part of it")
        first = f"{skipped[0].name}: {skipped[0].reason}"
        return NoClips(f"{self._root}: none of its {len(skipped)} clips can be used; the first is {first}")

    def decode(self, order: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Decode the clips of these numbers; yield each number with its frames, 0 where the clip cannot be used.

        The next PREFETCH are decoded meanwhile, in parallel. Raises ValueError at the end if none can be used.
        """
        pending: deque[tuple[int, Future[DecodedClip | str]]] = deque()
        order, decode = iter(order), self._cache.decode
        try:
            while True:
                numbers = islice(order, PREFETCH - len(pending))
                # threads that stay: one that collects a generator, which may be any, must not wait for their end
                pending += [(clip, _background().submit(decode, self._entries[clip])) for clip in numbers]
                if not pending:
                    break
                clip, future = pending.popleft()
                found = future.result()
                yield clip, self._keep(clip, found)
        except GeneratorExit:  # which may come where no thread can be waited for
            raise
        except BaseException:
            wait([future for _, future in pending if not future.cancel()])
            raise
        finally:
            for _, future in pending:
                future.cancel()
        if not self._decoded:
            raise self._no_clips()

    def _keep(self, clip: int, found: DecodedClip | str) -> int:
        """Note the clip of a number as decoded, or skipped and why; returns its frames, 0 where it cannot be used."""
        if isinstance(found, DecodedClip):
            columns = 0 if found.actions is None else found.actions.shape[1]
            if columns == self.spec.actions:
                self._decoded[clip] = found
                return found.length
            found = f"it has actions of {columns} numbers a frame, and others of {self.spec.actions}"
        self._decoded.pop(clip, None)
        if clip not in self._bad:
            self._bad.add(clip)
            self._skip(self._entries[clip].clip, found)
        return 0

    def content(self, clip: int) -> str:
        """A hash of the file of the clip of this number."""
        return self._cache.content(self._entries[clip])

    def frames(self, clip: int) -> UInt8[np.ndarray, "T H W 3"]:
        """All frames of a decoded clip."""
        return self._read(clip, lambda decoded: decoded.read(0, decoded.length))

    def _read(self, clip: int, read: Callable[[DecodedClip], T]) -> T:
        """What `read` reads of a decoded clip, which is decoded again where the cache lost or damaged it.

        Raises ReadError where it cannot be decoded any longer, and Damaged where that is of no use.
        """
        damaged = False
        while True:
            try:
                self._decoded[clip].touch()
                return read(self._decoded[clip])
            except FileNotFoundError:
                pass
            except Damaged:
                if damaged:  # again, as on a disk that fails
                    raise
                damaged = True
                self._cache.remove(self._entries[clip])
            found = self._cache.decode(self._entries[clip])
            if not self._keep(clip, found):
                reason = f"it was read before, and cannot be now: {found}"
                raise ReadError(self._entries[clip].clip.path, reason)

    def read(self, windows: Sequence[tuple[int, int]], flips: Bool[np.ndarray, " size"] | None = None) -> Batch:
        """Windows given by the number of a decoded clip and the first frame, mirrored where `flips` is true.

        Frames uint8 [size, T, 3, H, W]; labels int64 where the folder has classes, texts where every clip has a
        caption, actions [size, T, A] where it has some, and sound [size, samples] at SAMPLE_RATE if `config.audio`.
        """
        config, size = self.config, len(windows)
        frames = np.empty((size, config.frames, 3, config.height, config.width), np.uint8)
        actions, audio = [], []
        for row, (clip, begin) in enumerate(windows):
            window = self._read(clip, lambda decoded, begin=begin: decoded.read(begin, config.frames))
            decoded = self._decoded[clip]
            flipped = flips is not None and flips[row]
            frames[row] = rearrange(window[:, :, ::-1] if flipped else window, "t h w c -> t c h w")
            if decoded.actions is not None:
                rows = np.minimum(np.arange(begin, begin + config.frames), decoded.length - 1)
                actions.append(decoded.actions[rows])
            if self.spec.audio and self.spec.fps is not None:
                second, seconds = begin / self.spec.fps, config.frames / self.spec.fps
                audio.append(self._read(clip, lambda decoded, at=(second, seconds): decoded.audio(*at)))
        clips = [clip for clip, _ in windows]
        conditions = Conditions(
            text=tuple(self._captions[clip] for clip in clips) if self._captions else None,
            label=torch.tensor([self._labels[clip] for clip in clips]) if self._labels else None,
            audio=torch.from_numpy(np.stack(audio)) if audio else None,
            actions=torch.from_numpy(np.stack(actions)) if actions else None,
        )
        return Batch(torch.from_numpy(frames), conditions)


class FolderSource(FolderClips):
    """A folder's clips to train on, that gives windows of `config.frames` frames.

    Those that `config.holdout` holds out are left out. Clips are decoded now where that takes `AHEAD` seconds at most,
    which `progress` follows, and otherwise when they are asked for and a little before. In place of one that cannot be
    used comes the next that can, so that batches do not depend on what was decoded when.
    """

    def __init__(self, config: DataConfig, progress: Progress = no_progress) -> None:
        super().__init__(config, "training")
        self._lock, self._pending = Lock(), dict[int, Future[DecodedClip | str]]()
        self.decode_all(progress, AHEAD)

    def decode_all(self, progress: Progress = no_progress, seconds: float = float("inf")) -> None:
        """Decode the clips that are not decoded yet; stop once it is plain that all take longer than `seconds`."""
        begun = time.monotonic()
        left = [clip for clip in range(len(self._entries)) if clip not in self._decoded and clip not in self._bad]
        for done, _ in enumerate(self.decode(left), 1):
            progress(len(self._entries) - len(left) + done, len(self._entries))
            taken = time.monotonic() - begun
            if taken > seconds or (taken > seconds * ESTIMATE_AFTER and taken * len(left) > done * seconds):
                return

    @property
    def usable(self) -> int:
        """The clips less those that were found to be bad so far."""
        return len(self._entries) - len(self._bad)

    @property
    def lengths(self) -> list[int]:
        """The frames of each clip that is decoded."""
        return [self._decoded[clip].length for clip in sorted(self._decoded)]

    @property
    def padded(self) -> int:
        """Decoded clips that are shorter than `config.frames`, whose last frame is repeated."""
        return sum(length < self.config.frames for length in self.lengths)

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """Windows of `size` clips, each from anywhere in its clip; in an epoch each clip comes once.

        As of `read`; a pure function of its arguments while the files stay as they are. Raises NoClips where no clip
        can be used.
        """
        flips = np.random.default_rng((seed, 2, step, rank)).random(size) < 0.5
        while True:
            windows = self.chosen(step, size, seed=seed, rank=rank, ranks=ranks)
            with suppress(ReadError):  # of a file that is gone, in whose place the next one is chosen
                return self.read(windows, flips if self.config.flip else None)

    def chosen(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> list[tuple[int, int]]:
        """The windows of a batch: the number of each clip, which is decoded, and the first frame."""
        first = (step * ranks + rank) * size
        coming = shuffled(len(self._entries), first, 2 * size, seed)
        with self._lock:
            self._request(coming)
            clips = [self._first_usable(clip) for clip in coming[:size]]
        # The 1 sets this stream apart from the order's 0: numpy takes (seed, 3) and (seed, 3, 0) for one seed.
        places = np.random.default_rng((seed, 1, step, rank)).random(size)
        windows = []
        for clip, place in zip(clips, places, strict=True):
            starts = max(1, self._decoded[clip].length - self.config.frames + 1)
            windows.append((clip, int(place * starts)))
        return windows

    def _request(self, clips: Sequence[int]) -> None:
        """Have clips decoded in the background."""
        for clip in clips:
            if not self._is_there(clip) and clip not in self._bad and clip not in self._pending:
                self._pending[clip] = _background().submit(self._cache.decode, self._entries[clip])

    def _is_there(self, clip: int) -> bool:
        """Whether a clip is decoded, and still in the cache."""
        return clip in self._decoded and self._decoded[clip].stored.path.exists()

    def _first_usable(self, clip: int) -> int:
        """The number of this clip, or else of the next that can be used; it is decoded."""
        while True:
            if clip in self._pending:
                self._keep(clip, self._pending.pop(clip).result())
            if clip in self._decoded:  # if the cache had no room for it, it is decoded again where it is read
                return clip
            if len(self._bad) == len(self._entries):
                raise self._no_clips()
            if clip in self._bad:
                clip = (clip + 1) % len(self._entries)
            else:
                self._request([clip])


@cache
def _background() -> ThreadPoolExecutor:
    """The threads that decode while training goes on; a process that is forked has its own."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_background.cache_clear)
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kinema-decode")


def shuffled(count: int, first: int, size: int, seed: int) -> list[int]:
    """Entries `first` to `first + size` of an endless sequence of permutations of `count` numbers, one an epoch."""
    numbers = []
    while size > len(numbers):
        epoch, begin = divmod(first + len(numbers), count)
        numbers += _permutation(count, seed, epoch)[begin : begin + size - len(numbers)].tolist()
    return numbers


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(count: int, seed: int, epoch: int) -> Int64[np.ndarray, " count"]:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)
