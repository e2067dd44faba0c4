"""A media file never makes a reader open another file, call an address or start a program."""

from __future__ import annotations

import socket
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from kinema.data.readers.base import Clip, ReadError, read_frames
from kinema.data.readers.image import ImageReader
from kinema.data.readers.video import VideoReader

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"
MPD = (
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>\n"
)
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {} RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\n"
)
LISTS = {  # text by the kind of a list; {} is what it names
    "hls": HLS,
    "master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n",
    "m3u": "#EXTM3U\n#EXTINF:1,x\n{}\n",
    "ffconcat": "ffconcat version 1.0\nfile {}\n",
    "dash": MPD,
    "asx": '<ASX VERSION="3.0"><Entry><Ref href="{}"/></Entry></ASX>\n',
    "asf": "[Reference]\r\nRef1={}\r\n",
    "pls": "[playlist]\nNumberOfEntries=1\nFile1={}\n",
    "ram": "{}\n",
    "imf": '<?xml version="1.0"?>\n<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>{}</Id>'
    "</CompositionPlaylist>\n",
}


def assert_refused(path: Path, reason: str) -> None:
    reader = VideoReader()
    for read in (reader.info, reader.notes, lambda clip: [*reader.frames(clip)], lambda clip: reader.audio(clip, 8000)):
        with pytest.raises(ReadError, match=reason) as caught:
            read(Clip(path))
        assert "\n" not in str(caught.value)


def reads_without_a_list_of_demuxers(path: Path) -> bool:
    with av.open(str(path)) as file:
        return next(file.decode(video=0), None) is not None


@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8"])
@pytest.mark.parametrize("kind", LISTS)
def test_a_list_of_files_is_not_opened(make_clip, tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    for clip in (make_clip("clip.ts", tone=0.4), make_clip("clip.mp4", tone=0.4)):
        for reference in (clip.name, clip, f"file://{clip}", f"subfile,,start,0,end,0,,:{clip}"):
            path.write_text(LISTS[kind].format(reference))
            assert_refused(path, "it is text: the files that a playlist names are not opened")


def test_lists_that_ffmpeg_would_open(make_clip, tmp_path: Path) -> None:
    """FFmpeg itself reads these."""
    make_clip("clip.ts")
    for name, kind in (("a.mp4", "ffconcat"), ("a.m3u8", "hls")):
        (tmp_path / name).write_text(LISTS[kind].format("clip.ts"))
        assert reads_without_a_list_of_demuxers(tmp_path / name)
        assert_refused(tmp_path / name, "it is text")


@pytest.mark.parametrize("scheme", ["http", "https", "tcp", "rtsp", "rtmp", "ftp"])
@pytest.mark.parametrize("kind", LISTS)
def test_no_address_is_called(tmp_path: Path, kind: str, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for name in ("a.mp4", "a.m3u8", "a.asf"):
            (tmp_path / name).write_text(LISTS[kind].format(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/a.ts"))
            assert_refused(tmp_path / name, "it is text")
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_address_is_listened_to(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text(SDP.format(5004))
    assert_refused(tmp_path / "a.mp4", "it is text")


def test_a_name_does_not_stand_for_other_files(make_clip, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "x1.j2k", format="JPEG2000", no_jp2=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "x1.jpg")
    assert len(list(read_frames(tmp_path / "x1.j2k"))) == 1
    for name in ("x%d.jpg", "x%d.j2k", "x%01d.j2k"):
        (tmp_path / name).write_bytes(b"")
        assert reads_without_a_list_of_demuxers(tmp_path / name)
        assert_refused(tmp_path / name, "its name stands for several files")
    for plane, size in {"y": 48 * 32, "U": 24 * 16, "V": 24 * 16}.items():
        (tmp_path / f"x.{plane}").write_bytes(bytes(size))
    assert_refused(tmp_path / "x.y", "its format is not read")
    clip = make_clip("take%03d.mp4")
    assert len(list(VideoReader().frames(Clip(clip)))) == 10


def test_external_data_of_a_mov_is_not_read(make_clip, tmp_path: Path) -> None:
    grey = np.full((3, 32, 48, 3), 50, np.uint8)
    path = make_clip("a.mov", images=grey, codec="rawvideo", pixels="rgb24")
    other = make_clip("other.mov", images=grey + 100, codec="rawvideo", pixels="rgb24")
    refer_to(path, other)
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as file:  # so the reference is one
        assert next(file.decode(video=0)).to_ndarray(format="rgb24").mean() == 150
    with pytest.raises(ReadError, match="it has no frames"):
        list(read_frames(path))


def refer_to(path: Path, other: Path) -> None:
    """Make the data of a .mov with one track those of another file, by an alias (QuickTime's `alis`)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"url ", data.index(b"dref")) - 4
    name = str(other).encode()
    name += bytes(len(name) % 2)
    record = bytes(10) + bytes(28) + bytes(12) + bytes(64) + bytes(16) + (1).to_bytes(2) * 2 + bytes(16)
    record += (2).to_bytes(2) + len(name).to_bytes(2) + name + b"\xff\xff" + bytes(2)
    entry = b"alis" + bytes(4) + record
    entry = (len(entry) + 4).to_bytes(4) + entry
    grown = len(entry) - int.from_bytes(data[at : at + 4])
    data[at : at + 12] = entry
    for box in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        size = data.rindex(box, 0, at) - 4
        data[size : size + 4] = (int.from_bytes(data[size : size + 4]) + grown).to_bytes(4)
    path.write_bytes(data)


def test_an_eps_starts_no_program(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert Image.open(tmp_path / "a.png").format == "EPS"
    with pytest.raises(ReadError, match="cannot identify image file"):
        ImageReader().info(Clip(tmp_path / "a.png"))
