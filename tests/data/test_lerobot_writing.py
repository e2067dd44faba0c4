from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32

from kinema.data.folder import scan
from kinema.data.lerobot_writing import CAMERA, LeRobotWriter, export_clips
from kinema.data.readers.base import find_reader
from kinema.data.writing import write_video

pytest.importorskip("pyarrow")

LENGTHS = (9, 14, 6)


def make_clips(root: Path, columns: int = 3, fps: float = 12.5) -> Path:
    """Clips of grey levels 10, 20, ... with captions, and actions that are the numbers of clip and frame."""
    root.mkdir()
    lines = ["file_name,caption,actions"]
    for clip, length in enumerate(LENGTHS):
        frames = np.broadcast_to(
            10 * np.arange(1, length + 1, dtype=np.uint8)[:, None, None, None], (length, 32, 48, 3)
        )
        write_video(root / f"{clip}.mp4", frames, fps)
        np.save(root / f"{clip}.npy", actions_of(clip, columns))
        lines.append(f"{clip}.mp4,task {clip % 2},{clip}.npy")
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


def actions_of(clip: int, columns: int) -> Float32[np.ndarray, "T A"]:
    return np.stack([np.full(LENGTHS[clip], clip), *[np.arange(LENGTHS[clip])] * (columns - 1)], 1).astype(np.float32)


@pytest.mark.parametrize("columns", [1, 3])
def test_clips_come_back(tmp_path: Path, kinema: Callable, columns: int) -> None:
    clips, out = make_clips(tmp_path / "clips", columns), tmp_path / "new" / "robot"
    assert kinema("export-clips", clips, "--out", out) == (0, f"{out}: 3 episodes\n", "")
    assert [path.name for path in out.parent.iterdir()] == ["robot"]
    found = scan(out).clips
    assert [(clip.camera, clip.caption) for clip in found] == [("main", f"task {k % 2}") for k in range(3)]
    for before, after in zip(scan(clips).clips, found, strict=True):
        reader = find_reader(after.path)
        frames = [np.stack(list(find_reader(one.path).frames(one))).astype(int) for one in (before, after)]
        np.testing.assert_allclose(frames[1], frames[0], atol=3)
        np.testing.assert_array_equal(reader.actions(after), find_reader(before.path).actions(before))
        assert reader.info(after).fps == 12.5


def test_statistics(tmp_path: Path, kinema: Callable) -> None:
    out = tmp_path / "robot"
    kinema("export-clips", make_clips(tmp_path / "clips"), "--out", out)
    stats = json.loads((out / "meta/stats.json").read_text())
    actions = np.concatenate([actions_of(clip, 3) for clip in range(3)])
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(actions, 0.9, axis=0), rtol=1e-6)
    levels = np.concatenate([10 * np.arange(1, length + 1) for length in LENGTHS]) / 255
    for kind, value in {"mean": levels.mean(), "std": levels.std(), "min": 10 / 255, "q50": np.median(levels)}.items():
        np.testing.assert_allclose(stats[CAMERA][kind], np.full((3, 1, 1), value), atol=0.01)
    assert stats[CAMERA]["count"] == stats["index"]["count"] == [sum(LENGTHS)]


