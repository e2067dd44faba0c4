"""Frames come as a player shows them. The inputs are made by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorTrc

from kinema.data.readers.base import Clip, probe, read_frames
from kinema.data.readers.video import VideoReader

IDENTITY = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def rewrite(path: Path, old: bytes, new: bytes, after: bytes = b"") -> None:
    """Change the first bytes `old` of a file that come after `after`."""
    data = bytearray(path.read_bytes())
    at = data.index(old, data.index(after) if after else 0)
    data[at : at + len(old)] = new
    path.write_bytes(data)


def matrix(*values: int) -> bytes:
    return b"".join((v & 0xFFFFFFFF).to_bytes(4, "big") for v in values)


@pytest.mark.parametrize(
    ("pixel", "size"),
    [(Fraction(2), (96, 32)), (Fraction(1, 2), (48, 64)), (Fraction(16, 15), (51, 32)), (Fraction(1), (48, 32)),
     (Fraction(5), (48, 32))],
)  # fmt: skip
def test_pixels_are_made_square(make_clip, pixel: Fraction, size: tuple[int, int]) -> None:
    sar = f"sar={pixel.numerator}/{pixel.denominator}".replace("/", chr(92) + ":")
    path = make_clip("a.mp4", options={"x264-params": sar})
    info = probe(Clip(path))
    assert (info.width, info.height) == size
    assert next(read_frames(path)).shape[:2] == size[::-1]
    assert bool(VideoReader().notes(Clip(path))) == (pixel == 5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    ],
)
def test_turned_and_mirrored_pictures_are_upright(make_clip, values, expected) -> None:
    images = np.zeros((2, 32, 48, 3), np.uint8)
    images[:, :16, :24], images[:, :16, 24:], images[:, 16:, :24] = 240, 160, 80  # all corners differ
    path = make_clip("phone.mp4", images=images, options={"qp": "0"})
    a, b, c, d = (v * (1 << 16) for v in values)
    rewrite(path, matrix(*IDENTITY), matrix(a, b, 0, c, d, 0, 0, 0, 1 << 30), b"tkhd")
    frame, right = next(read_frames(path)), expected(images[0])
    assert frame.shape == right.shape
    assert np.abs(frame[::8, ::8].astype(int) - right[::8, ::8]).max() <= 4
    assert (probe(Clip(path)).width, probe(Clip(path)).height) == right.shape[1::-1]


def hdr(path: Path, codes: np.ndarray, transfer: ColorTrc) -> Path:
    """A clip of BT.2020 whose columns have the 16-bit codes."""
    image = np.broadcast_to(codes[None, :, None], (32, len(codes), 3)).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = len(codes), 32, "gbrp16le"
        stream.codec_context.color_primaries = ColorPrimaries.BT2020
        stream.codec_context.color_trc = transfer
        for k in range(3):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb48le").reformat(
                format="gbrp16le"
            )
            frame.color_primaries, frame.color_trc = ColorPrimaries.BT2020, transfer
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_pq_is_brought_to_the_standard_range(tmp_path: Path) -> None:
    light = 203 * np.linspace(0, 1, 64) ** 2.4  # cd/m2
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = (light / 10000) ** m1
    codes = ((c1 + c2 * power) / (1 + c3 * power)) ** m2 * 65535
    path = hdr(tmp_path / "a.mkv", codes, ColorTrc.SMPTE2084)
    row = next(read_frames(path))[16, :, 1].astype(int)
    assert np.abs(row[:52] - np.linspace(0, 255, 64)[:52]).max() < 5  # up to the knee it is what it was made of
    assert (np.diff(row) >= 0).all() and row[-1] > 235
    assert VideoReader().notes(Clip(path)) == ["high dynamic range (PQ), brought to the standard one"]


def test_hlg_is_brought_to_the_standard_range(tmp_path: Path) -> None:
    path = hdr(tmp_path / "a.mkv", np.linspace(0, 65535, 64), ColorTrc.ARIB_STD_B67)
    row = next(read_frames(path))[16, :, 1].astype(int)
    assert (np.diff(row) >= 0).all() and row[0] == 0 and row[-1] >= 250
    assert 225 <= row[48] < 252  # 75 % of the signal is white (BT.2408)
    assert "HLG" in VideoReader().notes(Clip(path))[0]


def test_fields_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    bars = np.zeros((20, 96, 128, 3), np.uint8)
    for k in range(20):  # a bar that moves by 4 pixels a field
        bars[k, :, 10 + 4 * k : 26 + 4 * k] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for k in range(10):
            image = bars[2 * k].copy()
            image[1::2] = bars[2 * k + 1, 1::2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = [frame[..., 0].astype(int) for frame in read_frames(path)]
    assert len(frames) == 10
    for frame in frames[1:-1]:
        left = [int((frame[row] > 128).argmax()) for row in (40, 41)]
        assert abs(left[0] - left[1]) < 2
    assert VideoReader().notes(Clip(path)) == ["interlaced, deinterlaced"]


def test_untagged_large_pictures_are_of_bt709(make_clip) -> None:
    red = np.zeros((2, 720, 64, 3), np.uint8)
    red[..., 0] = 255
    path = make_clip("hd.mkv", images=red, codec="ffv1", pixels="yuv444p")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        planes = frame.to_ndarray()[:, 0, 0]
    shown = next(read_frames(path))[0, 0]
    y, cb, cr = ((planes - [16, 128, 128]) / [219, 224, 224]).tolist()
    of_bt709 = np.clip([y + 1.5748 * cr, y - 0.1873 * cb - 0.4681 * cr, y + 1.8556 * cb], 0, 1)
    assert shown == pytest.approx(255 * of_bt709, abs=3)


def test_depth_of_16_bits_is_noted(make_clip) -> None:
    path = make_clip("depth.mkv", codec="ffv1", pixels="gray16le")
    assert "16 bits" in VideoReader().notes(Clip(path))[0]


def test_wide_colours_in_standard_range_keep_white(tmp_path: Path) -> None:
    path = hdr(tmp_path / "a.mkv", np.linspace(0, 65535, 64), ColorTrc.BT709)
    row = next(read_frames(path))[16, :, 1].astype(int)
    assert np.abs(row - np.linspace(0, 255, 64)).max() <= 2
    assert VideoReader().notes(Clip(path)) == []
