"""Tables and captions as people keep them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from kinema.data.folder import Skipped, scan
from kinema.data.holdout import held_out


def put(root: Path, *names: str) -> None:
    """Empty files, as scan decodes nothing."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def captions(root: Path) -> list[str | None]:
    return [clip.caption for clip in scan(root).clips]


ROWS = [{"file_name": "a.mp4", "caption": "a red car, fast"}, {"file_name": "b.mp4", "caption": "a bus"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,text\na.mp4,'a red car, fast'\nb.mp4,a bus\n".replace("'", '"')),
        ("metadata.csv", "File_Name , Prompt\na.mp4, 'a red car, fast'\nb.mp4, a bus\n".replace("'", '"')),
        ("metadata.csv", "video;caption\na.mp4;a red car, fast\nb.mp4;a bus\n"),
        ("metadata.csv", "sep=;\r\nvideo;caption\r\na.mp4;a red car, fast\r\nb.mp4;a bus\r\n"),
        ("metadata.csv", "path\tdescription\na.mp4\ta red car, fast\nb.mp4\ta bus\n"),
        ("metadata.csv", "file_name,caption\na.mp4,a red car, fast\nb.mp4,a bus\n"),  # no quotes
        ("metadata.csv", "file_name,caption,\na.mp4,'a red car, fast',\n\nb.mp4,a bus,\n".replace("'", '"')),
        ("metadata.tsv", "file_name\tcaption\na.mp4\ta red car, fast\nb.mp4\ta bus\n"),
        ("captions.csv", "file,caption\na.mp4,'a red car, fast'\nb.mp4,a bus\n".replace("'", '"')),
        ("metadata.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("dataset.json", json.dumps([{"media_path": row["file_name"], "caption": row["caption"]} for row in ROWS])),
        ("captions.json", json.dumps({row["file_name"]: row["caption"] for row in ROWS})),
        ("captions.json", json.dumps({row["file_name"]: {"caption": [row["caption"], "more"]} for row in ROWS})),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_programs_write_them(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / name).write_text(content, encoding)
    folder = scan(tmp_path)
    assert [clip.caption for clip in folder.clips] == ["a red car, fast", "a bus"]
    assert folder.notes == () and folder.skipped == ()


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    put(tmp_path, "a.mp4", "b.mp4")
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "metadata.parquet")
    assert captions(tmp_path) == ["a red car, fast", "a bus"]


def test_a_caption_with_blanks_after_its_commas_is_whole(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.mp4,one,  two,three\n")
    assert captions(tmp_path) == ["one,  two,three"]


def test_more_cells_than_columns_are_an_error(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,caption,label\na.mp4,one, two,7\n")
    with pytest.raises(
        ValueError, match=r"metadata.csv, line 2: it has 4 cells for 3 columns: put text .* in double quotes"
    ):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "a red\ncar \n", "a red car"),
        ("a.caption", "a red car", "a red car"),
        ("a.mp4.txt", "a red car", "a red car"),
        ("a.json", '{"Prompt": "a red car", "seed": 1}', "a red car"),
        ("a.txt", "", ""),
    ],
)
def test_a_caption_beside_a_clip(tmp_path: Path, name: str, content: str, expected: str) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / name).write_text(content)
    (tmp_path / "b.txt").write_text("a bus")
    folder = scan(tmp_path)
    assert [clip.caption for clip in folder.clips] == [expected, "a bus"]
    assert all("passed over" not in note for note in folder.notes)


def test_lists_of_paths_and_of_captions(tmp_path: Path) -> None:
    put(tmp_path, "videos/a.mp4", "videos/b.mp4")
    (tmp_path / "videos.txt").write_text("videos/a.mp4\nvideos/b.mp4\n")
    (tmp_path / "prompts.txt").write_text("a red car, fast\na bus\n")
    folder = scan(tmp_path)
    assert [clip.caption for clip in folder.clips] == ["a red car, fast", "a bus"] and folder.notes == ()
    (tmp_path / "prompts.txt").write_text("a red car, fast\n")
    with pytest.raises(ValueError, match=r"videos.txt, line 2: it has 2 lines, and prompts.txt 1"):
        scan(tmp_path)


