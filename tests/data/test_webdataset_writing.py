from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.clips import DataConfig, FolderClips, FolderSource
from kinema.data.folder import Folder, scan
from kinema.data.readers.base import Clip, find_reader
from kinema.data.webdataset_writing import WebDatasetWriter, export_clips
from kinema.data.writing import write_video

LENGTHS = (9, 14, 6)
RATE, CLICK = 12.5, 0.4  # frames a second; seconds at which there is a click


def levels(length: int) -> np.ndarray:
    """Frames of grey levels 10, 20, ..."""
    return np.broadcast_to(10 * np.arange(1, length + 1, dtype=np.uint8)[:, None, None, None], (length, 32, 48, 3))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A video with sound, a folder of images and an array, each with all that metadata say."""
    root = tmp_path / "clips"
    (root / "a.b").mkdir(parents=True)
    sound = np.zeros(round(LENGTHS[0] / RATE * SAMPLE_RATE), np.float32)
    sound[round(CLICK * SAMPLE_RATE) :][:64] = 0.8
    names = ("a.b/c.d.mp4", "b", "c.npy")
    rows = []
    for n, (name, length) in enumerate(zip(names, LENGTHS, strict=True)):
        write_video(root / name, levels(length), RATE, sound)  # "b" is a folder of images
        np.save(root / f"actions {n}.npy", n + np.arange(2 * length, dtype=np.float64).reshape(length, 2))
        row = {"file_name": name, "caption": f'a "{n}", ö', "label": str(n % 2), "actions": f"actions {n}.npy"}
        rows.append(row | {"fps": RATE, "patient": f"p{n}", "split": ("train", "train", "test")[n]})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("b", "c.npy"):  # the rows say the rate
        (root / f"{name}.json").unlink()
    return root


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as file:
        return {one.name: file.extractfile(one).read() for one in file}


def test_clips_come_back(clips: Path, tmp_path: Path, kinema: Callable) -> None:
    out = tmp_path / "new" / "shards"
    assert kinema("export-clips", clips, "--out", out, "--format", "webdataset")[:2] == (0, f"{out}: 3 samples\n")
    assert [path.name for path in out.parent.rglob("*")] == ["shards", "clips-000000.tar"]
    before, after = scan(clips).clips, scan(out).clips
    assert [(one.label, one.caption, one.group, one.split) for one in after] == [
        (one.label, one.caption, one.group, one.split) for one in before
    ]
    for old, new in zip(before, after, strict=True):
        reader = find_reader(new.path)
        frames = [np.stack(list(find_reader(one.path).frames(one))).astype(int) for one in (old, new)]
        np.testing.assert_allclose(frames[1], frames[0], atol=3)
        np.testing.assert_array_equal(reader.actions(new), find_reader(old.path).actions(old))
        assert reader.info(new).fps == pytest.approx(RATE)
    heard = [find_reader(one.path).audio(one, SAMPLE_RATE) for one in (before[0], after[0])]
    np.testing.assert_array_equal(*heard)
    found = members(out / "clips-000000.tar")
    assert found["000000.mp4"] == (clips / "a.b/c.d.mp4").read_bytes()
    assert sorted(found) == [f"{n:06d}.{one}" for n in range(3) for one in ("cls", "json", "mp4", "npy", "txt")]
    assert json.loads(found["000000.json"]) == {
        "source": "a.b/c.d.mp4", "fps": RATE, "frames": 9, "label": "0", "group": "p0", "split": "train",
    }  # fmt: skip
    source = FolderSource(DataConfig(str(out), frames=4, height=16, width=24, holdout=0))
    assert len(source.clips) == 2 and source.skipped == () and source.spec.fps == pytest.approx(RATE)


def test_what_is_cut_is_encoded_with_its_sound(make_clip, tmp_path: Path) -> None:
    path = make_clip("long.mkv", 50, images=np.repeat(levels(10), 5, axis=0), codec="ffv1", pixels="bgr0", tone=2.0)
    cut = Clip(path, start=0.4, stop=1.2, caption="cut")
    folder = Folder(tmp_path, (Clip(path, caption="whole"), cut), (), ())
    assert export_clips(folder, tmp_path / "shards") == (2, ())
    found = members(tmp_path / "shards/clips-000000.tar")
    assert [name for name in found if name.endswith(("mkv", "mp4"))] == ["000000.mkv", "000001.mp4"]
    assert found["000000.mkv"] == path.read_bytes() and json.loads(found["000001.json"])["frames"] == 20
    again = scan(tmp_path / "shards").clips[1]
    reader = find_reader(again.path)
    frames = [np.stack(list(find_reader(one.path).frames(one))).astype(int) for one in (cut, again)]
    np.testing.assert_allclose(frames[1], frames[0], atol=3)
    sound = reader.audio(again, SAMPLE_RATE)
    assert len(sound) == pytest.approx(0.8 * SAMPLE_RATE, abs=1024)
    middle = slice(SAMPLE_RATE // 10, SAMPLE_RATE // 2)
    assert np.corrcoef(sound[middle], find_reader(path).audio(cut, SAMPLE_RATE)[middle])[0, 1] > 0.99


def test_names_of_classes_come_back(tmp_path: Path) -> None:
    for name in ("run", "walk"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        write_video(tmp_path / "clips" / name / "a.mp4", levels(5), 10)
    export_clips(scan(tmp_path / "clips"), tmp_path / "shards")
    assert "000000.cls" not in members(tmp_path / "shards/clips-000000.tar")  # the package takes it for an integer
    assert scan(tmp_path / "shards").classes == ("run", "walk")


def test_shards_are_bounded(tmp_path: Path) -> None:
    with WebDatasetWriter(tmp_path / "by number", most_samples=2) as writer:
        for _ in range(5):
            writer.write({"txt": b"a"})
    names = sorted(path.name for path in (tmp_path / "by number").iterdir())
    assert names == [f"clips-{n:06d}.tar" for n in range(3)]
    keys = [name for shard in sorted((tmp_path / "by number").iterdir()) for name in members(shard)]
    assert keys == [f"{n:06d}.txt" for n in range(5)]
    with WebDatasetWriter(tmp_path / "by size", most_bytes=1000) as writer:
        for size in (400, 400, 400, 5000, 10):
            writer.write({"txt": bytes(size)})
    shards = sorted((tmp_path / "by size").iterdir())
    assert [[len(one) for one in members(shard).values()] for shard in shards] == [[400, 400], [400], [5000], [10]]


def test_clips_that_cannot_be_written_are_named(tmp_path: Path, kinema: Callable, refused: Callable) -> None:
    clips, out, words = tmp_path / "clips", tmp_path / "shards", ("--format", "webdataset", "--out")
    clips.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    for name in ("a", "cut", "few"):
        write_video(clips / f"{name}.mkv.mp4", noise, 10)
        np.save(clips / f"{name}.npy", np.zeros((20 if name == "few" else 31, 1)))
    (clips / "cut.mkv.mp4").write_bytes((clips / "cut.mkv.mp4").read_bytes()[:-20_000])
    (clips / "bad.mp4").write_bytes(b"no video")
    rows = ["file_name,actions", *(f"{name}.mkv.mp4,{name}.npy" for name in ("a", "cut", "few")), "bad.mp4,a.npy"]
    (clips / "metadata.csv").write_text("\n".join(rows))
    status, printed, said = kinema("export-clips", clips, *words, out)
    assert (status, printed) == (0, f"{out}: 1 sample\n")
    assert "skipped few.mkv.mp4: it has 20 rows of actions, and 30 frames" in said
    assert "skipped bad.mp4: " in said and "skipped cut.mkv.mp4: " in said
    (clip,) = scan(out).clips
    assert find_reader(clip.path).actions(clip).shape == (30, 1)
    assert "exists: choose another name" in refused("export-clips", clips, *words, out)
    (clips / "a.mkv.mp4").write_bytes(b"no video")
    assert "no clip can be written" in refused("export-clips", clips, *words, tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".cache") == ["clips", "shards"]


def test_nothing_is_left_of_shards_that_fail(tmp_path: Path) -> None:
    writer = WebDatasetWriter(tmp_path / "shards")
    with pytest.raises(ValueError, match="shards could not be written: no disk"), writer:  # noqa: PT012
        writer.write({"txt": b"a"})
        raise OSError("no disk")
    with pytest.raises(ValueError, match="no samples"), WebDatasetWriter(tmp_path / "shards"):
        pass
    assert not [*tmp_path.iterdir()]


def test_webdataset_reads_what_is_written(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    webdataset = pytest.importorskip("webdataset", reason="needs the package webdataset")
    write_video(clips / "d.mp4", levels(8), RATE)
    with (clips / "metadata.jsonl").open("a") as file:
        row = {"file_name": "d.mp4", "caption": "fourth", "label": "7", "actions": "actions 0.npy", "split": "train"}
        file.write("\n" + json.dumps(row))
    monkeypatch.setattr("kinema.data.webdataset_writing.WebDatasetWriter", partial(WebDatasetWriter, most_samples=2))
    export_clips(scan(clips), tmp_path / "shards")
    shards = f"{tmp_path}/shards/clips-{{000000..000001}}.tar"
    samples = list(
        webdataset.WebDataset(shards, shardshuffle=False).decode().to_tuple("mp4", "txt", "cls", "npy", "json")
    )
    assert [cls for _, _, cls, _, _ in samples] == [0, 1, 0, 7]
    assert [text for _, text, _, _, _ in samples] == [f'a "{n}", ö' for n in range(3)] + ["fourth"]
    assert [row["source"] for *_, row in samples] == ["a.b/c.d.mp4", "b", "c.npy", "d.mp4"]
    for n, (video, _, _, actions, row) in enumerate(samples):
        assert isinstance(video, bytes) and actions.dtype == np.float32 and len(actions) == row["frames"]
        (tmp_path / f"{n}.mp4").write_bytes(video)
        assert sum(1 for _ in find_reader(tmp_path / f"{n}.mp4").frames(Clip(tmp_path / f"{n}.mp4"))) == row["frames"]


def test_a_clip_that_breaks_off_leaves_no_part_of_a_sample(clips: Path, tmp_path: Path) -> None:
    found = scan(clips)
    with WebDatasetWriter(tmp_path / "shards") as writer:
        writer.write({"txt": b"a"})
        with pytest.raises(FileNotFoundError):
            writer.write({"txt": b"b", "mp4": tmp_path / "none.mp4"})
    assert [*members(tmp_path / "shards/clips-000000.tar")] == ["000000.txt"]
    np.save(clips / "actions 1.npy", np.zeros((3, 2)))
    count, skipped = export_clips(found, tmp_path / "out")
    assert count == 2 and [one.name for one in skipped] == ["b"]
    assert {name[:6] for name in members(tmp_path / "out/clips-000000.tar")} == {"000000", "000001"}


def test_samples_of_a_shard_are_held_out_alone(tmp_path: Path, kinema: Callable) -> None:
    (tmp_path / "clips").mkdir()
    for clip in range(20):
        write_video(tmp_path / f"clips/{clip:02d}.mp4", np.full((6, 16, 16, 3), 10 * clip, np.uint8), 10)
    assert kinema("export-clips", tmp_path / "clips", "--out", tmp_path / "out", "--format", "webdataset")[0] == 0
    config = DataConfig(str(tmp_path / "out"), 4, 16, 16, cache=str(tmp_path / "cache"))
    assert len(FolderClips(config, "held out").clips) == 2
