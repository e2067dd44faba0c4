"""Reading DICOM cines, as those of ultrasound: native and compressed frames, and encapsulated videos."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

from kinema.data.limits import most_frames
from kinema.data.readers.base import NOMINAL_FPS, Clip, ClipInfo, DecodeFrame, Reader, ReadError, check_pixels
from kinema.data.readers.dicom.display import Levels, black_and_white, needs_range, stored_levels, to_rgb
from kinema.data.readers.dicom.header import TAGS, Box, frame_starts, patient_group, patient_number, tissue_regions
from kinema.data.readers.dicom.jpeg import CODECS, check_size, decode_jpeg
from kinema.data.readers.dicom.rle import check_rle
from kinema.data.readers.video import VideoReader

__all__ = ["DICOMReader"]

DECODERS = ("pydicom", "pillow", "pylibjpeg")  # of pydicom; its "gdcm" ends the program at some damaged frames
VIDEO = "1.2.840.10008.1.2.4.10"  # how the transfer syntaxes of MPEG-2, MPEG-4 and HEVC begin (PS3.5, 10.6 to 10.13)
RLE = "1.2.840.10008.1.2.5"
UNDEFINED = 0xFFFFFFFF  # length of encapsulated pixels


class DICOMReader(Reader):
    """Reads DICOM cines as a viewer shows them, cropped to the largest ultrasound region of two dimensions.

    Grey values go through the modality and VOI tables or the first window (PS3.3, C.11.1 and C.11.2). Without one,
    black to white are all values that 8 bits or fewer can hold, and of more bits those that are in the clip. Of several
    regions (PS3.3, C.8.5.5) of tissue the largest is read, or where there are none that of the others: a clip is one
    view. Frames have the times of FrameTimeVector or FrameTime (PS3.3, C.7.6.5), or else the rate of CineRate or
    RecommendedDisplayFrameRate, or else 25 a second. Sound is not read.
    """

    suffixes = frozenset({".dcm", ".dicom"})
    groups_are = "patient"

    def can_read(self, path: Path) -> bool:
        """Whether it is named as DICOM, or has no suffix but the mark of DICOM at byte 128; a UID is no suffix."""
        if path.suffix and not path.suffix[1:].isdecimal():
            return super().can_read(path)
        try:
            if not path.is_file():
                return False
            with path.open("rb") as file:
                return file.read(132)[128:] == b"DICM"
        except OSError:
            return False

    def clips(self, path: Path) -> Sequence[Clip]:
        """One clip, whose group is a hash of its patient's number; none in a file without pixels, such as DICOMDIR."""
        try:
            with _opened(path) as (header, _):
                return [Clip(path, group=patient_group(header))] if "Rows" in header else []
        except ReadError:
            return [Clip(path)]  # which is named when it is read

    def info(self, clip: Clip) -> ClipInfo:
        """The size, rate and number of frames."""
        with _cine(clip.path) as cine:
            starts = frame_starts(cine.header, cine.count)
            fps = NOMINAL_FPS if starts is None else cine.count / float(starts[-1])
            if not cine.is_video:
                left, top, right, bottom = cine.box
                return ClipInfo(right - left, bottom - top, fps, None, cine.count, cine.count / fps)
            with _video(cine) as (video, (left, top, right, bottom)):
                if starts is None:
                    fps = VideoReader().info(video).fps
                return ClipInfo(right - left, bottom - top, fps, None)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the frames as RGB, by the times of the header, or where it states none by those of a video in it."""
        with _cine(clip.path) as cine:
            starts = frame_starts(cine.header, cine.count)
            if cine.is_video:
                interval = None if starts is None else float(starts[-1]) / cine.count
                with _video(cine) as (video, box):
                    for k, (start, seconds, picture) in enumerate(VideoReader().recording(video, threads)):
                        start, seconds = (start, seconds) if interval is None else (k * interval, interval)
                        yield start, seconds, partial(_cropped, picture, box)
                return
            if starts is None:
                starts = np.arange(cine.count + 1) / NOMINAL_FPS
            levels = stored_levels(cine.path, cine.header, _measured(cine))
            for k, frame in enumerate(_stored(cine)):
                seconds = float(starts[k + 1] - starts[k])
                yield float(starts[k]), seconds, partial(_shown, frame, levels, cine.box)

    def notes(self, clip: Clip) -> list[str]:
        """What is cut off, scaled or guessed, and whether a patient's name may be in the pixels."""
        found = []
        with _cine(clip.path) as cine:
            header = cine.header
            width, height = header.Columns, header.Rows
            if cine.box != (0, 0, width, height):
                left, top, right, bottom = cine.box
                several = f"the largest of its {cine.regions} ultrasound regions"
                region = several if cine.regions > 1 else "its ultrasound region"
                found.append(f"cropped to {region} ({right - left}x{bottom - top} of {width}x{height} pixels)")
            elif cine.regions == 0 and header.get("SequenceOfUltrasoundRegions"):
                found.append("not cropped, as none of its ultrasound regions of two dimensions lies in its pixels")
            if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
                found.append("BurnedInAnnotation is YES: a patient's name or number may be written in its pixels")
            if cine.count > 1 and not cine.is_video and frame_starts(cine.header, cine.count) is None:
                found.append(f"no frame rate is stated, and {NOMINAL_FPS:g} a second taken")
            if (ends := _measured(cine)) is not None:
                low, high = black_and_white(header, ends)
                found.append(f"grey of {header.BitsStored} bits without a window (black is {low:g}, white {high:g})")
            if patient_number(header) is None:
                found.append("no patient's number is in it, and clips of its study are held out together")
        return found


