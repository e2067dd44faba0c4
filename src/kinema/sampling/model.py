"""Loading a trained model and generating clips with it, of any family."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.data.writing import to_uint8
from kinema.experiment import Experiment
from kinema.family import Captioning, Family, Scoring
from kinema.runtime.device import Runtime, channels_last, detect_runtime
from kinema.sampling.request import GenerateRequest, check_generation, validate, warnings_for, with_sampling
from kinema.types import ClipSpec, Conditions, Progress, Seeds, no_progress
from kinema.zoo import load_config, load_model
from kinema.zoo.tensors import check_fits, check_tensors, outline

__all__ = ["Chunk", "Model", "caption", "load", "load_experiment", "score", "stream"]

BATCH = 16  # clips that are generated together


def caption(family: Family, runtime: Runtime, frames: Float[Tensor, "B T 3 H W"]) -> tuple[str, ...]:
    """Captions of clips in [-1, 1] with as many frames as in training; raises ValueError if the family has none."""
    if not isinstance(family, Captioning):
        raise ValueError(
            f"{type(family).__name__} writes no captions: train a family that does, such as token-transformer with "
            "--family.text 64"
        )
    with torch.inference_mode(), runtime.autocast():
        return family.eval().caption(frames.to(runtime.device))


def score(family: Family, runtime: Runtime, chunks: Iterable[Tensor]) -> Iterator[Float[Tensor, "B t"]]:
    """Yield the anomaly scores of each frame of B videos, which come in chunks [B, t, 3, H, W] in [-1, 1].

    The higher, the less the family expected the frame; NaN for frames without a score. Raises ValueError if the family
    cannot score frames.
    """
    if not isinstance(family, Scoring):
        raise ValueError(f"{type(family).__name__} cannot score frames: train a family that predicts, such as svg-lp")
    scores = family.eval().surprise(chunk.to(runtime.device) for chunk in chunks)
    while True:
        with torch.inference_mode(), runtime.autocast():
            chunk = next(scores, None)
        if chunk is None:
            return
        yield chunk.float()


def stream(
    family: Family,
    runtime: Runtime,
    seeds: Seeds,
    frames: int,
    conditions: Conditions = Conditions(),
    progress: Progress = no_progress,
) -> Iterator[Float[Tensor, "B t 3 H W"]]:
    """Yield float32 chunks in [-1, 1] of len(seeds) clips, `frames` frames in all, as they are ready.

    `progress` is called between solver steps; an exception that it raises cancels the generation. Raises ValueError if
    the family does not support the arguments or makes frames that are not finite.
    """
    check_generation(family, seeds, frames, conditions)
    chunks = family.eval().generate(conditions.to(runtime.device), frames, seeds, progress)
    while True:
        with torch.inference_mode(), runtime.autocast():  # entered for each chunk, so that neither leaks over the yield
            chunk = next(chunks, None)
        if chunk is None:
            return
        if not chunk.isfinite().all():
            raise ValueError(
                f"{type(family).__name__} made frames that are not finite: its weights are broken, or its sampling "
                "settings too extreme; take an earlier checkpoint, or other settings"
            )
        yield chunk.float()


class Chunk(NamedTuple):
    """Consecutive frames of consecutive clips of a request."""

    first_clip: int
    first_frame: int
    frames: UInt8[np.ndarray, "B t H W 3"]


@dataclass(frozen=True, slots=True)
class Model:
    """A trained family with its experiment, ready to generate."""

    family: Family
    experiment: Experiment
    spec: ClipSpec
    runtime: Runtime

    def with_sampling(self, **settings: Any) -> Model:
        """The same model with other settings of its family's `sampling`: `with_sampling(steps=20)`.

        Raises ValueError for an unknown setting and for an invalid value.
        """
        family = copy.copy(self.family)  # a shallow copy: the modules are shared
        family.sampling = with_sampling(family.sampling, type(family).__name__, **settings)
        return replace(self, family=family)

    def stream(self, request: GenerateRequest, progress: Progress = no_progress, batch: int = BATCH) -> Iterator[Chunk]:
        """Yield the request's frames as they are ready, `batch` clips at a time; memory does not grow with the frames.

        `progress` is called between solver steps; an exception that it raises cancels the generation. Raises ValueError
        for what the model does not support, and warns of text that it ignores.
        """
        model = self.with_sampling(**request.sampling) if request.sampling else self
        seeds, frames, conditions = validate(request, model.family, model.spec)
        for line in warnings_for(request, model.family):
            warnings.warn(line, stacklevel=2)
        if batch < 1:
            raise ValueError(f"batch is {batch}: it must be at least 1")
        batches, steps = range(0, len(seeds), batch), None
        for number, first in enumerate(batches):

            def report(done: int, total: int, number: int = number) -> None:
                nonlocal steps
                steps = total
                progress(number * total + done, len(batches) * total)

            batch_seeds = seeds[first : first + batch]
            batch_conditions = conditions.select(range(first, first + len(batch_seeds)))
            first_frame = 0
            for chunk in stream(model.family, model.runtime, batch_seeds, frames, batch_conditions, report):
                yield Chunk(first, first_frame, to_uint8(chunk))
                first_frame += chunk.shape[1]
            if steps is None:  # a family that makes its frames at once
                progress(number + 1, len(batches))

    def generate(
        self, request: GenerateRequest, progress: Progress = no_progress, batch: int = BATCH
    ) -> UInt8[np.ndarray, "N T H W 3"]:
        """All frames of the request's clips; see `stream`."""
        parts: dict[int, list[np.ndarray]] = {}
        for first, _, frames in self.stream(request, progress, batch):
            parts.setdefault(first, []).append(frames)
        return np.concatenate([np.concatenate(chunks, 1) for chunks in parts.values()])


def load_experiment(name: str | Path) -> tuple[Experiment, ClipSpec]:
    """The experiment and the clip spec of a model, without reading its weights; raises ValueError as `load`."""
    return Experiment.from_dict(load_config(name), str(name))


def load(name: str | Path, runtime: Runtime | None = None) -> Model:
    """Load a model: a shipped one by name, a run's folder, a checkpoint's folder or a .safetensors file.

    Raises ValueError, naming the file, if it is missing, damaged or no kinema model.
    """
    runtime = runtime or detect_runtime()
    file = load_model(name)
    experiment, spec = Experiment.from_dict(file.config, str(name))
    try:  # before memory is taken: a file's tensors may be few and its settings huge
        expected = outline(experiment.family.fitted(spec)) or experiment.family.build()
        check_tensors(file.generator, expected.generator.state_dict(), "generator")
        if expected.codec is not None:
            check_tensors(file.codec or {}, expected.codec.inference_state(), "codec")
        check_fits(expected, runtime.device)
        family = experiment.family.build()
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    family.generator.load_state_dict(file.generator)
    if family.codec is not None and file.codec is not None:
        family.codec.load_inference_state(file.codec)
    family.to(runtime.device).requires_grad_(False)  # as for samples during training: a GRU's kernel depends on it
    channels_last(family)
    return Model(family, experiment, spec, runtime)
