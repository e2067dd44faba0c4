"""Writing clips as DICOM, marked as synthetic."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import numpy as np

__all__ = ["open_dicom"]

SYNTHETIC = "synthetic, made by kinema"
MOST_BYTES = 2**32 - 2  # of pixels that are not compressed (PS3.5, 7.1.1)


@contextmanager
def open_dicom(path: Path, size: tuple[int, int], rate: Fraction) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a file of DICOM; yield the function that writes a frame, uint8 RGB [H, W, 3], and finish it at the end.

    It is an Ultrasound Multi-frame Image (PS3.3, A.7) of uncompressed RGB, derived and secondary, whose patient is
    SYNTHETIC. Equal frames at an equal rate make an equal file: its UIDs are hashes of them, and it has no date. Raises
    ValueError where pydicom is missing, and at the end for over 4 GB.
    """
    try:
        import pydicom.uid
        from pydicom.dataset import Dataset, FileMetaDataset
    except ImportError:
        raise ValueError(f"{path.name}: DICOM needs pydicom: pip install 'kinema[dicom]'") from None
    frames, digest = 0, hashlib.blake2b(f"{size} {rate}".encode(), digest_size=16)
    with tempfile.TemporaryFile(dir=path.parent) as pixels:  # as the header, before them, says how many there are

        def write_frame(frame: np.ndarray) -> None:
            nonlocal frames
            pixels.write(frame.data)
            digest.update(frame.data)
            frames += 1

        yield write_frame
        length = pixels.tell()
        if length > MOST_BYTES:
            raise ValueError(f"{path.name}: DICOM holds 4 GB, and {frames} frames have {length / 1e9:.1f}: make fewer")
        pixels.write(bytes(length % 2))
        pixels.seek(0)

        dataset = Dataset()
        dataset.SOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
        dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
            _uid(digest.digest() + name) for name in (b"instance", b"study", b"series")
        )
        dataset.ImageType = ["DERIVED", "SECONDARY"]
        dataset.PatientName = dataset.PatientID = "SYNTHETIC"
        dataset.SeriesDescription = dataset.ImageComments = dataset.DerivationDescription = SYNTHETIC
        dataset.Manufacturer, dataset.Modality, dataset.BurnedInAnnotation = "kinema", "US", "NO"
        for name in """
            PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID Laterality
            PatientOrientation
        """.split():  # noqa: SIM905 - which must be there, and may be empty
            setattr(dataset, name, "")
        dataset.SeriesNumber = dataset.InstanceNumber = 1
        dataset.NumberOfFrames, (dataset.Rows, dataset.Columns) = frames, size
        dataset.FrameIncrementPointer = 0x00181063  # FrameTime
        dataset.FrameTime = f"{float(1000 / rate):.10g}"  # milliseconds
        dataset.RecommendedDisplayFrameRate = max(1, round(rate))
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelRepresentation = 7, 0
        dataset.UltrasoundColorDataPresent, dataset.LossyImageCompression = 1, "00"
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OB"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True)


def _uid(source: bytes) -> str:
    """A UID of a hash (PS3.5, B.2)."""
    return f"2.25.{UUID(bytes=hashlib.blake2b(source, digest_size=16).digest(), version=5).int}"
