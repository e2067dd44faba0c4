"""Reading videos and sound: any container and codec that FFmpeg knows."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import ArgumentError, BlockingIOError, EOFError, FFmpegError  # of FFmpeg, not the system's
from av.filter import Graph
from av.stream import Disposition
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8

from kinema.data.limits import most_bytes, most_pages, most_pixels
from kinema.data.readers.base import (
    MAX_FRAME_SECONDS,
    NOMINAL_FPS,
    Clip,
    ClipInfo,
    DecodeFrame,
    Reader,
    ReadError,
    check_pixels,
)
from kinema.data.readers.display import Display, high_range, is_possible, square_size, swaps_sides

__all__ = ["VideoReader"]

STAMPS = 256  # packets from whose time stamps a rate is measured
NEAR = 0.005  # share by which a stated rate may be off
UNEVEN = 2.0  # intervals that a frame may be from its place at an even rate
MOST_SILENCE = 600.0  # seconds
SAMPLE_RATES = 1000, 1_000_000  # samples a second, at least and at most; a header that says others is wrong
MOST_FPS = 10_000.0  # frames a second; the same
SILENCE = 0.05  # seconds of sound that are missing; less is rounding
LATE = 1.5  # intervals; with a later frame, some are missing before it
BEFORE = 32  # frames, decoded before those that come first in the file, between a hole in it and one in time
SKIPPED = {  # bytes that a demuxer passes over between two packets of an undamaged file, at most
    "matroska,webm": 512,
    "flv": 512,
    "asf": 16_384,
    "ogg": 131_072,
}
LOST = 0.25  # share of the bytes of the missing time
SEEKABLE = ("mov", "matroska")  # how the names of formats begin whose keyframes are found by time
MARGIN = 3  # frames between a keyframe and a stretch: deinterlacing takes pixels of the frame before
BACK = (0, 1, 4, 16, 64)  # seconds, tried in turn: what is found may be too late where frames are out of order
ANIMATIONS = {"gif", "apng"}  # formats whose frames are pages
SOUND_SHARE = 4  # times that a sound is in memory while it is read, mixed and rounded
DEMUXERS = """
    aac ac3 aiff amr ape apng asf au av1 avi avs2 caf dhav dnxhd dts dv eac3 flac flic flv gif gxf h261 h263 h264 hevc
    ivf ivr j2k_pipe jpegxl_anim jpegxl_pipe m4v matroska mjpeg mjpeg_2000 mov mp3 mpeg mpegts mpegvideo mxf nistsphere
    nsv nut obu ogg rm roq swf tta vc1 voc w64 wav wtv wv xmv yuv4mpegpipe
