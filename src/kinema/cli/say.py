"""Printing a line that may hold the names, captions and labels of others."""

from __future__ import annotations

from rich.console import Console

from kinema.printable import printable

__all__ = ["say"]


def say(line: object, console: Console | None = None) -> None:
    """Print one line on stdout, or on `console`; nothing in it is markup or reaches a terminal as an escape code."""
    text = printable(str(line))
    if console is None:
        print(text)
    else:
        console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