@dataclass(frozen=True, slots=True)
class _Cine:
    """The header and the pixels of an open file."""

    path: Path
    file: BinaryIO
    header: Any  # pydicom's Dataset of `TAGS`
    count: int  # frames that the header states
    begin: int  # byte at which the pixels begin
    box: Box  # what is read of a frame
    regions: int  # from which the box was chosen

    @property
    def syntax(self) -> Any:
        """The transfer syntax, pydicom's UID."""
        return self.header.file_meta.TransferSyntaxUID

    @property
    def is_video(self) -> bool:
        """Whether the frames are in an encapsulated video."""
        return self.syntax.startswith(VIDEO)


@cache
def _pydicom() -> Any:
    """The package pydicom, which is quiet from then on: all that matters is raised."""
    import pydicom
    import pydicom.pixels

    warnings.filterwarnings("ignore", module=r"pydicom\b")
    return pydicom


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, BinaryIO]]:
    """The header and the file at its pixels; all errors of pydicom, here or in the body, become ReadErrors."""
    try:
        pydicom = _pydicom()
    except ImportError:
        raise ReadError(path, "DICOM needs pydicom: pip install 'kinema[dicom]'") from None
    try:
        with path.open("rb") as file:
            meta = pydicom.filereader.read_file_meta_info(file.name)
            syntax = meta.get("TransferSyntaxUID")
            if not syntax:
                raise ReadError(path, "it states no transfer syntax")
            if syntax.is_deflated:  # a few bytes of which may hold any number
                raise ReadError(path, f"its transfer syntax is {syntax.name}, which is not read: save it uncompressed")
            yield pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS), file
    except ReadError:
        raise
    except FileNotFoundError:
        raise ReadError(path, "there is no such file") from None
    except Exception as error:  # of a damaged file pydicom and its decoders raise all kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ReadError(path, f"pydicom cannot read it ({reason})") from error