""".split()  # noqa: SIM905
# FFmpeg goes by what is in a file. Without these, a playlist that is called a.mp4 (HLS, ffconcat, SDP), and by its name
# alone an "x%d.j2k", would make it read other files, or call addresses. Each of these demuxers reads its one file.
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)}
CONTROL = re.compile(rb"[\0-\x08\x0e-\x1f]")  # characters that no text has


class VideoReader(Reader):
    """Reads videos by their time stamps, as a player shows them: upright, with square pixels, over black.

    Interlaced frames are deinterlaced and high dynamic range is brought to the standard one. A picture that is shown
    for longer than `MAX_FRAME_SECONDS` seconds, as where a recorder paused, is shown for as long only.
    """

    suffixes = frozenset(
        """
        .264 .265 .3g2 .3gp .amv .apng .asf .av1 .avi .avs2 .dav .divx .dnxhd .dv .f4v .flc .fli .flv .gif .gxf .h261
        .h263 .h264 .h265 .hevc .ismv .ivf .ivr .j2k .jxl .m1v .m2t .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mk3d .mkv .mov
        .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nsv .nut .obu .ogg .ogm .ogv .ogx .qt .rm .rmvb .roq .swf .tod .ts .vc1
        .vob .webm .wmv .wtv .xmv .y4m .yuv4mpeg
        """.split()  # noqa: SIM905
    )

    def info(self, clip: Clip) -> ClipInfo:
        """What the header, the first frame and the first time stamps say."""
        with _opened(clip.path) as container:
            stream, stated = _video_stream(container, clip.path), container.duration
            audio = _audio_stream(container)
            sample_rate = None if audio is None else audio.codec_context.sample_rate
            frame, stamps = _head(container, stream, clip.path, STAMPS)
            fps, pixel = _rate(stamps, stream), stream.sample_aspect_ratio
        if fps > MOST_FPS:
            raise ReadError(clip.path, f"its time stamps are damaged: {fps:.0f} frames a second cannot be right")
        seconds = None
        if stated:
            seconds = max(0.0, min(stated / av.time_base, clip.stop or stated / av.time_base) - clip.start)
        width, height = square_size(frame.width, frame.height, pixel)
        return ClipInfo(*((height, width) if swaps_sides(frame) else (width, height)), fps, sample_rate, None, seconds)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the frames by their time stamps; of .mp4, .mov and .mkv from a keyframe before the clip's start on."""
        keyframe = _keyframe_before(clip.path, clip.start) if clip.start > 0 and clip.fps is None else None
        return _decode(clip.path, threads, keyframe)

    def notes(self, clip: Clip) -> list[str]:
        """What is changed or missing in its frames, beside what a player shows."""
        path, found = clip.path, []
        with _opened(path) as container:
            stream = _video_stream(container, path)
            tracks = sum(not one.disposition & Disposition.attached_pic for one in container.streams.video)
            has_alpha = stream.metadata.get("alpha_mode") == "1"
            frame, stamps = _head(container, stream, path)
            pixel = stream.sample_aspect_ratio
        if range_name := high_range(frame):
            found.append(f"high dynamic range ({range_name}), brought to the standard one")
        if frame.interlaced_frame:
            found.append("interlaced, deinterlaced")
        bits = max(component.bits for component in frame.format.components)
        if bits > 8 and len(frame.format.components) == 1:
            found.append(
                f"grey of {bits} bits, of which the upper 8 are kept: if it is depth, scale it to 8 bits first"
            )
        if has_alpha:
            found.append("its transparency is not read")
        if tracks > 1:
            found.append(f"{tracks} tracks of pictures, of which the best is read")
        if pixel and not is_possible(pixel):
            found.append(f"pixels {float(pixel):g} times as wide as high, which cannot be right, are taken for square")
        if jumps := [(a, b - a) for a, b in pairwise(stamps) if b - a > MAX_FRAME_SECONDS]:
            at, longest = max(jumps, key=itemgetter(1))
            found.append(
                f"a picture that stands for more than {MAX_FRAME_SECONDS:g} s is shown for {MAX_FRAME_SECONDS:g} s "
                f"({len(jumps)} times, the longest for {longest:.1f} s, {at - stamps[0]:.2f} s after the start)"
            )
        elif len(stamps) > 2 and _drift(stamps) > UNEVEN:
            found.append("its rate varies: --data.fps takes frames by their time")
        return found

    def audio(self, clip: Clip, rate: int) -> Float32[np.ndarray, " samples"]:
        """The sound from the clip's first frame on, mono: the mean of the channels.

        Where a picture is shown for `MAX_FRAME_SECONDS` seconds only, so is the sound.
        """
        path, stop = clip.path, clip.stop
        with _opened(path) as container:
            stream = _audio_stream(container)
            if stream is None:
                raise ReadError(path, "there is no audio track in it")
            video = container.streams.best("video")
            video = None if video is None or video.disposition & Disposition.attached_pic else video
            origin = _origin(path) if video else 0.0
            track, stamps = _SoundTrack(path, rate), []
            for packet in container.demux():
                time = _time(packet)
                if video and packet.stream.index == video.index and time is not None:
                    stamps.append(time - origin)
                if packet.stream.index != stream.index:
                    continue
                for frame in packet.decode():
                    assert isinstance(frame, av.AudioFrame)
                    track.add(frame)
                if stop is not None and time is not None and time > origin + stop + 1:
                    break
        late, sound = (track.begin or 0.0) - origin, track.sound()
        if not sound.size:
            raise ReadError(path, "its audio track is empty")
        if late > MOST_SILENCE:
            raise ReadError(path, f"its sound is damaged: it begins {late:.0f} s after its first frame")
        late = round(late * rate)  # samples
        sound = np.pad(sound, (late, 0)) if late > 0 else sound[-late:]
        kept, at = [], clip.start
        for a, b in pairwise(sorted(stamps)):
            if b - a > MAX_FRAME_SECONDS and a >= clip.start and b <= (stop or b):
                kept.append(sound[round(at * rate) : round((a + MAX_FRAME_SECONDS) * rate)])
                at = b
        kept.append(sound[round(at * rate) : None if stop is None else round(stop * rate)])
        return np.concatenate(kept) if len(kept) > 1 else kept[0]


