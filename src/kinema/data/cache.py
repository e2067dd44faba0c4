"""Cached files: their place and names, atomic writing, and locks that let one process make an entry."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import IO
from uuid import uuid4

import numpy as np
from filelock import FileLock

__all__ = ["atomic_write", "cache_folder", "class_digest", "code_digest", "digest", "entry_lock", "write_header"]


def cache_folder(chosen: str | None, name: str) -> Path:
    """The folder `name` of the cache, which is `chosen` or else $KINEMA_CACHE or ~/.cache/kinema."""
    return Path(chosen or os.environ.get("KINEMA_CACHE") or "~/.cache/kinema").expanduser() / name


def digest(*key: object) -> str:
    """A file name that is a function of the `repr` of `key`."""
    return hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears at `path` when the context ends without an error; several processes may write it.

    Raises ValueError, with the fix, where it cannot be written.
    """
    with _writable(path.parent):
        part = path.with_suffix(f".{uuid4().hex}.part")
        try:
            with part.open("wb") as file:
                yield file
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def entry_lock(path: Path) -> Iterator[None]:
    """Hold the lock of the cache's entry at `path`, so that one process makes it while others wait.

    There are 256 locks, files in a folder beside the entry's: few files, and entries that share one only wait.
    Raises ValueError, with the fix, where they cannot be written.
    """
    folder = path.parent.with_name("locks")
    with _writable(folder):
        lock = FileLock(folder / f"{digest(path.name)[:2]}.lock", poll_interval=0.01)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}): make room there or set $KINEMA_CACHE to another folder"
        ) from error


def write_header(file: IO[bytes], dtype: str, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy, whose values follow; there is room for axis 0 to grow."""
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


PACKAGE = Path(__file__).parents[1]  # whose source code `code_digest` reads


def code_digest(*modules: str) -> str:
    """A hash of the source code of modules and packages of kinema, such as "types" or "evaluation.rows".

    Also of the versions of torch, numpy, av and pillow. What is kept on disk has it in its name, so that it is made
    again when the code that makes it changes. Sources are read once per process. Raises ValueError for a module that is
    not there.
    """
    return _code_digest(PACKAGE, modules)


@cache
def class_digest(kind: type) -> str:
    """A hash of the source file of a class, which may be another package's, and of its name."""
    return digest(kind.__qualname__, Path(inspect.getfile(kind)).read_bytes())


@cache
def _code_digest(package: Path, modules: tuple[str, ...]) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for module in modules:
        base = package.joinpath(*module.split("."))
        paths = [base.with_suffix(".py")] if base.with_suffix(".py").is_file() else sorted(base.rglob("*.py"))
        if not paths:
            raise ValueError(f"kinema has no module {module}")
        for path in paths:
            source = path.read_bytes()
            hashed.update(f"{path.relative_to(package).as_posix()}:{len(source)}:".encode() + source)
    hashed.update(repr([version(name) for name in ("torch", "numpy", "av", "pillow")]).encode())
    return hashed.hexdigest()
