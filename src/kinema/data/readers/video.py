"""Reading videos and sound: any container and codec that FFmpeg knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8

from kinema.data.readers.base import Clip, ClipInfo, Reader, ReadError, over_black, select_frames

__all__ = ["VideoReader"]

NOMINAL_FPS = 25.0  # of a frame without a duration in a file without a rate


class VideoReader(Reader):
    """Reads videos by their time stamps, turned upright, anything transparent laid over black."""

    suffixes = frozenset(
        """
        .3g2 .3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogg .ogv .ts .vob .webm .wmv .y4m
        """.split()  # noqa: SIM905
    )

    def info(self, clip: Clip) -> ClipInfo:
        """What the header and the first frame say; a rate that the header leaves open is measured from all frames."""
        with _opened(clip.path) as container:
            stream = _video_stream(container, clip.path)
            stream.codec_context.thread_count = 1
            frame = next(container.decode(stream), None)
            if frame is None:
                raise ReadError(clip.path, "it has no frames")
            size = frame.width, frame.height
            width, height = size[::-1] if _quarter_turns(frame) % 2 else size
            audio = container.streams.best("audio")
            sample_rate = audio.codec_context.sample_rate if isinstance(audio, av.AudioStream) else None
            fps = stream.average_rate
            stated = container.duration and container.duration / av.time_base
        seconds = None
        if stated:
            seconds = max(0.0, min(stated, clip.stop or stated) - clip.start)
        return ClipInfo(width, height, float(fps or _measured_rate(clip.path)), sample_rate, None, seconds)

    def frames(self, clip: Clip, fps: float | None = None, threads: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the frames by their time stamps."""
        yield from map(_ToRGB(), select_frames(_decode(clip.path, threads), clip, fps))

    def audio(self, clip: Clip, rate: int) -> Float32[np.ndarray, " samples"]:
        """The sound from the clip's first frame on, mono: the mean of the channels.

        FFmpeg's own mix to mono may exceed 1.
        """
        path, stop = clip.path, clip.stop
        with _opened(path) as container:
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream):
                raise ReadError(path, "there is no audio track in it")
            video, origin = container.streams.best("video"), 0.0
            if video and video.start_time and video.time_base:
                origin = float(video.start_time * video.time_base)
            resampler = av.AudioResampler(format="fltp", rate=rate)
            begin: float | None = None
            pieces = []
            for frame in container.decode(stream):
                begin = frame.time if begin is None else begin
                pieces += [piece.to_ndarray() for piece in resampler.resample(frame)]
                if stop is not None and frame.time is not None and frame.time > origin + stop + 1:
                    break
            if not pieces:
                raise ReadError(path, "its audio track is empty")
            pieces += [piece.to_ndarray() for piece in resampler.resample(None)]
        sound = np.concatenate(pieces, axis=1).mean(axis=0, dtype=np.float32).clip(-1, 1)
        late = round(((begin or 0.0) - origin) * rate)  # samples
        sound = np.pad(sound, (late, 0)) if late > 0 else sound[-late:]
        return sound[round(clip.start * rate) : None if stop is None else round(stop * rate)]


def _measured_rate(path: Path) -> float:
    """Average frames a second by the time stamps of all frames."""
    frames, end = 0, 0.0
    for start, seconds, _ in _decode(path):
        frames, end = frames + 1, start + seconds
    return frames / end


def _decode(path: Path, threads: int = 0) -> Iterator[tuple[float, float, av.VideoFrame]]:
    """Yield (start, duration, frame) of every frame, in seconds from the first frame's start; starts always grow."""
    with _opened(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        interval = 1 / float(stream.average_rate or NOMINAL_FPS)
        count, origin, last, end = 0, 0.0, 0.0, 0.0
        for packet in container.demux():
            if packet.is_corrupt:
                raise ReadError(path, f"it is damaged or cut short after frame {count}")
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * float(packet.time_base))
            if packet.stream_index != stream.index:
                continue
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                if frame.is_corrupt:
                    raise ReadError(path, f"it is damaged or cut short after frame {count}")
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
            raise ReadError(path, "it has no frames")
        # FFmpeg takes a cut Matroska file for one that ends there; only the header's duration tells.
        stated = (container.duration or 0) / av.time_base
        if container.format.name.startswith("matroska") and end + 1.5 * interval < stated:
            raise ReadError(path, f"it is cut short: {end:.2f} s of the {stated:.2f} s that its header states")


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The file opened for demuxing; FFmpeg's errors, here or in the body, become ReadErrors."""
    try:
        # "file:" because FFmpeg would take a name such as "take:1.mp4" for a protocol.
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            yield container
    except FFmpegError as error:
        raise ReadError(path, f"FFmpeg cannot read it ({error.strerror})") from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise ReadError(path, "there is no video track in it")
    return stream


class _ToRGB:
    """Makes frames upright RGB; one converter for all, as setting one up takes longer than converting a frame."""

    def __init__(self) -> None:
        self.converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        transparent = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
        image = self.converter.reformat(frame, format="rgba" if transparent else "rgb24", threads=1).to_ndarray()
        image = over_black(image) if transparent else image
        return np.ascontiguousarray(np.rot90(image, _quarter_turns(frame)))


def _quarter_turns(frame: av.VideoFrame) -> int:
    """How many quarter turns, counterclockwise, put the frame upright."""
    return round(frame.rotation / 90)
