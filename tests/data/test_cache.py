"""The cache: files are there or not there at all, one process makes an entry, and code is part of its key."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kinema.data import cache, decoded
from kinema.data.cache import CacheLimit, atomic_write, entry_lock
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.decoded import ClipCache
from kinema.data.writing import write_video

DECODE = """
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.decoded import ClipCache
from kinema.data.readers.base import ClipInfo, Reader
from kinema.registry import READERS

here, rank = Path(sys.argv[1]), sys.argv[2]


class SlowReader(Reader):
    suffixes = frozenset({".slow"})

    def info(self, clip):
        return ClipInfo(8, 8, 25.0, None)

    def recording(self, clip, threads=0):
        (here / f"{clip.path.stem}.{uuid4().hex}.decoded").touch()
        for k in range(6):
            time.sleep(0.02)
            frame = np.full((8, 8, 3), int(clip.path.stem) * 10 + k, np.uint8)
            yield k / 25, 1 / 25, lambda frame=frame: frame


if __name__ == "__main__":
    READERS._installed["slow"] = EntryPoint("slow", "decode:SlowReader", "kinema.readers")
    (here / f"{rank}.ready").touch()
    while len(list(here.glob("*.ready"))) < 2:
        time.sleep(0.01)
    config = DataConfig(str(here / "set"), frames=6, height=8, width=8, holdout=0, cache=str(here / "cache"))
    source = FolderSource(config)
    torch.save(source.read([(clip, 0) for clip in range(len(source.clips))]).frames, here / f"{rank}.pt")
"""


def test_two_processes_decode_each_clip_once_between_them(tmp_path: Path) -> None:
    (tmp_path / "decode.py").write_text(DECODE)
    (tmp_path / "set").mkdir()
    for clip in range(8):
        (tmp_path / f"set/{clip}.slow").write_bytes(bytes([clip]))
    command = [sys.executable, str(tmp_path / "decode.py"), str(tmp_path)]
    processes = [subprocess.Popen([*command, rank], stderr=subprocess.PIPE) for rank in "01"]
    for process in processes:
        _, error = process.communicate()
        assert process.returncode == 0, error.decode()
    decoded = sorted(path.name.split(".")[0] for path in tmp_path.glob("*.decoded"))
    assert decoded == [str(clip) for clip in range(8)]
    for rank in "01":
        frames = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert frames[:, :, 0, 0, 0].tolist() == [[10 * clip + k for k in range(6)] for clip in range(8)]
        assert frames.float().var((2, 3, 4)).max() == 0
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_write(tmp_path / "new/a.json") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list((tmp_path / "new").iterdir()) == []
    with atomic_write(tmp_path / "new/a.json") as file:
        file.write(b"all")
        assert not (tmp_path / "new/a.json").exists()
    assert (tmp_path / "new/a.json").read_bytes() == b"all"


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path, order = tmp_path / "clips/a.npy", []

    def second() -> None:
        order.append("waits")
        with entry_lock(path):
            order.append("second")

    with entry_lock(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first ends")
    thread.join()
    assert order == ["waits", "first ends", "second"]
    for entry in range(2000):
        with entry_lock(tmp_path / f"clips/{entry}.npy"):
            pass
    assert len(list((tmp_path / "locks").iterdir())) <= 256


def test_the_code_digest_is_of_the_named_sources_and_the_versions(tmp_path: Path, monkeypatch) -> None:
    for name in ("data", "nn/deep", "worlds"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(cache.__file__, tmp_path / "data/cache.py")
    for name in ("nn/deep/a.py", "worlds/b.py"):
        (tmp_path / name).write_text("x = 1\n")

    def digests() -> tuple[str, str]:
        spec = spec_from_file_location("copy", tmp_path / "data/cache.py")
        assert spec and spec.loader
        copy = module_from_spec(spec)
        spec.loader.exec_module(copy)
        return copy.code_digest("nn"), copy.code_digest("nn", "worlds.b")

    first = digests()
    assert digests() == first and first[0] != first[1]
    (tmp_path / "worlds/b.py").write_text("x = 2\n")
    second = digests()
    assert second[0] == first[0] and second[1] != first[1]
    (tmp_path / "nn/deep/a.py").rename(tmp_path / "nn/deep/c.py")
    assert digests()[0] != first[0]
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    assert len({digests()[0], second[0], first[0]}) == 2
    with pytest.raises(ValueError, match="no module no_such_package"):
        cache.code_digest("no_such_package")


def write_entry(root: Path, name: str, size: int, used: float) -> None:
    """An entry of two files, used so many seconds ago."""
    for path, length in ((root / f"clips/{name}.npy", size - 10), (root / f"clips/{name}.json", 10)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(length))
        os.utime(path, (time.time() - used,) * 2)


def test_what_was_used_longest_ago_is_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KINEMA_CACHE_GB", "4e-6")  # 4,000 bytes
    for number in range(5):
        write_entry(tmp_path, f"{number}", 1000, used=100 - number)
    os.utime(tmp_path / "clips/0.npy")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/large.pt").write_bytes(bytes(9000))
    limit = CacheLimit(tmp_path)
    assert limit.limit_bytes() == 4000
    limit.written(1000)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [
        f"{number}.{suffix}" for number in (0, 3, 4) for suffix in ("json", "npy")
    ]
    assert (tmp_path / "weights/large.pt").exists()


def test_the_newest_entry_stays_whatever_its_size(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KINEMA_CACHE_GB", "1e-6")
    write_entry(tmp_path, "old", 1000, used=10)
    write_entry(tmp_path, "new", 5000, used=0)
    CacheLimit(tmp_path).written(5000)
    assert sorted(path.stem for path in (tmp_path / "clips").glob("*.npy")) == ["new"]


def test_the_limit_is_half_of_the_free_disk_or_as_stated(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("KINEMA_CACHE_GB", raising=False)
    write_entry(tmp_path, "a", 6000, used=0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4000))
    assert CacheLimit(tmp_path).limit_bytes() == 5000
    for wrong in ("a lot", "-1", "0", "nan", "inf"):
        monkeypatch.setenv("KINEMA_CACHE_GB", wrong)
        with pytest.raises(ValueError, match=r"\$KINEMA_CACHE_GB is .*: give a number of gigabytes above 0"):
            CacheLimit(tmp_path)


@pytest.mark.parametrize("gigabytes", ["2e-5", "1e-9"])  # a few clips, and one
def test_batches_are_the_same_whatever_the_limit(tmp_path: Path, monkeypatch, gigabytes: str) -> None:
    """A clip of 8 frames of 16x16 has 6,144 bytes and a sound of 10,240; two have no sound, and are skipped."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for clip in range(8):
        levels = np.arange(8, dtype=np.uint8)[:, None, None, None] * 20 + np.uint8(clip)
        frames = np.broadcast_to(levels, (8, 16, 16, 3))
        sound = np.sin(np.arange(5120) / (clip + 2)).astype(np.float32)
        write_video(clips / f"{clip}.mp4", frames, 25.0, sound if clip % 4 else None)
    found = []
    for limit in ("1", gigabytes):
        monkeypatch.setenv("KINEMA_CACHE_GB", limit)
        folder = tmp_path / f"cache {limit}"
        source = FolderSource(DataConfig(str(clips), 4, 16, 16, audio=True, holdout=0, cache=str(folder)))
        found.append([source.batch(step, 4, seed=0) for step in range(6)])
        size = sum(path.stat().st_size for path in (folder / "clips").glob("*.npy"))
        assert size <= max(float(limit) * 1e9, 6144 + 10240 + 300)
    for expected, got in zip(*found, strict=True):
        assert torch.equal(expected.frames, got.frames)
        assert expected.conditions.audio is not None and got.conditions.audio is not None
        assert torch.equal(expected.conditions.audio, got.conditions.audio)


