"""Results and the protocol they were measured by: two numbers compare only where the protocol is the same.

Published distances of generated video differ by tens of percent with the number of clips, the resizing of frames, the
frame rate and the file of weights (Skorokhodov et al. 2022, arXiv 2112.14683, section 4; Parmar et al. 2022, arXiv
2104.11222). So every result has a record of these, whose hash is printed with it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["VERSION", "Difference", "Number", "Protocol", "Result", "finite_only"]

VERSION = 1  # of the measures: raised with each change of their values


@dataclass(frozen=True)
class Protocol:
    """What must be the same for two results to compare."""

    clips: int
    """In each set."""
    frames: int
    """Of a clip."""
    fps: float | None
    """Frames a second of all clips; None: unknown."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    resize: str
    """How frames are resized, in words."""
    features: Mapping[str, str]
    """Name, checksum and preprocessing of the network whose features are compared."""
    reference: str
    """A hash of the reference's clips; empty without a reference."""
    seed: int
    """Of the first generated clip, and of the choice of real ones."""
    paired: bool = False
    """Whether folders are predictions of the reference's files."""
    given: int = 0
    """First frames of a clip that models are given; they are not measured."""
    lpips: str = ""
    """The SHA-256 of LPIPS's weights; empty without LPIPS."""
    version: int = VERSION
    """Of kinema's measures."""

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits, a function of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Number:
    """A measured value with its 95 % interval; all NaN where it was not measured, which `note` then explains."""

    value: float
    low: float
    high: float
    clips: int
    """Measured."""
    unit: str = ""
    better: str = ""
    """higher, lower or near (the reference's); empty where neither is better."""
    real: float | None = None
    """The value of the reference's clips; for a distance its floor, real clips against other real ones."""
    note: str = ""
    """A caveat, such as too few clips."""


@dataclass(frozen=True)
class Result:
    """All numbers of one source under one protocol."""

    source: str
    """Its name as given."""
    kind: str
    """generated, folder, world, features, or baseline: what a source is read beside."""
    protocol: Protocol
    numbers: Mapping[str, Number]
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Versions and settings, which may differ between results that compare."""
    per_clip: Mapping[str, list[float]] = field(default_factory=dict)
    """Values of single clips in the order of their seeds, for paired tests."""
    skipped: tuple[str, ...] = ()
    """Files that could not be read, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with None for NaN and the protocol's hash."""
        return finite_only({**asdict(self), "hash": self.protocol.hash})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str) -> Result:
        """The result that `to_dict` made; raises ValueError, naming the file `name`, for anything else."""
        try:
            protocol = Protocol(**values["protocol"])
            numbers = {key: Number(**_with_nan(number)) for key, number in values["numbers"].items()}
            per_clip = {key: [math.nan if x is None else x for x in of] for key, of in values["per_clip"].items()}
            rest = {key: values[key] for key in ("source", "kind", "provenance")}
            found = cls(protocol=protocol, numbers=numbers, per_clip=per_clip, skipped=tuple(values["skipped"]), **rest)
            was = values["hash"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{name} holds no results of kinema evaluate ({error}): measure again") from None
        if found.protocol.hash != was:
            raise ValueError(f"{name}: the protocol was changed after measuring: measure again")
        return found


@dataclass(frozen=True, slots=True)
class Difference:
    """How much two sources differ by one measure."""

    metric: str
    a: str
    b: str
    value: float
    """Of a less that of b."""
    low: float
    """With `high` the 95 % interval."""
    high: float
    p: float
    """Of a paired test; NaN where clips are not paired."""


def finite_only(value: Any) -> Any:
    """The same value with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite_only(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [finite_only(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(number: Mapping[str, Any]) -> dict[str, Any]:
    """A number's fields, with NaN for None."""
    return {key: math.nan if of is None and key in ("value", "low", "high") else of for key, of in number.items()}