def test_a_missing_caption_is_an_empty_one_and_is_noted(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.mp4,one\nb.mp4,\nc.mp4,three\n")
    folder = scan(tmp_path)
    assert [clip.caption for clip in folder.clips] == ["one", "", "three"]
    assert folder.notes == ("1 of 3 clips have no caption, and are trained on without (b.mp4)",)


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "notes.docx", "song.flac", ".hidden")
    (tmp_path / "metadata.csv").write_text("file_name,licence,label,Camera\na.mp4,MIT,x,left\n")
    assert scan(tmp_path).notes == (
        "2 files are passed over, as there are no clips in them: notes.docx, song.flac",
        "columns that are not used: camera, licence",
    )
    assert "columns that are not used: camera, label, licence" in scan(tmp_path, "none").notes


def test_splits_are_not_classes(tmp_path: Path) -> None:
    put(
        tmp_path,
        *(f"{split}/{kind}/{k}.mp4" for split in ("train", "test", "Val") for kind in ("walk", "wave") for k in "12"),
    )
    folder = scan(tmp_path)
    assert folder.classes == ("walk", "wave")
    assert folder.notes == ("clips of test, val are held out, and those of train are trained on",)
    for share in (0.0, 0.5):
        assert {name.split("/")[0] for name in held_out(folder, share)} == {"test", "Val"}
    assert len(held_out(folder, 0.1)) == 8


def test_splits_with_tables_of_their_own_and_splits_in_a_column(tmp_path: Path) -> None:
    put(tmp_path, "one/train/a.mp4", "one/test/a.mp4", "two/a.mp4", "two/b.mp4")
    for split in ("train", "test"):
        (tmp_path / "one" / split / "metadata.csv").write_text(f"file_name,label\na.mp4,{split}ed\n")
    folder = scan(tmp_path / "one")
    assert folder.classes == ("tested", "trained") and held_out(folder, 0.1) == {"test/a.mp4"}
    (tmp_path / "two/metadata.csv").write_text("file_name,split\na.mp4,train\nb.mp4,validation\n")
    assert held_out(scan(tmp_path / "two"), 0.1) == {"b.mp4"}


def test_a_test_folder_alone_is_a_class_like_others(tmp_path: Path) -> None:
    put(tmp_path, "test/a.mp4", "other/b.mp4")
    assert scan(tmp_path).classes == ("other", "test")
    put(tmp_path / "only", "test/a.mp4", "val/b.mp4")
    assert held_out(scan(tmp_path / "only"), 0.1) == frozenset()


def test_a_stray_clip_is_said_to_keep_folders_from_being_classes(tmp_path: Path) -> None:
    put(tmp_path, "walk/a.mp4", "wave/b.mp4", "stray.mp4")
    folder = scan(tmp_path)
    assert folder.classes == ()
    assert folder.notes == (
        "2 folders (walk, wave) are not taken for labels, as 1 clips are outside of them (stray.mp4)",
    )


def test_links(tmp_path: Path) -> None:
    put(tmp_path, "set/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set/circle").symlink_to(tmp_path / "set", target_is_directory=True)
    folder = scan(tmp_path / "set")
    assert [clip.path.name for clip in folder.clips] == ["a.mp4", "b.mp4"]
    assert folder.skipped == (Skipped("circle", "a link to a folder that is here already"),)


@pytest.mark.parametrize("fps", ["0", "-1", "fast", "inf"])
def test_a_rate_that_is_none_is_an_error(tmp_path: Path, fps: str) -> None:
    put(tmp_path, "a.npy")
    (tmp_path / "metadata.csv").write_text(f"file_name,fps\na.npy,{fps}\n")
    with pytest.raises(ValueError, match="which is not a number above 0"):
        scan(tmp_path)


def test_a_rate_counts_where_files_have_none(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.npy")
    (tmp_path / "metadata.csv").write_text("file_name,fps\na.mp4,50\nb.npy,30000/1001\n")
    assert [clip.fps for clip in scan(tmp_path).clips] == [None, pytest.approx(29.97, abs=0.001)]
    (tmp_path / "b.npy").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,fps\na.mp4,50\n")
    assert scan(tmp_path).notes == ("columns that are not used: fps",)


def test_signs_that_end_lines_elsewhere_are_text(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    lines = ["file_name,caption", "a.mp4,one\u2028 two", "b.mp4,x, y, z", "c.mp4,p,  q,r"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines), "utf-8")
    assert captions(tmp_path) == ["one\u2028 two", "x, y, z", "p,  q,r"]
    rows = [{"file_name": "a.mp4", "caption": "one\u2028 two"}, *ROWS[1:]]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    assert captions(tmp_path) == ["one\u2028 two", "a bus"]


@pytest.mark.parametrize(("name", "content"), [("a.json", b'{"caption": "cut'), ("a.txt", b"caf\xe9")])
def test_a_bad_file_beside_a_clip_costs_that_clip_only(tmp_path: Path, name: str, content: bytes) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / name).write_bytes(content)
    folder = scan(tmp_path)
    assert [clip.path.name for clip in folder.clips] == ["b.mp4"]
    assert folder.skipped[0].name == "a.mp4" and name in folder.skipped[0].reason


