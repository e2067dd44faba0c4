"""Reading the headers of NumPy's files in several threads."""

from __future__ import annotations

from threading import Lock

__all__ = ["HEADER_LOCK"]

# Held while numpy reads a header, which it parses as a literal of Python: Python 3.11 may raise SystemError where two
# threads parse at once (https://github.com/python/cpython/issues/106905).
HEADER_LOCK = Lock()
