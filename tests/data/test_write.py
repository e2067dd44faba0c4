"""Writing clips: each format is read back, and failures leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from kinema.data.write import FORMATS, contact_sheet, tile, to_uint8, write_video

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


@pytest.mark.parametrize("suffix", [*FORMATS, ""])
def test_a_failure_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    def broken():
        yield halves(3)
        raise OSError(28, "No space left on device")

    path = tmp_path / f"clip{suffix}"
    if suffix not in (".png", ""):
        path.write_bytes(b"before")
    before = list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"clip.* could not be written: No space left on device"):
        write_video(path, broken(), 25.0)
    assert list(tmp_path.iterdir()) == before
    assert all(p.read_bytes() == b"before" for p in before)


@pytest.mark.parametrize(
    ("name", "frames", "fps", "message"),
    [
        ("clip.avi", halves, 25.0, r"\.mp4, \.webm, \.gif, \.npy, \.png, not \.avi"),
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
