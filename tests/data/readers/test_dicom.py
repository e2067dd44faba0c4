from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.readers.base import Clip, ReadError, find_reader, probe
from kinema.data.readers.dicom.reader import DICOMReader
from kinema.data.writing import write_video

pydicom = pytest.importorskip("pydicom", reason="needs pydicom, of the extra dicom")
uid = pydicom.uid

GREY = np.random.default_rng(0).integers(0, 256, (4, 16, 24), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (4, 16, 24, 3), np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(48) * 2, np.arange(64) * 2 + 10 * k) for k in range(6)]).astype(np.uint8)
Cine = Callable[..., Path]


def item(**values: Any) -> Any:
    found = pydicom.Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def region(left: int, top: int, right: int, bottom: int, kind: int = 1, space: int = 1) -> Any:
    return item(
        RegionSpatialFormat=space,
        RegionDataType=kind,
        RegionLocationMinX0=left,
        RegionLocationMinY0=top,
        RegionLocationMaxX1=right,
        RegionLocationMaxY1=bottom,
    )


def read(path: Path) -> np.ndarray:
    return np.stack(list(DICOMReader().frames(Clip(path))))


def notes(path: Path) -> list[str]:
    return DICOMReader().notes(Clip(path))


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return grey[..., None].repeat(3, -1)


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=str
)
def test_native_frames(cine: Cine, syntax: Any) -> None:
    np.testing.assert_array_equal(read(cine(GREY, syntax=syntax)), as_rgb(GREY))
    np.testing.assert_array_equal(read(cine(RGB, syntax=syntax)), RGB)
    planes = RGB.transpose(0, 3, 1, 2).tobytes()
    np.testing.assert_array_equal(read(cine(RGB, syntax=syntax, pixels=planes, PlanarConfiguration=1)), RGB)
    deep = GREY.astype(np.uint16) * 16
    np.testing.assert_array_equal(
        read(cine(deep, syntax=syntax, BitsStored=12, WindowCenter="2040.5", WindowWidth="4081")), as_rgb(GREY)
    )


def test_rle(cine: Cine) -> None:
    for frames in (GREY, RGB):
        path = cine(frames)
        data = pydicom.dcmread(path)
        data.compress(uid.RLELossless)
        data.save_as(path)
        np.testing.assert_array_equal(read(path), RGB if frames is RGB else as_rgb(GREY))


def jpeg(frames: np.ndarray, **options: Any) -> list[bytes]:
    """Frames encoded by Pillow."""
    found = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, **options)
        found.append(file.getvalue())
    return found


def packets(frames: np.ndarray, codec: str, pixels: str) -> list[bytes]:
    """Frames encoded by FFmpeg, a packet each."""
    context, found = av.CodecContext.create(codec, "w"), []
    context.height, context.width = frames.shape[1:3]
    context.pix_fmt, context.time_base = pixels, Fraction(1, 25)
    for k, frame in enumerate(frames):
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray" if frame.ndim == 2 else "rgb24")
        image.pts = k
        found += context.encode(image.reformat(format=pixels))
    return [bytes(packet) for packet in [*found, *context.encode(None)]]


