"""Frames of lossless JPEG and of JPEG-LS in DICOM, by FFmpeg, as pydicom has no decoder of them of its own.

GDCM decodes both but ends the program at some damaged frames.
"""

from __future__ import annotations

from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

__all__ = ["CODECS", "check_size", "decode_jpeg"]

CODECS = {  # of FFmpeg, by transfer syntax
    "1.2.840.10008.1.2.4.57": "mjpeg",
    "1.2.840.10008.1.2.4.70": "mjpeg",
    "1.2.840.10008.1.2.4.80": "jpegls",
    "1.2.840.10008.1.2.4.81": "jpegls",
}
START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}  # markers (ITU-T T.81, table B.1, and T.87, C.1.1)
START_OF_SCAN = 0xDA
JPEG_2000 = b"\xff\x4f\xff\x51"  # how its data begin (ITU-T T.800, A.4.1 and A.5.1)
BY_SAMPLE = 2  # how a JPEG-LS scan interleaves its components


def check_size(data: bytes, shape: tuple[int, int]) -> None:
    """Raise ValueError where an image of JPEG, JPEG-LS or JPEG 2000 is not of the height and width `shape`.

    Decoders take memory for the size that is in the image, whatever the header of the file says.
    """
    size = shape
    if (at := data.find(JPEG_2000, 0, 1024)) >= 0:
        right, bottom, left, top = np.frombuffer(data, ">u4", 4, at + 8).tolist()
        size = bottom - top, right - left
    elif data[:2] == b"\xff\xd8":
        size = _size(_segments(data))
    if size != shape:
        raise ValueError(f"an image of {size[1]}x{size[0]} pixels, which should be {shape[1]}x{shape[0]}")


def decode_jpeg(data: bytes, codec: str, shape: tuple[int, int]) -> np.ndarray:
    """The stored values of an image [H, W], or of three components [H, W, 3], of the height and width `shape`.

    Raises ValueError where it has another size, before it is decoded, or is not whole, and FFmpeg's errors.
    """
    check_size(data, shape)
    segments = _segments(data)
    frame, scan = _frame(segments), segments.get(START_OF_SCAN, b"")
    if len(frame) < 6 or len(scan) < 4:
        raise ValueError("a JPEG that is not whole")
    if codec == "jpegls" and scan[-2] == BY_SAMPLE:
        raise ValueError("its JPEG-LS is interleaved by sample, which FFmpeg does not decode")
    context = cast("VideoCodecContext", av.CodecContext.create(codec, "r"))
    context.options, context.thread_count = {"err_detect": "explode"}, 1
    image = next(iter(context.decode(av.Packet(data))), None)
    if image is None or image.is_corrupt or (image.height, image.width) != shape:
        raise ValueError("a JPEG that is not whole")
    values: np.ndarray = image.to_ndarray()
    if image.format.name == "bgr24":
        return values[..., ::-1]
    values = np.moveaxis(values, 0, -1) if image.format.name == "yuvj444p" else values
    if values.shape[:2] != shape:
        raise ValueError(f"a JPEG of components of different sizes ({image.format.name})")
    return values >> (8 * values.dtype.itemsize - frame[0])  # FFmpeg gives values of fewer bits as the upper ones


def _frame(segments: dict[int, bytes]) -> bytes:
    """The header of the frame: its bits, height, width and components."""
    return next((body for marker, body in segments.items() if marker in START_OF_FRAME), b"")


def _size(segments: dict[int, bytes]) -> tuple[int, int]:
    """The height and width that are stated."""
    frame = _frame(segments)
    return int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")


def _segments(data: bytes) -> dict[int, bytes]:
    """The segments up to the first scan by their marker."""
    found, at = {}, 2
    while at + 4 <= len(data) and data[at] == 0xFF and START_OF_SCAN not in found:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found[data[at + 1]] = data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
    return found
