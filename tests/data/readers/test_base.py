"""Readers of installed packages: folders find them through the registry, and clips are what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from kinema.data.array_headers import HEADER_LOCK
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.readers.base import Clip, ClipInfo, DecodeFrame, Reader, ReadError, find_reader
from kinema.data.readers.image import ImageReader
from kinema.data.readers.video import VideoReader
from kinema.registry import READERS

FPS = 10.0


class PackReader(Reader):
    """Reads packs, .npz files by another name: each array [T, H, W, 3] is a clip, or the halves of an array "long"."""

    suffixes = frozenset({".pack"})

    def clips(self, path: Path) -> Sequence[Clip]:
        with HEADER_LOCK:
            arrays = dict(np.load(path))
        if "long" not in arrays:
            return [Clip(path, name) for name in arrays]
        middle = len(arrays["long"]) / 2 / FPS
        return [Clip(path, "first", stop=middle), Clip(path, "second", middle)]

    def _array(self, clip: Clip) -> np.ndarray:
        with HEADER_LOCK:
            arrays = dict(np.load(clip.path))
        return arrays["long" if "long" in arrays else clip.member]

    def info(self, clip: Clip) -> ClipInfo:
        return ClipInfo(*self._array(clip).shape[2:0:-1], FPS, None)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        for k, frame in enumerate(self._array(clip)):
            yield k / FPS, 1 / FPS, partial(np.asarray, frame)


@pytest.fixture(autouse=True)
def _installed(monkeypatch) -> None:
    point = EntryPoint("PackReader", f"{__name__}:PackReader", "kinema.readers")
    monkeypatch.setitem(READERS._installed, "PackReader", point)


def grey(first: int, frames: int = 8) -> np.ndarray:
    """Frames of levels that follow each other."""
    return np.broadcast_to(np.arange(first, first + frames, dtype=np.uint8)[:, None, None, None], (frames, 16, 16, 3))


def pack(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def source_of(folder: Path, **settings) -> FolderSource:
    return FolderSource(DataConfig(**({"source": str(folder), "frames": 4, "height": 16, "width": 16} | settings)))


def test_the_reader_of_a_file_is_found_in_the_registry(tmp_path: Path) -> None:
    assert isinstance(find_reader(Path("a.MP4")), VideoReader) and isinstance(find_reader(Path("a.png")), ImageReader)
    assert isinstance(find_reader(Path("a.pack")), PackReader)
    assert isinstance(find_reader(Path("a.dat")), VideoReader)  # FFmpeg looks at what is in it
    (tmp_path / "a.mp4").mkdir()
    assert not VideoReader().can_read(tmp_path / "a.mp4")


def test_a_registered_reader_feeds_training(make_clip, tmp_path: Path) -> None:
    make_clip("set/video.mkv", images=grey(200), codec="ffv1", pixels="bgr0")
    pack(tmp_path / "set/two.pack", a=grey(0), b=grey(100))
    source = source_of(tmp_path / "set")
    assert [(clip.path.name, clip.member) for clip in source.clips] == [
        ("two.pack", "a"), ("two.pack", "b"), ("video.mkv", ""),
    ]  # fmt: skip
    starts = {int(frames[0, 0, 0, 0]) // 100 * 100 for frames in source.batch(0, 3, seed=0).frames}
    assert starts == {0, 100, 200} and source.skipped == ()


def test_stretches_of_one_recording_are_clips(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pack(tmp_path / "set/long.pack", long=grey(0, 16))
    source = source_of(tmp_path / "set", frames=8)
    frames = source.read([(0, 0), (1, 0)]).frames[:, :, 0, 0, 0]
    assert frames.tolist() == [[*range(8)], [*range(8, 16)]]
    with pytest.raises(ValueError, match=r"none of its 2 clips can be used; the first is long\.pack:first: 8 frames"):
        source_of(tmp_path / "set", frames=9, short="skip")


def test_a_label_of_the_metadata_is_that_of_all_clips_of_its_file(tmp_path: Path) -> None:
    pack(tmp_path / "two.pack", a=grey(0), b=grey(100))
    (tmp_path / "metadata.csv").write_text("file_name,label\ntwo.pack,grey\n")
    assert [(clip.member, clip.label) for clip in scan(tmp_path).clips] == [("a", "grey"), ("b", "grey")]


def test_a_clip_without_sound_is_skipped_where_sound_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pack(tmp_path / "set/one.pack", a=grey(0))
    with pytest.raises(ValueError, match=r"one\.pack:a: there is no audio track in it"):
        source_of(tmp_path / "set", audio=True)
    with pytest.raises(ReadError, match="there is no audio track"):
        PackReader().audio(Clip(tmp_path / "set/one.pack", "a"), 16000)