def test_jpeg(cine: Cine) -> None:
    path = cine(SMOOTH, encoded=jpeg(SMOOTH, format="JPEG", quality=95), syntax=uid.JPEGBaseline8Bit)
    assert np.abs(read(path).astype(int) - as_rgb(SMOOTH)).mean() < 2
    colour = np.stack([SMOOTH, 255 - SMOOTH, SMOOTH // 2], -1)
    encoded = jpeg(colour, format="JPEG", quality=95)
    path = cine(colour, encoded=encoded, syntax=uid.JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(read(path).astype(int) - colour).mean() < 3


def test_jpeg_2000(cine: Cine) -> None:
    encoded = jpeg(SMOOTH, format="JPEG2000", no_jp2=True)
    np.testing.assert_array_equal(read(cine(SMOOTH, encoded=encoded, syntax=uid.JPEG2000Lossless)), as_rgb(SMOOTH))
    encoded = jpeg(RGB, format="JPEG2000", no_jp2=True, mct=1)
    for kind, syntax in (("YBR_RCT", uid.JPEG2000Lossless), ("YBR_ICT", uid.JPEG2000)):
        path = cine(RGB, encoded=encoded, syntax=syntax, PhotometricInterpretation=kind)
        np.testing.assert_array_equal(read(path), RGB)


@pytest.mark.parametrize(
    ("kind", "syntax"), [("JPEG", uid.JPEGBaseline8Bit), ("JPEG2000", uid.JPEG2000Lossless)], ids=["jpeg", "jpeg2000"]
)
def test_images_of_another_size_are_not_decoded(cine: Cine, kind: str, syntax: Any) -> None:
    encoded = jpeg(SMOOTH, format=kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    with pytest.raises(ReadError, match="an image of 64x48 pixels, which should be 24x16"):
        read(cine(GREY, encoded=encoded, syntax=syntax))


def test_lossless_jpeg_and_jpeg_ls(cine: Cine) -> None:
    encoded = packets(GREY, "jpegls", "gray")
    np.testing.assert_array_equal(read(cine(GREY, encoded=encoded, syntax=uid.JPEGLSLossless)), as_rgb(GREY))
    deep = cine(GREY.astype(np.uint16), encoded=encoded, syntax=uid.JPEGLSNearLossless, BitsStored=8)
    np.testing.assert_array_equal(read(deep), as_rgb(GREY))
    encoded = packets(RGB, "ljpeg", "bgr24")
    for syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        path = cine(RGB, encoded=encoded, syntax=syntax)
        np.testing.assert_array_equal(read(path), RGB)
    with pytest.raises(ReadError, match="an image of 24x16 pixels, which should be 64x48"):
        read(cine(as_rgb(SMOOTH), encoded=encoded, syntax=uid.JPEGLossless))


@pytest.mark.parametrize("syntax", ["SC_rgb_jpeg_gdcm", "JPEGLSNearLossless_16", "MR_small_jpeg_ls_lossless"])
def test_real_lossless_frames(syntax: str) -> None:
    """Files of other encoders, with what they were made of: these have no window, or one for all of their values."""
    path = Path(pydicom.data.get_testdata_file(f"{syntax}.dcm", download=False))
    (found,) = read(path)
    if syntax == "SC_rgb_jpeg_gdcm":
        rows = np.array([[255, 0, 0], [255, 128, 128], [0, 255, 0], [128, 255, 128], [0, 0, 255], [128, 128, 255]])
        np.testing.assert_array_equal(found[5:65:10, 50], rows)
    elif syntax == "MR_small_jpeg_ls_lossless":
        original = Path(pydicom.data.get_testdata_file("MR_small.dcm", download=False))
        np.testing.assert_array_equal(found, read(original)[0])
    else:
        assert found.min() == 0 and found.max() == 255


def lossless_jpeg(image: np.ndarray, bits: int) -> bytes:
    """An image of one component by ITU-T T.81, annex H: predictor 1, and codes of 5 bits for the lengths."""
    text = ""
    for (y, x), value in np.ndenumerate(image.astype(int)):
        before = image[y, x - 1] if x else image[y - 1, 0] if y else 1 << bits - 1
        difference = int(value) - int(before)
        length = abs(difference).bit_length()
        rest = difference if difference > 0 else difference + (1 << length) - 1
        text += f"{length:05b}" + (f"{rest:0{length}b}" if length else "")
    text += "1" * (-len(text) % 8)
    parts = {
        0xC3: bytes([bits, *divmod(image.shape[0], 256), *divmod(image.shape[1], 256), 1, 1, 0x11, 0]),
        0xC4: bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)]),
        0xDA: bytes([1, 1, 0, 1, 0, 0]),
    }
    header = b"".join(bytes([0xFF, marker, 0, len(body) + 2]) + body for marker, body in parts.items())
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + header + data + b"\xff\xd9"


@pytest.mark.parametrize("signed", [False, True])
def test_lossless_jpeg_of_12_bits(cine: Cine, signed: bool) -> None:
    deep = GREY.astype(np.int16 if signed else np.uint16) * 16 - 2048 * signed
    encoded = [lossless_jpeg(frame & 4095, 12) for frame in deep]
    path = cine(deep, encoded=encoded, syntax=uid.JPEGLosslessSV1, BitsStored=12)
    np.testing.assert_array_equal(read(path), read(cine(deep, BitsStored=12)))


def test_what_is_not_decoded_is_named(cine: Cine, monkeypatch) -> None:
    path = cine(GREY, encoded=[b"12"] * 4, syntax=uid.HTJ2KLossless)
    monkeypatch.setattr(pydicom.pixels.get_decoder(uid.HTJ2KLossless), "_available", {})
    with pytest.raises(ReadError, match=r"Throughput JPEG 2000 .*installed decodes: pip install pylibjpeg"):
        read(path)
    path = cine(GREY, encoded=[b"12"] * 4, syntax=uid.JPEG2000MC)
    with pytest.raises(ReadError, match="which pydicom does not decode"):
        read(path)
    path = cine(GREY, PhotometricInterpretation="HSV")
    with pytest.raises(ReadError, match="its pixels are 1 x 8 bits of HSV, which are not read"):
        read(path)


@pytest.mark.parametrize(
    ("name", "codec", "syntax"),
    [
        ("v.mpg", "mpeg2video", uid.MPEG2MPML),
        ("v.mp4", "libx264", uid.MPEG4HP41),
        ("v.ts", "libx264", uid.MPEG4HP42STEREO),
        ("v.mp4", "libx265", uid.HEVCMP51),
    ],
)
def test_encapsulated_videos(cine: Cine, make_clip, name: str, codec: str, syntax: Any) -> None:
    video = make_clip(name, images=as_rgb(SMOOTH), codec=codec, rate=25).read_bytes()
    colour = {"PhotometricInterpretation": "YBR_PARTIAL_420", "SequenceOfUltrasoundRegions": [region(8, 4, 47, 35)]}
    colour["FrameTime"] = "50"
    path = cine(as_rgb(SMOOTH), encoded=[video[:1000], video[1000:]], syntax=syntax, **colour)
    found = read(path)
    assert found.shape == (6, 32, 40, 3)
    assert np.abs(found.astype(int) - as_rgb(SMOOTH)[:, 4:36, 8:48]).mean() < 6
    info = probe(Clip(path))
    assert (info.width, info.height, info.frames) == (40, 32, 6) and info.fps == pytest.approx(20)
    assert [start for start, _, _ in DICOMReader().recording(Clip(path))] == pytest.approx(np.arange(6) / 20)
    path = cine(as_rgb(SMOOTH), encoded=[video], syntax=syntax, **colour | {"FrameTime": None})
    assert probe(Clip(path)).fps == pytest.approx(25)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ReadError, match=r"a\.dcm: it is damaged or cut short"):
        read(path)