@contextmanager
def _cine(path: Path) -> Iterator[_Cine]:
    """An open file whose header has been checked against its length: nothing large was allocated."""
    with _opened(path) as (header, file):
        if not header.get("Rows") or not header.get("Columns"):
            raise ReadError(path, "there are no pixels in it")
        width, height, count = header.Columns, header.Rows, int(header.get("NumberOfFrames") or 1)
        check_pixels(path, width, height)
        if count < 1:
            raise ReadError(path, f"its header states {count} frames")
        syntax, element = header.file_meta.TransferSyntaxUID, file.read(8)
        order = "little" if syntax.is_little_endian else "big"
        if element[:4] not in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
            raise ReadError(path, "there are no pixels of whole numbers in it")
        length = int.from_bytes(element[4:] if syntax.is_implicit_VR else file.read(4), order)
        begin = file.tell()
        left = file.seek(0, 2) - begin
        if (length == UNDEFINED) != syntax.is_encapsulated:
            raise ReadError(path, f"its pixels are not {syntax.name}, as its header states")
        needed = 8 * count  # bytes before each compressed frame
        if not syntax.is_encapsulated:
            bits = width * height * header.SamplesPerPixel * header.BitsAllocated
            halved = header.PhotometricInterpretation == "YBR_FULL_422"
            if halved and length * 8 >= count * bits:
                raise ReadError(path, "its pixels are not YBR_FULL_422, as its header states, but RGB or YBR_FULL")
            needed, left = -(-count * (bits * 2 // 3 if halved else bits) // 8), min(left, length)
        if needed > left:
            raise ReadError(
                path,
                f"it is damaged or cut short: its header states {count} frames of {width}x{height} pixels, which need "
                f"{needed} bytes or more, and there are {left}",
            )
        if count > (most := most_frames()):
            large = f"its header states {count} frames, over {most}"
            raise ReadError(path, f"{large}: cut it, or set $KINEMA_MOST_FRAMES higher")
        boxes = tissue_regions(header)
        largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=(0, 0, width, height))
        yield _Cine(path, file, header, count, begin, largest, len(boxes))


@contextmanager
def _video(cine: _Cine) -> Iterator[tuple[Clip, Box]]:
    """An encapsulated video as a file, which is removed at the end, and what is read of its frames.

    FFmpeg's errors become those of the cine.
    """
    with tempfile.TemporaryDirectory(prefix="kinema-") as folder:
        path = Path(folder, "video")
        size = cine.file.seek(0, 2)
        cine.file.seek(cine.begin)
        fragments = _pydicom().encaps.generate_fragments(cine.file)
        next(fragments, None)  # the table of offsets
        with path.open("wb") as file:
            file.writelines(fragments)
        if cine.file.tell() >= size:  # before the mark of the end
            raise ReadError(cine.path, "it is damaged or cut short: the end of its video is missing")
        try:
            video = VideoReader().info(Clip(path))  # which may be wider than stored, as pixels become square
            x, y = video.width / cine.header.Columns, video.height / cine.header.Rows
            left, top, right, bottom = cine.box
            yield Clip(path), (round(left * x), round(top * y), round(right * x), round(bottom * y))
        except ReadError as error:
            raise ReadError(cine.path, error.reason) from error


def _stored(cine: _Cine) -> Iterator[np.ndarray]:
    """Yield the frames: stored values [H, W], or RGB [H, W, 3]."""
    frames = _by_ffmpeg(cine) if cine.syntax in CODECS else _by_pydicom(cine)
    shape = (cine.header.Rows, cine.header.Columns)
    for k in range(cine.count):
        frame = next(frames, None)
        if frame is None or frame.shape[:2] != shape:
            raise ReadError(cine.path, f"it is damaged or cut short after frame {k}")
        yield frame


def _by_pydicom(cine: _Cine) -> Iterator[np.ndarray]:
    """The frames by pydicom, with the first of `DECODERS` that is installed where they are compressed."""
    pixels, syntax, plugin = _pydicom().pixels, cine.syntax, ""
    if syntax.is_encapsulated:
        try:
            installed = pixels.get_decoder(syntax).available_plugins
        except NotImplementedError:
            raise ReadError(cine.path, f"its pixels are {syntax.name}, which pydicom does not decode") from None
        plugin = next((name for name in DECODERS if name in installed), None)
        if plugin is None:
            fix = "pip install pylibjpeg pylibjpeg-openjpeg"
            raise ReadError(cine.path, f"its pixels are {syntax.name}, which nothing that is installed decodes: {fix}")
    elif cine.header.PhotometricInterpretation == "YBR_FULL_422":
        # pydicom 3.0.2 takes all frames after the first of an iteration for YBR_FULL
        return (pixels.pixel_array(cine.path, index=k) for k in range(cine.count))
    frames = pixels.iter_pixels(cine.path, decoding_plugin=plugin)
    if not syntax.is_encapsulated:
        return frames
    shape = cine.header.Rows, cine.header.Columns
    check = check_rle if syntax == RLE else check_size
    checked = (check(data, shape) for data in _compressed(cine))
    return (frame for _, frame in zip(checked, frames, strict=False))  # each is checked before it is decoded


def _compressed(cine: _Cine) -> Iterator[bytes]:
    """The frames as they are stored."""
    cine.file.seek(cine.begin)
    return _pydicom().encaps.generate_frames(cine.file, number_of_frames=cine.count)


def _by_ffmpeg(cine: _Cine) -> Iterator[np.ndarray]:
    """The frames of lossless JPEG or of JPEG-LS."""
    header, pydicom = cine.header, _pydicom()
    for data in _compressed(cine):
        frame = decode_jpeg(data, CODECS[cine.syntax], (header.Rows, header.Columns))
        if header.PhotometricInterpretation.startswith("YBR_FULL"):
            frame = pydicom.pixels.convert_color_space(frame, "YBR_FULL", "RGB")
        if header.get("PixelRepresentation") == 1:
            unused = max(0, 8 * frame.itemsize - header.BitsStored)
            frame = (frame << unused).view(f"i{frame.itemsize}") >> unused
        yield frame


def _measured(cine: _Cine) -> tuple[int, int] | None:
    """The least and the greatest stored value of a clip that needs them; None: it does not."""
    if cine.is_video or not needs_range(cine.header):
        return None
    least, greatest = zip(*((int(frame.min()), int(frame.max())) for frame in _stored(cine)), strict=True)
    return min(least), max(greatest)


def _shown(frame: np.ndarray, levels: Levels, box: Box) -> UInt8[np.ndarray, "H W 3"]:
    """What is read of a frame of stored values, or of RGB."""
    left, top, right, bottom = box
    return to_rgb(frame[top:bottom, left:right], levels)


def _cropped(picture: DecodeFrame, box: Box) -> UInt8[np.ndarray, "H W 3"]:
    """What is read of a frame of a video."""
    left, top, right, bottom = box
    return np.ascontiguousarray(picture()[top:bottom, left:right])
