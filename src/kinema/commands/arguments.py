"""Reading a command's words: what is wrong with them is said in one line, like every other error."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro

__all__ = ["parse"]

T = TypeVar("T")


def parse(cls: type[T], prog: str, words: Sequence[str], **options: Any) -> T:
    """The arguments in `words`; raises ValueError where they cannot be understood, and exits after showing help."""
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(cls, prog=prog, args=list(words), **options)
    except SystemExit as end:
        if not end.code:
            raise
    raise ValueError(f"{_unboxed(box.getvalue())} ({prog} --help lists all)")


def _unboxed(box: str) -> str:
    """What tyro's error says, without its colours, its frame, the arguments' help and the footer."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)
    rows = re.findall(r"^│ ( *)(.*?) *│$", plain, re.MULTILINE)
    text = " ".join(row for indent, row in rows if len(indent) < 8 and not row.startswith("─"))
    return re.split(r" ?(?:For full helptext|Argument helptext)", text)[0]
