"""Writing clips: each format is read back, and failures leave nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.atomic import atomic_path, write_text
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.readers.base import read_audio
from kinema.data.writing import (
    FORMATS,
    ContactSheet,
    contact_sheet,
    from_uint8,
    new_folder,
    open_video,
    tile,
    to_uint8,
    write_image,
    write_video,
)

RED, BLUE = (200, 40, 30), (20, 60, 220)


def halves(frames: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """A video, red above and blue below, which darkens with time."""
    video = np.empty((frames, height, width, 3), np.uint8)
    video[:, : height // 2], video[:, height // 2 :] = RED, BLUE
    return (video * np.linspace(1, 0.5, frames)[:, None, None, None]).astype(np.uint8)


def read(path: Path) -> tuple[np.ndarray, list[float]]:
    """The frames of a video file and their times in seconds."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        return np.stack([f.to_ndarray(format="rgb24") for f in frames]), [f.time for f in frames]


@pytest.mark.parametrize(("suffix", "tolerance"), [(".mp4", 4), (".webm", 6), (".gif", 6)])
@pytest.mark.parametrize("fps", [10.0, 25.0, 29.97, 30.0])
def test_videos_come_back(tmp_path: Path, suffix: str, tolerance: float, fps: float) -> None:
    video = halves()
    path = write_video(tmp_path / f"clip{suffix}", [video[:5], video[5:]], fps)
    frames, times = read(path)
    assert frames.shape == video.shape
    assert times == pytest.approx([i / fps for i in range(12)], abs=0.0051)  # GIF counts in hundredths of a second
    middle = [8, 40]  # rows far from where the colours meet
    assert np.abs(frames[:, middle].astype(int) - video[:, middle]).max() <= tolerance
    assert list(tmp_path.iterdir()) == [path]


def test_formats_that_are_exact(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 256, (11, 9, 7, 3), dtype=np.uint8)
    chunks = [video[:4], video[4:4], video[4:]]
    np.testing.assert_array_equal(np.load(write_video(tmp_path / "clip.npy", chunks, 25.0)), video)
    assert write_video(tmp_path / "clip.png", iter(chunks), 25.0) == tmp_path / "clip"
    write_video(tmp_path / "bare", video, 25.0)
    for folder in ("clip", "bare"):
        names = sorted(p.name for p in (tmp_path / folder).iterdir())
        assert names == [f"{i:05d}.png" for i in range(11)]
        np.testing.assert_array_equal(np.stack([np.asarray(Image.open(tmp_path / folder / n)) for n in names]), video)


def test_odd_sizes(tmp_path: Path) -> None:
    video = halves(4, 33, 35)
    for suffix, size in ((".mp4", (34, 36)), (".webm", (33, 35)), (".gif", (33, 35))):
        frames, _ = read(write_video(tmp_path / f"odd{suffix}", video, 25.0))
        assert frames.shape[1:3] == size
        assert np.abs(frames[:, 8, :35].astype(int) - video[:, 8]).max() <= 6


def test_gif_gradients_and_loop(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    gradient = np.stack([4 * x, 4 * y, np.full_like(x, 128)], -1).astype(np.uint8)
    path = write_video(tmp_path / "g.gif", np.stack([gradient, gradient[::-1]]), 100.0)
    frames, times = read(path)
    error = frames[0].astype(float) - gradient
    assert np.abs(error).mean() < 6
    blocks = error[:60, :60].reshape(12, 5, 12, 5, 3).mean((1, 3))  # from afar, dithering makes the right colours
    assert np.abs(blocks).mean() < 1.5
    assert times == [0, 0.02]
    assert Image.open(path).info["loop"] == 0


def test_gif_shows_the_dithered_frames(tmp_path: Path) -> None:
    y, x = np.mgrid[:48, :48]
    video = np.stack([np.stack([4 * x + k, 4 * y, x + y], -1) for k in (0, 0, 3)]).astype(np.uint8)  # one still frame
    moving = np.zeros_like(video)
    for k in range(3):
        moving[k, 8:16, 10 * k : 10 * k + 8] = RED
    for clip in (video, moving, np.concatenate([moving, video])):
        expected = []
        for frame in clip:
            colours = Image.fromarray(frame).quantize(255, method=Image.Quantize.FASTOCTREE)
            dithered = Image.fromarray(frame).quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)
            expected.append(np.asarray(dithered.convert("RGB")))
        path = write_video(tmp_path / "clip.gif", clip, 25.0)
        np.testing.assert_array_equal(read(path)[0], expected)
        with Image.open(path) as image:
            for k, frame in enumerate(expected):
                image.seek(k)
                np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)
                assert image.info["duration"] == 40