def test_a_table_counts_before_a_file_beside_the_clip(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.mp4,of the table\n")
    (tmp_path / "a.json").write_text('{"caption": "of the file", "label": 7}')
    (clip,) = scan(tmp_path).clips
    assert (clip.caption, clip.label) == ("of the table", "7")


def test_splits_of_other_names_are_held_out_too(tmp_path: Path) -> None:
    put(tmp_path, *(f"{split}/a.mp4" for split in ("train", "test", "val_unseen", "test2")))
    folder = scan(tmp_path)
    assert held_out(folder, 0.1) == {"test/a.mp4", "test2/a.mp4", "val_unseen/a.mp4"} and folder.classes == ()
    assert folder.notes == ("clips of test, test2, val_unseen are held out, and those of train are trained on",)
    put(tmp_path / "columns", "a.mp4", "b.mp4")
    (tmp_path / "columns/metadata.csv").write_text("file_name,split\na.mp4,one\nb.mp4,two\n")
    assert scan(tmp_path / "columns").notes == ("splits that are not used, as none is called train: one, two",)


def test_tables_called_train_and_test_are_splits(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "train.csv").write_text("file,caption\na.mp4,one\n")
    (tmp_path / "test.csv").write_text("file,caption\nb.mp4,two\n")
    assert held_out(scan(tmp_path), 0.1) == {"b.mp4"}


def test_columns_are_named_in_any_case(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "metadata.csv").write_text("file_name,Action\na.mp4,walk\nb.mp4,run\n")
    assert scan(tmp_path, "Action").classes == scan(tmp_path, "action").classes == ("run", "walk")


def test_ten_thousand_files_are_found_in_seconds(tmp_path: Path) -> None:
    for number in range(10_000):
        (tmp_path / f"{number}.mp4").touch()
        (tmp_path / f"{number}.txt").write_text("a caption")
    begun = time.process_time()
    assert len(scan(tmp_path).clips) == 10_000
    assert time.process_time() - begun < 60  # it was 16 s where it grew with the square, and is about 2 s


def test_two_tables_of_the_same_clips_are_joined(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "captions.csv").write_text("file,caption\na.mp4,one\nb.mp4,two\n")
    (tmp_path / "labels.csv").write_text("file,label,caption\na.mp4,x,other\nb.mp4,y,\n")
    folder = scan(tmp_path)
    assert [(clip.caption, clip.label) for clip in folder.clips] == [("one", "x"), ("two", "y")]
    assert folder.skipped == ()


@pytest.mark.parametrize("name", ["a.json", "metadata.jsonl", "metadata.json"])
def test_json_that_is_nested_too_deeply_is_one_line(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / name).write_text("[" * 100_000)
    if name == "a.json":
        assert [skip.name for skip in scan(tmp_path).skipped] == ["a.mp4"]
        return
    with pytest.raises(ValueError, match=name) as caught:
        scan(tmp_path)
    assert "\n" not in str(caught.value)


def test_pipes_and_names_that_are_too_long_are_skipped(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    os.mkfifo(tmp_path / "p.mp4")
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "metadata.csv").write_text(f"file_name\na.mp4\n{'x' * 300}.mp4\n")
    folder = scan(tmp_path)
    assert [clip.path.name for clip in folder.clips] == ["a.mp4"]
    assert {skip.name[:5] for skip in folder.skipped} == {"p.mp4", "a.txt", "xxxxx"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('file_name,caption\na.mp4,"a dog\nb.mp4,a cat\n', "line 2: a double quote is not closed"),
        ("file_name,caption,Caption\na.mp4,x,y\n", "line 1: it has two columns caption: rename one of them"),
    ],
)
def test_tables_that_can_be_misread(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        scan(tmp_path)


def test_a_caption_may_have_several_lines(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "metadata.csv").write_text('file_name,caption\na.mp4,"a dog\nthat runs"\nb.mp4,"a ""cat\n"""\n')
    assert [clip.caption for clip in scan(tmp_path).clips] == ["a dog\nthat runs", 'a "cat\n"']


def test_a_row_of_json_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.mp4", "caption": "x", "Caption": "y"}')
    with pytest.raises(ValueError, match="line 1: it has two columns caption: rename one of them"):
        scan(tmp_path)
