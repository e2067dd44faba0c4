from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.readers.array import ArrayReader
from kinema.data.readers.base import Clip, ReadError, find_reader, probe

CLIP = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)


def read(path: Path, member: str = "") -> np.ndarray:
    return np.stack(list(ArrayReader().frames(Clip(path, member))))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (CLIP, CLIP),
        (CLIP.transpose(0, 3, 1, 2), CLIP),
        (CLIP.transpose(3, 0, 1, 2), CLIP),
        (CLIP[..., 0], CLIP[..., :1].repeat(3, -1)),
        (CLIP[..., :1], CLIP[..., :1].repeat(3, -1)),
        (CLIP.astype(np.float32) / 255, CLIP),
        (CLIP.astype(np.float64) / 127.5 - 1, CLIP),
        (CLIP.astype(np.int64), CLIP),
        (CLIP > 127, (CLIP > 127) * np.uint8(255)),
    ],
)
def test_layouts_and_values(tmp_path: Path, array: np.ndarray, expected: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read(tmp_path / "a.npy"), expected)
    info = probe(Clip(tmp_path / "a.npy"))
    assert (info.width, info.height, info.fps, info.frames) == (24, 16, 25, 5)


def test_a_file_of_many_clips(tmp_path: Path) -> None:
    many, actions = np.stack([CLIP, 255 - CLIP]), np.zeros((5, 2))
    np.savez_compressed(tmp_path / "set.npz", many=many, one=CLIP, fps=12.5, actions=actions)
    folder = scan(tmp_path)
    assert [clip.member for clip in folder.clips] == ["many[0]", "many[1]", "one"]
    np.testing.assert_array_equal(read(tmp_path / "set.npz", "many[1]"), 255 - CLIP)
    assert probe(folder.clips[2]).fps == 12.5


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py, of the extra hdf5")
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["train/a"], file["train/b"], file["fps"] = CLIP, np.stack([CLIP, CLIP]), 5
    assert [clip.member for clip in scan(tmp_path).clips] == ["train/a", "train/b[0]", "train/b[1]"]
    np.testing.assert_array_equal(read(tmp_path / "set.h5", "train/b[1]"), CLIP)
    assert probe(Clip(tmp_path / "set.h5", "train/a")).fps == 5


def test_arrays_of_other_things_are_no_clips(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", CLIP)
    np.save(tmp_path / "steering.npy", np.zeros((5, 2)))
    np.save(tmp_path / "points.npy", np.zeros((5, 17, 3)))
    folder = scan(tmp_path)
    assert [clip.path.name for clip in folder.clips] == ["a.npy"]
    assert folder.notes == ("2 files are passed over, as there are no clips in them: points.npy, steering.npy",)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((5, 16, 24), 1000, np.uint16), "values are uint16 from 1000 to 1000"),
        (np.full((5, 16, 24), np.nan), "values are float64 from nan"),
    ],
)
def test_values_that_are_no_levels(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ReadError, match=message):
        read(tmp_path / "a.npy")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for name in ("a.npy", "a.npz", "a.h5"):
        (tmp_path / name).write_bytes(b"nothing")
        clip = find_reader(tmp_path / name).clips(tmp_path / name)[0]
        with pytest.raises(ReadError, match=f"{name}: (its arrays cannot be read|HDF5 needs h5py)"):
            probe(clip)


def test_the_range_of_many_clips_is_that_of_all_of_them(tmp_path: Path) -> None:
    many = np.full((3, 4, 16, 24), 0.2, np.float32)
    many[0, 0, 0, 0] = -1
    np.save(tmp_path / "a.npy", many[..., None])
    assert read(tmp_path / "a.npy", "[1]")[0, 0, 0, 0] == 153
    assert ArrayReader().notes(Clip(tmp_path / "a.npy", "[1]")) == ["values of -1 to 1 are black to white"]


def test_a_damaged_stream_in_an_npz_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", clip=CLIP)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[40:80] = bytes(40)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ReadError, match="its arrays cannot be read"):
        read(tmp_path / "a.npz", "clip")


def test_hdf5_opens_no_other_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py, of the extra hdf5")
    (tmp_path / "secret.bin").write_bytes(bytes(5 * 16 * 24))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (5, 16, 24), "u1", external=[(str(tmp_path / "secret.bin"), 0, 5 * 16 * 24)])
    (clip,) = ArrayReader().clips(tmp_path / "a.h5")
    with pytest.raises(ReadError, match="is in another file, which is not opened"):
        probe(clip)


def test_names_in_a_file_are_no_classes(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py, of the extra hdf5")
    for name in "ab":
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data/demo/image"], file["nothing"] = CLIP, h5py.Empty("f")
    assert scan(tmp_path).classes == () and len(scan(tmp_path).clips) == 2


@pytest.mark.parametrize("kind", ["npz", "negative", "huge", "text", "objects"])
def test_odd_arrays_cost_no_more_than_themselves(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.npy"
    if kind == "npz":
        np.savez(tmp_path / "a.npz", CLIP)
        (tmp_path / "a.npz").rename(path)
    elif kind in {"text", "objects"}:
        np.save(path, np.full((5, 16, 24), "level" if kind == "text" else None), allow_pickle=True)
    else:
        with path.open("wb") as file:
            shape = (-1, 64, 64) if kind == "negative" else (10**30, 64, 64)
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    np.save(tmp_path / "good.npy", CLIP)
    source = FolderSource(DataConfig(str(tmp_path), frames=4, height=16, width=16))
    assert source.usable == 1
    assert "odd.npy" in {skip.name for skip in source.skipped} or "odd.npy" in source.notes[0]


def test_values_a_little_beyond_their_range_are_cut(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", (CLIP / 255 * 1.02 - 0.01).astype(np.float32))
    assert np.abs(read(tmp_path / "a.npy").astype(int) - CLIP).max() <= 3


def test_junk_in_an_npz_is_left_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", clip=CLIP, fps=np.array([12.5]))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
        file.writestr("readme.txt", "hello")
        file.writestr("__MACOSX/._clip.npy", b"junk")
    (clip,) = ArrayReader().clips(tmp_path / "a.npz")
    assert (clip.member, probe(clip).fps) == ("clip", 12.5)
