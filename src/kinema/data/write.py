"""Writing clips: video files of every format, and sheets that show many clips at once.

Whatever is written appears under its name only when it is complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from kinema.conditions.audio import RATE

__all__ = ["FORMATS", "contact_sheet", "from_uint8", "tile", "to_uint8", "write_video"]

Frames = Iterator[np.ndarray]  # uint8 [H, W, 3] each
Sound = np.ndarray | None

GAP = 4  # pixels between the clips of a sheet
BACKGROUND = 255  # white, which sets off the black that many clips have at their borders
LEGIBLE = 128  # pixels, about the height to which a sheet enlarges small frames


def write_video(
    path: str | Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: float,
    sound: Float32[np.ndarray, " samples"] | None = None,
) -> Path:
    """Write uint8 RGB frames, one array [T, H, W, 3] or chunks of it that may stream, in the format of `path`'s suffix.

    - `.mp4`: H.264, for players everywhere; an odd height or width gains a row or a column that repeats the last.
    - `.webm`: VP9.
    - `.gif`: loops, with a palette for each frame; it can show no more than 50 frames a second, so faster is slowed.
    - `.npy`: the exact pixels, uint8 [T, H, W, 3].
    - `.png` or no suffix: the exact pixels as a new folder of numbered images, `00000.png` and on; `.png` is dropped.

    `sound`, mono at RATE, becomes the track of .mp4 (AAC) and .webm (Opus); the others have none.

    Returns the path of the file or folder. An existing file is replaced, a folder with something in it is not.
    Raises ValueError for an unknown suffix, for frames that cannot be a video and where writing fails.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"{path}: videos are written as {', '.join(FORMATS)}, not {path.suffix}")
    if not 0.01 <= fps <= 1000:
        raise ValueError(f"{path}: a video has between 0.01 and 1000 frames a second, not {fps}")
    write = WRITERS[path.suffix.lower()]
    if write is _write_png:
        path = path.with_suffix("")
    if path.is_dir() and (write is not _write_png or any(path.iterdir())):
        raise ValueError(f"{path} is a folder that exists: choose another name or remove it")
    rate = Fraction(fps).limit_denominator(1001)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            unfinished = Path(folder, path.name)
            write(unfinished, _frame_by_frame(path, frames), rate, sound)
            unfinished.replace(path)
    except (OSError, FFmpegError) as error:
        raise ValueError(f"{path} could not be written: {error.strerror or error}") from error
    return path


def to_uint8(frames: Float[Tensor, "*batch 3 H W"]) -> UInt8[np.ndarray, "*batch H W 3"]:
    """Frames in [-1, 1], on any device, as RGB bytes to write or show; values beyond are clipped."""
    scaled = frames.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.byte().movedim(-3, -1).cpu().contiguous().numpy()


def from_uint8(pixels: UInt8[np.ndarray, "*batch H W 3"]) -> Float[Tensor, "*batch 3 H W"]:
    """RGB bytes as frames in [-1, 1]."""
    return torch.from_numpy(pixels).movedim(-1, -3).float().div_(127.5).sub_(1)


