from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.readers.base import Clip, ReadError, probe, read_audio, read_frames
from kinema.data.readers.video import VideoReader
from kinema.data.writing import write_video

SAMPLES = {  # width, height, frames, fps, sound: what the folder's README states
    "mmaction2_part_0.mp4": (455, 256, 32, 30.0, None),  # stored as 340x256, shown as 16:9
    "mmaction2_test.avi": (320, 240, 164, 25.0, 44100),
    "grid_bbaf2n.mpg": (360, 288, 75, 25.0, 44100),
    "lung_regular.mpeg": (370, 370, 280, 25.0, None),
    "lung_regular_mpeg4.avi": (476, 476, 92, 11500 / 517, None),
    "lung_covid.mov": (370, 370, 138, 68 / 3, None),
    "lung_covid.gif": (174, 174, 21, 10.0, None),
    "carphone_pristine.mp4": (193, 144, 120, 30000 / 1001, None),
}


def levels(path: Path, fps: float | None = None) -> list[int]:
    """Which of make_clip's grey frames were shown."""
    return [round(float(frame.mean()) / 10) for frame in read_frames(path, fps=fps)]


@pytest.mark.parametrize("name", SAMPLES)
def test_real_files(shared_data, name):
    width, height, frames, fps, sound = SAMPLES[name]
    info = probe(Clip(shared_data / "decode_samples" / name))
    assert (info.width, info.height, info.frames, info.sample_rate) == (width, height, frames, sound)
    assert info.fps == pytest.approx(fps, rel=1e-4)
    first = next(read_frames(shared_data / "decode_samples" / name))
    assert first.shape == (height, width, 3) and first.dtype == np.uint8 and first.max() > first.min()


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("ten bit.mkv", "libx264", "yuv420p10le"),
        ("alpha.mov", "prores_ks", "yuva444p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("grey.avi", "ffv1", "gray"),
        ("grey16.mkv", "ffv1", "gray16le"),
        ("deep.mkv", "ffv1", "rgb48le"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.wmv", "wmv2", "yuv420p"),
        ("a.flv", "flv1", "yuv420p"),
        ("a.gif", "gif", "gray"),
        ("take:1.mp4", "libx264", "yuv420p"),
    ],
)
def test_containers_and_codecs(make_clip, name, codec, pixels):
    path = make_clip(name, codec=codec, pixels=pixels)
    assert levels(path) == list(range(10))
    info = probe(Clip(path))
    assert (info.width, info.height, info.frames) == (48, 32, 10)
    assert info.fps == pytest.approx(25, rel=0.01)


def test_odd_sizes_are_decoded_to_the_last_pixel(make_clip):
    ramp = np.broadcast_to(np.linspace(60, 200, 37, dtype=np.uint8)[:, None], (3, 23, 37, 3))
    path = make_clip("odd.mp4", images=ramp, pixels="yuv444p", options={"qp": "0"})
    subsampled = make_clip("odd420.mkv", images=ramp, codec="ffv1", pixels="yuv420p")
    for frame in (*read_frames(path), *read_frames(subsampled)):
        np.testing.assert_allclose(frame.astype(int), ramp[0].astype(int), atol=4)


def test_transparency_is_laid_over_black(make_clip):
    images = np.full((2, 32, 32, 4), 200, np.uint8)
    images[:, :, 16:, 3], images[:, :, :16, 3] = 0, 128
    frame = next(read_frames(make_clip("alpha.mov", images=images, codec="qtrle", pixels="argb")))
    assert np.all(frame[:, 16:] == 0) and np.all(frame[:, :16] == round(200 * 128 / 255))