def test_gif_is_written_as_frames_arrive(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    sizes = []
    with open_video(tmp_path / "clip.gif", 25.0) as video:
        for _ in range(3):
            video.write(noise)
            sizes.append(sum(p.stat().st_size for p in tmp_path.rglob("*.gif")))
    assert np.diff([0, *sizes]).min() > 40_000  # 10 frames are about 60 kB


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_is_interleaved(tmp_path: Path, suffix: str) -> None:
    sound = np.zeros(20 * SAMPLE_RATE, np.float32)
    sound[7 * SAMPLE_RATE : 8 * SAMPLE_RATE] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    path = write_video(tmp_path / f"clip{suffix}", halves(18 * 10), 10.0, sound)  # the sound is longer
    with av.open(str(path)) as file:
        audio = file.streams.audio[0]
        loud = [f.time for f in file.decode(audio) if np.abs(f.to_ndarray()).max() > 0.1]
    assert loud[0] == pytest.approx(7, abs=0.1) and loud[-1] == pytest.approx(8, abs=0.1)
    with av.open(str(path)) as file:
        packets = sorted(
            (p.pos, float((p.dts or 0) * (p.time_base or 1)), p.stream.type) for p in file.demux() if p.size
        )
        assert {kind for *_, kind in packets} == {"audio", "video"}
        assert max(time for _, time, kind in packets if kind == "audio") > 19.8
        times = [time for _, time, _ in packets]
    assert (np.maximum.accumulate(times) - times).max() < 1.5  # packets lie in the file in the order of their times


@pytest.mark.parametrize("suffix", [*FORMATS, ""])
@pytest.mark.parametrize("when", [0, 1])
def test_an_error_in_the_block_leaves_what_was_there(tmp_path: Path, suffix: str, when: int) -> None:
    path = tmp_path / f"clip{suffix}"
    if suffix not in (".png", ""):
        path.write_bytes(b"before")
    before = list(tmp_path.iterdir())
    with pytest.raises(OSError, match="not readable"), open_video(path, 25.0) as video:  # noqa: PT012
        for _ in range(when):
            video.write(halves(3))
        raise OSError("another file is not readable")
    assert video.closed
    assert list(tmp_path.iterdir()) == before
    assert all(p.read_bytes() == b"before" for p in before)


@pytest.mark.parametrize("suffix", [*FORMATS, ""])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / f"clip{suffix}"
    if suffix not in (".png", ""):
        path.write_bytes(b"before")
    before = list(tmp_path.iterdir())
    noise = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(ValueError, match=r"clip.* could not be written: File too large"):
            write_video(path, noise, 25.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == before
    assert all(p.read_bytes() == b"before" for p in before)


def test_a_writer_closes_once(tmp_path: Path) -> None:
    video = open_video(tmp_path / "clip.npy", 25.0)
    video.write(halves(2))
    assert not (tmp_path / "clip.npy").exists()
    video.close()
    video.close()
    assert np.load(tmp_path / "clip.npy").shape == (2, 48, 64, 3)
    with pytest.raises(ValueError, match="is closed"):
        video.write(halves(2))
    broken = open_video(tmp_path / "other.npy", 25.0)
    broken.write(halves(2))
    with pytest.raises(ValueError, match="one size"):
        broken.write(halves(2, 24))
    broken.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.npy", "clip.npy.json"]


MEMORY = """
import resource, sys
import numpy as np
from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.writing import open_video

path, chunks = sys.argv[1], int(sys.argv[2])
frames = np.random.default_rng(0).integers(0, 256, (100, 64, 64, 3), dtype=np.uint8)
frames[:, 16:] //= 8
sound = np.full(200 * 100 * SAMPLE_RATE // 25, 0.1, np.float32)  # in both runs, so that imports are not the peak
with open_video(path, 25.0, sound[: chunks * 100 * SAMPLE_RATE // 25]) as video:
    for _ in range(chunks):
        video.write(frames)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("suffix", FORMATS)
def test_memory_does_not_grow_with_frames(tmp_path: Path, suffix: str) -> None:
    peaks = []
    for name, chunks in (("short", 2), ("long", 200)):
        words = [sys.executable, "-c", MEMORY, str(tmp_path / f"{name}{suffix}"), str(chunks)]
        peaks.append(int(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    print(f"{suffix}: {peaks[0] / 1e6:.0f} MB for 200 frames, {peaks[1] / 1e6:.0f} MB for 20,000")
    assert peaks[1] - peaks[0] < 30e6


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("clip.avi", halves, 25.0, r"\.mp4, \.webm, \.gif, \.npy, \.dcm, \.png, not \.avi"),
        ("clip.mp4", lambda: halves() / 255, 25.0, "uint8"),
        ("clip.mp4", lambda: halves()[0], 25.0, "uint8"),
        ("clip.mp4", lambda: halves(0), 25.0, "no frames"),
        ("clip.mp4", lambda: [halves(2), halves(2, 24)], 25.0, "one size"),
        ("clip.mp4", halves, 0.0, "frames a second"),
        ("clip.mp4", halves, float("nan"), "frames a second"),
        ("none/clip.mp4", halves, 25.0, "No such file or directory"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, frames: Callable, fps: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / name, frames(), fps)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("years of work")
    for name in ("kept", "kept.png"):
        with pytest.raises(ValueError, match="exists"):
            write_video(tmp_path / name, halves(2), 25.0)
    assert (tmp_path / "kept" / "thesis.txt").exists()


def test_to_uint8() -> None:
    frames = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0]).reshape(5, 1, 1, 1).expand(5, 3, 2, 4)
    values = to_uint8(frames)
    assert values.shape == (5, 2, 4, 3)
    assert values[:, 0, 0, 0].tolist() == [0, 0, 128, 255, 255]
    every = torch.arange(256).expand(3, 1, 256)
    assert (to_uint8(every / 127.5 - 1)[0, :, 0] == np.arange(256)).all()
    assert (to_uint8(from_uint8(halves())) == halves()).all()


def test_tile_puts_clips_side_by_side() -> None:
    clips = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1, 1) * np.ones((2, 3, 4, 8, 6, 3), np.uint8)
    sheet = tile(clips)
    assert sheet.shape == (4, 2 * 8 + 4, 3 * 6 + 2 * 4, 3)
    assert (sheet[:, 12:, 20:] == 5).all()
    assert (sheet[:, 8:12] == 255).all()


def test_contact_sheet() -> None:
    clips = np.stack([halves(16, 64, 64), halves(16, 64, 64)[::-1]])
    sheet = contact_sheet(clips, columns=4)
    assert sheet.shape == (2 * 128 + 4, 4 * 128 + 3 * 4, 3)  # enlarged twice
    assert (sheet[:128, -1] == clips[0, -1, :, 0].repeat(2, 0)).all()  # the last frame is shown
    labelled = contact_sheet(clips, columns=4, labels=["a red one", "blue"])
    margin = labelled.shape[1] - sheet.shape[1]
    np.testing.assert_array_equal(labelled[:, margin:], sheet)
    assert labelled[:128, :margin].min() < 128  # ink
    with pytest.raises(ValueError, match="one label a clip"):
        contact_sheet(clips, labels=["one"])


@pytest.mark.parametrize("size", [1, 3, 16])
def test_contact_sheet_from_chunks(size: int) -> None:
    clips = np.random.default_rng(0).integers(0, 256, (3, 16, 8, 6, 3), dtype=np.uint8)
    sheet = ContactSheet(3, 16, columns=5, labels=["a", "b", "c"])
    for first in range(0, 16, size):
        sheet.add(first, clips[:, first : first + size])
    np.testing.assert_array_equal(sheet.image(), contact_sheet(clips, columns=5, labels=["a", "b", "c"]))


def test_contact_sheet_keeps_only_what_it_shows() -> None:
    sheet = ContactSheet(1, 1000, columns=2)
    chunk = np.full((1, 500, 8, 8, 3), 7, np.uint8)
    sheet.add(0, chunk)
    chunk[:] = 9  # the caller may use its buffer again
    with pytest.raises(ValueError, match=r"add frames \[999\]"):
        sheet.image()
    with pytest.raises(ValueError, match="clip 2 for a contact sheet of 1 clips"):
        sheet.add(500, chunk.repeat(2, axis=0))
    sheet.add(500, chunk)
    image = sheet.image()
    assert (image[:, :128] == 7).all() and (image[:, 132:] == 9).all()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """A temporary folder is a leftover where nobody holds its lock, and another writer's where one does."""
    path, image = tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8)
    left, own = tmp_path / ".a.png.k3v_9xq2.part", tmp_path / ".a.png.old"
    for folder in (left, own):
        folder.mkdir()
        (folder / "a.png").touch()
    with atomic_path(path) as unfinished:
        assert not left.exists()
        write_image(path, image)
        assert unfinished.parent.is_dir()
        Image.fromarray(image + 1).save(unfinished)
    assert {found.name for found in tmp_path.iterdir()} == {"a.png", ".a.png.old"}
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image + 1)


