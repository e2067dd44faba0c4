from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.readers.base import Clip, ReadError, probe, read_audio
from kinema.data.readers.webdataset import WebDatasetReader


def shard(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def samples(make_clip, tmp_path: Path) -> dict[str, bytes]:
    """The members of five samples; frame k of sample n has the level 20 n + 10 k."""
    members = {}
    for n in range(5):
        images = np.broadcast_to((20 * n + 10 * np.arange(8)).astype(np.uint8)[:, None, None, None], (8, 32, 48, 3))
        path = make_clip(f"made/{n}.mkv", images=images, codec="ffv1", pixels="bgr0", tone=0.3)
        members[f"set/{n:04d}.mkv"] = path.read_bytes()
        members[f"set/{n:04d}.txt"] = f"clip {n}\n".encode()
        members[f"set/{n:04d}.cls"] = str(n % 2).encode()
        members[f"set/{n:04d}.npy"] = npy(np.full((8, 2), n))
        members[f"set/{n:04d}.json"] = json.dumps({"patient": f"p{n // 2}", "key": n}).encode()
    return members


def test_a_shard_is_trained_on(samples: dict[str, bytes], tmp_path: Path) -> None:
    shard(tmp_path / "clips/a-000000.tar", samples)
    folder = scan(tmp_path / "clips")
    assert [(clip.member, clip.label, clip.caption, clip.group) for clip in folder.clips] == [
        (f"set/{n:04d}", str(n % 2), f"clip {n}", f"p{n // 2}") for n in range(5)
    ]
    source = FolderSource(DataConfig(str(tmp_path / "clips"), frames=4, height=16, width=24, holdout=0))
    batch = source.read([(3, 2), (0, 0)])
    assert batch.frames[:, :, 0, 0, 0].tolist() == [[80, 90, 100, 110], [0, 10, 20, 30]]
    assert batch.conditions.text == ("clip 3", "clip 0") and batch.conditions.label.tolist() == [1, 0]
    assert batch.conditions.actions[0].tolist() == [[3, 3]] * 4
    assert source.skipped == () and source.spec.fps == 25
    clip = folder.clips[1]
    assert probe(clip).frames == 8
    assert len(WebDatasetReader().audio(clip, 16000)) == pytest.approx(0.3 * 16000, rel=0.2)


def test_a_stretch_fits_resampling_as_in_a_plain_folder(samples: dict[str, bytes], tmp_path: Path) -> None:
    shard(tmp_path / "clips/a.tar", samples)
    settings = {"frames": 3, "height": 16, "width": 24, "holdout": 0.0, "fps": 12.5}
    packed = FolderSource(DataConfig(str(tmp_path / "clips"), **settings))
    plain = FolderSource(DataConfig(str(tmp_path / "made"), **settings))
    for step in range(3):
        assert packed.batch(step, 4, seed=0).frames.equal(plain.batch(step, 4, seed=0).frames)


def test_bad_samples_and_shards_are_named(samples: dict[str, bytes], tmp_path: Path) -> None:
    samples["set/0001.mkv"] = samples["set/0001.mkv"][:300]
    samples["set/0002.npy"] = b"nothing"
    samples["set/0003.json"] = b"{"
    shard(tmp_path / "clips/a.tar", samples)
    (tmp_path / "clips/b.tar").write_bytes(b"no tar")
    shard(tmp_path / "clips/only text.tar", {"a.txt": b"no clip"})
    source = FolderSource(DataConfig(str(tmp_path / "clips"), frames=4, height=16, width=24, holdout=0))
    assert source.usable == 3
    assert [skip.name for skip in source.skipped] == ["a.tar:set/0001", "a.tar:set/0002", "b.tar"]
    assert "passed over" in source.notes[0] and "only text.tar" in source.notes[0]


def test_a_shard_that_is_cut_short_is_an_error(samples: dict[str, bytes], tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", samples)
    path.write_bytes(path.read_bytes()[:-40_000])
    assert [clip.member for clip in WebDatasetReader().clips(path)] in ([""], [f"set/{n:04d}" for n in range(4)])
    with pytest.raises(ReadError, match=r"a\.tar: "):
        probe(Clip(path, "set/0004"))


def test_names_that_lead_outside_are_only_names(samples: dict[str, bytes], tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", {"../../out.mkv": samples["set/0000.mkv"]})
    (clip,) = WebDatasetReader().clips(path)
    assert probe(clip).frames == 8
    assert not (tmp_path.parent.parent / "out.mkv").exists()


def test_shards_of_the_package(samples: dict[str, bytes], tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs the package webdataset")
    with webdataset.ShardWriter(str(tmp_path / "shard-%06d.tar"), maxcount=2, verbose=0) as writer:
        for n in range(5):
            writer.write({"__key__": f"{n:04d}", "mkv": samples[f"set/{n:04d}.mkv"], "txt": f"clip {n}", "cls": n % 2})
    folder = scan(tmp_path)
    assert [(clip.caption, clip.label) for clip in folder.clips] == [(f"clip {n}", str(n % 2)) for n in range(5)]
    assert all(probe(clip).frames == 8 for clip in folder.clips)
    assert len(read_audio(tmp_path / "made/0.mkv", 16000)) > 0


def test_a_video_counts_before_a_picture_of_it(samples: dict[str, bytes], tmp_path: Path) -> None:
    members = {"a.jpg": b"thumbnail", "a.mkv": samples["set/0000.mkv"], "a.txt": b"one", "a.wav": b"sound"}
    path = shard(tmp_path / "a.tar", members)
    (clip,) = WebDatasetReader().clips(path)
    assert (probe(clip).frames, clip.caption) == (8, "one")
    assert WebDatasetReader().notes(clip) == ["members that are not read: a.jpg, a.wav"]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_damaged_compressed_shard_is_named(samples: dict[str, bytes], tmp_path: Path, kind: str) -> None:
    path = shard(tmp_path / "clips/a.tar", samples)
    data = path.read_bytes()
    with tarfile.open(path, f"w:{kind}") as file:
        info = tarfile.TarInfo("0.mkv")
        info.size = len(data)
        file.addfile(info, io.BytesIO(data))
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(range(40))
    path.write_bytes(packed)
    with pytest.raises(ReadError, match=r"a\.tar: it (cannot be read as a tar file|is cut short)"):
        probe(Clip(path, "0"))