def test_rotated_video_is_turned_upright(make_clip):
    images = np.zeros((3, 32, 48, 3), np.uint8)
    images[:, :16] = 255  # the upper half of the stored picture is white
    path = make_clip("phone.mp4", images=images)
    data = bytearray(path.read_bytes())
    identity = b"".join(v.to_bytes(4, "big") for v in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30))
    clockwise = b"".join(v.to_bytes(4, "big", signed=True) for v in (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + len(identity)] = clockwise
    path.write_bytes(data)
    frame = next(read_frames(path))
    assert frame.shape == (48, 32, 3) and (probe(Clip(path)).width, probe(Clip(path)).height) == (32, 48)
    assert frame[:, 20:].mean() > 250 and frame[:, :12].mean() < 5  # top went to the right


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("rate", [25, 30, Fraction(30000, 1001)])
def test_its_own_rate_gives_every_frame_once(make_clip, name, rate):
    assert levels(make_clip(name, 20, rate=rate), fps=float(rate)) == list(range(20))


def test_resampling_by_time(make_clip):
    path = make_clip("a.mp4", 10, rate=20)
    assert levels(path, fps=10.0) == [0, 2, 4, 6, 8]
    assert levels(path, fps=40.0) == [k // 2 for k in range(20)]
    assert levels(path, fps=8.0) == [0, 2, 5, 7]


def test_a_stretch_is_read_by_time(make_clip):
    path, reader = make_clip("a.mkv", 20, rate=10, tone=2.0), VideoReader()
    stretch = Clip(path, start=0.5, stop=1.2)

    def stretch_levels(fps: float | None) -> list[int]:
        return [round(float(frame.mean()) / 10) for frame in reader.frames(stretch, fps)]

    assert stretch_levels(None) == [5, 6, 7, 8, 9, 10, 11]
    assert stretch_levels(5.0) == [5, 7, 9, 11]
    assert stretch_levels(20.0) == [5 + k // 2 for k in range(14)]
    whole = reader.audio(Clip(path), 16000)
    np.testing.assert_allclose(reader.audio(stretch, 16000), whole[8000:19200], atol=1e-6)
    assert probe(stretch).frames == 7 and reader.info(stretch).frames is None


def test_uneven_stamps(make_clip):
    path = make_clip("uneven.mkv", 5, rate=20, stamps=[0, 1, 2, 8, 9])
    assert levels(path) == [0, 1, 2, 3, 4]
    assert levels(path, fps=20.0) == [0, 1, 2, 2, 2, 2, 2, 2, 3, 4]
    assert levels(path, fps=10.0) == [0, 2, 2, 2, 3]


def test_missing_stamps_fall_back_on_the_average_rate(make_clip):
    path = make_clip("raw.m4v", 10, codec="mpeg4")  # an elementary stream has no time stamps
    assert levels(path) == list(range(10))
    assert levels(path, fps=25.0) == list(range(10))


def test_stamps_that_go_back_lose_no_more_than_a_frame(shared_data):
    path = shared_data / "decode_samples" / "mmaction2_test.avi"
    assert abs(sum(1 for _ in read_frames(path, fps=25.0)) - 164) <= 1


def test_one_frame(make_clip):
    path = make_clip("one.mp4", 1)
    assert probe(Clip(path)).frames == 1
    assert levels(path) == [0] and levels(path, fps=5.0) == [0] and levels(path, fps=50.0) == [0, 0]


def test_sound(make_clip):
    path = make_clip("tone.mp4", 50, tone=2.0)
    sound = read_audio(path, 16000)
    assert sound.dtype == np.float32 and sound.ndim == 1 and abs(len(sound) - 32000) < 1600
    middle = sound[8000:24000]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)  # a mean of the channels, not their sum
    assert np.abs(np.fft.rfft(middle)).argmax() == 440
    assert probe(Clip(path)).sample_rate == 44100


def test_no_sound(make_clip):
    with pytest.raises(ReadError, match=r"silent.mp4: there is no audio track"):
        read_audio(make_clip("silent.mp4"), 16000)


def test_sound_only_is_no_video(make_clip, tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4410), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ReadError, match=r"sound.mp4: there is no video track"):
        list(read_frames(path))
    assert len(read_audio(path, 8000)) >= 800


@pytest.mark.parametrize("text", [b"", b"this is not a video\n" * 50])
def test_text_named_mp4(tmp_path, text, capfd):
    path = tmp_path / "notes.mp4"
    path.write_bytes(text)
    for read in (lambda p: probe(Clip(p)), lambda p: list(read_frames(p)), lambda p: read_audio(p, 8000)):
        with pytest.raises(ValueError, match=r"notes.mp4: FFmpeg cannot read it") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ReadError, match="No such file"):
        probe(Clip(tmp_path / "absent.mp4"))
    assert capfd.readouterr() == ("", "")  # FFmpeg's own log stays off the terminal


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("fast.mp4", "libx264", {"movflags": "faststart"}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_a_cut_file_is_an_error(make_clip, name, codec, options, share, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    path = make_clip(name, images=noise, codec=codec, container_options=options)
    assert probe(Clip(path)).frames == 30
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ReadError, match=r"cut short|FFmpeg cannot read it"):
        list(read_frames(path))
    assert capfd.readouterr() == ("", "")


def test_fps_must_be_positive(make_clip):
    with pytest.raises(ValueError, match="above 0"):
        list(read_frames(make_clip("a.mp4"), fps=0.0))


@pytest.mark.parametrize("threads", [1, 2, 4, 8, 16])
def test_sound_before_the_picture_costs_no_frames(tmp_path, make_clip, threads):
    path, out = make_clip("a.mp4", 20, tone=1.0), tmp_path / "sound first.mov"
    with av.open(str(path)) as source, av.open(str(out), "w") as container:
        sound = container.add_stream_from_template(source.streams.audio[0])
        picture = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = sound if packet.stream.type == "audio" else picture
                container.mux(packet)
    with av.open(str(out)) as container:
        assert container.streams[0].type == "audio"
    frames = [round(float(frame.mean()) / 10) for frame in VideoReader().frames(Clip(out), threads=threads)]
    assert frames == list(range(20))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.flv", "flv1"), ("a.wmv", "wmv2")]
)
@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize("sound", [0.0, 2.4])
def test_damage_that_a_demuxer_passes_over_is_an_error(make_clip, name, codec, fill, sound):
    if sound and name in {"a.webm", "a.flv"}:
        pytest.skip("AAC does not go into it with this picture")
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (60, 96, 128, 3), dtype=np.uint8)
    path = make_clip(name, images=noise, codec=codec, tone=sound, options={"g": "15", "b": "2000000"})
    assert len(list(read_frames(path))) == 60
    data = bytearray(path.read_bytes())
    first, size = len(data) // 3, len(data) // 6
    data[first : first + size] = bytes(size) if fill == "zeros" else random.bytes(size)
    path.write_bytes(data)
    with pytest.raises(ReadError, match=r"damaged|cut short|FFmpeg cannot read it"):
        list(read_frames(path))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_pause_is_noted_and_bounded(make_clip, name):
    stamps = [k if k < 30 else k + 600 * 25 for k in range(60)]
    path = make_clip(name, 60, images=np.full((60, 32, 48, 3), 90, np.uint8), stamps=stamps)
    assert len(list(read_frames(path))) == 60
    assert len(list(read_frames(path, fps=25.0))) == 60 + 49  # the frame before the pause lasts for 2 s
    (note,) = VideoReader().notes(Clip(path))
    assert re.search(r"shown for 2 s \(1 times, the longest for 600.0 s, 1.[12]. s after the start\)", note)
    assert VideoReader().info(Clip(path)).fps == 25


