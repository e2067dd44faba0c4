"""Files and folders that appear under their names only once they are complete; what a killed writer left is removed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from av.error import FFmpegError

try:
    import fcntl
except ImportError:  # Windows, which removes no file that is open
    fcntl = None

__all__ = ["PART", "atomic_path", "hold", "unfinished_path", "write_text"]

PART = ".part"
TEMPORARY = re.compile(
    r"\..*\.[a-z0-9_]{8}\.part"
)  # of folders that hold one file, or one folder, until it is complete


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file, which is moved to `path` at the end, or removed on an error.

    Makes the folder if it is missing. Raises ValueError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_path(path) as unfinished:
            yield unfinished
    except (OSError, FFmpegError) as error:
        raise ValueError(f"{path} could not be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file; makes the folder if it is missing. Raises ValueError where it cannot be written."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@contextmanager
def unfinished_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, which is moved to `path` at the end, or removed on an error.

    Several processes may write the same. Raises OSError where it cannot be written.
    """
    _remove_leftovers(path.parent)
    with _temporary_folder(path) as folder:
        unfinished = folder / path.name
        yield unfinished
        unfinished.replace(path)


def hold(descriptor: int) -> None:
    """Lock an open file or folder until it is closed; raises OSError where another process holds it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path`, whose lock is held as long as it is there."""
    while True:
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=PART) as name,
            ExitStack() as held,
        ):
            folder = Path(name)
            try:
                held.enter_context(_held_folder(folder))
            except (BlockingIOError, FileNotFoundError):  # another process took it for a leftover
                continue
            except OSError:  # there are no locks, so leftovers stay
                pass
            if folder.exists():
                yield folder
                return


@cache
def _remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed left in a folder, once in a process: what nobody holds."""
    for entry in folder.glob(f".*{PART}"):
        if TEMPORARY.fullmatch(entry.name):
            with suppress(OSError), _held_folder(entry):
                shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def _held_folder(folder: Path) -> Iterator[None]:
    """Hold a folder; raises BlockingIOError where another process does, and OSError where folders have no locks."""
    if fcntl is None:
        raise OSError("Windows cannot lock folders")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        hold(descriptor)
        yield
    finally:
        os.close(descriptor)