def contact_sheet(
    clips: UInt8[np.ndarray, "N T H W 3"], *, columns: int = 8, labels: Sequence[str] | None = None
) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """A still image of many clips: a row each, of `columns` frames evenly spaced in time, its label to the left.

    Small frames are enlarged by a whole factor.
    """
    count, frames, height = clips.shape[:3]
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} clips: give one label a clip")
    shown = clips[:, np.linspace(0, frames - 1, min(columns, frames)).round().astype(int)]
    factor = max(1, LEGIBLE // height)
    shown = shown.repeat(factor, axis=2).repeat(factor, axis=3)
    sheet = tile(shown[:, :, None])[0]
    if labels is None:
        return sheet
    font = ImageFont.load_default()
    margin = int(max(font.getbbox(text)[2] for text in labels)) + 2 * GAP
    image = Image.new("RGB", (margin + sheet.shape[1], sheet.shape[0]), (BACKGROUND,) * 3)
    image.paste(Image.fromarray(sheet), (margin, 0))
    draw = ImageDraw.Draw(image)
    for row, text in enumerate(labels):
        middle = (row + 0.5) * (height * factor + GAP) - GAP / 2
        draw.text((GAP, middle), text, fill=(0, 0, 0), font=font, anchor="lm")
    return np.asarray(image)


def tile(clips: UInt8[np.ndarray, "R C T H W 3"]) -> UInt8[np.ndarray, "T Hs Ws 3"]:
    """One clip that plays R x C clips side by side, with small gaps: rows may be contents, columns motions."""
    rows, columns, frames, height, width, _ = clips.shape
    step_y, step_x = height + GAP, width + GAP
    sheet = np.full((frames, rows * step_y - GAP, columns * step_x - GAP, 3), BACKGROUND, np.uint8)
    for r in range(rows):
        for c in range(columns):
            sheet[:, r * step_y : r * step_y + height, c * step_x : c * step_x + width] = clips[r, c]
    return sheet


def _frame_by_frame(path: Path, frames: np.ndarray | Iterable[np.ndarray]) -> Frames:
    """The frames of all the chunks, checked; there is one at least."""
    shape = None
    for chunk in [frames] if isinstance(frames, np.ndarray) else frames:
        if chunk.dtype != np.uint8 or chunk.ndim != 4 or chunk.shape[-1] != 3:
            raise ValueError(f"{path}: frames must be uint8 [T, H, W, 3], not {chunk.dtype} {list(chunk.shape)}")
        for pixels in chunk:
            if shape not in (None, pixels.shape):
                raise ValueError(f"{path}: a frame {pixels.shape} after one {shape}, but a video has one size")
            shape = pixels.shape
            yield pixels
    if shape is None:
        raise ValueError(f"{path}: there are no frames to write")


def _write_mp4(path: Path, frames: Frames, rate: Fraction, sound: Sound) -> None:
    # 4:2:0 is all that browsers and phones play, and it halves both sides, so they have to be even.
    even = (np.pad(f, ((0, f.shape[0] % 2), (0, f.shape[1] % 2), (0, 0)), mode="edge") for f in frames)
    _encode(path, even, rate, "libx264", {"crf": "12"}, {"movflags": "faststart"}, sound, "aac")


def _write_webm(path: Path, frames: Frames, rate: Fraction, sound: Sound) -> None:
    options = {"crf": "16", "b": "0", "cpu-used": "4", "row-mt": "1"}
    _encode(path, frames, rate, "libvpx-vp9", options, {}, sound, "libopus")


def _encode(
    path: Path,
    frames: Frames,
    rate: Fraction,
    codec: str,
    options: dict[str, str],
    container: dict[str, str],
    sound: Sound,
    sound_codec: str,
) -> None:
    first = next(frames)
    with av.open(str(path), "w", options=container) as output:
        stream = cast("av.VideoStream", output.add_stream(codec, rate=rate, options=options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        # Said aloud, because players guess the matrix of untagged video by its size, and not all alike.
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        track = None if sound is None else cast("av.AudioStream", output.add_stream(sound_codec, RATE, layout="mono"))
        for index, pixels in enumerate(chain([first], frames)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = index, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if track is not None and sound is not None:
            samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
            samples.sample_rate = RATE
            output.mux(track.encode(samples))
            output.mux(track.encode())


def _write_gif(path: Path, frames: Frames, rate: Fraction, sound: Sound) -> None:
    def images() -> Iterator[Image.Image]:
        for index, pixels in enumerate(frames):
            image = Image.fromarray(np.ascontiguousarray(pixels))
            palette = image.quantize(256, method=Image.Quantize.FASTOCTREE)
            image = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)  # for smooth gradients
            # A GIF counts hundredths of a second: rounding the times, not the delays, keeps the rate over the clip.
            delay = round(100 * (index + 1) / rate) - round(100 * index / rate)
            image.info["duration"] = 10 * max(2, delay)  # ms; browsers show anything shorter at 10 frames a second
            yield image

    stream = images()
    next(stream).save(path, "GIF", save_all=True, append_images=stream, loop=0)


def _write_npy(path: Path, frames: Frames, rate: Fraction, sound: Sound) -> None:
    first = next(frames)
    header = {"descr": "|u1", "fortran_order": False, "shape": (0, *first.shape)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        count = 0
        for pixels in chain([first], frames):
            file.write(pixels.tobytes())
            count += 1
        file.seek(0)  # numpy leaves room in the header for the first axis to grow
        np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *first.shape)})


def _write_png(path: Path, frames: Frames, rate: Fraction, sound: Sound) -> None:
    path.mkdir()
    for index, pixels in enumerate(frames):
        Image.fromarray(np.ascontiguousarray(pixels)).save(path / f"{index:05d}.png")


WRITERS: dict[str, Callable[[Path, Frames, Fraction, Sound], None]] = {
    ".mp4": _write_mp4,
    ".webm": _write_webm,
    ".gif": _write_gif,
    ".npy": _write_npy,
    ".png": _write_png,
    "": _write_png,
}
FORMATS = tuple(suffix for suffix in WRITERS if suffix)