def test_an_entry_that_is_being_written_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KINEMA_CACHE_GB", "1e-6")
    write_entry(tmp_path, "a", 2000, used=10)
    (tmp_path / "clips/a.0123.part").touch()
    write_entry(tmp_path, "b", 2000, used=5)
    write_entry(tmp_path, "c", 2000, used=0)
    CacheLimit(tmp_path).written(2000)
    assert sorted(path.stem for path in (tmp_path / "clips").glob("*.npy")) == ["a", "c"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """A file that is being written stays, however long that takes."""
    write = """
import sys, time
from pathlib import Path
from kinema.data.cache import atomic_write
with atomic_write(Path(sys.argv[1])) as file:
    print("begun", flush=True)
    time.sleep(600)
"""
    for name in ("killed", "living"):
        command = [sys.executable, "-c", write, str(tmp_path / f"{name}.npy")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
        if name == "killed":
            process.kill()
            process.wait()
    try:
        for part in tmp_path.glob("*.part"):
            os.utime(part, (0, 0))
        with atomic_write(tmp_path / "c.npy") as file:
            file.write(b"all")
        assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"living", "c"}
    finally:
        process.kill()
        process.wait()


def test_a_cache_that_holds_no_batch_is_not_filled_in_circles(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KINEMA_CACHE_GB", "1e-9")
    (tmp_path / "clips").mkdir()
    for clip in range(12):
        write_video(tmp_path / f"clips/{clip}.mp4", np.full((8, 16, 16, 3), 20 * clip, np.uint8), 25.0)
    written, write = [], ClipCache._write
    monkeypatch.setattr(ClipCache, "_write", lambda cache, entry: written.append(entry) or write(cache, entry))
    source = FolderSource(DataConfig(str(tmp_path / "clips"), 4, 16, 16, holdout=0, cache=str(tmp_path / "cache")))
    for step in range(6):
        source.batch(step, 6, seed=0)
    assert len(written) <= 12 + 6 * 3 * 6  # when it is asked for, ahead of that, and when it is read


def test_a_clip_larger_than_the_cache_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("KINEMA_CACHE_GB", "1e-5")
    monkeypatch.setattr(decoded, "LARGE", 5000)
    (tmp_path / "clips").mkdir()
    for name, frames in (("short", 6), ("long", 40)):
        write_video(tmp_path / f"clips/{name}.mp4", np.zeros((frames, 16, 16, 3), np.uint8), 25.0)
    source = FolderSource(DataConfig(str(tmp_path / "clips"), 4, 16, 16, holdout=0, cache=str(tmp_path / "cache")))
    ((name, reason),) = [(one.name, one.reason) for one in source.skipped]
    assert name == "long.mp4" and "it takes over 1e-05 GB, more than the cache may take: cut it" in reason
    assert source.lengths == [6]
    assert not list((tmp_path / "cache").rglob("*.part"))
