"""Stored values of DICOM as a viewer shows them: grey by its tables and windows, colours by their palette, 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, UInt8

from kinema.data.readers.base import ReadError

__all__ = ["Levels", "black_and_white", "needs_range", "stored_levels", "to_rgb"]

GREY = {"MONOCHROME1", "MONOCHROME2"}
COLOURS = {"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}  # which pydicom gives as RGB
MOST_BITS = 16

Levels = tuple[int, np.ndarray] | None  # the least stored value; uint8 [N, 1 or 3] of it and those above; None: RGB


def needs_range(header: Any) -> bool:
    """Whether black and white are the least and greatest value of a clip: grey of over 8 bits and without a window."""
    is_grey = header.PhotometricInterpretation in GREY
    return is_grey and header.BitsStored > 8 and not header.get("VOILUTSequence") and _window(header) is None


def stored_levels(path: Path, header: Any, ends: tuple[int, int] | None) -> Levels:
    """What each value that can be stored is shown as, by pydicom's `header` of the file `path`.

    `ends` are the least and greatest stored value of a clip, where `needs_range`. Raises ReadError for kinds of pixels
    that are not read, and pydicom's errors. Source: PS3.3, C.7.6.3 (palettes), C.11.1 (modality), C.11.2 (VOI).
    """
    from pydicom.pixels.processing import apply_color_lut, apply_voi

    kind, samples, bits = header.PhotometricInterpretation, header.SamplesPerPixel, header.BitsStored
    if kind in COLOURS and samples == 3 and header.BitsAllocated == 8:
        return None
    if samples != 1 or kind not in {*GREY, "PALETTE COLOR"} or not 1 <= bits <= MOST_BITS:
        raise ReadError(path, f"its pixels are {samples} x {bits} bits of {kind}, which are not read")
    stored = _storable(header)
    if kind == "PALETTE COLOR":
        colours = apply_color_lut(stored, header)[:, :3]
        return int(stored[0]), (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    values = _values(header)
    if header.get("VOILUTSequence"):
        table = apply_voi(np.rint(values).astype(np.int32), header)
        grey = table / (2.0 ** header.VOILUTSequence[0].LUTDescriptor[2] - 1)
    elif window := _window(header):
        (centre, width), function = window, header.get("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID":  # C.11.2.1.3.1
            grey = 0.5 + 0.5 * np.tanh(2 * (values - centre) / width)
        elif function == "LINEAR_EXACT":  # C.11.2.1.3.2
            grey = (values - centre) / width + 0.5
        else:  # C.11.2.1.2.1
            grey = (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    else:
        low, high = black_and_white(header, ends)
        grey = (values - low) / (high - low or 1)
    grey = np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8)[:, None]
    return int(stored[0]), 255 - grey if kind == "MONOCHROME1" else grey


def black_and_white(header: Any, ends: tuple[int, int] | None) -> tuple[float, float]:
    """The least and the greatest value of grey without a window: in a clip by its `ends`, or that can be stored."""
    values = _values(header)
    if ends is not None:
        low, high = np.clip(np.array(ends) - _storable(header)[0], 0, len(values) - 1)
        values = values[low : high + 1]
    return float(values.min()), float(values.max())


def to_rgb(frame: np.ndarray, levels: Levels) -> UInt8[np.ndarray, "H W 3"]:
    """A frame of stored values [H, W], or of RGB [H, W, 3]."""
    if levels is not None:
        least, table = levels
        frame = table.take(frame.astype(np.int32) - least, axis=0, mode="clip")  # [H, W, 1 or 3]
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))


def _storable(header: Any) -> Int32[np.ndarray, " N"]:
    """All values that can be stored, from the least on."""
    count = 1 << header.BitsStored
    least = -count // 2 if header.get("PixelRepresentation") == 1 else 0
    return np.arange(least, least + count, dtype=np.int32)


def _values(header: Any) -> Float64[np.ndarray, " N"]:
    """What they stand for, by the modality's table or rescaling."""
    from pydicom.pixels.processing import apply_modality_lut

    return apply_modality_lut(_storable(header), header).astype(np.float64)


def _window(header: Any) -> tuple[float, float] | None:
    """The centre and width of the first window."""
    centre, width = (
        np.atleast_1d(np.array([] if value is None else value, np.float64))[:1].tolist()
        for value in (header.get("WindowCenter"), header.get("WindowWidth"))
    )
    return (centre[0], width[0]) if centre and width and width[0] > 0 else None
