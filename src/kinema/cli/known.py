"""The flags for the known parts of a clip, shared by commands that generate clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from kinema.cli.reading import first_frames, read_each, read_mask
from kinema.config import check_number
from kinema.sampling.model import Model

__all__ = ["KnownParts", "read_known"]


@dataclass(frozen=True, kw_only=True)
class KnownParts:
    """The known parts of a clip."""

    keep_first: int | None = None
    """Number of known first frames, which count among --frames; default: as many as in training."""
    keep_last: int | None = None
    """Number of known last frames, among the first --frames of the clip; those before them are generated."""
    between: bool = False
    """Interpolate: the first and the last frame are known, or --keep-first and --keep-last frames."""
    mask: Annotated[str | None, tyro.conf.arg(metavar="IMAGE")] = None
    """A grey image for all frames: black is kept from the clip, white is in-painted."""


def read_known(
    model: Model, parts: KnownParts, flag: str, clip: str | None, frames: int | None, clips: int
) -> tuple[UInt8[np.ndarray, "K t H W 3"] | None, Bool[np.ndarray, "t H W"] | None]:
    """The known frames and their mask; (None, None) without a `clip`.

    `clip` is the value of the flag `flag`: a file, or a folder of which at most `clips` are read. Raises ValueError if
    the flags do not fit together, the model or the clips.
    """
    first, last, between, mask = parts.keep_first, parts.keep_last, parts.between, parts.mask
    if clip is None:
        flags = {"--keep-first": first, "--keep-last": last, "--between": between or None, "--mask": mask}
        if given := [name for name, value in flags.items() if value is not None]:
            raise ValueError(f"{given[0]} says what of {flag} is known: name a clip or a folder with {flag}")
        if model.family.reconstructs:
            raise ValueError(f"a codec makes no clips of its own: name clips that it encodes and decodes with {flag}")
        return None, None
    if "known" not in model.family.accepts:
        raise ValueError(f"{type(model.family).__name__} cannot use known frames: leave {flag} out")
    frames = model.spec.frames if frames is None else frames
    for name, count in (("--keep-first", first), ("--keep-last", last)):
        if count is not None:
            check_number(name, count, 1, frames)
    if first is None:
        least = frames if model.family.reconstructs else max(1, model.family.context_frames)
        first = 1 if between else 0 if last or mask else least
    last = last or int(between)
    if first + last >= frames and not model.family.reconstructs:
        raise ValueError(f"{first + last} of {frames} frames are known, so there is nothing to make: keep fewer")
    region = read_mask(model, mask) if mask else np.zeros((model.spec.height, model.spec.width), bool)
    count = frames if last or mask else first
    known = np.tile(region, (count, 1, 1))
    known[:first] = known[count - last :] = True
    return np.stack(
        read_each(clip, lambda one: first_frames(model, one, count), most=clips, stills=flag == "--image")
    ), known
