"""Requests for clips as plain values, and their validation for the command line, Python and servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from kinema.conditions.text import split_words
from kinema.config import MOST_SEED, check_number, from_dict, shown, to_dict
from kinema.data.writing import from_uint8
from kinema.family import Family
from kinema.types import ClipSpec, Conditions, Seeds

__all__ = ["GenerateRequest", "check_generation", "validate", "warnings_for", "with_sampling"]

MOST_CLIPS, MOST_FRAMES = 10**6, 10**6  # of a request
MAX_PROMPT = 2000  # characters
NAMED = 60  # known words that an error lists


@dataclass(frozen=True)
class GenerateRequest:
    """The clips to generate, one for each seed.

    A condition has one value for each clip, or fewer, which are cycled; None: the condition is not given.
    """

    seeds: tuple[int, ...] = (0,)
    """One integer for each clip."""
    frames: int | None = None
    """Frames of each clip; None: as many as in training."""
    text: Sequence[str] | None = None
    """Prompts."""
    labels: Sequence[str | int] | None = None
    """Names or numbers of classes."""
    audio: Float32[np.ndarray, "K samples"] | None = None
    """Mono waveforms in [-1, 1], 16,000 samples a second."""
    actions: Float32[np.ndarray, "K t A"] | None = None
    """Actions, one row for each frame."""
    known: UInt8[np.ndarray, "K t H W 3"] | None = None
    """Known frames, which count among `frames`: the first ones, or those where `mask` is true."""
    mask: Bool[np.ndarray, "t H W"] | None = None
    """Where `known` is known, the same for all clips; None: everywhere."""
    streams: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Seeds of single random streams, one for each clip, such as "motion" of MoCoGAN."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the family's `sampling` settings."""


def validate(request: GenerateRequest, family: Family, spec: ClipSpec) -> tuple[Seeds, int, Conditions]:
    """The seeds, the number of frames and the conditions of a request; conditions are on the CPU and not yet cycled.

    Raises ValueError, with the fix, for anything that the model does not support.
    """
    frames = spec.frames if request.frames is None else request.frames
    _check_values(request, frames)
    if not request.seeds:
        raise ValueError("there are no seeds, so there is nothing to generate: give one for each clip")
    if request.mask is not None and request.known is None:
        raise ValueError("a mask needs known frames: give known too")
    for text in request.text or ():
        _check_text(text, family, spec)
    labels = None if request.labels is None else [_label(name, spec.classes) for name in request.labels]
    conditions = Conditions(
        text=None if request.text is None else tuple(request.text),
        label=None if labels is None else torch.tensor(labels),
        audio=None if request.audio is None else torch.from_numpy(request.audio),
        actions=None if request.actions is None else torch.from_numpy(request.actions),
    )
    if request.known is not None:
        conditions = conditions.with_first_frames(from_uint8(np.ascontiguousarray(request.known)))
        if request.mask is not None:
            mask = torch.from_numpy(request.mask)[None, :, None]  # [1, t, 1, H, W]
            conditions = replace(conditions, mask=mask.expand(len(request.known), -1, -1, -1, -1))
    seeds = Seeds(tuple(request.seeds), request.streams)
    check_generation(family, seeds, frames, conditions)
    return seeds, frames, conditions


def check_generation(family: Family, seeds: Seeds, frames: int, conditions: Conditions) -> None:
    """Raise ValueError, with the fix, if a family does not support these streams, frames or conditions."""
    name = type(family).__name__
    if frames < 1:
        raise ValueError(f"frames must be at least 1, not {frames}")
    if family.max_frames is not None and frames > family.max_frames:
        raise ValueError(
            f"{name} makes all frames of a clip at once, here at most {family.max_frames}: ask for no more, or "
            f"train it on clips of {frames} (--data.frames {frames})"
        )
    if foreign := sorted(set(seeds.streams) - family.streams):
        known = ", ".join(sorted(family.streams)) or "none"
        raise ValueError(f"{name} has no stream of noise called {', '.join(foreign)}; it has {known}")
    family.check_conditions(conditions)


def warnings_for(request: GenerateRequest, family: Family) -> list[str]:
    """One line for each part of a request's text that the model ignores."""
    lines = []
    for text in dict.fromkeys(request.text or ()):
        if unknown := family.unknown_words(text):
            lines.append(f"the model does not know these words, which are ignored: {', '.join(unknown)}")
        if rest := family.unread_text(text):
            lines.append(f"the prompt is longer than the model reads; its end is ignored: {rest[:80]}")
    return lines


