"""What is kept in the cache is what was written there, or an error that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from kinema.data.cache import atomic_write
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.stored import ArrayWriter, Damaged, StoredArray, read_metadata, write_metadata
from kinema.data.writing import write_video


def write(path: Path, rows: np.ndarray, block: int = 1) -> StoredArray:
    with atomic_write(path) as file:
        writer = ArrayWriter(file, path, rows.dtype, rows.shape[1:], block)
        for first in range(0, len(rows), 2 * block):
            writer.write(rows[first : first + 2 * block])
        return writer.finish()


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_what_is_read_is_what_was_written(tmp_path: Path, count: int, block: int) -> None:
    rows = np.random.default_rng(0).integers(0, 255, (count, 4, 5), dtype=np.uint8)
    written, path = write(tmp_path / "a.npy", rows, block), tmp_path / "a.npy"
    np.testing.assert_array_equal(np.load(path), rows)
    for stored in (written, StoredArray.open(path, block)):
        for start in range(count + 5):
            for stop in range(start, count + 8):
                np.testing.assert_array_equal(stored.read(start, stop), rows[start:stop])


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.npy", np.arange(48, dtype=np.int16).reshape(6, 8)
    write(path, rows, 2)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            read = StoredArray.open(path, 2).read(0, 6)
        except Damaged:
            continue
        assert read.dtype == rows.dtype  # a blank of the header
        np.testing.assert_array_equal(read, rows)


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:20], lambda b: b"", lambda b: b[::-1]]
)
def test_another_length_is_found(tmp_path: Path, change) -> None:
    path = tmp_path / "a.npy"
    write(path, np.arange(5.0))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(Damaged):
        StoredArray.open(path)


def test_a_file_is_not_taken_for_another(tmp_path: Path) -> None:
    write(tmp_path / "a.npy", np.arange(5.0))
    write_metadata(tmp_path / "a.json", {"fps": 25.0, "notes": ["ä"]})
    assert read_metadata(tmp_path / "a.json") == {"fps": 25.0, "notes": ["ä"]}
    for suffix, read in ((".npy", StoredArray.open), (".json", read_metadata)):
        shutil.copy(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
        with pytest.raises(Damaged, match=rf"b{suffix} is damaged"):
            read(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("text", ["", "[]", "1", "{}", "12345", '{"fps": 5}1234', "[" * 9999])
def test_metadata_that_is_none_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(Damaged):
        read_metadata(tmp_path / "a.json")


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    """Clips of one colour each, decoded."""
    (tmp_path / "clips").mkdir()
    for clip in range(3):
        write_video(tmp_path / f"clips/{clip}.mp4", np.full((8, 16, 16, 3), 60 * clip + 20, np.uint8), 25.0)
    return FolderSource(DataConfig(str(tmp_path / "clips"), 4, 16, 16, holdout=0, cache=str(tmp_path / "cache")))


def invert(path: Path) -> None:
    """Invert the frames in the middle of a cached clip."""
    content = bytearray(path.read_bytes())
    content[1000:4000] = bytes(255 - value for value in content[1000:4000])
    path.write_bytes(content)


@pytest.mark.parametrize("again", [False, True], ids=["while it is used", "before it is used again"])
def test_damaged_frames_are_decoded_again(source: FolderSource, again: bool) -> None:
    before = source.batch(0, 3, seed=0).frames
    for path in source._cache.folder.glob("*.npy"):
        invert(path)
    if again:
        source = FolderSource(source.config)
    with pytest.warns(UserWarning, match=r"\d\.mp4: what the cache held of it was damaged, and is decoded again"):
        assert (source.batch(0, 3, seed=0).frames == before).all()


def test_a_disk_that_damages_all_is_no_endless_loop(source: FolderSource, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = source._cache.decode

    def decode_damaged(entry):
        found = decode(entry)
        invert(entry.path)
        return found

    monkeypatch.setattr(source._cache, "decode", decode_damaged)
    for path in source._cache.folder.glob("*.npy"):
        invert(path)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(Damaged):
        source.batch(0, 3, seed=0)
