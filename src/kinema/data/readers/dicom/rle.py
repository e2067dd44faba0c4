"""Frames of run lengths in DICOM, before pydicom unpacks them: a few bytes of which may unpack to any size."""

from __future__ import annotations

import struct
from itertools import pairwise

__all__ = ["check_rle"]

MOST_TIMES = 64  # that two bytes may stand for as many
HARMLESS = 10**8  # bytes of a segment unpacked


def check_rle(data: bytes, shape: tuple[int, int]) -> None:
    """Raise ValueError where a segment unpacks to over twice the pixels of a frame of the height and width `shape`.

    Source: PS3.5, annex G: a header of 16 numbers, and segments of PackBits, one for each byte of a pixel.
    """
    if len(data) < 64:
        raise ValueError("a frame of run lengths that is not whole")
    count, *offsets = struct.unpack("<16I", data[:64])
    places, most = [*offsets[: min(count, 15)], len(data)], 2 * shape[0] * shape[1]
    for begin, end in pairwise(places):
        if (end - begin) * MOST_TIMES > max(most, HARMLESS) and _unpacked(data, begin, end, most) > most:
            raise ValueError(f"a frame of run lengths that unpacks to over {most} bytes")


def _unpacked(data: bytes, at: int, end: int, most: int) -> int:
    """The bytes of a segment once unpacked, counted until there are more than `most`."""
    size = 0
    while at < min(end, len(data)) and size <= most:
        run = data[at]
        if run < 128:
            size += run + 1
            at += run + 2
        else:
            size += 257 - run if run > 128 else 0
            at += 2 if run > 128 else 1
    return size