class _SoundTrack:
    """Puts the frames of a sound track together by their time stamps, with silence where some are missing."""

    def __init__(self, path: Path, rate: int) -> None:
        self.path, self.rate, self.begin = path, rate, None
        self._kind: tuple[str, str, int] | None = None
        self._resampler = av.AudioResampler(format="flt", rate=rate)
        self._pieces: list[np.ndarray] = []
        self._end = 0.0  # seconds
        self._left = most_bytes() // SOUND_SHARE // 4  # samples that may come

    def add(self, frame: av.AudioFrame) -> None:
        """Append a decoded frame; raises ReadError where more is missing before it than can be right."""
        if not SAMPLE_RATES[0] <= frame.sample_rate <= SAMPLE_RATES[1]:
            raise ReadError(self.path, f"its sound is damaged: {frame.sample_rate} samples a second cannot be right")
        time = self._end if frame.time is None else frame.time
        if self.begin is None:
            self.begin = self._end = time
        kind = frame.format.name, frame.layout.name, frame.sample_rate
        if kind != self._kind:  # as in broadcasts, between programmes
            self._flush()
            self._kind = kind
        if (missing := time - self._end) > MOST_SILENCE:
            raise ReadError(self.path, f"its sound is damaged: {missing:.0f} s are missing after {self._end:.2f} s")
        if missing > SILENCE:
            self._flush()
            self._append([np.zeros((1, round(missing * self.rate)), np.float32)])
            self._end = time
        self._append(map(_mono, self._resampler.resample(frame)))
        self._end += frame.samples / frame.sample_rate

    def sound(self) -> Float32[np.ndarray, " samples"]:
        """All of it."""
        self._flush()
        if not self._pieces:
            return np.zeros(0, np.float32)
        sound = np.concatenate(self._pieces, axis=1)[0]
        self._pieces.clear()
        return sound.clip(-1, 1, out=sound)

    def _append(self, pieces: Iterable[Float32[np.ndarray, "1 samples"]]) -> None:
        for piece in pieces:
            self._left -= piece.size
            if self._left < 0:
                minutes = most_bytes() // SOUND_SHARE // 4 / self.rate / 60
                raise ReadError(
                    self.path, f"it has over {minutes:.0f} minutes of sound: cut it, or set $KINEMA_MOST_GB higher"
                )
            self._pieces.append(piece)

    def _flush(self) -> None:
        self._append(map(_mono, self._resampler.resample(None)))
        self._resampler = av.AudioResampler(format="flt", rate=self.rate)


def _mono(frame: av.AudioFrame) -> Float32[np.ndarray, "1 samples"]:
    """The mean of the channels; FFmpeg's own mix may exceed 1."""
    samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)  # in one plane: PyAV counts more than 8 wrongly
    return samples.mean(axis=1, dtype=np.float32)[None]


def _head(
    container: InputContainer, stream: VideoStream, path: Path, most: int | None = None
) -> tuple[av.VideoFrame, list[float]]:
    """The first frame, and the time stamps of a stream's packets in seconds, in order, about so many at most."""
    stream.codec_context.thread_count = 1
    indexed = container.format.name.startswith("mov") and stream.time_base is not None  # the index has all
    frame, stamps = None, []
    for packet in container.demux(stream):
        if (time := _time(packet)) is not None:
            stamps.append(time)
        if frame is None:
            frame = next((one for one in packet.decode() if isinstance(one, av.VideoFrame)), None)
        if frame is not None and (indexed or (most is not None and len(stamps) >= most)):
            break
    if frame is None:
        raise ReadError(path, "it has no frames")
    if indexed:
        unit = float(stream.time_base or 0)
        stamps = [entry.timestamp * unit for entry in stream.index_entries]
    return frame, sorted(stamps)


def _origin(path: Path) -> float:
    """The time of the first frame by the file's own time, in seconds."""
    with _opened(path) as container:
        return _head(container, _video_stream(container, path), path, 1)[0].time or 0.0


def _time(packet: av.Packet) -> float | None:
    """The time stamp of a packet in seconds."""
    return None if packet.pts is None or packet.time_base is None else float(packet.pts * packet.time_base)


def _drift(stamps: list[float]) -> float:
    """How far stamps are from even ones with the same first and last, at most, in intervals."""
    even = np.linspace(stamps[0], stamps[-1], len(stamps))
    return float(np.abs(even - stamps).max() / (even[1] - even[0])) if even[1] > even[0] else 0.0