def test_clips_that_do_not_fit_are_named(tmp_path: Path, kinema: Callable, refused: Callable) -> None:
    clips, out = tmp_path / "clips", tmp_path / "robot"
    clips.mkdir()
    for name in "abc":
        write_video(clips / f"{name}.mp4", np.full((6, 33, 48, 3), 90, np.uint8), 10)
    write_video(clips / "fast.mp4", np.full((12, 33, 48, 3), 90, np.uint8), 20)
    write_video(clips / "small.mp4", np.full((6, 16, 48, 3), 90, np.uint8), 10)
    (clips / "bad.mp4").write_bytes(b"no video")
    status, printed, said = kinema("export-clips", clips, "--out", out)
    assert (status, printed) == (0, f"{out}: 4 episodes\n")
    assert "skipped small.mp4: 48x16 pixels, and most clips have 48x34" in said and "skipped bad.mp4: " in said
    reader, found = find_reader(out), scan(out).clips
    assert [reader.info(clip).frames for clip in found] == [6] * 4  # one in two of the fast clip's
    assert [(clip.actions, clip.caption) for clip in found] == [(None, None)] * 4
    assert "exists: choose another name" in refused("export-clips", clips, "--out", out)
    for name in ("a", "b", "c", "fast", "small"):
        (clips / f"{name}.mp4").write_bytes(b"no video")
    assert "no clip can be read" in refused("export-clips", clips, "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_nothing_is_left_of_a_dataset_that_fails(tmp_path: Path) -> None:
    frame = np.zeros((16, 16, 3), np.uint8)
    with LeRobotWriter(tmp_path / "b", 10) as writer:
        writer.write([(frame, np.zeros(2, np.float32))], "")
        with pytest.raises(ValueError, match="differ in the numbers of an action"):
            writer.write([(frame, np.zeros(3, np.float32))], "")
    assert len(scan(tmp_path / "b").clips) == 1
    with pytest.raises(ValueError, match="no episodes"), LeRobotWriter(tmp_path / "a", 10):
        pass
    assert not [*tmp_path.glob("*a*")]


def test_lerobot_reads_what_is_written(tmp_path: Path, kinema: Callable) -> None:
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    out = tmp_path / "robot"
    kinema("export-clips", make_clips(tmp_path / "clips"), "--out", out)
    dataset = lerobot.LeRobotDataset("kinema/robot", root=out, video_backend="pyav")
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (sum(LENGTHS), 3, 12.5)
    places = [(clip, k) for clip, length in enumerate(LENGTHS) for k in range(length)]
    for row, (clip, k) in zip(dataset, places, strict=True):
        assert (int(row["episode_index"]), int(row["frame_index"]), row["task"]) == (clip, k, f"task {clip % 2}")
        assert row["action"].tolist() == [clip, k, k]
        assert abs(float(row[CAMERA].mean()) * 255 - 10 * (k + 1)) < 4


def test_what_lerobot_writes_is_read(tmp_path: Path) -> None:
    lerobot = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    video = {"dtype": "video", "shape": (64, 64, 3), "names": ["height", "width", "channels"]}
    features = {"observation.images.top": video, "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}}
    dataset = lerobot.LeRobotDataset.create("kinema/robot", 10, features, root=tmp_path / "robot", vcodec="h264")
    for clip, length in enumerate(LENGTHS):
        for k in range(length):
            image = np.full((64, 64, 3), 10 * (k + 1), np.uint8)
            dataset.add_frame(
                {"observation.images.top": image, "action": np.array([clip, k], np.float32), "task": "go"}
            )
        dataset.save_episode()
    dataset.finalize()
    found = scan(tmp_path / "robot").clips
    assert [(clip.camera, clip.caption) for clip in found] == [("top", "go")] * 3
    for number, clip in enumerate(found):
        reader = find_reader(clip.path)
        np.testing.assert_array_equal(reader.actions(clip), actions_of(number, 2))
        levels = [float(frame.mean()) for frame in reader.frames(clip)]
        np.testing.assert_allclose(levels, 10 * np.arange(1, LENGTHS[number] + 1), atol=4)


def test_a_rate_of_the_metadata_counts(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips/a.npy", np.full((6, 16, 16, 3), 90, np.uint8))
    (tmp_path / "clips/metadata.csv").write_text("file_name,fps\na.npy,10")
    assert export_clips(scan(tmp_path / "clips"), tmp_path / "robot") == (1, ())
    info = find_reader(tmp_path / "robot").info(scan(tmp_path / "robot").clips[0])
    assert (info.fps, info.frames) == (10, 6)


def test_what_is_left_out_or_changed_is_said(tmp_path: Path, kinema: Callable) -> None:
    (tmp_path / "clips").mkdir()
    lines = ["file_name,caption,label,actions,split,patient"]
    for clip, (fps, columns) in enumerate([(10, 2), (10, 2), (20, 2), (10, 3)]):
        write_video(tmp_path / f"clips/{clip}.mp4", np.zeros((12, 31, 32, 3), np.uint8), fps, np.zeros(16_000, "f4"))
        np.save(tmp_path / f"clips/{clip}.npy", np.zeros((12, columns), np.float32))
        lines.append(f"{clip}.mp4,a task,x,{clip}.npy,{'test' if clip == 1 else 'train'},p{clip}")
    (tmp_path / "clips/metadata.csv").write_text("\n".join(lines))
    code, out, err = kinema("export-clips", tmp_path / "clips", "--out", tmp_path / "robot")
    assert (code, out) == (0, f"{tmp_path / 'robot'}: 3 episodes\n")
    assert "has no sound, labels, splits, groups, such as patients: they are left out (--format webdataset has)" in err
    assert "1 clip is resampled to 10 frames a second" in err
    assert "skipped 3.mp4: its actions have 3 numbers a frame, and others 2" in err
