"""Files that are made once and kept: where they lie, what they are called, and whole or not there at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

import numpy as np

__all__ = ["cache_folder", "digest", "whole", "write_header"]


def cache_folder(chosen: str | None, room: str) -> Path:
    """The folder `room` of the cache, which is `chosen` or else $KINEMA_CACHE or ~/.cache/kinema."""
    return Path(chosen or os.environ.get("KINEMA_CACHE") or "~/.cache/kinema").expanduser() / room


def digest(*key: object) -> str:
    """A name that is a function of what `repr` says of `key`."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is at `path` only when the context has ended well; several processes may make it at once.

    Raises ValueError, with the mend, where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{uuid4().hex}.part")
        try:
            with part.open("wb") as file:
                yield file
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"cannot write to {path.parent} ({error.strerror}): "
            "make room there or give another folder, of the cache by $KINEMA_CACHE"
        ) from error


def write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Write the beginning of a .npy, whose values follow; there is room for axis 0 to grow."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
