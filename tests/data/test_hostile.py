"""Files made to hurt who reads them: each is read right or refused in a line, in seconds and without much memory."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from kinema.data.folder import scan
from kinema.data.readers import base
from kinema.data.readers.actions import read_actions
from kinema.data.readers.base import Clip, ReadError, find_reader, read_audio, read_frames

APART = Path(__file__).with_name("read_apart.py")
SECONDS, MEGABYTES = 10, 1000  # that reading may take, and take more than a normal clip
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8)
ZEROS = bytes(10**7)
LONG, DEEP = 300, 100_000
Read = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that reads folders, and the megabytes that a normal clip takes."""
    normal = tmp_path_factory.mktemp("normal")
    make_video(normal / "a.mp4")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(APART), str(normal)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        found = ask(process, normal)
        assert found["frames"] == [10]
        yield process, found["megabytes"]
        process.stdin.close()


@pytest.fixture
def read(server: tuple[subprocess.Popen[str], int], tmp_path: Path) -> Read:
    """Read the folder "clips" as training does; what must hold of every folder is checked."""

    def run(**settings: Any) -> dict[str, Any]:
        process, normal = server
        found = ask(process, tmp_path / "clips", **settings)
        assert found["seconds"] < SECONDS and found["megabytes"] < normal + MEGABYTES, found
        assert not any("\n" in line or "FAILED" in line or len(line) > 1000 for line in found["lines"]), found["lines"]
        return found

    (tmp_path / "clips").mkdir()
    return run


def ask(process: subprocess.Popen[str], folder: Path, **settings: Any) -> dict[str, Any]:
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps([str(folder), settings]) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def make_video(path: Path, codec: str = "libx264", stamps: Sequence[int] = range(10)) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for k, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 20 * k, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif(width: int, height: int, pages: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    page = b"\x21\xf9\x04\0\x0a\0\0\0\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return head + page * pages + b"\x3b"


def apng(pages: int, stated: int) -> bytes:
    data, parts, number = zlib.compress(bytes(17 * 8)), [], 0
    for k in range(pages):
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 16, 8, 0, 0, 1, 25, 0, 0)))
        parts.append(chunk(b"IDAT", data) if k == 0 else chunk(b"fdAT", struct.pack(">I", number + 1) + data))
        number += 1 if k == 0 else 2
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 8, 8, 0, 0, 0, 0)) + chunk(
        b"acTL", struct.pack(">II", stated, 0)
    )
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND", b"")


