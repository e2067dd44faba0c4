"""Text that people wrote into files, made safe to keep and to print."""

from __future__ import annotations

import unicodedata
from typing import overload

__all__ = ["as_text", "printable"]

# Cc: control characters, among them the escapes that terminals obey; Cf: of format, as those that turn the direction of
# the text around them; Cs: surrogates, which no encoding has; Zl, Zp: ends of lines and paragraphs.
NEVER_SHOWN = {"Cc", "Cs", "Zl", "Zp"}
DIRECTIONS = {*"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}


def printable(text: str) -> str:
    """The text in one line, with what a terminal would obey or could not show as its escape, such as "\\x1b".

    Ends of lines and tabs become blanks.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", " ")
    return "".join(" " if one in "\r\n\t" else _escaped(one) if _is_control(one) else one for one in text)


def _is_control(one: str) -> bool:
    return one in DIRECTIONS or unicodedata.category(one) in NEVER_SHOWN


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")


@overload
def as_text(text: str) -> str: ...
@overload
def as_text(text: None) -> None: ...
def as_text(text: str | None) -> str | None:
    """The text with surrogates, which cannot be written to a file, as their escapes, such as "\\ud800"."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")
