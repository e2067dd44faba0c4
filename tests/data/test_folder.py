from __future__ import annotations

from pathlib import Path

import pytest

from kinema.data.folder import Folder, Skipped, scan


def put(root: Path, *names: str) -> None:
    """Empty files, as scan decodes nothing."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(folder: Folder) -> list[str]:
    return [clip.path.relative_to(folder.root).as_posix() for clip in folder.clips]


def test_plain_folder(tmp_path):
    put(
        tmp_path, "b.MP4", "a.webm", "deep/er/c.gif", "strip.jpg", "README.md", "notes.txt", ".hidden.mp4", ".git/d.mp4"
    )
    folder = scan(tmp_path)
    assert names(folder) == ["a.webm", "b.MP4", "deep/er/c.gif", "strip.jpg"]
    assert folder.classes == () and folder.skipped == ()
    assert all(clip.label is None and clip.caption is None for clip in folder.clips)


def test_class_folders(tmp_path):
    put(tmp_path, "run/1.mp4", "jump/x/2.mp4", "jump/1.mp4")
    folder = scan(str(tmp_path))
    assert folder.classes == ("jump", "run")
    assert [clip.label for clip in folder.clips] == ["jump", "jump", "run"]


@pytest.mark.parametrize("files", [("clips/1.mp4", "clips/2.mp4"), ("a/1.mp4", "b/1.mp4", "1.mp4")])
def test_folders_that_are_no_classes(tmp_path, files):
    put(tmp_path, *files)
    assert scan(tmp_path).classes == ()


def test_classes_are_sorted_by_value_where_all_are_integers(tmp_path):
    put(tmp_path, "10/a.mp4", "9/a.mp4", "100/a.mp4")
    assert scan(tmp_path).classes == ("9", "10", "100")
    put(tmp_path, "nine/a.mp4")
    assert scan(tmp_path).classes == ("10", "100", "9", "nine")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (
            "metadata.csv",
            '\ufefffile_name,caption,label,more\na/1.mp4,"one, two",7,x\n./2.mp4,,3,\ngone.mp4,no,3,\n2.mp4,again,3,\n',
        ),
        (
            "metadata.jsonl",
            '{"file_name": "a/1.mp4", "caption": "one, two", "label": 7}\n\n{"file_name": "2.mp4", "label": 3}\n'
            '{"file_name": "gone.mp4"}\n{"file_name": "2.mp4", "label": 3}\n',
        ),
    ],
)
def test_metadata(tmp_path, table, text):
    put(tmp_path, "a/1.mp4", "2.mp4", "extra.mp4")
    (tmp_path / table).write_text(text, encoding="utf-8")
    folder = scan(tmp_path)
    assert names(folder) == ["2.mp4", "a/1.mp4"]
    assert [(clip.label, clip.caption) for clip in folder.clips] == [("3", ""), ("7", "one, two")]
    assert folder.classes == ("3", "7")
    assert folder.skipped == (
        Skipped("2.mp4", f"named again in {table}; its first row is used"),
        Skipped("extra.mp4", f"no row in {table}"),
        Skipped("gone.mp4", f"named in {table} but does not exist"),
    )


def test_metadata_of_a_subfolder_governs_that_folder_only(tmp_path):
    put(tmp_path, "a/1.mp4", "a/2.mp4", "b/1.mp4")
    (tmp_path / "a" / "metadata.csv").write_text("file_name,caption\n1.mp4,one\n")
    folder = scan(tmp_path)
    assert names(folder) == ["a/1.mp4", "b/1.mp4"]
    assert [(clip.label, clip.caption) for clip in folder.clips] == [("a", "one"), ("b", "")]
    assert folder.skipped == (Skipped("a/2.mp4", "no row in a/metadata.csv"),)


def test_groups_are_of_the_first_column_that_has_a_value(tmp_path):
    put(tmp_path, "1.mp4", "2.mp4", "3.mp4", "4.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,group,speaker\n1.mp4,a,7\n2.mp4,a,\n3.mp4,,7\n4.mp4,,\n")
    folder = scan(tmp_path)
    assert [clip.group for clip in folder.clips] == ["7", "a", "7", None]
    assert folder.grouped_by == ("speaker", "group")


def test_a_row_without_a_label_is_skipped_where_others_have_one(tmp_path):
    put(tmp_path, "1.mp4", "2.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.mp4,x\n2.mp4,\n")
    folder = scan(tmp_path)
    assert names(folder) == ["1.mp4"]
    assert folder.skipped == (Skipped("2.mp4", "no label in its metadata"),)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("metadata.csv", "name,caption\n1.mp4,one\n", r"metadata.csv, line 1: it has no column file_name"),
        ("metadata.csv", "", r"metadata.csv, line 1: it has no column file_name"),
        ("metadata.csv", "file_name,caption\n1.mp4,one\n,two\n", r"metadata.csv, line 3: there is no file_name"),
        ("metadata.jsonl", '{"file_name": "1.mp4"}\n{"file_name": \n', r"metadata.jsonl, line 2: Expecting value"),
        ("metadata.jsonl", '{"file_name": "1.mp4"}\n\n["1.mp4"]\n', r"metadata.jsonl, line 3: there is no file_name"),
    ],
)
def test_malformed_metadata(tmp_path, table, text, message):
    put(tmp_path, "1.mp4")
    (tmp_path / table).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        scan(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_column_of_labels_is_chosen(tmp_path):
    put(tmp_path, "run/1.mp4", "jump/2.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,label,speaker\nrun/1.mp4,id1,ann\njump/2.mp4,id2,bob\n")
    assert scan(tmp_path).classes == ("id1", "id2")
    assert scan(tmp_path, "speaker").classes == ("ann", "bob")
    assert scan(tmp_path, "none").classes == ()
    with pytest.raises(ValueError, match=r"no column 'colour'; it has file_name, label, speaker"):
        scan(tmp_path, "colour")


def test_class_folders_are_no_labels_where_none_are_wanted(tmp_path):
    put(tmp_path, "run/1.mp4", "jump/2.mp4")
    assert scan(tmp_path, "none").classes == ()


def test_metadata_that_is_not_text(tmp_path):
    put(tmp_path, "1.mp4")
    (tmp_path / "metadata.csv").write_bytes(b"file_name\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"metadata.csv, line"):
        scan(tmp_path)


def test_nothing_to_find(tmp_path):
    with pytest.raises(ValueError, match="absent is not a folder"):
        scan(tmp_path / "absent")
    put(tmp_path, "README.md", "song.mp3")
    with pytest.raises(ValueError, match=r"no clips in it.*\.mp4"):
        scan(tmp_path)


def test_real_folders(shared_data):
    actions = scan(shared_data / "licence_unknown" / "mocogan_actions")
    assert len(actions.clips) == 36 and actions.classes == ("0", "1", "3", "4") and actions.skipped == ()
    assert all(clip.caption for clip in actions.clips)
    robot = scan(shared_data / "robot_g1_pick")
    assert len(robot.clips) == 64 and robot.classes == () and robot.skipped == ()


def test_a_name_of_several_lines_is_said_in_one(make_clip, tmp_path: Path) -> None:
    make_clip("set/a.mp4")
    (tmp_path / "set/metadata.csv").write_text('file_name\na.mp4\n"b\nc.mp4"\n')
    assert [skipped.name for skipped in scan(tmp_path / "set").skipped] == ["b c.mp4"]


def test_splits_without_one_to_train_on_are_no_labels(tmp_path: Path) -> None:
    put(tmp_path, "val/a.mp4", "val/b.mp4", "test/c.mp4", "test/d.mp4")
    folder = scan(tmp_path)
    assert len(folder.clips) == 4 and folder.classes == ()
    assert folder.notes == ("folders test, val are named like splits, but there is no train: all clips are trained on",)
