from __future__ import annotations

import io
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from kinema.data.clips import DataConfig, FolderClips, FolderSource
from kinema.data.folder import scan
from kinema.data.holdout import held_out
from kinema.data.readers.base import Clip, ReadError, find_reader

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FPS = 10
LENGTHS = (8, 5, 12, 6, 7)  # frames of the episodes
CAMERAS = {"observation.images.side": 100, "observation.images.top": 20}  # and the level of their first frame
FEATURES = {
    "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    "observation.state": {"dtype": "float32", "shape": [1], "names": None},
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
}


def film(path: Path, levels: Sequence[int]) -> None:
    """A video of 48x32 pixels with frames of these grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "6", "bf": "2", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for k, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def rows(episode: int, first: int = 0) -> list[dict[str, Any]]:
    """The table of an episode: actions are its number and that of the frame."""
    return [
        {"action": [float(episode), float(k)], "observation.state": 0.5, "timestamp": k / FPS, "frame_index": k}
        | {"episode_index": episode, "index": first + k, "task_index": episode % 2}
        for k in range(LENGTHS[episode])
    ]


def levels_of(episode: int, camera: str) -> list[int]:
    """The frames of all episodes, one after the other, are a ramp."""
    first = CAMERAS[camera] + sum(LENGTHS[:episode])
    return list(range(first, first + LENGTHS[episode]))


def write(path: Path, table: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(table), path)


def write_info(root: Path, version: str, **more: object) -> None:
    cameras = {name: {"dtype": "video", "shape": [32, 48, 3], "names": None} for name in CAMERAS}
    places = {
        "v2.1": ("{video_key}/episode_{episode_index:06d}.mp4", "episode_{episode_index:06d}"),
        "v3.0": ("{video_key}/file-{file_index:03d}.mp4", "file-{file_index:03d}"),
    }[version]
    info = {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 1000,
        "splits": {"train": f"0:{len(LENGTHS)}"},
        "features": FEATURES | cameras,
        "video_path": f"videos/{places[0]}",
        "data_path": f"data/{places[1]}.parquet",
    }
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta/info.json").write_text(json.dumps(info | more))


def make_v3(root: Path, **more: object) -> Path:
    """Episodes 0 to 2 in the first files, 3 and 4 in the second."""
    write_info(root, "v3.0", **more)
    found = []
    for file, episodes in enumerate(([0, 1, 2], [3, 4])):
        write(root / f"data/file-{file:03d}.parquet", [row for episode in episodes for row in rows(episode)][::-1])
        begin = 0
        for episode in episodes:
            row = {"episode_index": episode, "length": LENGTHS[episode], "tasks": [f"task {episode % 2}"]}
            row |= {"data/chunk_index": 0, "data/file_index": file, "stats/action/mean": [0.0]}
            for camera in CAMERAS:
                prefix, end = f"videos/{camera}", begin + LENGTHS[episode]
                row |= {f"{prefix}/chunk_index": 0, f"{prefix}/file_index": file}
                row |= {f"{prefix}/from_timestamp": begin / FPS, f"{prefix}/to_timestamp": end / FPS}
            begin += LENGTHS[episode]
            found.append(row)
        for camera in CAMERAS:
            levels = [level for episode in episodes for level in levels_of(episode, camera)]
            film(root / f"videos/{camera}/file-{file:03d}.mp4", levels)
    write(root / "meta/episodes/chunk-000/file-000.parquet", found[:4])
    write(root / "meta/episodes/chunk-000/file-001.parquet", found[4:])
    return root


def make_v2(root: Path) -> Path:
    write_info(root, "v2.1")
    lines = []
    for episode, length in enumerate(LENGTHS):
        lines.append(json.dumps({"episode_index": episode, "length": length, "tasks": [f"task {episode % 2}"]}))
        write(root / f"data/episode_{episode:06d}.parquet", rows(episode))
        for camera in CAMERAS:
            film(root / f"videos/{camera}/episode_{episode:06d}.mp4", levels_of(episode, camera))
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    return root


MAKE = {"v2.1": make_v2, "v3.0": make_v3}


def levels(clip: Clip, fps: float | None = None) -> list[int]:
    return [round(float(frame.mean())) for frame in find_reader(clip.path).frames(clip, fps)]


def reason(root: Path) -> str:
    """Why a bad dataset cannot be used, which is one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its message is looked at below
        FolderSource(DataConfig(str(root), frames=4, height=16, width=16))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("version", MAKE)
@pytest.mark.parametrize("below", ["", "robots/a"])
def test_episodes_are_clips(tmp_path: Path, version: str, below: str) -> None:
    MAKE[version](tmp_path / "set" / below)
    folder = scan(tmp_path / "set")
    assert len(folder.clips) == 5 and not folder.classes and not folder.skipped
    assert folder.notes == ("cameras: side, top, of which side is read (--data.camera chooses)",)
    for episode, clip in enumerate(folder.clips):
        assert clip.member == f"episode {episode:06d} side" and clip.caption == f"task {episode % 2}"
        np.testing.assert_allclose(levels(clip), levels_of(episode, "observation.images.side"), atol=1)
        reader = find_reader(clip.path)
        actions = reader.actions(clip)
        np.testing.assert_array_equal(actions, [[episode, k] for k in range(LENGTHS[episode])])
        info = reader.info(clip)
        assert (info.width, info.height, info.fps, info.frames) == (48, 32, FPS, LENGTHS[episode])


def test_a_camera_is_chosen(tmp_path: Path) -> None:
    clips = scan(make_v3(tmp_path / "set"), camera="top").clips
    np.testing.assert_allclose(levels(clips[2]), levels_of(2, "observation.images.top"), atol=1)
    with pytest.raises(ValueError, match=r"there is no camera 'left' in the clips; there are side, top"):
        scan(tmp_path / "set", camera="left")


