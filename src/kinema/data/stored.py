"""Arrays and metadata in the cache, with checksums (CRC-32) that are checked when they are read."""

from __future__ import annotations

import json
import math
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from kinema.data.array_headers import HEADER_LOCK
from kinema.data.cache import atomic_write

__all__ = ["ArrayWriter", "Damaged", "StoredArray", "read_bytes", "read_metadata", "write_bytes", "write_metadata"]

CHECKSUM = np.dtype("<u4")


class Damaged(ValueError):
    """A file in the cache that does not hold what was written to it under its name."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged: remove it, and it is made again")
        self.path = path


class ArrayWriter:
    """Writes an array [N, *row] to an open file, whose name will be `path`.

    The file is a .npy that other programs can read, with a checksum of every `block` rows after them, and at last one
    of these checksums, the shape, the type and the name.
    """

    def __init__(self, file: IO[bytes], path: Path, dtype: np.dtype, row: tuple[int, ...], block: int = 1) -> None:
        self.count = 0  # rows so far
        self._file, self._path, self._dtype, self._row, self._block = file, path, dtype, row, block
        self._checksums: list[int] = []
        self._write_header()
        self._offset = file.tell()

    def write(self, rows: np.ndarray) -> None:
        """Append rows [n, *row]; before the last ones n is a multiple of `block`."""
        assert self.count % self._block == 0
        rows = np.ascontiguousarray(rows, self._dtype)
        self._file.write(rows.data)
        self._checksums += [zlib.crc32(rows[k : k + self._block].data) for k in range(0, len(rows), self._block)]
        self.count += len(rows)

    def finish(self) -> StoredArray:
        """Write the checksums, and the number of rows into the header, which has room for it."""
        checksums = np.array(self._checksums, CHECKSUM)
        shape = self.count, *self._row
        self._file.write(checksums.tobytes() + _seal(checksums, self._path.name, shape, self._dtype))
        self._file.seek(0)
        self._write_header()
        return StoredArray(self._path, shape, self._dtype, self._offset, self._block, checksums)

    def _write_header(self) -> None:
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.count, *self._row)}
        np.lib.format.write_array_header_1_0(self._file, header)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array on disk that an `ArrayWriter` wrote."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int  # bytes before the first row
    block: int  # rows of a checksum
    checksums: np.ndarray
    mapped: np.ndarray | None = None  # the file in memory, which stays there if another process removes it

    @staticmethod
    def open(path: Path, block: int = 1) -> StoredArray:
        """The array in a file, of which the header and the checksums are read; raises OSError and Damaged."""
        with path.open("rb") as file:
            try:
                np.lib.format.read_magic(file)
                with HEADER_LOCK:
                    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            except Exception:  # of many types
                raise Damaged(path) from None
            if dtype.hasobject:
                raise Damaged(path)
            offset, size = file.tell(), math.prod(shape) * dtype.itemsize
            blocks = -(-shape[0] // block) if shape else 0
            if os.fstat(file.fileno()).st_size != offset + size + (blocks + 1) * CHECKSUM.itemsize:
                raise Damaged(path)
            file.seek(offset + size)
            checksums = np.frombuffer(file.read(blocks * CHECKSUM.itemsize), CHECKSUM)
            if file.read() != _seal(checksums, path.name, shape, dtype):
                raise Damaged(path)
        return StoredArray(path, shape, dtype, offset, block, checksums)

    def map(self) -> StoredArray:
        """The same array, read from a memory map: for many small reads of a large file."""
        return replace(self, mapped=np.memmap(self.path, self.dtype, "r", self.offset, self.shape))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, fewer at the end; raises OSError and, where a checksum is another, Damaged.

        One plain read is several times as fast as opening a memory map.
        """
        start, stop = min(start, self.shape[0]), min(stop, self.shape[0])
        first = start - start % self.block
        last = min(-(-stop // self.block) * self.block, self.shape[0])
        rows = self._from_file(first, last) if self.mapped is None else np.array(self.mapped[first:last])
        found = [zlib.crc32(rows[k : k + self.block].data) for k in range(0, last - first, self.block)]
        if found != self.checksums[first // self.block : -(-last // self.block)].tolist():
            raise Damaged(self.path)
        return rows[start - first : stop - first]

    def _from_file(self, first: int, last: int) -> np.ndarray:
        row = math.prod(self.shape[1:])
        offset = self.offset + first * row * self.dtype.itemsize
        rows = np.fromfile(self.path, self.dtype, (last - first) * row, offset=offset)
        if rows.size != (last - first) * row:
            raise Damaged(self.path)
        return rows.reshape(last - first, *self.shape[1:])


def _seal(checksums: np.ndarray, name: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The last checksum of a file: of the others, its shape and type and its name."""
    sealed = zlib.crc32(repr((name, shape, dtype.str)).encode(), zlib.crc32(checksums.data))
    return np.array(sealed, CHECKSUM).tobytes()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file with its checksum at the end; raises ValueError where it cannot be written."""
    with atomic_write(path) as file:
        file.write(content + _checksum_of(path, content))


def read_bytes(path: Path) -> bytes:
    """The content of `write_bytes`; raises OSError and Damaged."""
    content = path.read_bytes()
    content, checksum = content[: -CHECKSUM.itemsize], content[-CHECKSUM.itemsize :]
    if checksum != _checksum_of(path, content):
        raise Damaged(path)
    return content


def _checksum_of(path: Path, content: bytes) -> bytes:
    """Of a file's content and its name, so that one is not taken for another."""
    return np.array(zlib.crc32(content, zlib.crc32(path.name.encode())), CHECKSUM).tobytes()


def write_metadata(path: Path, content: dict[str, Any]) -> None:
    """Write plain values as JSON, with a checksum; raises ValueError where it cannot be written."""
    write_bytes(path, json.dumps(content).encode())


def read_metadata(path: Path) -> dict[str, Any]:
    """The values of `write_metadata`; raises OSError and Damaged."""
    return json.loads(read_bytes(path))
