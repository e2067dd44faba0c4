"""Parts of clips that are given: the flags that say which, for every command that makes clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from kinema.commands.reading import first_frames, kept_region, read_each
from kinema.sample import Model

__all__ = ["Parts", "known_parts"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which parts of given clips are kept."""

    keep_first: int | None = None
    """How many first frames of each are given, which count among --frames; as many as in training if unsaid."""
    keep_last: int | None = None
    """How many last frames are given, of the first --frames of each: those before them are made."""
    between: bool = False
    """Give the first frame and the last, or as many as --keep-first and --keep-last say: those between are made."""
    mask: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """A grey image over all frames: black is kept of the clip, white is painted anew, as is usual in in-painting."""


def known_parts(
    model: Model, parts: Parts, flag: str, clip: str | None, frames: int | None, clips: int
) -> tuple[UInt8[np.ndarray, "K t H W 3"] | None, Bool[np.ndarray, "t H W"] | None]:
    """The first frames of the clips of which parts are given, and where; None twice without a `clip`.

    `flag` is the one that names `clip`, a file or a folder of which at most `clips` are read. Raises ValueError where
    what is asked cannot be.
    """
    first, last, between, mask = parts.keep_first, parts.keep_last, parts.between, parts.mask
    if clip is None:
        said = {"--keep-first": first, "--keep-last": last, "--between": between or None, "--mask": mask}
        if asked := [name for name, value in said.items() if value is not None]:
            raise ValueError(f"{asked[0]} says what of {flag} is given: name a clip or a folder with {flag}")
        return None, None
    if "known" not in model.family.accepts:
        raise ValueError(f"{type(model.family).__name__} cannot go on from given frames: leave {flag} out")
    frames = model.facts.frames if frames is None else frames
    if min(count for count in (first, last, 1) if count is not None) < 1:
        raise ValueError("--keep-first and --keep-last are at least 1: leave out what is not given")
    if first is None:
        first = 1 if between else 0 if last or mask else max(1, model.family.past)
    last = last or int(between)
    if first + last >= frames:
        raise ValueError(f"{first + last} of {frames} frames are given, so there is nothing to make: give fewer")
    region = kept_region(model, mask) if mask else np.zeros((model.facts.height, model.facts.width), bool)
    count = frames if last or mask else first
    where = np.tile(region, (count, 1, 1))
    where[:first] = where[count - last :] = True
    return np.stack(read_each(clip, lambda path: first_frames(model, path, count), most=clips)), where