def test_a_file_is_written_many_times_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: write_text(tmp_path / "a", f"{k % 10}" * 5000), range(400)))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() in {f"{k}" * 5000 for k in range(10)}


def test_a_new_folder_names_itself_in_errors(tmp_path: Path) -> None:
    for error in (OSError(28, "No space left on device"), OSError(5, "Input/output error", str(tmp_path / ".a.x/a/b"))):
        with (
            pytest.raises(ValueError, match=f"{tmp_path / 'a'} could not be written: {error.strerror}"),
            new_folder(tmp_path / "a"),
        ):
            raise error
    with pytest.raises(OSError, match=r"clip\.mp4"), new_folder(tmp_path / "a"):  # of something that is read
        raise OSError(5, "Input/output error", "clip.mp4")

    def beside_another() -> None:
        with new_folder(tmp_path / "a") as mine, new_folder(tmp_path / "a") as theirs:
            (mine / "mine").touch()
            (theirs / "theirs").touch()

    with pytest.raises(ValueError, match="a exists: choose another name"):
        beside_another()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "theirs"]


def test_write_image(tmp_path: Path) -> None:
    image = halves(1)[0]
    path = write_image(tmp_path / "new" / "sheet.png", image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert list(path.parent.iterdir()) == [path]
    for name, message in (
        ("sheet.xyz", r"images are written as .* not \.xyz"),
        ("sheet", "not without a suffix"),
        ("new/sheet.png/a.png", "a.png could not be written: File exists"),
    ):
        with pytest.raises(ValueError, match=message):
            write_image(tmp_path / name, image)
    assert list(tmp_path.rglob("*.*")) == [path]


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".npy", ".png"])
@pytest.mark.parametrize("fps", [7.5, 29.97, 50.0])
def test_what_is_written_is_read_frame_for_frame_at_its_rate(tmp_path: Path, suffix: str, fps: float) -> None:
    levels = np.random.default_rng(0).permutation(np.arange(20, 240, 9)).astype(np.uint8)
    (tmp_path / "set").mkdir()
    write_video(tmp_path / "set" / f"clip{suffix}", np.tile(levels[:, None, None, None], (1, 16, 32, 3)), fps)
    for rate in (None, fps):
        source = FolderSource(DataConfig(str(tmp_path / "set"), frames=len(levels), height=16, width=32, fps=rate))
        assert source.spec.fps == pytest.approx(fps, rel=0.01)
        found = source.read([(0, 0)]).frames[0].float().mean((1, 2, 3))
        assert np.abs(found.numpy() - levels).max() <= 3


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_is_on_time_and_colours_are_tagged(tmp_path: Path, suffix: str) -> None:
    clicks, sound = (0.3, 0.9, 1.5, 2.1), np.zeros(int(2.4 * SAMPLE_RATE), np.float32)
    for click in clicks:
        sound[int(click * SAMPLE_RATE) : int(click * SAMPLE_RATE) + 64] = 0.8
    path = write_video(tmp_path / f"clip{suffix}", halves(60), 25.0, sound)
    heard = read_audio(path, SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(heard) > 0.25 * np.abs(heard).max())
    onsets = loud[np.diff(loud, prepend=-SAMPLE_RATE) > 0.05 * SAMPLE_RATE] / SAMPLE_RATE
    assert onsets == pytest.approx(clicks, abs=0.01)
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
