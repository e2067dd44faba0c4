"""Cached files: their place and names, atomic writing, locks that let one process make an entry, and a size limit."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import IO
from uuid import uuid4

from filelock import FileLock

from kinema.data.atomic import PART, hold

__all__ = [
    "CacheLimit",
    "atomic_write",
    "cache_folder",
    "cache_limit",
    "class_digest",
    "code_digest",
    "digest",
    "entry_lock",
]

LIMITED = ("clips", "latents", "measured")  # folders of the cache whose files can be made again
ABANDONED = 3600.0  # seconds since the last byte of one that is not complete
SLACK = 1 / 16  # share of the limit that is kept free of old entries, so that the cache is looked through rarely


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
        _remove_leftovers(path.parent)
        file, part = _held_part(path)
        try:
            with file:
                yield file
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _held_part(path: Path) -> tuple[IO[bytes], Path]:
    """A new file beside `path`, locked until it is closed, so that no other process takes it for a leftover."""
    while True:
        part = path.with_suffix(f".{uuid4().hex}{PART}")
        file = part.open("wb")
        with suppress(OSError):  # there are file systems without locks
            hold(file.fileno())
        if os.fstat(file.fileno()).st_nlink:  # or it was taken for one before it was locked
            return file, part
        file.close()


@cache
def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left in a folder, once in a process."""
    for part in folder.glob(f"*{PART}"):
        with suppress(OSError):  # the process that writes it lives, or it is gone
            _check_abandoned(part)
            part.unlink()


def _check_abandoned(part: Path) -> None:
    """Raise OSError where a process holds a file."""
    with part.open("rb") as file:
        hold(file.fileno())


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


@cache
def cache_limit(root: Path) -> CacheLimit:
    """The limit of the cache in a folder, one for all of a process."""
    return CacheLimit(root)


class CacheLimit:
    """Keeps a cache within $KINEMA_CACHE_GB, or else half of the disk that is free for it.

    What was used longest ago, by the times of its files, is removed first. Every process looks through the cache after
    a sixteenth of the limit that it wrote, so several may exceed it by as much each. Raises ValueError for a limit that
    is not a number above 0.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._lock = root, Lock()
        stated = os.environ.get("KINEMA_CACHE_GB")
        try:
            self._stated = 1e9 * float(stated) if stated else None
        except ValueError:
            self._stated = 0.0
        if self._stated is not None and not 0 < self._stated < math.inf:
            raise ValueError(f"$KINEMA_CACHE_GB is {stated!r}: give a number of gigabytes above 0")
        self._left = 0.0  # bytes that may be written before the cache is looked through

    def limit_bytes(self) -> float:
        """The limit; where none is stated the cache is looked through for it."""
        return self._stated or self._limit(sum(size for _, size, _ in self._entries()))

    def written(self, size: int) -> None:
        """Note that so many bytes were written, and remove old entries where there are too many; not the newest."""
        with self._lock:
            self._left -= size
            if self._left > 0:
                return
            entries = sorted(self._entries(), key=lambda entry: entry[0])
            used = sum(size for _, size, _ in entries)
            limit = self._limit(used)
            for _, size, files in entries[:-1]:
                if used <= limit * (1 - SLACK):
                    break
                used -= size
                for file in files:
                    with suppress(OSError):  # another process removed it, or it is open where that keeps it
                        file.unlink()
            self._left = limit * SLACK

    def _limit(self, used: int) -> float:
        if self._stated is not None:
            return self._stated
        return (shutil.disk_usage(self.root).free + used) / 2 if self.root.exists() else math.inf

    def _entries(self) -> list[tuple[float, int, list[Path]]]:
        """When each entry was used last, its bytes and its files: those whose names agree up to the first full stop."""
        found: dict[Path, tuple[float, int, list[Path]]] = {}
        unfinished = set[Path]()  # of several files, of which some are there
        for name in LIMITED:
            for folder, _, files in os.walk(self.root / name):
                for file in files:
                    path = Path(folder, file)
                    with suppress(OSError):  # it was removed meanwhile
                        stat = path.stat()
                        entry = path.with_name(file.partition(".")[0])
                        if path.suffix == PART and time.time() - stat.st_mtime < ABANDONED:
                            unfinished.add(entry)
                            continue
                        used, size, others = found.get(entry, (0.0, 0, []))
                        found[entry] = max(used, stat.st_mtime), size + stat.st_size, [*others, path]
        return [files for entry, files in found.items() if entry not in unfinished]


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
