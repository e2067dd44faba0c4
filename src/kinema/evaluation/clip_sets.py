"""Sets of clips to measure: a folder's, a procedural world's or a model's, in an order that a seed fixes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.data.cache import class_digest, code_digest, digest
from kinema.data.clips import FolderClips, Source
from kinema.data.writing import to_uint8
from kinema.metrics.features import sha256
from kinema.sampling.model import Model, stream
from kinema.types import Batch, Conditions, Seeds, hash_seed
from kinema.worlds import Verifying
from kinema.zoo import find_model_file
from kinema.zoo.files import codec_file

__all__ = ["BATCH", "ClipBatch", "ClipSet", "CopyClipSet", "FolderClipSet", "GeneratedClipSet", "WorldClipSet"]

BATCH = 16  # clips that are read, measured and kept together


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Clips and what is known about them."""

    frames: UInt8[np.ndarray, "N T H W 3"]
    conditions: Conditions
    classes: tuple[str, ...] = ()  # the class of each clip, or the one it was conditioned on
    truth: UInt8[np.ndarray, "N t H W 3"] | None = None  # what the last t frames should be
    matches_prompt: Float[np.ndarray, " N"] | None = None  # 1 where a clip shows its prompt, where that can be verified


class ClipSet(ABC):
    """A sequence of clips.

    `content` is a hash of what decides the clips, and `key` of that and of the code that makes them. `fps` is None
    where it is unknown or mixed, `classes` are the names of the labels.
    """

    kind: ClassVar[str]
    code: ClassVar[tuple[str, ...]]  # modules of kinema that make the clips
    classes: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        fps: float | None,
        content: Sequence[object],
        other: ClipSet | None = None,
        classes: Sequence[type] = (),
    ) -> None:
        self.name, self.fps = name, fps
        self.content = digest(self.kind, *content, other and other.content)
        code = code_digest("evaluation.clip_sets", *self.code), *map(class_digest, classes)  # another package's too
        self.key = digest(self.content, *code, other and other.key)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that could not be used so far, and why."""
        return ()

    @abstractmethod
    def read(self, index: int, size: int) -> ClipBatch:
        """The first `size` clips, at most BATCH, of a batch; fewer where there are no more."""

    def clip(self, number: int) -> UInt8[np.ndarray, "T H W 3"]:
        """The frames of one clip, whose batch is read again."""
        return self.read(number // BATCH, BATCH).frames[number % BATCH]

    def group(self, clip: int) -> int:
        """A number that the clips of one file or group share, and no others."""
        return hash_seed(self.content, clip)


class FolderClipSet(ClipSet):
    """Windows of a folder's files that do not overlap, one of each file before a second of any.

    Files are decoded as their windows are read, the next ones meanwhile, and no more of them than are needed. `truth`
    is a folder of the same files of which these are predictions. Raises ValueError where it has other files.
    """

    kind = "folder"
    code = ("data",)

    def __init__(self, name: str, source: FolderClips, seed: int, truth: FolderClipSet | None = None) -> None:
        files = [(source.content(k), clip.label, clip.caption) for k, clip in enumerate(source.clips)]
        fps = None if source.mixed_rates else source.spec.fps
        super().__init__(name, fps, (source.spec, source.config.fps, source.config.fit, files, seed), truth)
        self.key = digest(self.key, source.key)  # which is also of conditions that are not measured, such as actions
        self.source, self.truth, self.classes = source, truth, source.spec.classes
        self._remaining, self._found = self._shuffled(seed), list[tuple[int, int]]()
        if truth is not None and [clip.path.stem for clip in source.clips] != [c.path.stem for c in truth.source.clips]:
            raise self._unpaired(truth)

    def _shuffled(self, seed: int) -> Iterator[tuple[int, int]]:
        """Yield each window as the number of its file and its first frame; those of a file are in random order."""
        rng, step = np.random.default_rng((hash_seed("evaluate"), seed)), self.source.spec.frames
        files = []
        for clip, frames in self.source.decode(rng.permutation(len(self.source.clips)).tolist()):
            if windows := rng.permutation(frames // step).tolist():
                files.append((clip, windows))
                yield clip, step * windows[0]
        for turn in range(1, max(len(windows) for _, windows in files)):
            yield from ((clip, step * windows[turn]) for clip, windows in files if turn < len(windows))

    def windows(self, count: int) -> list[tuple[int, int]]:
        """The first `count` windows, as the number of the file and the first frame; fewer where there are no more."""
        self._found += islice(self._remaining, max(0, count - len(self._found)))
        return self._found[:count]

    @property
    def skipped(self) -> tuple[str, ...]:
        """Files that could not be used so far, and why."""
        return tuple(f"{Path(self.name, file.name)}: {file.reason}" for file in self.source.skipped)

    def read(self, index: int, size: int) -> ClipBatch:
        """Decoded frames, from the cache where they are in it."""
        first, end = index * BATCH, index * BATCH + size
        windows = self.windows(end)
        clips = _clip_batch(self.source.read(windows[first:]), self.classes)
        if self.truth is None:
            return clips
        if self.truth.windows(end) != windows:
            raise self._unpaired(self.truth)
        return replace(clips, truth=self.truth.read(index, size).frames)

    def group(self, clip: int) -> int:
        """A number of the clip's group in the metadata, or else of its file, by the file's content."""
        return self.file_group(self.windows(clip + 1)[clip][0])

    def file_group(self, number: int) -> int:
        """The same for a file by its number."""
        group = self.source.clips[number].group
        return hash_seed(self.source.content(number)) if group is None else hash_seed("group", group)

    def _unpaired(self, truth: FolderClipSet) -> ValueError:
        return ValueError(
            f"{self.name} and {truth.name} are not pairs: give folders with the same file names and numbers of frames"
        )


class WorldClipSet(ClipSet):
    """Clips of a procedural world under a seed that training does not use."""

    kind = "world"
    code = ("types", "worlds")

    def __init__(self, name: str, source: Source, seed: int) -> None:
        super().__init__(name, source.spec.fps, (source.key, seed), classes=(type(source),))
        self.source, self.classes = source, source.spec.classes
        self._seed = hash_seed("evaluate", seed)

    def read(self, index: int, size: int) -> ClipBatch:
        """Clips, drawn now."""
        batch = self.source.batch(index, BATCH, seed=self._seed)
        clips = _clip_batch(Batch(batch.frames[:size], batch.conditions[:size]), self.classes)
        return replace(clips, matches_prompt=self.matches_prompt(clips.frames, index))

    def matches_prompt(self, frames: UInt8[np.ndarray, "N T H W 3"], index: int) -> Float[np.ndarray, " N"] | None:
        """Whether clips show the captions of the first clips of a batch; None where the world cannot verify it."""
        if not isinstance(self.source, Verifying):
            return None
        return self.source.matches_prompt(frames, index, BATCH, seed=self._seed)


class CopyClipSet(ClipSet):
    """The clips of `reference`, with copies of the last of the first `given` frames in place of all that follow.

    A prediction must surpass it to be of use.
    """

    kind = "copy"
    code = ()

    def __init__(self, reference: ClipSet, given: int) -> None:
        super().__init__("copy of the last given frame", reference.fps, (given,), reference)
        self.reference, self.given = reference, given

    def read(self, index: int, size: int) -> ClipBatch:
        """Copies, made now."""
        real = self.reference.read(index, size)
        frames = real.frames.copy()
        frames[:, self.given :] = frames[:, self.given - 1 : self.given]
        return ClipBatch(frames, real.conditions, real.classes, truth=real.frames[:, self.given :])

    def group(self, clip: int) -> int:
        """That of the reference's clip."""
        return self.reference.group(clip)


