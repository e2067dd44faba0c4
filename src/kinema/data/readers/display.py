"""Decoded frames as a player shows them: upright, with square pixels, opaque, in standard dynamic range."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache, partial
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation, VideoReformatter
from jaxtyping import Float32, UInt8, UInt16

from kinema.data.readers.base import by_rows, over_black

__all__ = ["Display", "high_range", "is_possible", "square_size", "swaps_sides"]

RANGES = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}  # of high dynamic range
MOST_STRETCH = 4  # of a pixel: a header that says more is wrong
UNSPECIFIED = 2  # colour space (ITU-T H.273)
HD = 720  # lines; untagged colours of as many are BT.709, of fewer BT.601
WHITE = 203.0  # cd/m2 of white in high dynamic range (ITU-R BT.2408, table 1)
PEAK = 1000.0  # cd/m2 of the display that hybrid log-gamma is made for (BT.2100, table 5)
KNEE = 0.75  # of white; light above it is compressed
GAMMA = 2.4  # of a display (BT.1886)
TO_BT709 = np.array(  # from the linear light of BT.2020 (BT.2087, table 4, inverted)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


class Display:
    """Makes upright RGB of a stream's frames.

    `pixel` is the width of a pixel by its height. One converter is kept for all frames, as setting one up takes longer
    than converting a frame.
    """

    def __init__(self, pixel: Fraction | None) -> None:
        self.pixel, self.converter = pixel, VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        """One frame."""
        width, height = square_size(frame.width, frame.height, self.pixel)
        wide = _needs_conversion(frame)
        transparent = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        image = self.converter.reformat(
            frame,
            width,
            height,
            format="rgb48le" if wide else "rgba" if transparent else "rgb24",
            src_colorspace=_matrix(frame),
            interpolation=Interpolation.BICUBIC if (width, height) != (frame.width, frame.height) else None,
            threads=1,
        ).to_ndarray()
        if wide:
            image = by_rows(partial(_standard_range, transfer=frame.color_trc), image)
        elif transparent:
            image = over_black(image)
        return np.ascontiguousarray(_upright(image, frame))


def square_size(width: int, height: int, pixel: Fraction | None) -> tuple[int, int]:
    """The size of a frame in square pixels, none of which is lost; a shape that no player would show is ignored."""
    if not pixel or not is_possible(pixel):
        return width, height
    return (round(width * pixel), height) if pixel > 1 else (width, round(height / pixel))


def is_possible(pixel: Fraction) -> bool:
    """Whether pixels may be so many times as wide as high."""
    return 1 / MOST_STRETCH <= pixel <= MOST_STRETCH


def high_range(frame: av.VideoFrame) -> str | None:
    """What a frame's high dynamic range is called; None where it has the standard range."""
    return RANGES.get(int(frame.color_trc))


def _needs_conversion(frame: av.VideoFrame) -> bool:
    """Whether a frame has more range or colours than the standard's."""
    return high_range(frame) is not None or frame.color_primaries == ColorPrimaries.BT2020


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    """The matrix of a frame that does not say which, as players guess it; None: it says, or has none."""
    if frame.colorspace != UNSPECIFIED or frame.format.is_rgb:
        return None
    if frame.color_primaries == ColorPrimaries.BT2020:
        return Colorspace.BT2020
    if frame.height < HD:
        return None
    return Colorspace.ITU709


def swaps_sides(frame: av.VideoFrame) -> bool:
    """Whether a frame is shown with its width and height swapped."""
    a, b, _, _ = _display_matrix(frame)
    return abs(b) > abs(a)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the matrix that takes a pixel (x, y) to (ax + cy, bx + dy)."""
    data = cast("Mapping[SideData, Any]", frame.side_data).get(SideData.DISPLAYMATRIX)
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    return a, b, c, d


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """The image turned and mirrored by a frame's display matrix, to the nearest quarter turn."""
    a, b, c, d = _display_matrix(frame)
    if abs(b) > abs(a):
        image = image.swapaxes(0, 1)
        a, d = c, b
    image = image[:, ::-1] if a < 0 else image
    return image[::-1] if d < 0 else image


def _standard_range(image: UInt16[np.ndarray, "H W 3"], transfer: int) -> UInt8[np.ndarray, "H W 3"]:
    """Colours of BT.2020 in that of BT.709, with light above `KNEE` of white compressed."""
    light = _light(transfer)[image]
    if transfer == ColorTrc.ARIB_STD_B67:  # from the light of the scene to that of the display (BT.2100, table 5)
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= PEAK / WHITE * np.maximum(luminance, 1e-6)[..., None] ** 0.2
    light = np.maximum(light @ TO_BT709.T, 0)
    if transfer not in RANGES:
        return _levels()[(light.clip(max=1) * 65535 + 0.5).astype(np.uint16)]
    peak = light.max(-1, keepdims=True)  # all three are brought down by one factor, which keeps the hue
    below = KNEE + (1 - KNEE) * (1 - np.exp(-(peak - KNEE) / (1 - KNEE)))
    light = np.where(peak > KNEE, light * below / np.maximum(peak, 1e-6), light)
    return _levels()[(light * 65535 + 0.5).astype(np.uint16)]


@cache
def _light(transfer: int) -> Float32[np.ndarray, " 65536"]:
    """Linear light of 16-bit values, white being 1; of the scene, with a peak of 1, for hybrid log-gamma."""
    signal = np.linspace(0, 1, 65536)
    if transfer == ColorTrc.SMPTE2084:  # SMPTE ST 2084, equation 4.1
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        light = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * 10_000 / WHITE
    elif transfer == ColorTrc.ARIB_STD_B67:  # BT.2100, table 5: the inverse of the OETF
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal if transfer == ColorTrc.LINEAR else signal**GAMMA
    return light.astype(np.float32)


@cache
def _levels() -> UInt8[np.ndarray, " 65536"]:
    """The 8-bit values of 16-bit linear light."""
    return np.round(255 * np.linspace(0, 1, 65536) ** (1 / GAMMA)).astype(np.uint8)
