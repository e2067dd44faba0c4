"""Frozen dataclasses to plain values and back, with errors for unknown keys and wrong types."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

__all__ = ["from_dict", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a configuration, ready for `json.dumps`."""
    return asdict(config)


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """An instance of the dataclass `cls` from plain values.

    Raises ValueError with one line that starts with `where` and names the key.
    """
    try:
        # as JSON, because in strict mode JSON still accepts a list for a tuple and 1 for a float
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