class GeneratedClipSet(ClipSet):
    """A model's clips, one a seed, with the conditions of the clips of `reference` in the same places.

    Raises ValueError where the model needs a reference, and where the reference has classes that it was not trained on.
    """

    kind = "generated"
    code = (
        "types",
        "family",
        "registry",
        "experiment",
        "nn",
        "diffusion",
        "conditions",
        "codecs",
        "families",
        "sampling",
        "runtime",
        "data.writing",
    )

    def __init__(self, name: str, model: Model, frames: int, seed: int, reference: ClipSet | None) -> None:
        family, runtime = model.family, model.runtime
        if family.context_frames and reference is None:
            raise ValueError(f"{name} continues given frames: name a folder that has them with --against")
        if family.reconstructs and reference is None:
            raise ValueError(f"{name} is a codec, which decodes real clips: name a folder of them with --against")
        conditioned = family.reconstructs or family.context_frames or family.accepts - {"known", "mask"}
        settings = (frames, seed, family.sampling, str(runtime.precision), str(runtime.device))
        content = (_model_digest(name), *settings)
        classes = (type(family), type(family.codec)) if family.codec is not None else (type(family),)
        super().__init__(name, model.spec.fps, content, reference if conditioned else None, classes)
        self.model, self.frames, self.seed, self.reference = model, frames, seed, reference
        self._labels = _label_numbers(name, model, reference)

    def read(self, index: int, size: int) -> ClipBatch:
        """Clips, generated now."""
        family, runtime = self.model.family, self.model.runtime
        conditions, real = Conditions(), None
        if self.reference is not None:
            real = self.reference.read(index, size)
            size = len(real.frames)
            frames = torch.from_numpy(real.frames).movedim(-1, 2)
            conditions = family.conditions_from(Batch(frames, self._relabelled(real.conditions)).to(runtime.device))
        first = self.seed + index * BATCH
        chunks = stream(family, runtime, Seeds(tuple(range(first, first + size))), self.frames, conditions)
        made = np.concatenate([to_uint8(chunk) for chunk in chunks], 1)
        prompted = self.reference if "text" in conditions.present else None
        return ClipBatch(
            made,
            conditions.to(torch.device("cpu")),
            classes=real.classes if real and "label" in conditions.present else (),
            truth=real.frames[:, family.context_frames :]
            if real and (family.context_frames or family.reconstructs)
            else None,
            matches_prompt=prompted.matches_prompt(made[:, family.context_frames :], index)
            if isinstance(prompted, WorldClipSet)
            else None,
        )

    def _relabelled(self, conditions: Conditions) -> Conditions:
        """The same conditions with the model's numbers of the labels."""
        label = conditions.label
        if label is not None:
            label = torch.tensor([self._labels[number] for number in label.tolist()]) if self._labels else None
        return replace(conditions, label=label)

    def group(self, clip: int) -> int:
        """That of the reference's clip whose conditions it has; without a reference one of its own."""
        return super().group(clip) if self.reference is None else self.reference.group(clip)


def _label_numbers(name: str, model: Model, reference: ClipSet | None) -> list[int]:
    """The model's number of each of the reference's classes; empty where the model has no labels."""
    ours = model.spec.classes
    if reference is None or not ours or "label" not in model.family.accepts:
        return []
    if unknown := [label for label in reference.classes if label not in ours]:
        raise ValueError(f"{name} was not trained on clips of {unknown[0]!r}, which {reference.name} has: remove them")
    return [ours.index(label) for label in reference.classes]


def _clip_batch(batch: Batch, classes: tuple[str, ...]) -> ClipBatch:
    """Clips of a source, whose frames are bytes or in [-1, 1]."""
    label = batch.conditions.label
    names = () if label is None else tuple(classes[number] for number in label.tolist())
    return ClipBatch(_bytes(batch.frames), batch.conditions, names)


def _bytes(frames: Tensor) -> UInt8[np.ndarray, "N T H W 3"]:
    return frames.movedim(2, -1).contiguous().numpy() if frames.dtype == torch.uint8 else to_uint8(frames)


def _model_digest(name: str) -> str:
    """A hash of a model's file, and of its codec's where that is another."""
    file = find_model_file(name)
    codec = codec_file(file)
    return sha256(file) + (sha256(codec) if codec else "")
