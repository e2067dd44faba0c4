"""Reading folders of numbered images: each folder is a clip, and each image a frame."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from kinema.data.readers.base import NOMINAL_FPS, Clip, ClipInfo, DecodeFrame, Reader, ReadError
from kinema.data.readers.image import SUFFIXES, ImageReader, image_size, is_still, read_image

__all__ = ["FramesReader"]

SQUARES = 2  # that a frame may be wide; wider images are strips
BESIDE = frozenset({".csv", ".json", ".txt"})  # files that may lie beside the images
NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)")  # the name of an image without its suffix


class FramesReader(Reader):
    """Reads a folder of images whose names differ only in a number, in the order of the numbers, 25 a second."""

    suffixes = frozenset()
    states_rate = False

    def can_read(self, path: Path) -> bool:
        """Whether it is a folder with two such images or more and nothing else to see, and they are single pictures."""
        try:
            images = _images(path) if path.is_dir() else []
            return len(images) > 1 and is_still(images[0], SQUARES) and is_still(images[-1], SQUARES)
        except ReadError:
            return True  # it is named when it is read
        except OSError:
            return False

    def version(self, clip: Clip) -> Hashable:
        """The names, sizes and times of the images."""
        return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in _images(clip.path))

    def fingerprint(self, clip: Clip) -> str:
        """A hash of the images."""
        hashed = hashlib.blake2b(digest_size=16)
        for path in _images(clip.path):
            hashed.update(os.fsencode(path.name) + b":" + path.read_bytes())
        return hashed.hexdigest()

    def info(self, clip: Clip) -> ClipInfo:
        """The size of the first image, and how many there are."""
        images = _images(clip.path)
        return ClipInfo(*image_size(images[0]), NOMINAL_FPS, None, len(images), len(images) / NOMINAL_FPS)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the images; where a number is missing, the image before it lasts longer."""
        images = _images(clip.path)
        first, step = _number(images[0]), _step(images)
        for path in images:
            yield (_number(path) - first) / step / NOMINAL_FPS, 1 / NOMINAL_FPS, partial(_frame, clip, path)

    def notes(self, clip: Clip) -> list[str]:
        """That numbers are missing, and files that are not read."""
        images, found = _images(clip.path), []
        missing = (_number(images[-1]) - _number(images[0])) // _step(images) + 1 - len(images)
        if missing:
            found.append(f"{missing} of its frames are missing, by their numbers")
        sizes = sorted({image_size(path) for path in images})
        if len(sizes) > 1:
            found.append(f"its images differ in size: {sizes[0][0]}x{sizes[0][1]} to {sizes[-1][0]}x{sizes[-1][1]}")
        found += ImageReader().notes(Clip(images[0]))
        if others := sorted(path.name for path in clip.path.iterdir() if path.suffix.lower() in BESIDE):
            found.append(f"files among its images are not read: {', '.join(others)}")
        return found


def _frame(clip: Clip, path: Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image of a clip; raises ReadError naming both where it is bad."""
    try:
        return read_image(path)
    except ReadError as error:
        raise ReadError(clip.path, f"{path.name}: {error.reason}") from error


def _number(path: Path) -> int:
    """The number in an image's name."""
    match = NUMBERED.fullmatch(path.stem)
    assert match is not None
    return int(match["number"])


def _step(images: Sequence[Path]) -> int:
    """By how much the numbers usually grow."""
    return Counter(b - a for a, b in pairwise(map(_number, images))).most_common(1)[0][0]


def _images(folder: Path) -> list[Path]:
    """The images of a folder by their numbers; none where it holds other media, folders or unlike names."""
    found, kinds, count = {}, set(), 0
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name.lower())
            if entry.name.startswith(".") or suffix in BESIDE:
                continue
            match = NUMBERED.fullmatch(stem)
            if suffix not in SUFFIXES or match is None or not entry.is_file():  # a pipe would wait for ever
                return []
            kinds.add((match["prefix"], suffix))
            count += 1
            found[int(match["number"])] = Path(entry.path)
    return [found[number] for number in sorted(found)] if len(kinds) == 1 and len(found) == count else []
