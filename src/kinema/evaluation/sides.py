"""What is measured: a model's clips, a folder's, or an embedded world's, in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from kinema import __version__, checkpoint
from kinema.data.cache import digest
from kinema.data.clips import FolderClips, Source
from kinema.data.write import from_uint8, to_uint8
from kinema.metrics.exactness import sha256
from kinema.sample import Model, stream
from kinema.types import Batch, Conditions, Noise, mix
from kinema.weights import shipped
from kinema.worlds import Verifying

__all__ = ["PIECE", "Generated", "Pixels", "Real", "Side", "World", "names_model"]

PIECE = 16  # clips that are read, measured and kept together


@dataclass(frozen=True, slots=True)
class Pixels:
    """Some clips, and what is known about them."""

    frames: UInt8[np.ndarray, "N T H W 3"]
    given: Conditions
    truth: UInt8[np.ndarray, "N t H W 3"] | None = None  # what the last t frames should be
    right: Float[np.ndarray, " N"] | None = None  # whether each clip shows what it was told, where that can be told
    classes: tuple[str, ...] = ()  # of each clip the class that it is of, or was told, if there are any


class Real:
    """A folder's windows that do not overlap, every file once before any comes again; `truth` is what they should be.

    Files are decoded as their windows are read, the next ones meanwhile, and no more of them than are needed.
    """

    kind = "real"

    def __init__(self, name: str, source: FolderClips, seed: int, truth: Real | None = None) -> None:
        self.name, self.source, self.fps, self.truth = name, source, source.facts.fps, truth
        self.key = digest("windows", source.key, seed, truth and truth.key)
        self._coming, self._found = self._in_turn(seed), list[tuple[int, int]]()
        if truth is not None and [clip.path.stem for clip in source.clips] != [c.path.stem for c in truth.source.clips]:
            raise self._no_pairs(truth)

    def _in_turn(self, seed: int) -> Iterator[tuple[int, int]]:
        """Yield the number of its file and the first frame of every window, those of a file in any order."""
        rng, step = np.random.default_rng((mix("evaluate"), seed)), self.source.facts.frames
        files = []
        for clip, frames in self.source.decode(rng.permutation(len(self.source.clips)).tolist()):
            if places := rng.permutation(frames // step).tolist():
                files.append((clip, places))
                yield clip, step * places[0]
        for turn in range(1, max(len(places) for _, places in files)):
            yield from ((clip, step * places[turn]) for clip, places in files if turn < len(places))

    def windows(self, count: int) -> list[tuple[int, int]]:
        """The first `count` windows, as the number of the file and the first frame, or all where there are fewer."""
        self._found += islice(self._coming, max(0, count - len(self._found)))
        return self._found[:count]

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that were left out until now, and why."""
        return tuple(f"{Path(self.name, left.name)}: {left.reason}" for left in self.source.skipped)

    def read(self, piece: int, size: int) -> Pixels:
        """Decoded frames, from the cache."""
        first, upto = piece * PIECE, piece * PIECE + size
        windows = self.windows(upto)
        pixels = _pixels(self.source.read(windows[first:]), self.source.facts.classes)
        if self.truth is None:
            return pixels
        if self.truth.windows(upto) != windows:
            raise self._no_pairs(self.truth)
        return replace(pixels, truth=self.truth.read(piece, size).frames)

    def group(self, clip: int) -> int:
        """Of the file."""
        return mix(self.source.content(self.windows(clip + 1)[clip][0]))

    def _no_pairs(self, truth: Real) -> ValueError:
        return ValueError(
            f"{self.name} and {truth.name} are no pairs: they need files of the same names and numbers of frames"
        )


class World:
    """Clips of an embedded world that no training step with a seed of its own draws."""

    kind, skipped = "world", ()

    def __init__(self, name: str, source: Source, seed: int) -> None:
        self.name, self.source, self.fps = name, source, source.facts.fps
        self.seed = mix("evaluate", seed)
        self.key = digest("world", __version__, source.key, seed)

    def read(self, piece: int, size: int) -> Pixels:
        """Clips, drawn anew."""
        batch = self.source.batch(piece, PIECE, seed=self.seed)
        pixels = _pixels(Batch(batch.frames[:size], batch.given[:size]), self.source.facts.classes)
        return replace(pixels, right=self.right(pixels.frames, piece))

    def right(self, frames: UInt8[np.ndarray, "N T H W 3"], piece: int) -> Float[np.ndarray, " N"] | None:
        """Whether clips show what the first of this piece do, where the world can tell."""
        if not isinstance(self.source, Verifying):
            return None
        return self.source.right(frames, piece, PIECE, seed=self.seed)

    def group(self, clip: int) -> int:
        """Of each clip its own."""
        return mix(self.key, clip)


