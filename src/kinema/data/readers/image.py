"""Reading images: strips, whose square frames lie side by side, and stills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kinema.data.readers.base import Clip, ClipInfo, Reader, ReadError, over_black, select_frames

__all__ = ["StripReader", "is_still", "read_image"]

FPS = 25.0  # an image states no rate


class StripReader(Reader):
    """Reads strips: an image n times as wide as high is n square frames, 25 a second."""

    suffixes = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

    def info(self, clip: Clip) -> ClipInfo:
        """The side of the frames, and how many there are."""
        frames, height = _split(clip.path).shape[:2]
        return ClipInfo(height, height, FPS, None, frames, frames / FPS)

    def frames(self, clip: Clip, fps: float | None = None, threads: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the squares from left to right, anything transparent laid over black."""
        timed = ((k / FPS, 1 / FPS, frame) for k, frame in enumerate(_split(clip.path)))
        yield from select_frames(timed, clip, fps)


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image as RGB, anything transparent laid over black; raises ReadError where it cannot be read."""
    path = Path(path).expanduser()
    try:
        with Image.open(path) as image:
            return over_black(np.asarray(image.convert("RGBA")))
    except FileNotFoundError:
        raise ReadError(path, "there is no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
        raise ReadError(path, f"Pillow cannot read it ({error})") from error


def is_still(path: Path) -> bool:
    """Whether a file is one image, neither a video nor a strip of frames; raises ReadError for a damaged image."""
    return path.suffix.lower() in StripReader.suffixes and _frame_count(read_image(path)) < 2


def _frame_count(image: UInt8[np.ndarray, "H W 3"]) -> int:
    """How many square frames lie side by side in an image; 0 where its width is no multiple of its height."""
    frames, rest = divmod(image.shape[1], image.shape[0])
    return 0 if rest else frames


def _split(path: Path) -> UInt8[np.ndarray, "T S S 3"]:
    """The square frames that lie side by side in an image."""
    image = read_image(path)
    frames = _frame_count(image)
    if frames < 2:
        raise ReadError(path, f"an image of {image.shape[1]}x{image.shape[0]} is not a strip of square frames")
    return np.stack(np.split(image, frames, axis=1))