@pytest.mark.parametrize(
    ("values", "starts"),
    [
        ({}, [0, 0.04, 0.08, 0.12]),
        ({"FrameTime": None, "CineRate": 10, "RecommendedDisplayFrameRate": 5}, [0, 0.1, 0.2, 0.3]),
        ({"FrameTime": "0", "RecommendedDisplayFrameRate": 5}, [0, 0.2, 0.4, 0.6]),
        ({"FrameTimeVector": ["0", "10", "30", "20"], "FrameIncrementPointer": 0x00181065}, [0, 0.01, 0.04, 0.06]),
        ({"FrameTimeVector": ["0", "10", "30", "20"]}, [0, 0.04, 0.08, 0.12]),
        ({"FrameTimeVector": ["0", "10", "30", "20"], "FrameTime": None}, [0, 0.01, 0.04, 0.06]),
        ({"FrameTimeVector": ["0", "10"], "FrameIncrementPointer": 0x00181065}, [0, 0.04, 0.08, 0.12]),
        ({"FrameTime": None}, [0, 0.04, 0.08, 0.12]),
    ],
)
def test_times(cine: Cine, values: dict[str, Any], starts: list[float]) -> None:
    path = cine(GREY, **values)
    timed = [(start, seconds) for start, seconds, _ in DICOMReader().recording(Clip(path))]
    assert [start for start, _ in timed] == pytest.approx(starts)
    assert [seconds for _, seconds in timed][:-1] == pytest.approx(np.diff(starts))
    assert probe(Clip(path)).fps == pytest.approx(4 / (timed[-1][0] + timed[-1][1]))
    assert notes(path) == (["no frame rate is stated, and 25 a second taken"] if values == {"FrameTime": None} else [])


