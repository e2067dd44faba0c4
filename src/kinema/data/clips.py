"""Sources of training batches: windows cut at random from a folder of clips, each decoded once into a cache."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool

from kinema.conditions.text import vocabulary
from kinema.data.cache import digest
from kinema.data.decoded import CACHE_VERSION, ClipCache, Decoded, Listed
from kinema.data.folder import ClipFile, Skipped, scan
from kinema.family import Facts
from kinema.types import Batch, Conditions
from kinema.worlds import WORLDS

__all__ = ["DataConfig", "FolderClips", "FolderSource", "Progress", "Source", "open_clips", "open_source", "shuffled"]

AHEAD = 64  # files that are decoded before they are asked for

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

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The files that are left out."""
        ...

    @property
    def key(self) -> str:
        """A name for the clips that it gives and what it says of them: of the same name are the same."""
        ...

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips that process `rank` of `ranks` learns from at `step`: a pure function of its arguments."""
        ...


def open_source(config: DataConfig, progress: Progress | None = None) -> Source:
    """The world or the folder of clips that `config.source` names; a world's name wins over a folder's."""
    return _world(config) or FolderSource(config, progress)


def open_clips(config: DataConfig) -> Source | FolderClips:
    """The same, the files of a folder not decoded yet."""
    return _world(config) or FolderClips(config)


def _world(config: DataConfig) -> Source | None:
    """The world that is named; raises ValueError for no world's name and no folder's."""
    if config.source in WORLDS:
        if config.fps is not None or config.flip or config.audio:
            raise ValueError(f"fps, flip and audio are for folders of clips: the world {config.source} decides them")
        return WORLDS[config.source](frames=config.frames, height=config.height, width=config.width)
    if not Path(config.source).expanduser().is_dir():
        worlds = ", ".join(sorted(WORLDS))
        raise ValueError(f"{config.source}: no such folder, nor one of the embedded worlds, which are {worlds}")
    return None


class FolderClips:
    """A folder's clips, resized and cropped, that are decoded when they are asked for, into the cache.

    Only what can be known without it is read at once. Files that cannot be opened, and of the decoded ones those that
    are damaged or too short, are in `skipped`. Raises ValueError where no file can be used or the cache cannot be
    written.
    """

    def __init__(self, config: DataConfig) -> None:
        self._list(config)
        self._describe()

    def _list(self, config: DataConfig) -> None:
        """Find the files."""
        folder = scan(config.source)
        self.config, self.classes, self._root, self._skipped = config, folder.classes, folder.root, [*folder.skipped]
        size = config.frames, config.height, config.width
        self._cache = ClipCache(*size, config.fps, config.audio, config.cache, len(folder.clips))
        self._listed: list[Listed] = []
        self._decoded: dict[int, Decoded] = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for clip, found in zip(folder.clips, pool.map(self._cache.list, folder.clips), strict=True):
                if isinstance(found, Listed):
                    self._listed.append(found)
                else:
                    self._skip(clip, found)
        if not self._listed:
            raise self._nothing()

    def _describe(self) -> None:
        """Say what the clips have in common."""
        config, clips = self.config, self.clips
        rates = [listed.fps for listed in self._listed]
        fps = float(np.median(rates)) if max(rates) <= 1.01 * min(rates) else None
        columns = {0 if listed.actions is None else listed.actions.shape[1] for listed in self._listed}
        if len(columns) > 1:
            raise ValueError(f"{self._root}: its actions have {sorted(columns)} numbers a frame: give all as many")
        if config.flip and columns != {0}:
            raise ValueError("flip mirrors clips but not what was done in them: leave it out where there are actions")
        if config.audio and fps is None:
            raise ValueError(
                f"{self._root}: its clips differ in frames a second: give --data.fps, or evaluate's --fps, for sound"
            )
        self._labels = [self.classes.index(clip.label) for clip in clips if clip.label is not None]
        captions = [clip.caption for clip in clips if clip.caption is not None]
        self._captions = captions if len(captions) == len(clips) else []
        told = vocabulary(captions).words if len(set(self._captions)) > 1 else ()  # what is said of all tells nothing
        facts = Facts(config.frames, config.height, config.width, fps, self.classes)
        self.facts = replace(facts, words=told, actions=columns.pop(), audio=config.audio)
        known = [(listed.content, listed.file.label, listed.file.caption) for listed in self._listed]
        done = [listed.actions.tobytes() for listed in self._listed if listed.actions is not None]
        self.key = digest(CACHE_VERSION, self.facts, config.fps, config.flip, known, *done)

    @property
    def clips(self) -> list[ClipFile]:
        """The files, by number."""
        return [listed.file for listed in self._listed]

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Those that were left out until now, by name."""
        return tuple(sorted(self._skipped, key=lambda left: left.name))

    def _skip(self, clip: ClipFile, reason: str) -> None:
        self._skipped.append(Skipped(Path(os.path.relpath(clip.path, self._root)).as_posix(), reason))

    def _nothing(self) -> ValueError:
        skipped = self.skipped
        first = f"{skipped[0].name}: {skipped[0].reason}"
        return ValueError(f"{self._root}: none of its {len(skipped)} clips can be used; the first is {first}")

    def decode(self, order: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Yield the numbers of clips and how many frames each has, decoded by then, or 0 where it cannot be used.

        Meanwhile the next AHEAD are decoded, side by side. Raises ValueError at the end if none can be used.
        """
        coming: deque[tuple[int, Future[Decoded | str]]] = deque()
        order = iter(order)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            try:
                while True:
                    some = islice(order, AHEAD - len(coming))
                    coming += [(clip, pool.submit(self._cache.get, self._listed[clip])) for clip in some]
                    if not coming:
                        break
                    clip, future = coming.popleft()
                    found = future.result()
                    if isinstance(found, Decoded):
                        self._decoded[clip] = found
                        yield clip, found.shape[0]
                    else:
                        self._skip(self._listed[clip].file, found)
                        yield clip, 0
            finally:
                for _, future in coming:
                    future.cancel()
        if not self._decoded:
            raise self._nothing()

    def content(self, clip: int) -> str:
        """A hash of the file of the clip of this number."""
        return self._listed[clip].content

    def read(self, windows: Sequence[tuple[int, int]], flips: Bool[np.ndarray, " size"] | None = None) -> Batch:
        """The windows that begin at these frames of decoded clips of these numbers, mirrored where `flips` says so."""
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


class FolderSource(FolderClips):
    """A folder of clips, all decoded, from whose every file windows of `config.frames` frames are cut.

    `progress` follows the decoding, which later uses find done.
    """

    def __init__(self, config: DataConfig, progress: Progress | None = None) -> None:
        self._list(config)
        for done, _ in enumerate(self.decode(range(len(self._listed))), 1):
            if progress:
                progress(done, len(self._listed))
        usable = sorted(self._decoded)
        self._listed = [self._listed[clip] for clip in usable]
        self._decoded = dict(enumerate(self._decoded[clip] for clip in usable))
        self._describe()

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


def shuffled(count: int, first: int, size: int, seed: int) -> list[int]:
    """Entries `first` to `first + size` of an endless row of permutations of `count` numbers, one an epoch."""
    epochs = range(first // count, (first + size - 1) // count + 1)
    row = np.concatenate([np.random.default_rng((seed, 0, epoch)).permutation(count) for epoch in epochs])
    return row[first % count :][:size].tolist()
