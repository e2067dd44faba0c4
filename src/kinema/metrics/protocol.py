"""What a number was measured by: two numbers may be compared only where all of it is the same.

Published distances of generated video differ by tens of percent with the number of clips, the way frames are resized,
the frame rate and the file of weights (Skorokhodov et al. 2022, arXiv 2112.14683, section 4; Parmar et al. 2022, arXiv
2104.11222). So every number carries the record of these, whose hash is printed beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["VERSION", "Number", "Protocol", "Result", "finite_only"]

VERSION = 1  # of how measures are made: raised with each change that moves a number


@dataclass(frozen=True)
class Protocol:
    """What two results must share to be compared."""

    clips: int
    """Measured of each side."""
    frames: int
    """Of a clip."""
    fps: float | None
    """Frames a second of all clips; None where it is not known."""
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    resize: str
    """How frames came to that size, in words."""
    features: Mapping[str, str]
    """Name, checksum and preprocessing of the network whose features are compared; empty without one."""
    reference: str
    """What is measured against: a hash of its content; empty where nothing is."""
    seed: int
    """Of the choice of clips, and the first of generated ones."""
    paired: bool = False
    """Whether folders were measured as predictions of the reference's files."""
    lpips: str = ""
    """The SHA-256 of LPIPS's weights; empty without."""
    version: int = VERSION
    """Of kinema's measures."""

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits that differ where anything above does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Number:
    """A measured value with its 95 % interval; both NaN where it could not be measured, which `note` then explains."""

    value: float
    low: float
    high: float
    clips: int
    """That it is of."""
    unit: str = ""
    better: str = ""
    """higher, lower, or "near" the reference's; empty where neither is."""
    real: float | None = None
    """The same of the reference's clips; of a distance its floor, real clips against other real ones."""
    note: str = ""
    """What must be known beside it, such as that there are too few clips."""


@dataclass(frozen=True)
class Result:
    """All that was measured of one source under one protocol."""

    source: str
    """As it was named."""
    kind: str
    """generated, real, world or features."""
    protocol: Protocol
    numbers: Mapping[str, Number]
    made: Mapping[str, str] = field(default_factory=dict)
    """Versions and settings that do not have to be the same."""
    each: Mapping[str, list[float]] = field(default_factory=dict)
    """The values of single clips, for paired tests, in the order of their seeds."""
    left_out: tuple[str, ...] = ()
    """Files that could not be read, and why."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, None where a value is NaN, with the protocol's hash."""
        return finite_only({**asdict(self), "hash": self.protocol.hash})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str) -> Result:
        """Of what `to_dict` gave; `name` is the file's. Raises ValueError where it is something else."""
        try:
            protocol = Protocol(**values["protocol"])
            numbers = {key: Number(**_with_nan(number)) for key, number in values["numbers"].items()}
            each = {key: [math.nan if x is None else x for x in of] for key, of in values["each"].items()}
            rest = {key: values[key] for key in ("source", "kind", "made")}
            found = cls(protocol=protocol, numbers=numbers, each=each, left_out=tuple(values["left_out"]), **rest)
            was = values["hash"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{name} holds no results of kinema evaluate ({error}): make them anew") from None
        if found.protocol.hash != was:
            raise ValueError(f"{name}: the protocol was changed after it was measured: make it anew")
        return found


def finite_only(value: Any) -> Any:
    """The same with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite_only(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [finite_only(of) for of in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(number: Mapping[str, Any]) -> dict[str, Any]:
    """A number's values, NaN where there is none."""
    return {key: math.nan if of is None and key in ("value", "low", "high") else of for key, of in number.items()}