def _rate(stamps: list[float], stream: VideoStream) -> float:
    """Frames a second by time stamps, or what the header states where it is near; pauses do not count."""
    intervals = [b - a for a, b in pairwise(stamps) if 0 < b - a <= MAX_FRAME_SECONDS]
    stated = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    if not intervals:
        return stated[0] if stated else NOMINAL_FPS
    measured = len(intervals) / sum(intervals)
    return next((rate for rate in stated if abs(rate / measured - 1) < NEAR), measured)


@dataclass(frozen=True, slots=True)
class _Keyframe:
    """Where decoding may begin, in seconds by the file's own time."""

    origin: float  # of the first frame of the file
    stamp: int  # to seek to, in units of the stream's time base
    time: float


def _keyframe_before(path: Path, start: float) -> _Keyframe | None:
    """The keyframe before `start` in seconds from the first frame; None where decoding must begin with the file.

    Decoding from it gives it first, which is not so where a picture is renewed bit by bit.
    """
    with _opened(path) as container, suppress(FFmpegError):  # of a file that cannot be sought
        stream = _video_stream(container, path)
        stream.codec_context.thread_count = 1
        if not container.format.name.startswith(SEEKABLE) or stream.time_base is None:
            return None
        origin = next((frame.time for frame in container.decode(stream)), None)
        if origin is None:
            return None
        latest = origin + start - MARGIN / float(stream.average_rate or NOMINAL_FPS)
        for back in BACK:
            stamp = round((latest - back) / stream.time_base)
            if stamp * stream.time_base <= origin:
                return None
            container.seek(stamp, stream=stream)
            packet = next(container.demux(stream))
            time = _time(packet)
            if time is None or time > latest or not packet.is_keyframe:
                continue
            container.seek(stamp, stream=stream)
            frames = (frame.time for frame in container.decode(stream))
            if next((one for one in frames if one is not None and one >= time), None) == time:
                return _Keyframe(origin, stamp, time)
    return None