@pytest.mark.parametrize("fps", [None, 5.0, 20.0])
def test_actions_stay_with_their_frames(tmp_path: Path, fps: float | None) -> None:
    config = DataConfig(str(make_v3(tmp_path / "set")), frames=4, height=32, width=48, fps=fps, holdout=0)
    source = FolderSource(config)
    assert source.spec.actions == 2 and source.spec.words and len(source.clips) == 5
    batch = source.read([(clip, begin) for clip in range(5) for begin in (0, 1)])
    assert batch.conditions.actions is not None
    frames, actions = batch.frames.float().mean((2, 3, 4)).numpy(), batch.conditions.actions.numpy()
    first = np.array([levels_of(episode, "observation.images.side")[0] for episode in range(5)])
    np.testing.assert_allclose(frames, first[actions[..., 0].astype(int)] + actions[..., 1], atol=1)


def test_whole_episodes_are_held_out(tmp_path: Path) -> None:
    folder = scan(make_v3(tmp_path / "set"))
    assert len(held_out(folder, 0.2)) == 1
    assert held_out(folder, 0.2) == {
        name.replace("top", "side") for name in held_out(scan(folder.root, "label", "top"), 0.2)
    }
    write_info(folder.root, "v3.0", splits={"train": "0:3", "test": "3:5"})
    assert held_out(scan(folder.root), 0.1) == {"episode 000003 side", "episode 000004 side"}


def test_a_changed_dataset_is_read_again(tmp_path: Path) -> None:
    config = DataConfig(str(make_v3(tmp_path / "set")), frames=4, height=32, width=48, holdout=0)
    before = FolderSource(config).read([(0, 0)]).frames
    film(tmp_path / "set/videos/observation.images.side/file-000.mp4", [200] * sum(LENGTHS[:3]))
    after = FolderSource(config).read([(0, 0)]).frames
    assert abs(float(after.float().mean()) - 200) < 1 < abs(float(before.float().mean()) - 200)


def test_images_in_the_tables(tmp_path: Path) -> None:
    root = make_v3(tmp_path / "set")
    write_info(root, "v3.0", features=FEATURES | {"observation.image": {"dtype": "image", "shape": [3, 32, 48]}})
    for file, episodes in enumerate(([0, 1, 2], [3, 4])):
        table = [row for episode in episodes for row in rows(episode)]
        for row in table:
            Image.new("RGB", (48, 32), (row["frame_index"], 0, 9)).save(stored := io.BytesIO(), "png")
            row["observation.image"] = {"bytes": stored.getvalue(), "path": None}
        write(root / f"data/file-{file:03d}.parquet", table)
    clip = scan(root).clips[2]
    assert clip.camera == "image"
    frames = np.stack(list(find_reader(root).frames(clip)))
    np.testing.assert_array_equal(frames[:, 0, 0], [[k, 0, 9] for k in range(12)])
    table[-1]["observation.image"]["bytes"] = b"no image"
    write(root / "data/file-001.parquet", table)
    with pytest.raises(ReadError, match="cannot identify image file"):
        levels(scan(root).clips[4])


def test_bad_datasets(tmp_path: Path) -> None:
    root = make_v3(tmp_path / "set")
    (root / "meta/episodes/chunk-000/file-001.parquet").write_bytes(b"nothing")
    assert "cannot be read as a LeRobot dataset" in reason(root)
    (root / "meta/episodes/chunk-000/file-001.parquet").unlink()
    assert len(scan(root).clips) == 4
    (root / "videos/observation.images.side/file-001.mp4").unlink()
    (skipped,) = FolderClips(DataConfig(str(root), frames=4, height=16, width=16)).skipped
    assert skipped.name == "episode 000003 side" and "videos/observation.images.side/file-001.mp4" in skipped.reason
    film(root / "videos/observation.images.side/file-001.mp4", [1, 2])
    source = FolderSource(DataConfig(str(root), frames=4, height=16, width=16))
    assert [one.reason for one in source.skipped] == [
        "videos/observation.images.side/file-001.mp4: it has no picture at 0.200 s, for frame 2 of the 6 of the episode"
    ]
    write_info(root, "v3.0", codebase_version="v1.6")
    assert "its LeRobot format is v1.6" in reason(root)
    write_info(root, "v3.0", features=FEATURES)
    assert "there are no cameras in it" in reason(root)
    write_info(root, "v3.0", video_path="{nothing}")
    assert "say nothing of 'nothing'" in reason(root)
    for elsewhere in ("../other.mp4", "videos/../../other.mp4", "/other.mp4"):
        write_info(root, "v3.0", video_path=elsewhere)
        assert f"its video_path is '{elsewhere}'" in reason(root)
    (root / "meta/info.json").write_text("[]")
    assert "cannot be read as a LeRobot dataset" in reason(root)
    (root / "meta/info.json").write_text("{")
    assert "cannot be read as a LeRobot dataset" in reason(root)


def test_bad_actions(tmp_path: Path) -> None:
    root = make_v2(tmp_path / "set")
    table = rows(1)
    table[2]["action"] = [float("nan"), 0.0]
    write(root / "data/episode_000001.parquet", table)
    write(
        root / "data/episode_000002.parquet", [{name: row[name] for name in row if name != "action"} for row in rows(2)]
    )
    found = FolderSource(DataConfig(str(root), frames=4, height=16, width=16)).skipped
    assert [one.reason for one in found] == [
        "data/episode_000001.parquet: row 2 has a number that is not finite",
        "data/episode_000002.parquet: it has no column action",
    ]