def test_one_frame(cine: Cine) -> None:
    path = cine(GREY[:1], NumberOfFrames=None, FrameTime=None)
    np.testing.assert_array_equal(read(path), as_rgb(GREY[:1]))
    assert notes(path) == []


def test_inverted_grey_and_colours(cine: Cine) -> None:
    np.testing.assert_array_equal(read(cine(GREY, PhotometricInterpretation="MONOCHROME1")), as_rgb(255 - GREY))
    flat = np.broadcast_to(np.array([76, 85, 255], np.uint8), (2, 16, 24, 3))  # red in JPEG's YCbCr
    assert np.abs(read(cine(flat, PhotometricInterpretation="YBR_FULL")) - np.array([254, 0, 0])).max() <= 1
    halved = np.tile(np.array([76, 76, 85, 255], np.uint8), 2 * 16 * 12).tobytes()
    path = cine(flat, pixels=halved, PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(read(path) - np.array([254, 0, 0])).max() <= 1
    with pytest.raises(ReadError, match="its pixels are not YBR_FULL_422"):
        read(cine(flat, PhotometricInterpretation="YBR_FULL_422"))


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(cine: Cine, bits: int) -> None:
    colours = np.random.default_rng(2).integers(0, 256, (3, 256), np.uint8)
    values = {}
    for name, table in zip(("Red", "Green", "Blue"), colours, strict=True):
        deep = table.astype(np.uint16) * 256 if bits == 16 else table
        values[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        values[f"{name}PaletteColorLookupTableData"] = deep.tobytes()
    path = cine(GREY, PhotometricInterpretation="PALETTE COLOR", **values)
    np.testing.assert_array_equal(read(path), colours.T[GREY])


def test_windows(cine: Cine) -> None:
    ramp = np.arange(2 * 16 * 24, dtype=np.int16).reshape(2, 16, 24) - 300
    rescale = {"RescaleSlope": "2", "RescaleIntercept": "10"}
    window = {"WindowCenter": ["100", "7"], "WindowWidth": ["201", "9"]}
    value = ramp * 2.0 + 10
    linear = np.clip((value - 99.5) / 200 + 0.5, 0, 1)
    exact = np.clip((value - 100) / 201 + 0.5, 0, 1)
    sigmoid = 1 / (1 + np.exp(-4 * (value - 100) / 201))
    for function, expected in ((None, linear), ("LINEAR_EXACT", exact), ("SIGMOID", sigmoid)):
        extra = {} if function is None else {"VOILUTFunction": function}
        found = read(cine(ramp, **rescale, **window, **extra))
        np.testing.assert_allclose(found, as_rgb(255 * expected), atol=0.501)
        assert notes(tmp := cine(ramp, **rescale, **window, **extra)) == [] and tmp.exists()


def test_tables(cine: Cine) -> None:
    modality = item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US")
    voi = item(LUTDescriptor=[256, 1000, 8])
    raised, inverted = np.arange(1000, 1256, dtype="<u2"), np.arange(255, -1, -1, "<u2")
    for kind, syntax in (
        ("OW", uid.ExplicitVRLittleEndian),
        ("US", uid.ExplicitVRLittleEndian),
        ("OW", uid.ImplicitVRLittleEndian),
    ):
        for table, values in ((modality, raised), (voi, inverted)):
            table.add_new("LUTData", kind, values.tobytes() if kind == "OW" else values.tolist())
        path = cine(GREY, syntax=syntax, ModalityLUTSequence=[modality], VOILUTSequence=[voi])
        np.testing.assert_array_equal(read(path), as_rgb(255 - GREY))


def test_grey_of_more_bits_without_a_window(cine: Cine) -> None:
    deep = (GREY.astype(np.int16) - 100) * 4  # -400 to 620
    path = cine(deep, BitsStored=12, RescaleSlope="0.5", RescaleIntercept="0")
    np.testing.assert_array_equal(read(path), as_rgb(GREY))
    assert notes(path) == ["grey of 12 bits without a window (black is -200, white 310)"]
    few = GREY // 4
    np.testing.assert_array_equal(read(cine(few, BitsStored=6)), as_rgb(np.rint(few / 63 * 255).astype(np.uint8)))


@pytest.mark.parametrize(
    ("regions", "box", "note"),
    [
        ([region(2, 1, 19, 12)], (2, 1, 20, 13), "its ultrasound region (18x12 of 24x16 pixels)"),
        ([region(2, 1, 24, 16)], (2, 1, 24, 16), "its ultrasound region (22x15 of 24x16 pixels)"),
        (
            [region(0, 0, 9, 9), region(10, 0, 23, 9), region(0, 0, 23, 15, kind=2), region(0, 0, 23, 9, space=3)],
            (10, 0, 24, 10),
            "the largest of its 2 ultrasound regions (14x10 of 24x16 pixels)",
        ),
        ([region(0, 0, 9, 15, kind=2)], (0, 0, 10, 16), "its ultrasound region (10x16 of 24x16 pixels)"),
        ([region(0, 0, 23, 15)], (0, 0, 24, 16), None),
    ],
)
def test_regions(cine: Cine, regions: list[Any], box: tuple[int, int, int, int], note: str | None) -> None:
    path, (left, top, right, bottom) = cine(RGB, SequenceOfUltrasoundRegions=regions), box
    np.testing.assert_array_equal(read(path), RGB[:, top:bottom, left:right])
    info = probe(Clip(path))
    assert (info.width, info.height) == (right - left, bottom - top)
    assert notes(path) == ([] if note is None else [f"cropped to {note}"])


def test_regions_that_cannot_be_right(cine: Cine) -> None:
    for bad in (region(2, 1, 99, 12), region(9, 9, 4, 12), region(0, 0, 2, 2), item(RegionSpatialFormat=1)):
        path = cine(RGB, SequenceOfUltrasoundRegions=[bad])
        np.testing.assert_array_equal(read(path), RGB)
        assert notes(path) == ["not cropped, as none of its ultrasound regions of two dimensions lies in its pixels"]
    assert notes(cine(RGB, SequenceOfUltrasoundRegions=[region(0, 0, 23, 15, space=2)])) != []


def test_names_in_the_pixels(cine: Cine) -> None:
    (note,) = notes(cine(RGB, BurnedInAnnotation="YES"))
    assert note.startswith("BurnedInAnnotation is YES: a patient's name")


def test_patients_are_held_out_as_a_whole(cine: Cine, tmp_path: Path) -> None:
    for k in range(12):
        cine(RGB, f"set/{k:02d}.dcm", PatientID=f"patient {k // 2}")
    folder = scan(tmp_path / "set")
    groups = [clip.group for clip in folder.clips]
    assert groups[::2] == groups[1::2] and len({*groups}) == 6 and folder.grouped_by == ("patient",)
    assert not any("patient" in str(group) for group in groups)
    source = FolderSource(DataConfig(source=str(tmp_path / "set"), frames=4, height=16, width=16, holdout=0.3))
    held = [clip.group for clip in source.other_clips]
    assert len(held) == 4 and not {*held} & {clip.group for clip in source.clips}
    (tmp_path / "set/metadata.csv").write_text("file_name,patient\n" + "".join(f"{k:02d}.dcm,{k}\n" for k in range(12)))
    assert [clip.group for clip in scan(tmp_path / "set").clips] == [str(k) for k in range(12)]


def test_studies_where_no_patient_is_named(cine: Cine) -> None:
    reader = DICOMReader()
    groups = [
        reader.clips(cine(RGB, PatientID=patient, StudyInstanceUID=study))[0].group
        for patient, study in (("", "1.2"), ("Anonymous", "1.2"), ("", "1.3"), ("8", "1.2"), ("8", "1.3"))
    ]
    assert groups[0] == groups[1] and groups[3] == groups[4] and len({*groups}) == 3
    (note,) = notes(cine(RGB, PatientID=""))
    assert note == "no patient's number is in it, and clips of its study are held out together"


def test_files_without_a_suffix(cine: Cine, tmp_path: Path) -> None:
    cine(RGB, "set/IM_0001")
    cine(RGB, "set/1.2.840.113")
    cine(RGB, "set/report", Rows=None)
    (tmp_path / "set/README").write_text("no clip")
    folder = scan(tmp_path / "set")
    assert [clip.path.name for clip in folder.clips] == ["1.2.840.113", "IM_0001"]
    assert folder.notes == ("2 files are passed over, as there are no clips in them: README, report",)
    assert isinstance(find_reader(tmp_path / "set/IM_0001"), DICOMReader)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"NumberOfFrames": 10**9}, "it is damaged or cut short: its header states 1000000000 frames of 24x16"),
        (
            {"Rows": 60_000, "Columns": 60_000, "NumberOfFrames": 1},
            "60000x60000 have over 16777216 pixels",
        ),
        ({"NumberOfFrames": -1}, "states -1 frames"),
        ({"Rows": None}, "there are no pixels in it"),
        ({"PhotometricInterpretation": None}, "pydicom cannot read it"),
        ({"BitsAllocated": 32, "BitsStored": 32, "NumberOfFrames": 1}, "3 x 32 bits of RGB, which are not read"),
    ],
)
def test_headers_that_cannot_be_right(cine: Cine, values: dict[str, Any], message: str) -> None:
    path = cine(RGB, **values)
    with pytest.raises(ReadError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_dicom(cine: Cine, tmp_path: Path) -> None:
    (tmp_path / "b.dcm").write_bytes(b"nothing")
    for name, message in (("b.dcm", "pydicom cannot read it"), ("c.dcm", "there is no such file")):
        assert DICOMReader().clips(tmp_path / name) == [Clip(tmp_path / name)]
        with pytest.raises(ReadError, match=message):
            read(tmp_path / name)
    path = cine(RGB)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ReadError, match="cut short: its header states 4 frames"):
        read(path)
    data = pydicom.dcmread(cine(RGB))
    data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    data.save_as(path)
    with pytest.raises(ReadError, match="Deflated Explicit VR Little Endian, which is not read"):
        read(path)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files(cine: Cine, capfd) -> None:
    """Whatever bytes are wrong: frames or a ReadError of one line."""
    draws = np.random.default_rng(3)
    encoded = jpeg(SMOOTH, format="JPEG", quality=95)
    originals = [
        cine(GREY, SequenceOfUltrasoundRegions=[region(2, 1, 19, 12)]).read_bytes(),
        cine(SMOOTH, encoded=encoded, syntax=uid.JPEGBaseline8Bit).read_bytes(),
    ]
    path, reasons = cine(GREY, "damaged.dcm"), []
    for k in range(100):
        damaged = bytearray(originals[k % 2])
        for _ in range(draws.integers(1, 6)):
            damaged[draws.integers(128, len(damaged))] = draws.integers(256)
        path.write_bytes(damaged[: draws.integers(140, len(damaged))] if k % 5 == 0 else damaged)
        try:
            clip = DICOMReader().clips(path)
            for one in clip:
                notes(one.path), read(one.path)
        except ReadError as error:
            reasons.append(str(error))
    assert 20 < len(reasons) < 80 and not any("\n" in reason for reason in reasons)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fps", [25, 30, 12.5])