def _decode(
    path: Path, threads: int = 0, keyframe: _Keyframe | None = None
) -> Iterator[tuple[float, float, DecodeFrame]]:
    """Yield (start, duration, picture) of every frame, in seconds from the first frame's start; starts always grow.

    With `keyframe`, of those from it on.
    """
    with _opened(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        interval = 1 / float(stream.average_rate or NOMINAL_FPS)
        packets, fields, display = _Packets(container), _Deinterlacer(stream), Display(stream.sample_aspect_ratio)
        origin, last = None, 0.0
        if keyframe is not None:
            origin, last = keyframe.origin, keyframe.time - interval
            container.seek(keyframe.stamp, stream=stream)

        def damage(reason: str) -> ReadError:
            return ReadError(path, f"{reason} after {last - (origin or 0.0):.2f} s")

        pages, most = 0, most_pages() if container.format.name in ANIMATIONS else None
        for packet in packets:
            pages += packet.size > 0
            if most is not None and pages > most:
                raise ReadError(
                    path, f"it has over {most} pages: make it a video, or set $KINEMA_MOST_FRAMES above {100 * most}"
                )
            if packet.is_corrupt:
                raise damage("it is damaged or cut short")
            if packet.stream.index != stream.index:  # of the last, empty packets stream_index is 0
                continue
            frames = packet.decode()
            if keyframe is not None:  # frames that are shown before it, but stored after it, need others
                frames = [frame for frame in frames if frame.time is None or frame.time >= keyframe.time]
            if any(frame.is_corrupt for frame in frames):
                raise damage("it is damaged or cut short")
            for frame in fields.join(frames, last=packet.size == 0):
                time = frame.time
                if origin is None:
                    time = origin = time or 0.0
                elif time is None or time <= last:  # decoders give frames in the order of showing: the stamp is wrong
                    time = last + interval
                elif time - last > LATE * interval and packets.skipped(time - last):
                    raise damage(f"it is damaged: {time - last:.2f} s are missing")
                last = time
                seconds = (frame.duration or 0) * float(frame.time_base or 0)
                yield time - origin, seconds or interval, partial(_shown, path, display, frame)
        if origin is None:
            raise ReadError(path, "it has no frames")
        # FFmpeg takes a cut Matroska file for one that ends there; only the header's duration tells.
        stated = (container.duration or 0) / av.time_base
        if container.format.name.startswith("matroska") and packets.end + LATE * interval < stated:
            raise ReadError(path, f"it is cut short: {packets.end:.2f} s of the {stated:.2f} s that its header states")


def _shown(path: Path, display: Display, frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a decoded frame."""
    try:
        return display(frame)
    except FFmpegError as error:
        raise ReadError(path, f"FFmpeg cannot convert its frames ({error.strerror})") from error


class _Packets:
    """The packets of a file, and where its demuxer passed over damage.

    Some demuxers look for the next packet after bytes that they do not understand, and say nothing.
    """

    def __init__(self, container: InputContainer) -> None:
        self.container, self.end = container, 0.0  # seconds
        self._least = SKIPPED.get(container.format.name)
        self._bytes_a_second = container.size / container.duration * av.time_base if container.duration else 0.0
        # number of a packet, and the bytes passed over before it
        self._gaps: deque[tuple[int, int]] = deque(maxlen=BEFORE)
        self._number = 0

    def __iter__(self) -> Iterator[av.Packet]:
        place, end = None, 0
        for packet in self.container.demux():
            self._number += 1
            if packet.pts is not None and packet.time_base is not None:
                self.end = max(self.end, (packet.pts + (packet.duration or 0)) * float(packet.time_base))
            if packet.pos is not None and packet.pos >= 0 and packet.size:
                if packet.pos == place:  # of one block
                    end += packet.size
                else:
                    if place is not None and self._least is not None and packet.pos - end > self._least:
                        self._gaps.append((self._number, packet.pos - end))
                    place, end = packet.pos, packet.pos + packet.size
            yield packet

    def skipped(self, seconds: float) -> bool:
        """Whether a good part of the bytes of a missing stretch were passed over lately."""
        least = LOST * seconds * self._bytes_a_second
        return any(self._number - number < BEFORE and size > least for number, size in self._gaps)


class _Deinterlacer:
    """Joins the two fields of interlaced frames, which are half an interval apart (FFmpeg's bwdif)."""

    def __init__(self, stream: VideoStream) -> None:
        self.stream, self.graph = stream, None

    def join(self, frames: Iterable[av.VideoFrame], last: bool) -> Iterator[av.VideoFrame]:
        """Yield the frames, each without its other field; the filter holds back one until it is the `last` call."""
        for frame in frames:
            if self.graph is None and frame.interlaced_frame:
                self.graph = self._make(frame)
            if self.graph is None:
                yield frame
                continue
            self.graph.push(frame)
            yield from self._ready()
        if last and self.graph is not None:
            self.graph.push(None)
            yield from self._ready()

    def _make(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or self.stream.time_base,
        )
        graph.link_nodes(source, graph.add("bwdif", "send_frame:auto:interlaced"), graph.add("buffersink")).configure()
        return graph

    def _ready(self) -> Iterator[av.VideoFrame]:
        assert self.graph is not None
        with suppress(BlockingIOError, EOFError):
            while True:
                yield self.graph.vpull()


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The file opened for demuxing; FFmpeg's errors, here or in the body, become ReadErrors."""
    container = None
    try:
        # "file:" because FFmpeg would take a name such as "take:1.mp4" for a protocol.
        with av.open(f"file:{path}", metadata_errors="replace", options=OPTIONS | _limits()) as container:
            yield container
    except FFmpegError as error:
        reason = error.strerror if container is not None else _why_not_opened(path, error)
        if container is not None and isinstance(error, ArgumentError):  # which is all that FFmpeg says of it
            reason = f"{reason}, such as pictures of over {most_pixels()} pixels, which $KINEMA_MOST_PIXELS can allow"
        raise ReadError(path, f"FFmpeg cannot read it ({reason})") from error


def _limits() -> dict[str, str]:
    """FFmpeg's limit of every frame, whatever its header says."""
    return {"max_pixels": str(most_pixels())}


def _why_not_opened(path: Path, error: FFmpegError) -> str:
    """Why FFmpeg did not open a file; one that is not of `DEMUXERS` is an invalid argument to it."""
    with suppress(OSError), path.open("rb") as file:
        if (head := file.read(256)) and not CONTROL.search(head):
            return "it is text: the files that a playlist names are not opened"
    if isinstance(error, ArgumentError):
        return "its format is not read, or its name stands for several files"
    return str(error.strerror)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:  # of a song
        raise ReadError(path, "there is no video track in it")
    if stream.codec_context is None:
        raise ReadError(path, "FFmpeg has no decoder for its video track")
    check_pixels(path, stream.width, stream.height)
    stream.codec_context.options = _limits()
    return stream


def _audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The sound track that is read; None where there is none, or no decoder for it."""
    stream = container.streams.best("audio")
    return stream if isinstance(stream, av.AudioStream) and stream.codec_context is not None else None
