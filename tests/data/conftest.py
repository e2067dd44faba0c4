"""What tests of data share: DICOM cines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cine = Callable[..., Path]


@pytest.fixture
def cine(tmp_path: Path) -> Cine:
    """Write a DICOM cine of frames [T, H, W] or [T, H, W, 3], or of encoded ones, with these values beside the usual.

    A value None leaves its element out.
    """
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom, of the extra dicom")
    uid = pydicom.uid

    def make(
        frames: np.ndarray,
        name: str = "a.dcm",
        *,
        syntax: str = "1.2.840.10008.1.2.1",  # explicit VR, little endian
        pixels: bytes | None = None,
        encoded: list[bytes] | None = None,
        **values: Any,
    ) -> Path:
        syntax = uid.UID(syntax)
        usual = dict(
            SOPClassUID=uid.UltrasoundMultiFrameImageStorage,
            SOPInstanceUID="1.2.3.4",
            StudyInstanceUID="1.2.3",
            PatientID="7",
            Rows=frames.shape[1],
            Columns=frames.shape[2],
            NumberOfFrames=len(frames),
            SamplesPerPixel=frames.shape[3] if frames.ndim == 4 else 1,
            PhotometricInterpretation="RGB" if frames.ndim == 4 else "MONOCHROME2",
            BitsAllocated=8 * frames.dtype.itemsize,
            BitsStored=8 * frames.dtype.itemsize,
            PixelRepresentation=int(frames.dtype.kind == "i"),
            FrameTime="40",
            FrameIncrementPointer=0x00181063,
        )
        if frames.ndim == 4:
            usual["PlanarConfiguration"] = 0
        data = pydicom.Dataset()
        for key, value in (usual | values).items():
            if value is not None:
                setattr(data, key, value)
        data.HighBit = data.BitsStored - 1
        big = syntax == uid.ExplicitVRBigEndian
        stored = frames.astype(frames.dtype.newbyteorder(">")) if big else frames
        data.PixelData = pydicom.encaps.encapsulate(encoded) if encoded else pixels or stored.tobytes()
        data["PixelData"].VR = "OB" if encoded or (data.BitsAllocated == 8 and not syntax.is_implicit_VR) else "OW"
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
        pydicom.dcmwrite(path, data, enforce_file_format=True, **({} if encoded else options))
        return path

    return make