def test_a_pause_is_cut_from_the_sound_too(make_clip):
    stamps = [k if k < 25 else k + 250 for k in range(50)]
    path = make_clip("a.mkv", images=np.full((50, 32, 48, 3), 90, np.uint8), stamps=stamps, tone=12.0)
    sound, frames = read_audio(path, 16000), list(read_frames(path, fps=25.0))
    assert len(frames) == 50 + 49
    assert abs(len(sound) / 16000 - len(frames) / 25) < 0.1


@pytest.mark.parametrize("rate", [15, 30])
def test_a_gif_has_the_rate_of_its_delays(tmp_path, rate):
    path = write_video(tmp_path / "a.gif", np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8), rate)
    assert VideoReader().info(Clip(path)).fps == pytest.approx(rate, rel=0.005)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.h264", "libx264"), ("a.f4v", "libx264"), ("a.nut", "ffv1"), ("a.ivf", "libvpx"), ("a.m2v", "mpeg2video"),
     ("a.mjpeg", "mjpeg"), ("a.qt", "mpeg4")],
)  # fmt: skip
def test_other_suffixes_are_found(make_clip, tmp_path, name, codec):
    formats = {"a.f4v": "mp4", "a.qt": "mov"}
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    made = make_clip(f"set/b.{formats[name]}" if name in formats else f"set/{name}", 10, codec=codec, pixels=pixels)
    made.rename(tmp_path / "set" / name)
    assert [clip.path.name for clip in scan(tmp_path / "set").clips] == [name]
    assert levels(tmp_path / "set" / name) == list(range(10))


def test_a_rate_that_varies_is_noted(make_clip):
    slow_then_fast = [2 * k if k < 10 else 20 + (k - 10) for k in range(20)]
    assert VideoReader().notes(Clip(make_clip("a.mkv", 20, stamps=slow_then_fast, rate=50))) == [
        "its rate varies: --data.fps takes frames by their time"
    ]
    assert VideoReader().notes(Clip(make_clip("b.mkv", 20))) == []


