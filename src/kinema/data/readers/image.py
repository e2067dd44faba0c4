"""Reading images: stills, strips, whose square frames lie side by side, animations and stacks of pages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from kinema.data.limits import most_pages, most_pixels
from kinema.data.readers.base import (
    NOMINAL_FPS,
    Clip,
    ClipInfo,
    DecodeFrame,
    Reader,
    ReadError,
    check_pixels,
    over_black,
)

__all__ = ["SUFFIXES", "ImageReader", "image_size", "is_still", "read_image"]

SUFFIXES = frozenset({".avif", ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
# Pillow goes by what is in a file, and starts Ghostscript for an EPS, whatever its name.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", "AVIF")  # the last one may be absent
DAMAGED = (  # what Pillow raises of files that are damaged
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, Image.DecompressionBombError,
)  # fmt: skip
ORIENTATION = 0x0112  # the tag of EXIF
TILE = 0x0142, 0x0143  # the tags of TIFF with the width and height of a tile, which may be larger than the picture
DEEP = "grey of 16 bits, of which the upper 8 are kept: if it is depth, scale it to 8 bits first"


class ImageReader(Reader):
    """Reads animations by their durations, stacks of pages and strips at 25 frames a second.

    An image n times as wide as high is a strip of n square frames, from left to right.
    """

    suffixes = SUFFIXES
    states_rate = False  # but for some animations

    def info(self, clip: Clip) -> ClipInfo:
        """The size of the frames, and how many there are."""
        with _opened(clip.path) as image:
            count, (width, height) = _pages(clip.path, image), _upright_size(image)
            seconds = count / NOMINAL_FPS if image.format == "TIFF" else 0.0
            for page in range(count if not seconds else 0):
                if count > 1:
                    _turn_to(clip.path, image, page)
                seconds += _seconds(image)
        if count == 1:
            count = _squares_of(clip.path, width, height)
            width, seconds = height, count / NOMINAL_FPS
        return ClipInfo(width, height, count / seconds, None, count, seconds)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the pages or the squares, upright, anything transparent laid over black."""
        with _opened(clip.path) as image:
            if (count := _pages(clip.path, image)) > 1:
                start = 0.0
                for page in range(count):
                    _turn_to(clip.path, image, page)
                    frame, seconds = _to_rgb(image), _seconds(image)
                    yield start, seconds, partial(np.asarray, frame)
                    start += seconds
                return
            squares = _squares_of(clip.path, *_upright_size(image))
            for k, frame in enumerate(np.split(_to_rgb(image), squares, axis=1)):
                yield k / NOMINAL_FPS, 1 / NOMINAL_FPS, partial(np.ascontiguousarray, frame)

    def notes(self, clip: Clip) -> list[str]:
        """That an image has more bits than are kept."""
        with _opened(clip.path) as image:
            return [DEEP] if _is_deep(image) else []


def read_image(path: str | Path, content: bytes | None = None) -> UInt8[np.ndarray, "H W 3"]:
    """An image as RGB, upright, anything transparent laid over black; raises ReadError where it cannot be read.

    `content` is that of an image inside the file `path`.
    """
    with _opened(Path(path), content) as image:
        return _to_rgb(image)


def image_size(path: Path) -> tuple[int, int]:
    """The width and height of an image, upright; raises ReadError where it cannot be read."""
    with _opened(path) as image:
        return _upright_size(image)


def is_still(path: Path, squares: int = 1) -> bool:
    """Whether a file is one picture, neither a video nor an animation, and no strip of more than so many squares.

    Raises ReadError for a damaged image.
    """
    if path.suffix.lower() not in SUFFIXES:
        return False
    with _opened(path) as image:
        return _pages(path, image) == 1 and _squares(*_upright_size(image)) <= squares


def _squares(width: int, height: int) -> int:
    """How many square frames lie side by side in an image; 0 where its width is no multiple of its height."""
    frames, rest = divmod(width, height)
    return 0 if rest else frames


def _squares_of(path: Path, width: int, height: int) -> int:
    """The same of a strip; raises ReadError for another image."""
    if (count := _squares(width, height)) < 2:
        raise ReadError(path, f"an image of {width}x{height} is neither an animation nor a strip")
    return count


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The image, not decoded yet; Pillow's errors, here or in the body, become ReadErrors."""
    most = most_pixels()
    if Image.MAX_IMAGE_PIXELS is not None and most > Image.MAX_IMAGE_PIXELS:  # which Pillow warns of
        Image.MAX_IMAGE_PIXELS = most
    try:
        with Image.open(path if content is None else BytesIO(content), formats=FORMATS) as image:
            check_pixels(path, *image.size)
            if image.format == "TIFF":
                check_pixels(path, *(int(image.tag_v2.get(tag) or 1) for tag in TILE))  # pyright: ignore[reportAttributeAccessIssue]
            yield image
    except FileNotFoundError:
        raise ReadError(path, "there is no such file") from None
    except ReadError:
        raise
    except Image.DecompressionBombError:
        large = f"its pictures have over {most} pixels"
        raise ReadError(path, f"{large}: make them smaller, or set $KINEMA_MOST_PIXELS higher") from None
    except DAMAGED as error:
        raise ReadError(path, f"Pillow cannot read it ({error})") from error


def _pages(path: Path, image: Image.Image) -> int:
    """The frames of an animation or pages of a stack; those after a photo's first are its preview.

    Raises ReadError where there are over `most_pages`.
    """
    if image.format == "MPO":
        return 1
    many, most = False, most_pages()
    if image.format in {"GIF", "TIFF"}:  # which do not say how many: Pillow would look through all of them
        with suppress(EOFError):
            for page in range(1, most + 1):
                image.seek(page)
            many = True
        image.seek(0)
    if many or (count := getattr(image, "n_frames", 1) - _first_page(image)) > most:
        raise ReadError(
            path, f"it has over {most} pages: make it a video, or set $KINEMA_MOST_FRAMES above {100 * most}"
        )
    return count


def _turn_to(path: Path, image: Image.Image, page: int) -> None:
    """Go to a page, whose size may be its own."""
    image.seek(page + _first_page(image))
    check_pixels(path, *image.size)


def _first_page(image: Image.Image) -> int:
    """The first frame of an animation: 1 where page 0 is what is shown without animation, as in some PNGs."""
    return int(bool(getattr(image, "default_image", False)))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """The size as shown: EXIF orientations from 5 on swap the sides."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION, 1) >= 5 else (width, height)


def _seconds(image: Image.Image) -> float:
    """How long the current page is shown; browsers take 10 ms or less for 100 ms."""
    image.load()  # before it some formats do not say
    milliseconds = float(image.info.get("duration") or 0)
    return milliseconds / 1000 if milliseconds > 10 else 0.1 if "duration" in image.info else 1 / NOMINAL_FPS


def _is_deep(image: Image.Image) -> bool:
    """Whether it has 16 bits of grey."""
    return image.mode.startswith("I;16")


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The current page as upright RGB."""
    if _is_deep(image):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in {"I", "F"}:
        raise ValueError(f"its values are of mode {image.mode}, not 8 or 16 bits")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        return over_black(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))
