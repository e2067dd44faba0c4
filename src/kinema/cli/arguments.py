"""Parsing of command-line arguments with tyro, with errors of one line."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro import _errors as events

__all__ = ["flag_value", "parse", "parse_with_sampling"]

T = TypeVar("T")


def parse(cls: type[T], prog: str, words: Sequence[str], **options: Any) -> T:
    """Parse `words` as the dataclass `cls`; raises ValueError for invalid arguments, and exits after --help."""

    def fail(event: events.ParseErrorEvent) -> NoReturn:
        raise ValueError(f"{_describe(event, cls)} ({prog} --help lists all)")

    with events.on_parse_error(fail):
        return tyro.cli(cls, prog=prog, args=list(words), **options)


def parse_with_sampling(cls: type[T], sampling: Any, prog: str, words: Sequence[str]) -> tuple[T, dict[str, Any]]:
    """The arguments, and the sampling settings, for which there is a flag for each field of `sampling`."""
    if sampling is None:
        return parse(cls, prog, words), {}
    part = ("sampling", tyro.conf.OmitArgPrefixes[type(sampling)], field(default=sampling, kw_only=True))
    complete = make_dataclass("Complete", [part], bases=(cls,), frozen=True)
    arguments = parse(complete, prog, words, description=inspect.getdoc(cls))
    settings = vars(arguments)["sampling"]
    return arguments, {f.name: getattr(settings, f.name) for f in fields(settings)}


def flag_value(words: Sequence[str], flag: str, default: str) -> str:
    """The value of one flag, read before parsing because it determines which other flags exist."""
    for place, word in enumerate(words):
        if word == flag and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return default


def _describe(event: events.ParseErrorEvent, cls: type) -> str:
    """A message for a parse error."""
    if isinstance(event, events.UnrecognizedArgs):
        word = next((token for token in event.tokens if token.startswith("-")), event.tokens[0])
        if word in _flags(cls):
            return f"{word} is set already, by the run or the preset: leave it out"
        near = difflib.get_close_matches(word.split("=")[0], _flags(cls), n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        return f"{word} is no {'flag' if word.startswith('-') else 'argument'} here{hint}"
    if isinstance(event, events.MissingArgs):
        return f"missing {', '.join(_name(found.arg) for found in event.missing_arguments)}"
    if isinstance(event, events.InvalidChoice):
        return f"{_name(event.argument)} is one of {', '.join(event.choices)}, not {event.value}"
    if isinstance(event, events.BadValue):
        return f"{_name(event.argument)} needs {'other' if event.offending_value else 'more'} values"
    if isinstance(event, events.InstantiationFailure):
        return f"{_name(event.argument) + ': ' if event.argument else ''}{event.message}"
    return f"the arguments cannot be parsed ({type(event).__name__})"


def _name(argument: Any) -> str:
    """The flag, or the metavar of a positional argument."""
    return str(argument.lowered.metavar) if argument.is_positional() else argument.lowered.name_or_flags[-1]


def _flags(cls: Any, prefix: str = "--") -> list[str]:
    """The flags of a dataclass and of those in its fields."""
    found, hints = [], get_type_hints(cls, include_extras=True)
    for f in fields(cls):
        kind, *marks = get_args(hints[f.name]) if get_origin(hints[f.name]) is Annotated else (hints[f.name],)
        name = next((mark.name for mark in marks if getattr(mark, "name", None)), f.name.replace("_", "-"))
        if is_dataclass(kind):
            found += _flags(kind, prefix if tyro.conf.OmitArgPrefixes in marks else f"{prefix}{name}.")
        elif not {tyro.conf.Positional, tyro.conf.Suppress} & {*marks}:
            found.append(prefix + name)
    return found