OPEN_GOP = {"bf": "3", "g": "12", "x264-params": "open-gop=1:scenecut=0"}
REFRESHED = {"x264-params": "intra-refresh=1:keyint=25:scenecut=0"}
INTERLACED = {"bf": "2", "g": "12", "flags": "+ildct+ilme", "x264-params": "tff=1:scenecut=0"}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "3", "g": "12"}),
        ("libx264", OPEN_GOP),
        ("libx264", REFRESHED),
        ("libx264", INTERLACED),
        ("libx265", {"x265-params": "keyint=12:bframes=3:open-gop=1:log-level=none"}),
        ("libsvtav1", {"g": "8", "preset": "12", "svtav1-params": "pred-struct=2"}),
    ],
    ids=["closed", "open", "refreshed", "interlaced", "hevc", "av1"],
)
def test_a_stretch_is_what_decoding_from_the_start_gives(make_clip, name, codec, options):
    if codec == "libsvtav1" and name == "a.ts":
        pytest.skip("it does not hold AV1")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    path = make_clip(name, images=images, codec=codec, options=options)
    starts, whole = zip(*((start, picture()) for start, _, picture in VideoReader().recording(Clip(path))), strict=True)
    for first in (1, 11, 12, 13, 15, 24, 26, 47, 59):
        found = list(VideoReader().frames(Clip(path, start=starts[first], stop=starts[first] + 0.39)))
        np.testing.assert_array_equal(found, whole[first : first + 10])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_stretch_is_not_decoded_from_the_start(make_clip, name):
    path = make_clip(name, images=np.zeros((240, 32, 32, 3), np.uint8), options={"g": "12", "bf": "2"})
    starts = [start for start, _, _ in VideoReader().recording(Clip(path, start=8.0))]
    assert 7 < starts[0] < 8 and starts[-1] == pytest.approx(239 / 25, abs=1e-3)


def test_frames_of_one_colour_among_others_are_noted(make_clip, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)
    images[:3] = 128
    make_clip("set/a.mkv", images=images, codec="ffv1", pixels="bgr0")
    source = FolderSource(DataConfig(str(tmp_path / "set"), frames=4, height=32, width=48))
    assert source.notes == ("a.mkv: 3 of its 8 frames are of one colour: is it damaged?",)


def test_cover_art_is_no_video(make_clip, tmp_path):
    with av.open(str(make_clip("b.mp4", 3, tone=1.0))) as source, av.open(str(tmp_path / "song.mp4"), "w") as song:
        sound = song.add_stream_from_template(source.streams.audio[0])
        cover = song.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 48, 32, "yuvj420p", Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")
        song.mux([*cover.encode(frame), *cover.encode(None)])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = sound
                song.mux(packet)
    with pytest.raises(ReadError, match="no video track"):
        VideoReader().info(Clip(tmp_path / "song.mp4"))
    assert len(read_audio(tmp_path / "song.mp4", 16000)) == pytest.approx(16000, rel=0.2)


def test_a_track_without_a_decoder(make_clip):
    path = make_clip("a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"none"))
    with pytest.raises(ReadError, match="FFmpeg has no decoder for its video track"):
        VideoReader().info(Clip(path))


def test_later_frames_of_an_impossible_size_are_not_decoded(make_clip):
    path = make_clip("a.ivf", codec="libvpx", options={"g": "1"})
    data, mark = bytearray(path.read_bytes()), b"\x9d\x01\x2a"  # of a keyframe's size (RFC 6386, 9.1)
    at = data.rindex(mark) + len(mark)
    data[at : at + 4] = (16383).to_bytes(2, "little") * 2
    path.write_bytes(data)
    assert VideoReader().info(Clip(path)).width == 48
    with pytest.raises(ReadError, match="FFmpeg cannot read it"):
        list(read_frames(path))


def test_an_impossible_rate(make_clip):
    path = make_clip("a.ivf", codec="libvpx")
    data = bytearray(path.read_bytes())
    data[16:24] = (10**8).to_bytes(4, "little") + (1).to_bytes(4, "little")  # the time base
    path.write_bytes(data)
    with pytest.raises(ReadError, match="100000000 frames a second cannot be right"):
        VideoReader().info(Clip(path))
