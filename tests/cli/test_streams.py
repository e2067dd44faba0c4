"""Streams that are closed, full or left by their reader end no command."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import pytest

from kinema.cli.streams import lasting_streams

KINEMA = f"{sys.executable} -m kinema.cli"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--version >&-", 0),
        ("--version >&- 2>&-", 0),
        ("nosuch 2>&-", 2),
        ("nosuch 2>/dev/full", 2),
        ("nosuch >&- 2>/dev/full", 2),
        ("nosuch 2> >(exit 0)", 2),
        ("--help > >(exit 0)", 0),
    ],
)
def test_the_status_is_that_of_the_command(words: str, status: int) -> None:
    done = subprocess.run(["bash", "-c", f"sleep 0.2; {KINEMA} {words}"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_an_error_stream_that_ends_is_written_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Left(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    left = Left()
    monkeypatch.setattr(sys, "stderr", left)
    with lasting_streams():
        print("a warning", file=sys.stderr, flush=True)
    assert sys.stderr is left
