"""Writing clips: video files, still images and contact sheets.

Files appear under their names only once they are complete. Memory does not grow with the number of frames.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from jaxtyping import Float, Float32, UInt8
from PIL import GifImagePlugin, Image, ImageDraw, ImageFont
from torch import Tensor

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.atomic import atomic_path, unfinished_path
from kinema.data.dicom_writing import open_dicom

__all__ = [
    "FORMATS",
    "FPS_RANGE",
    "ContactSheet",
    "VideoWriter",
    "contact_sheet",
    "from_uint8",
    "new_folder",
    "open_video",
    "tile",
    "to_uint8",
    "write_image",
    "write_video",
]

Sound = np.ndarray | None
WriteFrame = Callable[[np.ndarray], None]  # uint8 [H, W, 3]

FPS_RANGE = (0.01, 1000)  # frames a second of a video
GAP = 4  # pixels between the clips of a sheet
BACKGROUND = 255  # white, because many clips have black borders
ENLARGED_HEIGHT = 128  # pixels; a contact sheet enlarges smaller frames to about this height


class VideoWriter:
    """A video file that is being written; made by `open_video`.

    As a context manager it closes the file at the end of the block, and removes what was written if the block raises.
    An error in `write` or `close` also removes what was written.
    """

    def __init__(self, path: Path, video_format: VideoFormat, rate: Fraction, sound: Sound) -> None:
        self.path = path
        self.closed = False
        self._format, self._rate, self._sound = video_format, rate, sound
        self._frame_shape: tuple[int, ...] | None = None
        self._stack = ExitStack()
        with self._abort_on_error():
            self._stack.callback(setattr, self, "closed", True)
            self._unfinished = self._stack.enter_context(unfinished_path(path))

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 RGB [t, H, W, 3]; all frames of a video have the same size."""
        if self.closed:
            raise ValueError(f"{self.path} is closed: open it again to write another video")
        with self._abort_on_error():
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
                shape = list(frames.shape)
                raise ValueError(f"{self.path}: frames must be uint8 [T, H, W, 3], not {frames.dtype} {shape}")
            if len(frames) == 0:
                return
            if self._frame_shape is None:
                self._frame_shape = frames.shape[1:]
                encoder = self._format(self._unfinished, frames.shape[1:3], self._rate, self._sound)
                self._write_frame = self._stack.enter_context(encoder)
            elif self._frame_shape != frames.shape[1:]:
                a, b = frames.shape[1:], self._frame_shape
                raise ValueError(f"{self.path}: a frame {a} after one {b}, but a video has one size")
            for frame in frames:
                self._write_frame(np.ascontiguousarray(frame))

    def _write_rate(self) -> None:
        """Write the rate of a format without one into a .json beside it, where a folder's clips are read with it."""
        with unfinished_path(self.path.with_name(f"{self.path.name}.json")) as unfinished:
            unfinished.write_text(json.dumps({"fps": float(self._rate)}))

    def close(self) -> None:
        """Finish the file and move it to its path; raises ValueError if there were no frames."""
        if self.closed:
            return
        with self._abort_on_error():
            if self._frame_shape is None:
                raise ValueError(f"{self.path}: there are no frames to write")
            self._stack.close()
            if self._format in (_npy, _png):
                self._write_rate()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(OSError, FFmpegError):  # what is removed need not be finished
                self._stack.__exit__(kind, error, traceback)

    @contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        with _readable_errors(self.path), self._stack:
            yield
            self._stack = self._stack.pop_all()  # no error, so everything stays open