def with_sampling(sampling: Any, family: str, **settings: Any) -> Any:
    """A family's sampling settings with others; raises ValueError for one that does not exist or cannot be."""
    names = [] if sampling is None else [f.name for f in fields(sampling)]
    if foreign := sorted(set(settings) - set(names)):
        raise ValueError(f"{family} has no sampling settings {', '.join(foreign)}; it has {', '.join(names) or 'none'}")
    if sampling is None or not settings:
        return sampling
    return from_dict(type(sampling), to_dict(sampling) | settings, f"{family} sampling")


def _check_values(request: GenerateRequest, frames: Any) -> None:
    """Raise ValueError for values of another kind, shape or number than a request has."""
    if not isinstance(request.streams, Mapping):
        raise ValueError(f"streams are seeds by the name of a stream, not {shown(request.streams)}")
    for name, seeds in (("seeds", request.seeds), *request.streams.items()):
        if not isinstance(seeds, tuple | list) or any(
            not isinstance(seed, Integral) or isinstance(seed, bool) for seed in seeds
        ):
            raise ValueError(f"{name} are a tuple of integers, one for each clip, not {shown(seeds)}")
        if len(seeds) > MOST_CLIPS:
            raise ValueError(f"{name} are {len(seeds):,}: give at most {MOST_CLIPS:,} at once")
        for seed in seeds:
            check_number(f"one of {name}", seed, -MOST_SEED, MOST_SEED)
    check_number("frames", frames, 1, MOST_FRAMES, whole=True)
    for name, kinds in (("text", str), ("labels", str | Integral)):
        value = getattr(request, name)
        if value is not None and not (isinstance(value, tuple | list) and all(isinstance(one, kinds) for one in value)):
            raise ValueError(f"{name} is a list with one for each clip, not {shown(value)}")
    arrays = {"audio": (2, "f"), "actions": (3, "f"), "known": (5, "u"), "mask": (3, "b")}
    for name, (axes, kind) in arrays.items():
        value = getattr(request, name)
        if value is None:
            continue
        if not isinstance(value, np.ndarray) or value.ndim != axes or value.dtype.kind != kind:
            found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
            what = {"f": "float", "u": "uint8", "b": "bool"}[kind]
            raise ValueError(f"{name} is a NumPy array of {what} with {axes} axes, not {found}")
        if kind == "f" and not np.isfinite(value).all():
            raise ValueError(f"{name} has values that are not finite")
    if request.known is not None:
        if request.known.dtype != np.uint8 or request.known.shape[-1] != 3:
            raise ValueError(
                f"known is uint8 RGB [K, t, H, W, 3], not {request.known.dtype} {list(request.known.shape)}"
            )
        if not 1 <= request.known.shape[1] <= frames:
            raise ValueError(f"{request.known.shape[1]} known frames for a clip of {frames}: give 1 to {frames}")
    for name in ("text", "labels", "audio", "actions", "known"):
        value = getattr(request, name)
        if value is not None and not 1 <= len(value) <= len(request.seeds):
            fix = "is empty: give one for each clip, or leave it out"
            many = f"has {len(value)} for {len(request.seeds)} seeds: give one for each clip, or fewer"
            raise ValueError(f"{name} {many if len(value) else fix}")


def _check_text(text: str, family: Family, spec: ClipSpec) -> None:
    if "text" not in family.accepts:
        return  # `check_conditions` raises for this condition
    if not text.strip():
        raise ValueError("the prompt is empty: describe the clip, or leave it out")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(text):,} letters: shorten it to {MAX_PROMPT:,} or fewer")
    unknown = family.unknown_words(text)
    if unknown and set(unknown) == set(split_words(text)):
        known = [word for word in spec.words if word.isalpha()]
        others = f" and {len(known) - NAMED} more" * (len(known) > NAMED)
        raise ValueError(f"the model knows no word of the prompt; it knows {', '.join(known[:NAMED])}{others}")


def _label(name: str | int, classes: Sequence[str]) -> int:
    if str(name) in classes:
        return list(classes).index(str(name))
    if str(name).isdecimal() and (int(name) < len(classes) or not classes):
        return int(name)
    known = f"its labels are {', '.join(classes)}" if classes else "it was trained without labels"
    raise ValueError(f"the model has no label {shown(name)}: {known}")
