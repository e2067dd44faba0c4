"""Readers of installed packages: folders find them through the registry, and clips are what they say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.readers.base import Clip, ClipInfo, Reader, ReadError, find_reader, select_frames
from kinema.data.readers.strip import StripReader, read_image
from kinema.data.readers.video import VideoReader
from kinema.registry import READERS

FPS = 10.0


class ArrayReader(Reader):
    """Reads .npz files, each array [T, H, W, 3] in which is a clip; or, of an array "long", its two halves."""

    suffixes = frozenset({".npz"})

    def clips(self, path: Path) -> Sequence[Clip]:
        arrays = np.load(path)
        if "long" not in arrays:
            return [Clip(path, name) for name in arrays]
        middle = len(arrays["long"]) / 2 / FPS
        return [Clip(path, "first", stop=middle), Clip(path, "second", middle)]

    def _array(self, clip: Clip) -> np.ndarray:
        arrays = np.load(clip.path)
        return arrays["long" if "long" in arrays else clip.member]

    def info(self, clip: Clip) -> ClipInfo:
        return ClipInfo(*self._array(clip).shape[2:0:-1], FPS, None)

    def frames(self, clip: Clip, fps: float | None = None, threads: int = 0) -> Iterator[np.ndarray]:
        timed = ((k / FPS, 1 / FPS, frame) for k, frame in enumerate(self._array(clip)))
        return select_frames(timed, clip, fps)


class FrameFolderReader(Reader):
    """Reads folders of numbered images."""

    suffixes = frozenset()

    def can_read(self, path: Path) -> bool:
        return (path / "000.png").exists()

    def _images(self, clip: Clip) -> list[Path]:
        return sorted(clip.path.glob("*.png"))

    def fingerprint(self, clip: Clip) -> str:
        return hashlib.sha256(b"".join(path.read_bytes() for path in self._images(clip))).hexdigest()

    def info(self, clip: Clip) -> ClipInfo:
        height, width, _ = read_image(self._images(clip)[0]).shape
        return ClipInfo(width, height, FPS, None, len(self._images(clip)))

    def frames(self, clip: Clip, fps: float | None = None, threads: int = 0) -> Iterator[np.ndarray]:
        timed = ((k / FPS, 1 / FPS, read_image(path)) for k, path in enumerate(self._images(clip)))
        return select_frames(timed, clip, fps)


@pytest.fixture(autouse=True)
def _installed(monkeypatch) -> None:
    for name in ("ArrayReader", "FrameFolderReader"):
        point = EntryPoint(name, f"{__name__}:{name}", "kinema.readers")
        monkeypatch.setitem(READERS._installed, name, point)


def grey(first: int, frames: int = 8) -> np.ndarray:
    """Frames of levels that follow each other."""
    return np.broadcast_to(np.arange(first, first + frames, dtype=np.uint8)[:, None, None, None], (frames, 16, 16, 3))


def source_of(folder: Path, **settings) -> FolderSource:
    return FolderSource(DataConfig(**({"source": str(folder), "frames": 4, "height": 16, "width": 16} | settings)))


def test_the_reader_of_a_file_is_found_in_the_registry(tmp_path: Path) -> None:
    assert isinstance(find_reader(Path("a.MP4")), VideoReader) and isinstance(find_reader(Path("a.png")), StripReader)
    assert isinstance(find_reader(Path("a.npz")), ArrayReader)
    assert isinstance(find_reader(Path("a.dat")), VideoReader)  # FFmpeg looks at what is in it
    (tmp_path / "a.mp4").mkdir()
    assert not VideoReader().can_read(tmp_path / "a.mp4")


def test_a_registered_reader_feeds_training(make_clip, tmp_path: Path) -> None:
    make_clip("set/video.mkv", images=grey(200), codec="ffv1", pixels="bgr0")
    np.savez(tmp_path / "set/two.npz", a=grey(0), b=grey(100))
    source = source_of(tmp_path / "set")
    assert [(clip.path.name, clip.member) for clip in source.clips] == [
        ("two.npz", "a"), ("two.npz", "b"), ("video.mkv", ""),
    ]  # fmt: skip
    starts = {int(frames[0, 0, 0, 0]) // 100 * 100 for frames in source.batch(0, 3, seed=0).frames}
    assert starts == {0, 100, 200} and source.skipped == ()


def test_stretches_of_one_recording_are_clips(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set/long.npz", long=grey(0, 16))
    source = source_of(tmp_path / "set", frames=8)
    frames = source.read([(0, 0), (1, 0)]).frames[:, :, 0, 0, 0]
    assert frames.tolist() == [[*range(8)], [*range(8, 16)]]
    with pytest.raises(ValueError, match=r"none of its 2 clips can be used; the first is long\.npz:first: 8 frames"):
        source_of(tmp_path / "set", frames=9, short="skip")


def test_a_label_of_the_metadata_is_that_of_all_clips_of_its_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=grey(0), b=grey(100))
    (tmp_path / "metadata.csv").write_text("file_name,label\ntwo.npz,grey\n")
    assert [(clip.member, clip.label) for clip in scan(tmp_path).clips] == [("a", "grey"), ("b", "grey")]


def test_a_folder_that_a_reader_takes_is_one_clip(tmp_path: Path) -> None:
    for k, frame in enumerate(np.repeat(grey(50, 5), 2, axis=2)):  # 32x16: each image by itself would be a strip
        (tmp_path / "set/take").mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(tmp_path / f"set/take/{k:03d}.png")
    source = source_of(tmp_path / "set")
    assert [clip.path.name for clip in source.clips] == ["take"]
    assert source.read([(0, 1)]).frames[0, :, 0, 0, 0].tolist() == [51, 52, 53, 54]


def test_a_clip_without_sound_is_skipped_where_sound_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    np.savez(tmp_path / "set/one.npz", a=grey(0))
    with pytest.raises(ValueError, match=r"one\.npz:a: there is no audio track in it"):
        source_of(tmp_path / "set", audio=True)
    with pytest.raises(ReadError, match="there is no audio track"):
        ArrayReader().audio(Clip(tmp_path / "set/one.npz", "a"), 16000)