def open_video(path: str | Path, fps: float, sound: Float32[np.ndarray, " samples"] | None = None) -> VideoWriter:
    """Open a video file for writing, in the format of the path's suffix.

    - `.mp4`: H.264, which plays everywhere; an odd height or width is padded by repeating the last row or column.
    - `.webm`: VP9.
    - `.gif`: loops, with a palette for each frame; limited to 50 frames a second, faster clips are slowed down.
    - `.npy`: the exact pixels, uint8 [T, H, W, 3].
    - `.dcm`: the exact pixels as a DICOM ultrasound cine that says it is synthetic; needs the extra `dicom`.
    - `.png` or no suffix: the exact pixels as a new folder of numbered images, `00000.png` and on; `.png` is dropped.

    The rate of .npy and of images is in a file beside them, of their name and `.json`.

    `sound`, mono at SAMPLE_RATE, becomes the audio track of .mp4 (AAC) and .webm (Opus); the other formats ignore it.
    The writer's `path` is that of the file or folder. An existing file is replaced, a folder that is not empty is not.
    Raises ValueError for an unknown suffix, an impossible frame rate, and a path that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in VIDEO_FORMATS:
        raise ValueError(f"{path}: videos are written as {', '.join(FORMATS)}, not {path.suffix}")
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        low, high = FPS_RANGE
        raise ValueError(f"{path}: a video has between {low} and {high} frames a second, not {fps}")
    makes_folder = VIDEO_FORMATS[suffix] is _png
    if makes_folder:
        path = path.with_suffix("")
    if path.is_dir() and (not makes_folder or any(path.iterdir())):
        raise ValueError(f"{path} is a folder that exists: choose another name or remove it")
    return VideoWriter(path, VIDEO_FORMATS[suffix], Fraction(fps).limit_denominator(1001), sound)


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: float,
    sound: Float32[np.ndarray, " samples"] | None = None,
) -> Path:
    """Write uint8 RGB frames [T, H, W, 3], or an iterable of chunks of them, to a video file; see `open_video`.

    Returns the path of the file or folder. Raises ValueError where `open_video` and `VideoWriter` do.
    """
    with open_video(path, fps, sound) as video:
        for chunk in [frames] if isinstance(frames, np.ndarray) else frames:
            video.write(chunk)
    return video.path


def write_image(path: str | Path, image: UInt8[np.ndarray, "H W 3"]) -> Path:
    """Write an RGB image in the format of the path's suffix, and return its path; makes the folder if it is missing.

    Raises ValueError for an unknown suffix and a path that cannot be written.
    """
    path = Path(path)
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{path}: images are written as .png, .jpg or .webp, not {path.suffix or 'without a suffix'}")
    with atomic_path(path) as unfinished:
        Image.fromarray(image).save(unfinished)
    return path


def to_uint8(frames: Float[Tensor, "*batch 3 H W"]) -> UInt8[np.ndarray, "*batch H W 3"]:
    """Convert frames in [-1, 1], on any device, to RGB bytes; values beyond are clipped."""
    scaled = frames.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.byte().movedim(-3, -1).cpu().contiguous().numpy()


def from_uint8(pixels: UInt8[np.ndarray, "*batch H W 3"]) -> Float[Tensor, "*batch 3 H W"]:
    """Convert RGB bytes to frames in [-1, 1]."""
    return torch.from_numpy(pixels).movedim(-1, -3).float().div_(127.5).sub_(1)


class ContactSheet:
    """A still image of many clips, made from chunks: one row a clip, of frames evenly spaced in time.

    `clips` and `frames` are the number of clips and the number of frames in each. A row shows `columns` frames, or all
    of them if there are fewer, and its label to the left. Small frames are enlarged by a whole factor.
    Only the frames that are shown are kept in memory.
    """

    def __init__(self, clips: int, frames: int, columns: int = 8, labels: Sequence[str] | None = None) -> None:
        if labels is not None and len(labels) != clips:
            raise ValueError(f"{len(labels)} labels for {clips} clips: give one label a clip")
        self.clips, self.labels = clips, labels
        self.indices: list[int] = np.linspace(0, frames - 1, min(columns, frames)).round().astype(int).tolist()
        self._frames: dict[tuple[int, int], np.ndarray] = {}  # [H, W, 3] by clip and frame index

    def add(self, first_frame_index: int, frames: UInt8[np.ndarray, "N t H W 3"], first_clip: int = 0) -> None:
        """Take what is shown of a chunk of clips from `first_clip` on, whose first frame has the given index."""
        if first_clip + len(frames) > self.clips:
            raise ValueError(f"clip {first_clip + len(frames)} for a contact sheet of {self.clips} clips")
        for index in self.indices:
            if 0 <= index - first_frame_index < frames.shape[1]:
                for clip, chunk in enumerate(frames, first_clip):
                    self._frames[clip, index] = chunk[index - first_frame_index].copy()  # a view would keep the chunk

    def image(self) -> UInt8[np.ndarray, "Hs Ws 3"]:
        """Draw the sheet; raises ValueError if a frame that it shows was not added."""
        wanted = [(clip, index) for clip in range(self.clips) for index in self.indices]
        if missing := set(wanted) - self._frames.keys():
            raise ValueError(f"the contact sheet is incomplete: add frames {sorted({i for _, i in missing})}")
        rows = np.stack([self._frames[place] for place in wanted])
        shown = rows.reshape(self.clips, len(self.indices), *rows.shape[1:])  # [N, columns, H, W, 3]
        height = shown.shape[2]
        factor = max(1, ENLARGED_HEIGHT // height)
        shown = shown.repeat(factor, axis=2).repeat(factor, axis=3)
        sheet = tile(shown[:, :, None])[0]
        if self.labels is None:
            return sheet
        font = ImageFont.load_default()
        margin = int(max(font.getbbox(text)[2] for text in self.labels)) + 2 * GAP
        image = Image.new("RGB", (margin + sheet.shape[1], sheet.shape[0]), (BACKGROUND,) * 3)
        image.paste(Image.fromarray(sheet), (margin, 0))
        draw = ImageDraw.Draw(image)
        for row, text in enumerate(self.labels):
            middle = (row + 0.5) * (height * factor + GAP) - GAP / 2
            draw.text((GAP, middle), text, fill=(0, 0, 0), font=font, anchor="lm")
        return np.asarray(image)


def contact_sheet(
    clips: UInt8[np.ndarray, "N T H W 3"], *, columns: int = 8, labels: Sequence[str] | None = None
) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """Draw a still image of whole clips, as `ContactSheet` does."""
    sheet = ContactSheet(clips.shape[0], clips.shape[1], columns, labels)
    sheet.add(0, clips)
    return sheet.image()


def tile(clips: UInt8[np.ndarray, "R C T H W 3"]) -> UInt8[np.ndarray, "T Hs Ws 3"]:
    """Arrange R x C clips, or a chunk of each, as a grid in one clip, with small gaps between them."""
    rows, columns, frames, height, width, _ = clips.shape
    step_y, step_x = height + GAP, width + GAP
    sheet = np.full((frames, rows * step_y - GAP, columns * step_x - GAP, 3), BACKGROUND, np.uint8)
    for r in range(rows):
        for c in range(columns):
            sheet[:, r * step_y : r * step_y + height, c * step_x : c * step_x + width] = clips[r, c]
    return sheet


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder under a temporary name, which is moved to `path` at the end, or removed on an error.

    Raises ValueError where there is something at `path` already, and with the name `path` where it cannot be written.
    """
    exists = f"{path} exists: choose another name or remove it"
    if path.exists():
        raise ValueError(exists)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_path(path) as unfinished:
            unfinished.mkdir()
            yield unfinished
    except (OSError, ValueError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        ours = str(path.with_name(f".{path.name}.")) in str(error) or (
            isinstance(error, OSError) and not error.filename
        )
        if not isinstance(cause, OSError | FFmpegError) or not ours:  # of what is read, or of the folder above
            raise
        reason = f"{path} could not be written: {cause.strerror or cause}"
        raise ValueError(exists if path.exists() else reason) from error  # another process has made it


@contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system and of FFmpeg into one line that names the file."""
    try:
        yield
    except (OSError, FFmpegError) as error:
        raise ValueError(f"{path} could not be written: {error.strerror or error}") from error


# A format is a context manager: it opens a file, yields the function that writes one frame, and finishes the file.


@contextmanager
def _mp4(path: Path, size: tuple[int, int], rate: Fraction, sound: Sound) -> Iterator[WriteFrame]:
    # Browsers and phones play only 4:2:0, whose colour planes have half the height and width, so both must be even.
    pad_y, pad_x = size[0] % 2, size[1] % 2
    even = (size[0] + pad_y, size[1] + pad_x)
    with _encoder(path, even, rate, "libx264", {"crf": "12"}, {"movflags": "faststart"}, sound, "aac") as write:
        yield lambda frame: write(np.pad(frame, ((0, pad_y), (0, pad_x), (0, 0)), mode="edge"))


def _webm(path: Path, size: tuple[int, int], rate: Fraction, sound: Sound) -> AbstractContextManager[WriteFrame]:
    options = {"crf": "16", "b": "0", "cpu-used": "4", "row-mt": "1"}
    return _encoder(path, size, rate, "libvpx-vp9", options, {}, sound, "libopus")


@contextmanager
def _encoder(
    path: Path,
    size: tuple[int, int],
    rate: Fraction,
    codec: str,
    options: dict[str, str],
    container_options: dict[str, str],
    sound: Sound,
    sound_codec: str,
) -> Iterator[WriteFrame]:
    with av.open(str(path), "w", options=container_options) as output:
        stream = cast("av.VideoStream", output.add_stream(codec, rate=rate, options=options))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        # Players guess what is untagged, by its size or otherwise, and not all guess alike.
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        track = (
            None
            if sound is None
            else cast("av.AudioStream", output.add_stream(sound_codec, SAMPLE_RATE, layout="mono"))
        )
        frames = samples = 0  # written so far

        def write_frame(pixels: np.ndarray) -> None:
            nonlocal frames
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.color_primaries, frame.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            frame.pts, frame.time_base = frames, 1 / rate
            output.mux(stream.encode(frame))
            frames += 1
            write_sound(round(SAMPLE_RATE * frames / rate))  # as time goes on, or the muxer would hold frames back

        def write_sound(end: int) -> None:
            nonlocal samples
            if sound is None or track is None or samples >= min(end, len(sound)):
                return
            part = np.ascontiguousarray(sound[None, samples:end])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts, frame.time_base = samples, Fraction(1, SAMPLE_RATE)
            output.mux(track.encode(frame))
            samples += part.shape[1]

        yield write_frame
        output.mux(stream.encode())
        if sound is not None and track is not None:
            write_sound(len(sound))
            output.mux(track.encode())


@contextmanager
def _gif(path: Path, size: tuple[int, int], rate: Fraction, sound: Sound) -> Iterator[WriteFrame]:
    # Image.save(save_all=True) would keep all frames in memory until the last.
    frames = 0
    global_palette = b""  # of the first frame; others have their own where it differs
    previous = np.empty((*size, 3), np.uint8)

    with path.open("wb") as file:

        def write_frame(pixels: np.ndarray) -> None:
            nonlocal frames, global_palette, previous
            image = Image.fromarray(pixels)
            colours = image.quantize(255, method=Image.Quantize.FASTOCTREE)
            image = image.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)  # for smooth gradients
            shown = np.asarray(image.convert("RGB"))
            palette = bytes(image.getpalette() or ())
            transparent = len(palette) // 3  # the index of pixels that keep the previous frame's colour
            palette += bytes(3)
            image.putpalette(palette)
            # A GIF counts hundredths of a second: rounding the times, not the delays, keeps the rate over the clip.
            delay = round(100 * (frames + 1) / rate) - round(100 * frames / rate)
            options = {"duration": 10 * max(2, delay)}  # ms; browsers show anything shorter at 10 frames a second
            corner = (0, 0)
            if frames == 0:
                global_palette = palette
                file.writelines(GifImagePlugin.getheader(image, info={"loop": 0})[0])
            else:
                changed = (shown != previous).any(axis=2)
                image.paste(transparent, mask=Image.fromarray(~changed))
                box = Image.fromarray(changed).getbbox() or (0, 0, 1, 1)
                image, corner = image.crop(box), box[:2]
                options |= {"transparency": transparent, "include_color_table": palette != global_palette}
            file.writelines(GifImagePlugin.getdata(image, corner, **options))
            previous = shown
            frames += 1

        yield write_frame
        file.write(b";")  # the trailer


@contextmanager
def _npy(path: Path, size: tuple[int, int], rate: Fraction, sound: Sound) -> Iterator[WriteFrame]:
    header = {"descr": "|u1", "fortran_order": False, "shape": (0, *size, 3)}
    frames = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)

        def write_frame(pixels: np.ndarray) -> None:
            nonlocal frames
            file.write(pixels.data)
            frames += 1

        yield write_frame
        file.seek(0)  # numpy leaves room in the header for the first axis to grow
        np.lib.format.write_array_header_1_0(file, header | {"shape": (frames, *size, 3)})


@contextmanager
def _png(path: Path, size: tuple[int, int], rate: Fraction, sound: Sound) -> Iterator[WriteFrame]:
    path.mkdir()
    numbers = count()
    yield lambda pixels: Image.fromarray(pixels).save(path / f"{next(numbers):05d}.png")


def _dcm(path: Path, size: tuple[int, int], rate: Fraction, sound: Sound) -> AbstractContextManager[WriteFrame]:
    return open_dicom(path, size, rate)


VideoFormat = Callable[[Path, tuple[int, int], Fraction, Sound], AbstractContextManager[WriteFrame]]
VIDEO_FORMATS: dict[str, VideoFormat] = {
    ".mp4": _mp4,
    ".webm": _webm,
    ".gif": _gif,
    ".npy": _npy,
    ".dcm": _dcm,
    ".png": _png,
    "": _png,
}
FORMATS = tuple(suffix for suffix in VIDEO_FORMATS if suffix)
