"""Reading what people have: any container and codec that FFmpeg knows, and strips of frames in one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8
from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "VideoError",
    "VideoInfo",
    "frame_rate",
    "is_still",
    "probe",
    "read_audio",
    "read_frames",
    "read_image",
]

VIDEO_SUFFIXES = frozenset(
    """
    .3g2 .3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogg .ogv .ts .vob .webm .wmv .y4m
    """.split()  # noqa: SIM905
)
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

STRIP_FPS = 25.0  # an image states no rate; this is the nominal one
SLACK = 1e-3  # seconds; Matroska and FLV round time stamps to the millisecond, so a frame may come this much late


class VideoError(ValueError):
    """A file that cannot be used, in one line: `reason` says what is wrong, the message names the file too."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video holds, as it is shown: turned upright, counted frame by frame."""

    width: int  # pixels
    height: int
    fps: float  # average frames a second
    frames: int  # decoded, whatever the header says
    seconds: float  # until the last frame's end
    sound: int | None  # samples a second; None: there is no audio track


def read_frames(
    path: str | Path, *, fps: float | None = None, threads: int = 0
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Yield a video's frames as upright RGB, uint8 [H, W, 3], anything transparent laid over black.

    With `fps` None, every frame comes once. Otherwise frame k is the one that is shown at k / `fps` seconds by the
    time stamps, so that frames are dropped or repeated. A strip, an image n times as wide as high, is n square
    frames at 25 a second. `threads` are the decoder's, 0 being one a core: for files that are read side by side 1 is
    quicker. Raises VideoError, at the latest after the last good frame, where the file is bad.
    """
    path, rgb = Path(path), _RGB()
    if fps is None:
        yield from (rgb(frame) for _, _, frame in _decode(path, threads))
        return
    if fps <= 0:
        raise ValueError(f"fps is {fps:g}: it must be above 0")
    count, end, shown = 0, 0.0, None
    for start, seconds, frame in _decode(path, threads):
        while shown is not None and count / fps < start - SLACK:
            yield rgb(shown)
            count += 1
        shown, end = frame, start + seconds
    while shown is not None and (count == 0 or count / fps < end - SLACK):
        yield rgb(shown)
        count += 1


def probe(path: str | Path) -> VideoInfo:
    """What a video or a strip holds, found by decoding all of it; raises VideoError where the file is bad."""
    path = Path(path)
    width = height = frames = 0
    seconds = 0.0
    for start, length, frame in _decode(path):
        if frames == 0:
            width, height = (frame.height, frame.width) if _quarters(frame) % 2 else (frame.width, frame.height)
        frames, seconds = frames + 1, start + length
    return VideoInfo(width, height, frame_rate(path), frames, seconds, _sound_rate(path))


def frame_rate(path: str | Path) -> float:
    """Average frames a second: the header's, which is quick, or else measured from the time stamps of every frame."""
    path = Path(path)
    if _is_image(path):
        return STRIP_FPS
    with _opened(path) as container:
        stated = _video_stream(container, path).average_rate
    if stated:
        return float(stated)
    frames, end = 0, 0.0
    for start, seconds, _ in _decode(path):
        frames, end = frames + 1, start + seconds
    return frames / end


def read_audio(path: str | Path, rate: int, seconds: float | None = None) -> Float32[np.ndarray, " samples"]:
    """A file's sound as mono float32 [samples] in [-1, 1], `rate` samples a second, sample 0 at the first frame's time.

    With `seconds` no more is read than it takes for so many. Channels are averaged, since FFmpeg's own mix to mono may
    exceed 1. Raises VideoError where there is no audio track.
    """
    path = Path(path)
    with _opened(path) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            raise VideoError(path, "there is no audio track in it")
        picture = container.streams.best("video")
        start = (
            float(picture.start_time * picture.time_base)
            if picture and picture.start_time and picture.time_base
            else 0.0
        )
        resampler = av.AudioResampler(format="fltp", rate=rate)
        begin: float | None = None
        pieces = []
        for frame in container.decode(stream):
            begin = frame.time if begin is None else begin
            pieces += [piece.to_ndarray() for piece in resampler.resample(frame)]
            if seconds is not None and frame.time is not None and frame.time > start + seconds + 1:
                break
        if not pieces:
            raise VideoError(path, "its audio track is empty")
        pieces += [piece.to_ndarray() for piece in resampler.resample(None)]
    sound = np.concatenate(pieces, axis=1).mean(axis=0, dtype=np.float32).clip(-1, 1)
    late = round(((begin or 0.0) - start) * rate)  # samples
    sound = np.pad(sound, (late, 0)) if late > 0 else sound[-late:]
    return sound if seconds is None else sound[: round(seconds * rate)]


def _decode(path: Path, threads: int = 0) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Yield (start, duration, frame) of every frame, in seconds from the first frame's start; starts always grow."""
    if _is_image(path):
        for k, image in enumerate(_split(path)):
            yield k / STRIP_FPS, 1 / STRIP_FPS, av.VideoFrame.from_ndarray(image, format="rgb24")
        return
    with _opened(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        interval = 1 / float(stream.average_rate or STRIP_FPS)
        count, origin, last, end = 0, 0.0, 0.0, 0.0
        for packet in container.demux():
            if packet.is_corrupt:
                raise VideoError(path, f"it is damaged or cut short after frame {count}")
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * float(packet.time_base))
            if packet.stream_index != stream.index:
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                if frame.is_corrupt:
                    raise VideoError(path, f"it is damaged or cut short after frame {count}")
                time = frame.time
                if count == 0:
                    time = origin = time or 0.0
                elif time is None or time <= last:  # decoders give frames in the order of showing: the stamp is wrong
                    time = last + interval
                last = time
                seconds = (frame.duration or 0) * float(frame.time_base or 0)
                yield time - origin, seconds or interval, frame
                count += 1
        if count == 0:
            raise VideoError(path, "there is not one frame in it")
        # FFmpeg takes a cut Matroska file for one that ends there; only the header's duration tells.
        stated = (container.duration or 0) / av.time_base
        if container.format.name.startswith("matroska") and end + 1.5 * interval < stated:
            raise VideoError(path, f"it is cut short: {end:.2f} s of the {stated:.2f} s that its header states")


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The file opened for demuxing; what FFmpeg has against it, here or in the body, becomes a VideoError."""
    try:
        # "file:" because FFmpeg would take a name such as "take:1.mp4" for a protocol.
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            yield container
    except FFmpegError as error:
        raise VideoError(path, f"FFmpeg cannot read it ({error.strerror})") from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoError(path, "there is no video track in it")
    return stream


def _sound_rate(path: Path) -> int | None:
    if _is_image(path):
        return None
    with _opened(path) as container:
        stream = container.streams.best("audio")
        return stream.codec_context.sample_rate if isinstance(stream, av.AudioStream) else None


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def read_image(path: str | Path) -> UInt8[np.ndarray, "H W 3"]:
    """An image as RGB, anything transparent laid over black; raises VideoError where it cannot be read."""
    path = Path(path).expanduser()
    try:
        with Image.open(path) as image:
            return _over_black(np.asarray(image.convert("RGBA")))
    except FileNotFoundError:
        raise VideoError(path, "there is no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow raises
        raise VideoError(path, f"Pillow cannot read it ({error})") from error


def is_still(path: Path) -> bool:
    """Whether a file is one image, neither a video nor a strip of frames; raises VideoError for a damaged image."""
    return _is_image(path) and _strip_of(read_image(path)) < 2


def _strip_of(image: UInt8[np.ndarray, "H W 3"]) -> int:
    """How many square frames lie side by side in an image; 0 where it is none of a whole number of them."""
    frames, rest = divmod(image.shape[1], image.shape[0])
    return 0 if rest else frames


def _split(path: Path) -> UInt8[np.ndarray, "T S S 3"]:
    """The square frames that lie side by side in an image."""
    image = read_image(path)
    frames = _strip_of(image)
    if frames < 2:
        raise VideoError(path, f"an image of {image.shape[1]}x{image.shape[0]} is not a strip of square frames")
    return np.stack(np.split(image, frames, axis=1))


class _RGB:
    """A video's frames as upright RGB: one converter for all, as to set one up takes longer than to convert a frame."""

    def __init__(self) -> None:
        self.converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        clear = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        image = self.converter.reformat(frame, format="rgba" if clear else "rgb24", threads=1).to_ndarray()
        return np.ascontiguousarray(np.rot90(_over_black(image) if clear else image, _quarters(frame)))


def _quarters(frame: av.VideoFrame) -> int:
    """How many quarter turns, counterclockwise, put the frame upright."""
    return round(frame.rotation / 90)


def _over_black(rgba: UInt8[np.ndarray, "H W 4"]) -> UInt8[np.ndarray, "H W 3"]:
    wide = rgba.astype(np.uint16)
    return ((wide[..., :3] * wide[..., 3:] + 127) // 255).astype(np.uint8)