def webp(pages: int) -> bytes:
    def part(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    Image.fromarray(IMAGES[0, :2, :2]).save(still := io.BytesIO(), "webp", lossless=True)
    size, frame = b"\x01\0\0" * 2, bytes(6) + b"\x01\0\0" * 2 + b"\x28\0\0\0" + still.getvalue()[12:]
    body = b"WEBP" + part(b"VP8X", b"\x02\0\0\0" + size) + part(b"ANIM", bytes(6)) + part(b"ANMF", frame) * pages
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(pages: int, after: int = 0, tile: tuple[int, int] | None = None) -> bytes:
    """Pages of 16x8 pixels, the last of which says that another is at byte `after`."""
    begin = 8 + 128
    tags = [(256, 4, 16), (257, 4, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    strip = [(273, 4, 8), (278, 4, 8), (279, 4, 128)]
    tags += strip if tile is None else [(322, 4, tile[0]), (323, 4, tile[1]), (324, 4, 8), (325, 4, 128)]
    page = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags
    )
    size = len(page) + 4
    ends = [begin + size * (k + 1) for k in range(pages - 1)] + [after]
    return b"II*\0" + struct.pack("<I", begin) + bytes(128) + b"".join(page + struct.pack("<I", end) for end in ends)


def npy(kind: str, shape: str, data: bytes = b"") -> bytes:
    """A .npy whose header holds these literals."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    size = b"\1\0" + struct.pack("<H", len(text)) if len(text) < 2**16 else b"\2\0" + struct.pack("<I", len(text))
    return b"\x93NUMPY" + size + text + data


def saved(values: np.ndarray) -> bytes:
    np.save(file := io.BytesIO(), values, allow_pickle=True)
    return file.getvalue()


def zipped(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


def tar_head(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def test_a_codec_that_cannot_be_decoded(tmp_path: Path, read: Read) -> None:
    make_video(tmp_path / "a.avi", "mpeg4")
    unknown = (tmp_path / "a.avi").read_bytes().replace(b"FMP4", b"XXXX")
    (tmp_path / "clips/a.avi").write_bytes(unknown)
    assert "a.avi: FFmpeg has no decoder for its video track" in read()["lines"][0]


ACTIONS = {
    "broken": b"\x93NUMPY\1\0\xff\xffabc",
    "broken shape": npy("'<f4'", "((((", bytes(80)),
    "huge": npy("'<f4'", "(10**12, 2)", bytes(80)),
    "huge, by a number": npy("'<f4'", "(1000000000000, 2)", bytes(80)),
    "wider than a number": npy("'<f4'", f"({10**30}, 2)", bytes(80)),
    "5000 digits": npy("'<f4'", f"({'9' * 5000},)"),
    "negative": npy("'<f4'", "(-1, 2)", bytes(80)),
    "deep": npy("'<f4'", "(" * 1500 + ")" * 1500),
    "very deep": npy("'<f4'", "(" * DEEP + ")" * DEEP),
    "large values": npy("'S2000000000'", "(1000000,)"),
    "twice a field": npy("[('a', '<f4'), ('a', '<f4')]", "(10,)", bytes(80)),
    "complex": saved(np.zeros((10, 2), np.complex64)),
    "dates": saved(np.zeros(10, "M8[s]")),
    "spans": saved(np.zeros(10, "m8[s]")),
    "objects": saved(np.array([None] * 10)),
    "fields": saved(np.zeros(10, [("a", "f4"), ("b", "f4")])),
    "texts": saved(np.array(["1"] * 10)),
    "empty": b"",
}


@pytest.mark.parametrize("content", ACTIONS.values(), ids=ACTIONS)
def test_actions_that_are_no_numbers(tmp_path: Path, read: Read, content: bytes) -> None:
    make_video(tmp_path / "clips/a.mp4")
    (tmp_path / "clips/b.npy").write_bytes(content)
    (tmp_path / "clips/metadata.csv").write_text("file_name,actions\na.mp4,b.npy\n")
    assert "b.npy: it is not a table of numbers" in read()["lines"][0]


def test_a_table_of_actions_that_takes_gigabytes(tmp_path: Path, read: Read) -> None:
    make_video(tmp_path / "clips/a.mp4")
    with (tmp_path / "clips/b.npy").open("wb") as file:  # of which nothing is written
        file.write(npy("'<f8'", "(500000000,)"))
        file.truncate(4 * 10**9 + 200)
    (tmp_path / "clips/metadata.csv").write_text("file_name,actions\na.mp4,b.npy\n")
    assert "over 1 GB: cut it, or set $KINEMA_MOST_GB higher" in read()["lines"][0]


def test_names_that_are_too_long_or_none(tmp_path: Path, read: Read) -> None:
    for name in "ab":
        make_video(tmp_path / f"clips/{name}.mp4")
    rows = f"{'x' * LONG}.mp4,\nx\0.mp4,\na.mp4,{'y' * LONG}.npy\nb.mp4,y\0.npy\n"
    (tmp_path / "clips/metadata.csv").write_text(f"file_name,actions\n{rows}")
    assert "none of its 4 clips can be used" in read()["lines"][0]


@pytest.mark.parametrize("depth", [600, 950, DEEP])
@pytest.mark.parametrize("kind", ["metadata.json", "metadata.jsonl", "a.json", "a.tar", "robot"])
def test_json_of_many_levels(tmp_path: Path, read: Read, kind: str, depth: int) -> None:
    folder = tmp_path / "clips"
    make_video(folder / "a.mp4")
    row = '{"file_name": "a.mp4", "caption": ' + '[{"a": ' * (depth // 2) + "1" + "}]" * (depth // 2) + "}"
    if kind == "a.tar":
        video = (folder / "a.mp4").read_bytes()
        with tarfile.open(folder / kind, "w") as file:
            for name, content in (("b.mp4", video), ("b.json", row.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    elif kind == "robot":
        (folder / "robot/meta").mkdir(parents=True)
        (folder / "robot/meta/info.json").write_text(row.replace("file_name", "codebase_version"))
    else:
        (folder / kind).write_text(f"[{row}]" if kind == "metadata.json" else row)
    found = read()
    assert found["frames"] or any("recursion" in line for line in found["lines"])
    assert depth == DEEP or 10 in found["frames"]


@pytest.mark.parametrize("label", ["1" * 5000, '"' + "1" * 5000 + '"'])
def test_a_label_of_5000_digits(tmp_path: Path, read: Read, label: str) -> None:
    make_video(tmp_path / "clips/a.mp4")
    (tmp_path / "clips/metadata.json").write_text(f'[{{"file_name": "a.mp4", "label": {label}}}]')
    assert read()["frames"] == [10]
    assert scan(tmp_path / "clips").classes == ("1" * 5000,)


@pytest.mark.parametrize("fps", ["1e999999999", "1" * 5000, "1/1e-400"])
def test_a_rate_that_is_none(tmp_path: Path, read: Read, fps: str) -> None:
    np.save(tmp_path / "clips/a.npy", IMAGES)
    (tmp_path / "clips/metadata.csv").write_text(f"file_name,fps\na.npy,{fps}\n")
    found = read()
    assert "which is not a number above 0" in found["lines"][0] or "cannot be right" in found["lines"][0]


def test_lone_surrogates_are_kept_as_their_escapes(tmp_path: Path, read: Read) -> None:
    make_video(tmp_path / "clips/a.mp4")
    row = '{"file_name": "a.mp4", "caption": "a \\ud800", "label": "\\udfff", "patient": "\\ud800"}'
    other = '{"file_name": "\\ud800.mp4", "label": "b"}'
    (tmp_path / "clips/metadata.jsonl").write_text(f"{row}\n{other}\n")
    found = read()
    assert found["frames"] == [10]
    assert found["lines"] == ["\\ud800.mp4: named in metadata.jsonl but does not exist"]
    (clip,) = scan(tmp_path / "clips").clips
    assert (clip.caption, clip.label, clip.group) == ("a \\ud800", "\\udfff", "\\ud800")


PIXELS = r"over 16777216 pixels.*\$KINEMA_MOST_PIXELS"
PAGES = r"over 10000 pages: make it a video, or set \$KINEMA_MOST_FRAMES above 1000000"
IMAGE_FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a GIF of 16000x16000": ("a.gif", lambda: gif(16000, 16000, 8), PIXELS),
    "a GIF of another name": ("a.png", lambda: gif(16000, 16000, 8), PIXELS),
    "169 megapixels": ("a.png", lambda: png(13000, 13000), PIXELS),
    "a strip": ("a.png", lambda: png(178_000, 1000), PIXELS),
    "a tile": ("a.tif", lambda: tiff(1, tile=(30_000, 30_000)), PIXELS),
    "100000 pages of a GIF": ("a.gif", lambda: gif(2, 2, 100_000), PAGES),
    "100000 pages of a GIF of another name": ("a.webp", lambda: gif(2, 2, 100_000), PAGES),
    "100000 pages of an APNG": ("a.png", lambda: apng(100_000, 100_000), PAGES),
    "pages that an APNG does not have": ("a.png", lambda: apng(3, 2**31 - 1), PAGES),
    "100000 pages of a WebP": ("a.webp", lambda: webp(100_000), PAGES),
    "200000 pages of a TIFF": ("a.tif", lambda: tiff(200_000), PAGES),
}


@pytest.mark.parametrize(("name", "make", "message"), IMAGE_FILES.values(), ids=IMAGE_FILES)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_blow_up(tmp_path: Path, read: Read, name: str, make: Callable[[], bytes], message: str) -> None:
    (tmp_path / "clips" / name).write_bytes(make())
    found = read()
    assert not found["frames"]
    assert re.search(message, found["lines"][0]), found["lines"]


@pytest.mark.parametrize(("pages", "after"), [(3, 8 + 128), (2000, 0)])
def test_pages_of_a_tiff_each_once(tmp_path: Path, read: Read, pages: int, after: int) -> None:
    (tmp_path / "clips/a.tif").write_bytes(tiff(pages, after))  # the first goes round in a circle
    assert read()["frames"] == [pages]


def test_a_webm_of_15360x8640(tmp_path: Path, read: Read) -> None:
    frame = b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", 15360, 8640) + bytes(45_000)  # RFC 6386, 9.1
    for name, size in (("true", (15360, 8640)), ("lie", (64, 64))):
        head = b"DKIF" + struct.pack("<HHIHHIIII", 0, 32, 0x30385056, *size, 25, 1, 2, 0)
        frames = b"".join(struct.pack("<IQ", len(frame), k) + frame for k in range(2))
        (tmp_path / f"{name}.ivf").write_bytes(head + frames)
        (tmp_path / f"clips/{name}.ivf").write_bytes(head + frames)
    with av.open(str(tmp_path / "true.ivf")) as source, av.open(str(tmp_path / "clips/a.webm"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    found = read()
    assert not found["frames"] and "pictures of 15360x8640" in found["lines"][0]
    for name in ("true.ivf", "lie.ivf", "a.webm"):
        with pytest.raises(ReadError, match="KINEMA_MOST_PIXELS"):
            [*read_frames(tmp_path / "clips" / name)]


def test_frames_that_are_days_apart_are_repeated_for_two_seconds(tmp_path: Path, read: Read) -> None:
    make_video(tmp_path / "clips/a.mkv", stamps=[0, 35 * 86_400 * 25])
    assert read(fps=25)["frames"] == [51]
    assert "fps is 1e+30: it must be 1e-06 to 1000" in read(fps=1e30)["lines"][0]


def test_frames_of_a_clip_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(tmp_path / "a.mkv", stamps=[0, 50])
    monkeypatch.setenv("KINEMA_MOST_FRAMES", "1000")
    assert sum(1 for _ in read_frames(tmp_path / "a.mkv", fps=400)) == 816
    with pytest.raises(ReadError, match=r"it has over 1000 frames: cut it, or set \$KINEMA_MOST_FRAMES higher"):
        [*read_frames(tmp_path / "a.mkv", fps=1000)]


def test_arrays_that_blow_up(tmp_path: Path, read: Read) -> None:
    huge = npy("'|u1'", "(1000000, 1000, 1000)", bytes(100))
    (tmp_path / "clips/a.npy").write_bytes(huge)
    zipped(tmp_path / "clips/b.npz", a=huge)
    zipped(tmp_path / "clips/c.npz", a=saved(IMAGES), fps=npy("'|u1'", "(3000000000,)"))
    found = read()["lines"]
    assert "none of its 3 clips can be used" in found[0]
    for name, message in (
        ("a.npy", "mmap length is greater than file size"),
        ("b.npz", r"1e\+03 GB, over 1: save it as .npy, or set \$KINEMA_MOST_GB"),
        ("c.npz", "its fps is an array of shape"),
    ):
        with pytest.raises(ReadError, match=message):
            [*read_frames(tmp_path / "clips" / name)]


def test_a_compressed_array_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path / "a.npz", a=npy("'|u1'", "(30, 1000, 1000)", bytes(3 * 10**7)))
    (clip,) = find_reader(tmp_path / "a.npz").clips(tmp_path / "a.npz")
    monkeypatch.setenv("KINEMA_MOST_GB", "0.01")
    with pytest.raises(ReadError, match=r"an array of 0.03 GB, over 0.01: .* \$KINEMA_MOST_GB"):
        [*find_reader(clip.path).frames(clip)]
    monkeypatch.setenv("KINEMA_MOST_GB", "0.1")
    assert len([*find_reader(clip.path).frames(clip)]) == 30


def test_hdf5_that_blows_up(tmp_path: Path, read: Read) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py, of the extra hdf5")
    options = {"dtype": "u1", "compression": "gzip"}
    with h5py.File(tmp_path / "clips/long.h5", "w") as file:
        file.create_dataset("a", (10**6, 1000, 1000), chunks=(1, 100, 100), **options)
    with h5py.File(tmp_path / "clips/many.h5", "w") as file:
        file.create_dataset("a", (10**9, 10, 16, 16, 1), chunks=(1000, 1, 16, 16, 1), **options)
    with h5py.File(tmp_path / "clips/chunk.h5", "w") as file:
        file.create_dataset("a", (2, 8, 8), maxshape=(None,) * 3, chunks=(1500, 1000, 1000), **options)
    with h5py.File(tmp_path / "clips/rate.h5", "w") as file:
        file["a"] = IMAGES
        file.create_dataset("fps", (10**12,), chunks=(1000,), **options)
    assert "none of its 4 clips can be used" in read()["lines"][0]


def pieces(pack: Callable[[bytes], bytes], head: bytes, count: int) -> bytes:
    return pack(head) + pack(ZEROS) * count


SHARDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gz": (lambda: pieces(gzip.compress, tar_head("x.mp4", 6 * 10**9), 600), r"over 1 GB.*\$KINEMA_MOST_GB"),
    "bz2": (lambda: pieces(bz2.compress, tar_head("x.mp4", 6 * 10**9), 600), r"over 1 GB.*\$KINEMA_MOST_GB"),
    "xz": (lambda: pieces(lzma.compress, tar_head("x.mp4", 6 * 10**9), 600), r"over 1 GB.*\$KINEMA_MOST_GB"),
    "many members": (
        lambda: gzip.compress(tar_head("x.foo", 0) * 10_000) * 200,
        r"over 100000 members.*\$KINEMA_MOST_FRAMES",
    ),
    "a long name": (
        lambda: pieces(gzip.compress, tar_head("x", 3 * 10**9, tarfile.XHDTYPE), 300),
        "a header in it states 3000000000 bytes",
    ),
}


@pytest.mark.parametrize(("make", "message"), SHARDS.values(), ids=SHARDS)
def test_shards_that_unpack_without_end(tmp_path: Path, read: Read, make: Callable[[], bytes], message: str) -> None:
    (tmp_path / "clips/a.tar").write_bytes(make())
    found = read()
    assert not found["frames"]
    assert re.search(message, found["lines"][0]), found["lines"]


def test_dicom_that_blows_up(tmp_path: Path, read: Read, cine: Callable[..., Path]) -> None:
    frames, runs = IMAGES[:2, ..., 0], b"\x81\0" * 2 * 10**6
    rle = struct.pack("<16I", 1, 64, *[0] * 14) + runs
    cine(frames, "clips/size.dcm", Rows=65535, Columns=65535, NumberOfFrames=10**6)
    cine(frames, "clips/count.dcm", NumberOfFrames=10**9)
    cine(frames, "clips/runs.dcm", encoded=[rle, rle], syntax="1.2.840.10008.1.2.5")
    deflated = cine(frames, "clips/deflated.dcm").read_bytes()
    (tmp_path / "clips/deflated.dcm").write_bytes(deflated.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"))
    assert "none of its 4 clips can be used" in read()["lines"][0]
    for name, message in (
        ("size", r"pictures of 65535x65535 have over 16777216 pixels: .* \$KINEMA_MOST_PIXELS"),
        ("runs", "unpacks to over 3072 bytes"),
    ):
        with pytest.raises(ReadError, match=message):
            [*read_frames(tmp_path / f"clips/{name}.dcm")]


def test_sound_is_limited_by_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16_000, 2, 16)
    head = b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WAVEfmt " + form + b"data" + struct.pack("<I", 2**32 - 9)
    (tmp_path / "a.wav").write_bytes(head + bytes(16_000))  # a second of the 37 hours that are stated
    assert len(read_audio(tmp_path / "a.wav", 8000)) == 8000
    monkeypatch.setenv("KINEMA_MOST_GB", "1e-5")
    with pytest.raises(ReadError, match=r"over 0 minutes of sound: cut it, or set \$KINEMA_MOST_GB higher"):
        read_audio(tmp_path / "a.wav", 8000)


@pytest.mark.parametrize("name", ["KINEMA_MOST_PIXELS", "KINEMA_MOST_FRAMES", "KINEMA_MOST_GB"])
@pytest.mark.parametrize("value", ["many", "0", "-1", "nan", "inf"])
def test_limits_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    make_video(tmp_path / "a.mp4")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"^\${name} is '{value}': give a number above 0, as \d+$"):
        scan(tmp_path)


def test_limits_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strip = Clip(tmp_path / "a.png")
    strip.path.write_bytes(png(16_416, 4104))
    with pytest.raises(ReadError, match="over 16777216 pixels"):
        find_reader(strip.path).info(strip)
    monkeypatch.setenv("KINEMA_MOST_PIXELS", "7e7")
    assert find_reader(strip.path).info(strip).frames == 4


def test_what_memory_does_not_hold_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strip = Clip(tmp_path / "a.png")
    strip.path.write_bytes(png(5000, 2500))
    monkeypatch.setattr(base, "available_memory", lambda device: 1e9)
    with pytest.raises(ReadError, match=r"5000x2500 may take 1\.1 GB, and 1\.0 GB are free: make them smaller"):
        find_reader(strip.path).info(strip)
    monkeypatch.setattr(base, "available_memory", lambda device: 2e9)
    assert find_reader(strip.path).info(strip).frames == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_and_devices_are_not_opened(tmp_path: Path, read: Read) -> None:
    """A pipe would wait for ever, and a device never end."""
    clips = tmp_path / "clips"
    for name in "abc":
        np.save(clips / f"{name}.npy", IMAGES)
    os.mkfifo(clips / "pipe.csv")
    os.mkfifo(clips / "pipe.npy")
    (clips / "zero.csv").symlink_to("/dev/zero")
    rows = ["a.npy,pipe.csv", "b.npy,zero.csv", "pipe.npy,"]
    (clips / "metadata.csv").write_text("file_name,actions\n" + "\n".join(rows) + "\n")
    found = read()
    assert found["frames"] == [] and "there is no such file" in found["lines"][0]
    (clips / "take").mkdir()
    for number in range(3):
        (clips / f"take/{number}.png").write_bytes(png(8, 8)) if number else os.mkfifo(clips / "take/0.png")
    read()


def test_a_home_in_metadata_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a person types has a home; in a table it would lead outside."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "secret.csv").write_text("1,2\n" * len(IMAGES))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReadError, match="there is no such file"):
        read_actions("~/secret.csv")


def test_clips_of_one_name_are_no_crash(tmp_path: Path, read: Read) -> None:
    make_video(tmp_path / "clips/a.npz:b.mp4")
    np.savez(tmp_path / "clips/a.npz", **{"b.mp4": IMAGES})
    assert len(read()["frames"]) == 1
