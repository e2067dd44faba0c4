"""Reading actions: a table of numbers with a row for each frame of a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from kinema.data.array_headers import HEADER_LOCK, check_header
from kinema.data.limits import most_bytes
from kinema.data.readers.errors import ReadError

__all__ = ["read_actions", "to_actions"]

TEXT = 16  # bytes of memory that a byte of text takes while it becomes numbers


def read_actions(path: str | Path) -> Float32[np.ndarray, "T A"]:
    """The numbers in a .npy file [T, A] or [T], or in a .csv file with or without a header line.

    Row t is what was done on the way to frame t. Raises ReadError where it cannot be read, is empty or has a number
    that is not finite.
    """
    path = Path(path)
    if not path.is_file():  # a pipe would wait for ever, and a device never end
        raise ReadError(path, "there is no such file")
    try:
        if path.suffix.lower() == ".npy":
            with HEADER_LOCK, path.open("rb") as file:
                check_header(file)
                table: Any = np.load(
                    path, mmap_mode="r", allow_pickle=False
                )  # raises where the header promises too much
        elif path.suffix.lower() == ".csv":
            _check_size(path, TEXT * path.stat().st_size)
            table = _csv(path.read_text(encoding="utf-8-sig"))
        else:
            raise ReadError(path, "actions are read from .npy and .csv files")
    except ReadError:
        raise
    except OSError as error:
        raise ReadError(path, error.strerror or "it cannot be read") from error
    except Exception as error:  # of many types
        raise ReadError(path, f"it is not a table of numbers ({error})") from error
    return to_actions(path, table)


def to_actions(path: Path, values: np.ndarray) -> Float32[np.ndarray, "T A"]:
    """Numbers [T, A] or [T] that were read from a file; raises ReadError as `read_actions` does."""
    if not isinstance(values, np.ndarray):
        raise ReadError(path, "it is not a table of numbers but an archive")
    if values.dtype.kind not in "buif":
        raise ReadError(path, f"it is not a table of numbers but of {values.dtype}")
    _check_size(path, 4 * values.size)
    try:
        table = np.array(values, np.float32)
    except (ValueError, TypeError) as error:
        raise ReadError(path, f"it is not a table of numbers ({error})") from error
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or not table.size:
        raise ReadError(path, f"actions are a row of numbers for each frame, not an array of shape {table.shape}")
    if not np.isfinite(table).all():
        raise ReadError(path, f"row {int((~np.isfinite(table)).any(1).argmax())} has a number that is not finite")
    return table


def _check_size(path: Path, size: int) -> None:
    if size > (most := most_bytes()):
        raise ReadError(path, f"its table takes over {most / 1e9:g} GB: cut it, or set $KINEMA_MOST_GB higher")


def _csv(text: str) -> np.ndarray:
    rows = [row.split(",") for row in text.splitlines() if row.strip()]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    if len({len(row) for row in rows}) > 1:
        raise ValueError("its rows differ in length")
    return np.array([[float(cell) for cell in row] for row in rows], np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
