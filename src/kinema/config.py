"""Frozen dataclasses to plain values and back, with errors for unknown keys, wrong types and values out of range."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, TypeVar, cast, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

__all__ = [
    "CLIP_RANGES",
    "MOST_BLOCKS",
    "MOST_CHANNELS",
    "MOST_CLASSES",
    "MOST_FPS",
    "MOST_SEED",
    "check_number",
    "check_ranges",
    "from_dict",
    "shorten",
    "shown",
    "to_dict",
]

T = TypeVar("T")
Range = tuple[float, float]  # the least and the most

MOST_SEED = 2**63 - 1
MOST_FPS = 1000.0
MOST_CLASSES = 2**20
MOST_BLOCKS = 1000  # of a transformer
MOST_CHANNELS = 2**16  # of a layer, and dimensions of a code
CLIP_RANGES: dict[str, Range] = {"frames": (1, 8192), "height": (1, 8192), "width": (1, 8192)}  # pixels of a side
LONGEST = 60  # letters of a value in an error


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a configuration, ready for `json.dumps`."""
    return asdict(config)


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """An instance of the dataclass `cls` from plain values.

    Raises ValueError with one line that starts with `where` and names the key.
    """
    try:
        content = json.dumps(values)
    except (RecursionError, TypeError, ValueError):  # nested too deep, no plain value, or a number of too many digits
        raise ValueError(f"{where}: it holds a value that no configuration has") from None
    try:
        # as JSON, because in strict mode JSON still accepts a list for a tuple and 1 for a float
        return TypeAdapter(cls).validate_json(content, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        key = shorten(".".join(map(str, first["loc"])))
        if first["type"] == "unexpected_keyword_argument":
            known = [f.name for f in fields(cls)] if is_dataclass(cls) else []
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}{hint}") from None
        raise ValueError(f"{where}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}") from None


def check_ranges(config: Any, **ranges: Range) -> None:
    """Raise ValueError, naming the field, unless the numbers of a dataclass are finite and within their ranges.

    A range is the least and the most that a field may be, or each number of a field that is a tuple. What is declared
    as `int` is a whole number; None is allowed where it is declared.
    """
    for name, (least, most) in ranges.items():
        value, declared = getattr(config, name), _declared(type(config))[name]
        if value is None and None in declared:
            continue
        for number in value if isinstance(value, tuple) else (value,):
            check_number(name, number, least, most, whole=float not in declared)


@cache
def _declared(cls: type) -> dict[str, set[object]]:
    """The types that each field of a dataclass may have, or that of a tuple's elements; None for one that may be."""

    def types(hint: Any) -> set[object]:
        parts = get_args(hint)
        return set[object]().union(*map(types, parts)) if parts else {None if hint is type(None) else hint}

    return {name: types(hint) for name, hint in get_type_hints(cls).items()}


def check_number(name: str, value: object, least: float, most: float, whole: bool = False) -> None:
    """Raise ValueError in one line unless `value` is a finite number, a whole one if `whole`, in a range."""
    is_number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)  # NumPy's too
    if not is_number or not least <= cast("float", value) <= most:  # as NaN is not
        what = "a whole number, " if whole and not isinstance(value, Integral) else ""
        raise ValueError(f"{name} is {shown(value)}: it must be {what}{_bound(least)} to {_bound(most)}")


def shorten(text: str) -> str:
    """A text in one line, and the beginning of one that is too long for an error; it may come from a file."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def shown(value: object) -> str:
    """A value as an error shows it, short and in one line."""
    if isinstance(value, int) and abs(value) >= 10**LONGEST:
        return f"a number of more than {LONGEST} digits"
    try:
        return shorten(f"{value:g}" if isinstance(value, float) else repr(value))
    except (RecursionError, ValueError):  # it holds a number whose digits cannot be had, or is nested too deep
        return f"a {type(value).__name__}"


def _bound(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
