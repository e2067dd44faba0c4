"""Reading the headers of NumPy's files in several threads."""

from __future__ import annotations

from threading import Lock
from typing import Any

__all__ = ["HEADER_LOCK", "check_header"]

MAGIC, LONGEST = b"\x93NUMPY", 2**16  # bytes of a header; numpy refuses shorter ones too

# Held while numpy reads a header, which it parses as a literal of Python: Python 3.11 may raise SystemError where two
# threads parse at once (https://github.com/python/cpython/issues/106905).
HEADER_LOCK = Lock()


def check_header(file: Any) -> None:
    """Raise ValueError for a header over `LONGEST` bytes, which numpy reads before it refuses it.

    The binary file stays at its place.
    """
    place = file.tell()
    head = file.read(12)
    file.seek(place)
    if head.startswith(MAGIC) and head[6:7] > b"\x01" and int.from_bytes(head[8:12], "little") > LONGEST:
        raise ValueError("the header of its array is too long")
