"""The files that are held out of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinema.data.clips import DataConfig, FolderClips, FolderSource
from kinema.data.folder import scan
from kinema.data.holdout import held_out


def put(root: Path, names: list[str], table: str = "") -> Path:
    """Empty files, as nothing here decodes them, and metadata."""
    root.mkdir(exist_ok=True)
    for name in names:
        (root / name).touch()
    if table:
        (root / "metadata.csv").write_text(table)
    return root


@pytest.mark.parametrize(
    ("files", "share", "count"), [(4, 0.1, 0), (5, 0.1, 1), (40, 0, 0), (40, 0.1, 4), (6, 0.99, 5)]
)
def test_how_many_files_are_held_out(tmp_path, files, share, count):
    folder = scan(put(tmp_path / "set", [f"{k}.mp4" for k in range(files)]))
    assert len(held_out(folder, share)) == count


def test_the_choice_is_of_the_names_and_new_files_move_few(tmp_path):
    names = [f"clip {k}.mp4" for k in range(100)]
    first = held_out(scan(put(tmp_path / "a", names)), 0.1)
    assert first == held_out(scan(put(tmp_path / "b", names[::-1])), 0.1)
    assert first != {f"clip {k}.mp4" for k in range(10)}
    more = held_out(scan(put(tmp_path / "a", [f"new {k}.mp4" for k in range(10)])), 0.1)
    assert len(more) == 11 and len(first & more) >= 9


def test_groups_are_on_one_side(tmp_path):
    rows = "".join(f"{k}.mp4,{k % 7}\n" for k in range(28))
    folder = scan(put(tmp_path / "set", [f"{k}.mp4" for k in range(28)], "file_name,patient\n" + rows))
    held = held_out(folder, 0.3)
    assert len(held) == 8 and len({int(name.removesuffix(".mp4")) % 7 for name in held}) == 2
    four = "file_name,group\n" + "".join(f"{k}.mp4,{k % 4}\n" for k in range(28))
    assert not held_out(scan(put(tmp_path / "set", [], four)), 0.3)


@pytest.fixture
def folder(make_clip, tmp_path) -> DataConfig:
    """Ten clips, each of its own class, caption and level."""
    for k in range(10):
        make_clip(f"set/{k}.mkv", images=np.full((6, 16, 16, 3), 20 * k, np.uint8), codec="ffv1", pixels="bgr0")
    rows = "".join(f"{k}.mkv,class{k},word{k}\n" for k in range(10))
    (tmp_path / "set" / "metadata.csv").write_text("file_name,label,caption\n" + rows)
    return DataConfig(str(tmp_path / "set"), frames=4, height=16, width=16, holdout=0.3)


def test_training_never_sees_held_out_files(folder):
    source = FolderSource(folder)
    seen = {int(level) // 20 for level in source.batch(0, 70, seed=0).frames[:, 0, 0, 0, 0]}
    held = held_out(scan(folder.source), 0.3)
    assert len(held) == 3 and {f"{k}.mkv" for k in seen} == {f"{k}.mkv" for k in range(10)} - held
    assert {clip.path.name for clip in source.other_clips} == held


def test_parts_are_labelled_alike_and_have_one_spec(folder):
    parts = {part: FolderClips(folder, part) for part in ("all", "training", "held out")}
    names = {part: {clip.path.name for clip in clips.clips} for part, clips in parts.items()}
    assert names["training"] | names["held out"] == names["all"] and not names["training"] & names["held out"]
    source = FolderSource(folder)
    assert all(clips.spec == source.spec for clips in parts.values())
    assert len(source.spec.classes) == 10 and {f"word{k}" for k in range(10)} <= {*source.spec.words}
    assert len({clips.key for clips in parts.values()}) == 3
    for clips in (*parts.values(), source):
        numbers = [*range(len(clips.clips))]
        assert all(frames == 6 for _, frames in clips.decode(numbers))
        batch = clips.read([(number, 0) for number in numbers])
        shown = [f"{int(level) // 20}" for level in batch.frames[:, 0, 0, 0, 0]]
        assert batch.conditions.text == tuple(f"word{k}" for k in shown)
        assert [source.classes[k] for k in batch.conditions.label.tolist()] == [f"class{k}" for k in shown]


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_below_one(share):
    with pytest.raises(ValueError, match="holdout is"):
        DataConfig(holdout=share)
