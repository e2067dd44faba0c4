"""Frozen dataclasses to strict JSON and back: unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

__all__ = ["assigned", "from_dict", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a configuration, ready for `json.dumps`."""
    return asdict(config)


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """A `cls`, which is a dataclass, from plain values.

    Raises a ValueError of one line that starts with `where` and names the key.
    """
    try:
        # as JSON, because strict JSON still lets a list be a tuple and 1 be a float
        return TypeAdapter(cls).validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "unexpected_keyword_argument":
            known = [f.name for f in fields(cls)] if is_dataclass(cls) else []
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}{hint}") from None
        raise ValueError(f"{where}: {key + ': ' if key else ''}{first['msg'].removeprefix('Value error, ')}") from None


def assigned(config: T, words: Sequence[str], where: str) -> T:
    """The same configuration with other fields, each word a `name=value` whose value is JSON or else plain text.

    Raises a ValueError of one line that starts with `where` and names the field.
    """
    values = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{where}: {word!r} says no value: write it as name=value")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return from_dict(type(config), to_dict(config) | values, where)
