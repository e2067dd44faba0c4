"""The one sampler entry: conditions and seeds to frame chunks, for every family."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from kinema import checkpoint
from kinema.data.write import from_uint8, to_uint8
from kinema.family import Captioning, Facts, Family, Scoring
from kinema.run import Run, channels_last, start
from kinema.train import Experiment
from kinema.types import Conditions, Noise
from kinema.weights import shipped

__all__ = ["Model", "caption", "load", "score", "stream"]


def caption(family: Family, run: Run, frames: Float[Tensor, "B T 3 H W"]) -> tuple[str, ...]:
    """What clips in [-1, 1], of as many frames as in training, show; raises ValueError if the family cannot tell."""
    if not isinstance(family, Captioning):
        raise ValueError(
            f"{type(family).__name__} writes no captions: train a family that does, such as token-transformer with "
            "--family.text 64"
        )
    with torch.inference_mode(), run.autocast():
        return family.eval().caption(frames.to(run.device))


def score(family: Family, run: Run, chunks: Iterable[Tensor]) -> Iterator[Float[Tensor, "B t"]]:
    """Yield how little the family expected each frame of B videos, given as chunks [B, t, 3, H, W] in [-1, 1].

    NaN where a frame has no score. Raises ValueError if the family cannot tell.
    """
    if not isinstance(family, Scoring):
        raise ValueError(f"{type(family).__name__} cannot score frames: train a family that predicts, such as svg-lp")
    scores = family.eval().surprise(chunk.to(run.device) for chunk in chunks)
    while True:
        with torch.inference_mode(), run.autocast():
            chunk = next(scores, None)
        if chunk is None:
            return
        yield chunk.float()


def stream(
    family: Family, run: Run, noise: Noise, frames: int, given: Conditions = Conditions()
) -> Iterator[Float[Tensor, "B t 3 H W"]]:
    """Yield float32 chunks in [-1, 1] of len(noise) clips, `frames` frames in all, as they are ready.

    Raises ValueError if the family cannot use a condition or a stream of noise, cannot draw so many frames, or makes
    some that are not numbers.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, not {frames}")
    if family.longest is not None and frames > family.longest:
        raise ValueError(
            f"{type(family).__name__} draws all frames of a clip at once, and this one at most {family.longest}: "
            f"ask for no more, or train it on clips of {frames} (--data.frames {frames})"
        )
    family.refuse_unusable(given)
    if foreign := sorted(set(noise.streams) - family.streams):
        drawn = ", ".join(sorted(family.streams)) or "none"
        raise ValueError(f"{type(family).__name__} draws no noise called {', '.join(foreign)}; it draws {drawn}")
    chunks = family.eval().generate(given.to(run.device), frames, noise)
    while True:
        with torch.inference_mode(), run.autocast():  # anew for each chunk: neither may leak over the yield
            chunk = next(chunks, None)
        if chunk is None:
            return
        if not chunk.isfinite().all():
            raise ValueError(
                f"{type(family).__name__} made frames that are not numbers: its weights are broken, or its sampling "
                "asks too much; take an earlier checkpoint, or other settings"
            )
        yield chunk.float()


@dataclass(frozen=True, slots=True)
class Model:
    """A trained family, ready to make clips."""

    family: Family
    experiment: Experiment
    facts: Facts
    run: Run

    def choosing(self, **settings: Any) -> Model:
        """The same model, of the same weights, with other settings of its family's `sampling`: `choosing(steps=20)`.

        Raises ValueError for a setting that is not there, and for a value that cannot be.
        """
        sampling = self.family.sampling
        names = [] if sampling is None else [f.name for f in fields(sampling)]
        if foreign := sorted(set(settings) - set(names)):
            there = ", ".join(names) or "nothing"
            raise ValueError(f"{type(self.family).__name__} lets {there} be chosen, not {', '.join(foreign)}")
        family = copy.copy(self.family)  # a family's own, but for its modules, which they share
        if sampling is not None:
            family.sampling = replace(sampling, **settings)
        return replace(self, family=family)

    def clips(
        self,
        noise: Noise,
        frames: int | None = None,
        labels: Sequence[str | int] | None = None,
        text: Sequence[str] | None = None,
        audio: Float32[np.ndarray, "K samples"] | None = None,
        actions: Float32[np.ndarray, "K t A"] | None = None,
        known: UInt8[np.ndarray, "K t H W 3"] | None = None,
        mask: Bool[np.ndarray, "t H W"] | None = None,
        batch: int = 16,
    ) -> UInt8[np.ndarray, "N T H W 3"]:
        """One clip a seed, `frames` frames each (as many as in training if None), `batch` at a time.

        What clips are given is one a clip, or fewer to be taken in turn: `labels` are names or numbers of classes,
        `text` what is to be seen, `audio` mono sound at RATE, `actions` a row for each frame, and `known` the first
        frames, which count among `frames`. These are given where `mask` is true, or all of them: `known` of the whole
        clip with a mask can be given its last frames, both ends or a region. Raises ValueError where the model cannot
        do it.
        """
        if mask is not None and known is None:
            raise ValueError("mask says where known frames are given: give known too")
        frames = self.facts.frames if frames is None else frames
        given = Conditions(
            text=None if text is None else tuple(text),
            label=None if labels is None else torch.tensor([self._label(name) for name in labels]),
            audio=None if audio is None else torch.from_numpy(audio),
            actions=None if actions is None else torch.from_numpy(actions),
        )
        if known is not None:
            given = given.beginning(from_uint8(known))
            if mask is not None:
                where = torch.from_numpy(mask)[None, :, None]  # [1, t, 1, H, W]
                given = replace(given, mask=where.expand(len(known), -1, -1, -1, -1))
        parts = []
        for first in range(0, len(noise), batch):
            some = noise[first : first + batch]
            chunks = stream(self.family, self.run, some, frames, given.in_turn(range(first, first + len(some))))
            parts.append(np.concatenate([to_uint8(chunk) for chunk in chunks], 1))
        return np.concatenate(parts)

    def _label(self, name: str | int) -> int:
        classes = self.facts.classes
        if str(name) in classes:
            return classes.index(str(name))
        if str(name).isdecimal() and (int(name) < len(classes) or not classes):
            return int(name)
        known = f"its labels are {', '.join(classes)}" if classes else "it was trained without labels"
        raise ValueError(f"the model has no label {name!r}: {known}")


def load(path: str | Path, run: Run | None = None) -> Model:
    """The model that ships by this name, or is in a run's folder, a checkpoint or a generator.safetensors file.

    Raises ValueError naming the file that is missing, damaged or foreign.
    """
    run = run or start()
    values, weights = checkpoint.load_generator(shipped().get(str(path), path))
    experiment, facts = Experiment.from_dict(values, str(path))
    family = experiment.family.build()
    try:
        family.generator.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: its weights are not those of its configuration ({str(error).splitlines()[1].strip()})"
        ) from error
    family.to(run.device).requires_grad_(False)  # like the average in training: a GRU's kernel depends on it
    channels_last(family)
    return Model(family, experiment, facts, run)
