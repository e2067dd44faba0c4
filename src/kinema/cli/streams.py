"""Standard output and error that a command can rely on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["lasting_streams"]


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Let nothing that is printed end a command, but for standard output whose reader has left.

    A stream that was closed before the start leads nowhere, text that an encoding has not is escaped, and standard
    error may be closed or on a full disk.
    """
    before = sys.stderr
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), _StandardError(sys.stderr or _nowhere())
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a name of a file may be no text
    try:
        yield
    finally:
        sys.stderr = before


def _nowhere() -> Any:
    return open(os.devnull, "w", encoding="utf-8")


class _StandardError:
    """Standard error, whose reader may leave and whose disk may be full: that ends nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """The same."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Write nothing more, or the interpreter's last flush would fail too."""
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