def test_written_cines(tmp_path: Path, fps: float) -> None:
    path = write_video(tmp_path / "a.dcm", RGB[:3, :15, :23], fps)
    np.testing.assert_array_equal(read(path), RGB[:3, :15, :23])
    info = probe(Clip(path))
    assert (info.width, info.height, info.frames) == (23, 15, 3) and info.fps == pytest.approx(fps)
    data = pydicom.dcmread(path)
    np.testing.assert_array_equal(data.pixel_array, RGB[:3, :15, :23])
    assert data.ImageType == ["DERIVED", "SECONDARY"] and data.PatientID == data.PatientName == "SYNTHETIC"
    assert "synthetic" in data.SeriesDescription and "synthetic" in data.DerivationDescription
    again = write_video(tmp_path / "b.dcm", RGB[:3, :15, :23], fps)
    assert again.read_bytes() == path.read_bytes()
    assert [one for one in tmp_path.iterdir() if not one.name.startswith(".cache")] == [path, again]


def test_a_real_cine(shared_data: Path) -> None:
    path = shared_data / "decode_samples/ultrasound_cine_30f.dcm"
    info = probe(Clip(path))
    assert (info.width, info.height, info.frames) == (320, 240, 30) and info.fps == pytest.approx(30, abs=0.01)
    frames = read(path)
    grey = frames[:, 60:200, 100:220].astype(int)
    assert frames.shape == (30, 240, 320, 3) and 10 < grey.mean() < 120 and np.ptp(grey, axis=-1).mean() < 10
    assert notes(path) == ["not cropped, as none of its ultrasound regions of two dimensions lies in its pixels"]