class Generated:
    """A model's clips, one a seed, each told what the reference's clip of the same number says."""

    kind, skipped = "generated", ()

    def __init__(self, name: str, model: Model, frames: int, seed: int, told: Side | None) -> None:
        if model.family.past and told is None:
            raise ValueError(f"{name} goes on from frames that it is given: say --against a folder that has them")
        self.name, self.model, self.frames, self.seed, self.told = name, model, frames, seed, told
        self.fps = model.facts.fps
        self.classes = _same_classes(name, model, told)
        told_by = told.key if told and (model.family.past or model.family.accepts - {"known", "mask"}) else None
        settings = (frames, seed, model.family.sampling, str(model.run.precision), str(model.run.device), told_by)
        self.key = digest("generated", __version__, _weights(name), *settings)

    def read(self, piece: int, size: int) -> Pixels:
        """Clips, generated now."""
        first, given, told = self.seed + piece * PIECE, Conditions(), None
        if self.told is not None:
            told = self.told.read(piece, size)
            size = len(told.frames)
            label = told.given.label
            if label is not None:
                label = torch.tensor([self.classes[k] for k in label.tolist()]) if self.classes else None
            real = Batch(from_uint8(told.frames), replace(told.given, label=label))
            given = self.model.family.conditions_of(real)
        noise = Noise(tuple(range(first, first + size)))
        chunks = stream(self.model.family, self.model.run, noise, self.frames, given)
        frames = np.concatenate([to_uint8(chunk) for chunk in chunks], 1)
        past, right, classes = self.model.family.past, None, ()
        if "text" in given.present and isinstance(self.told, World):
            right = self.told.right(frames, piece)
        if told is not None and "label" in given.present:
            classes = told.classes
        return Pixels(frames, given, told.frames[:, past:] if told and past else None, right, classes)

    def group(self, clip: int) -> int:
        """That of the clip that it was told by, if it was; else of each clip its own."""
        return self.told.group(clip) if self.told is not None else mix(self.key, clip)


Side = Real | World | Generated
"""All have a `name`; a `kind`; a `key`, which is a hash of all that decides what the clips are; `fps`, None where it is
not one; files that were `skipped`, and why. `read` gives the first `size` clips, at most PIECE, of a piece, or fewer
where there are no more; `group` a number that clips of one file share, and no others: they are alike.
"""


def names_model(word: str) -> bool:
    """Whether a word names a run, a checkpoint, an exported model or one that ships."""
    path = Path(word)
    return word in shipped() or path.suffix == ".safetensors" or any(path.glob("step-*")) or _is_checkpoint(path)


def _same_classes(name: str, model: Model, told: Side | None) -> list[int]:
    """The model's number of each of the reference's classes; none where the model was trained without."""
    if told is None or isinstance(told, Generated) or not model.facts.classes or "label" not in model.family.accepts:
        return []
    theirs, ours = told.source.facts.classes, model.facts.classes
    if foreign := [label for label in theirs if label not in ours]:
        raise ValueError(f"{name} was not trained on clips of {foreign[0]!r}, which {told.name} has: leave these out")
    return [ours.index(label) for label in theirs]


def _is_checkpoint(path: Path) -> bool:
    return (path / checkpoint.GENERATOR).exists()


def _weights(name: str) -> str:
    """A hash of the file of a model's weights and configuration."""
    path = shipped().get(name, Path(name))
    return sha256(path if path.is_file() else checkpoint.find(path) / checkpoint.GENERATOR)


def _pixels(batch: Batch, classes: tuple[str, ...]) -> Pixels:
    label = batch.given.label
    of = () if label is None else tuple(classes[number] for number in label.tolist())
    return Pixels(to_uint8(batch.frames), batch.given, classes=of)
