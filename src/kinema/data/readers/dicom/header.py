"""What the header of a DICOM cine says of its frames and of its patient; `header` is always pydicom's Dataset."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from jaxtyping import Float64

__all__ = ["TAGS", "Box", "frame_starts", "patient_group", "patient_number", "tissue_regions"]

TAGS = """
    BitsAllocated BitsStored BluePaletteColorLookupTableData BluePaletteColorLookupTableDescriptor BurnedInAnnotation
    CineRate Columns FrameIncrementPointer FrameTime FrameTimeVector GreenPaletteColorLookupTableData
    GreenPaletteColorLookupTableDescriptor ModalityLUTSequence NumberOfFrames PatientID PhotometricInterpretation
    PixelRepresentation RecommendedDisplayFrameRate RedPaletteColorLookupTableData
    RedPaletteColorLookupTableDescriptor RescaleIntercept RescaleSlope Rows SamplesPerPixel
    SegmentedBluePaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
    SegmentedRedPaletteColorLookupTableData SequenceOfUltrasoundRegions StudyInstanceUID VOILUTFunction VOILUTSequence
    WindowCenter WindowWidth
""".split()  # noqa: SIM905 - all that is read of a file beside its pixels
NO_PATIENT = {"", "0", "ANON", "ANONYMISED", "ANONYMIZED", "ANONYMOUS", "NONE", "SYNTHETIC", "UNKNOWN"}  # as PatientID
SMALLEST = 8  # pixels of the side of a region
INTERVALS = 1e-5, 100.0  # seconds between two frames, at least and at most; a header that says others is wrong

Box = tuple[int, int, int, int]  # left, top, right, bottom


def frame_starts(header: Any, count: int) -> Float64[np.ndarray, " starts"] | None:
    """The seconds at which `count` frames start, from the first's, and at which the last ends; None: none are stated.

    They are by FrameTimeVector or FrameTime (PS3.3, C.7.6.5), or else by a rate (C.7.6.5 and C.8.5.6).
    """
    least, most = INTERVALS
    vector = np.atleast_1d(np.array(header.get("FrameTimeVector") or (), np.float64)) / 1000
    steps = vector[1:]  # the first is that before the first frame
    if 1 < count == len(vector) and ((steps >= least) & (steps <= most)).all():
        pointer = header.get("FrameIncrementPointer")
        if "FrameTime" not in header or 0x00181065 in np.atleast_1d(np.array(pointer or (), np.int64)):
            return np.cumsum([0.0, *steps, np.median(steps)])
    seconds = [float(header.get("FrameTime") or 0) / 1000]
    seconds += [1 / float(header.get(name) or "inf") for name in ("CineRate", "RecommendedDisplayFrameRate")]
    interval = next((one for one in seconds if least <= one <= most), None)
    return None if interval is None else np.arange(count + 1) * interval


def tissue_regions(header: Any) -> list[Box]:
    """The ultrasound regions of two dimensions (RegionSpatialFormat 1) in a frame, only those of tissue if any.

    Source: PS3.3, C.8.5.5.
    """
    found = []
    for item in header.get("SequenceOfUltrasoundRegions") or ():
        corners = [item.get(f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
        if item.get("RegionSpatialFormat") != 1 or None in corners:
            continue
        left, top, right, bottom = corners  # the right column and the bottom row belong to it
        if right <= header.Columns and bottom <= header.Rows:  # one more than there are is a common mistake
            right, bottom = min(right + 1, header.Columns), min(bottom + 1, header.Rows)
            if right - left >= SMALLEST and bottom - top >= SMALLEST:
                found.append((item.get("RegionDataType"), (left, top, right, bottom)))
    tissue = [box for kind, box in found if kind == 1]
    return tissue or [box for _, box in found]


def patient_number(header: Any) -> str | None:
    """The number of the patient; None where the file has none, or one that stands for none."""
    number = str(header.get("PatientID") or "").strip()
    return None if number.upper() in NO_PATIENT else number


def patient_group(header: Any) -> str | None:
    """What clips of one patient have in common, or where the patient is not known those of one study.

    It hides a number from those who see it, in a log or over a shoulder. It does not from those who try: all numbers of
    a hospital are hashed in minutes. A secret key would not help, as the same clips must be held out everywhere. So
    treat it as the number itself; kinema writes it into no file.
    """
    number = patient_number(header) or str(header.get("StudyInstanceUID") or "")
    return hashlib.blake2b(number.encode(), digest_size=16, person=b"kinema patient").hexdigest() if number else None
