"""What leaves a folder: rows that name files outside of it, links, and text that a terminal would obey."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kinema.cli.say import say
from kinema.data.clips import DataConfig, FolderClips
from kinema.data.folder import scan
from kinema.printable import as_text, printable
from kinema.report.html import html_page
from kinema.report.tables import Cell, Report, Section, Table

CLIP = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
ESCAPES = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202ename\u2066"
SHOWN = r"\x1b]0;owned\x07\x1b[31m\x9b2J\u202ename\u2066"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with a clip, beside one that is another's."""
    (tmp_path / "clips").mkdir()
    np.save(tmp_path / "clips/a.npy", CLIP)
    np.save(tmp_path / "secret.npy", CLIP)
    (tmp_path / "secret.csv").write_text("1\n" * 4)
    return tmp_path / "clips"


@pytest.mark.parametrize("name", ["../secret.npy", "{above}/secret.npy", "b/../../secret.npy", "../clips2/a.npy"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "txt"])
def test_rows_that_leave_the_folder_are_refused_unless_allowed(clips: Path, kind: str, name: str) -> None:
    name = name.format(above=clips.parent)
    (clips.parent / "clips2").mkdir()
    np.save(clips.parent / "clips2/a.npy", CLIP)
    rows = [{"file_name": one, "caption": "c"} for one in ("a.npy", name)]
    if kind == "txt":
        (clips / "videos.txt").write_text(f"a.npy\n{name}\n")
        (clips / "prompts.txt").write_text("c\nc\n")
    elif kind == "csv":
        (clips / "metadata.csv").write_text(f"file_name,caption\na.npy,c\n{name},c\n")
    else:
        text = "\n".join(map(json.dumps, rows)) if kind == "jsonl" else json.dumps(rows)
        (clips / f"metadata.{kind}").write_text(text)
    folder = scan(clips)
    assert [clip.path.name for clip in folder.clips] == ["a.npy"]
    (skipped,) = folder.skipped
    assert skipped.name.startswith("../") and "which is outside of the folder" in skipped.reason
    assert "--data.outside" in skipped.reason
    assert len(scan(clips, outside=True).clips) == 2
    config = DataConfig(str(clips), frames=2, height=16, width=16)
    assert len(FolderClips(config).clips) == 1
    assert len(FolderClips(DataConfig(str(clips), frames=2, height=16, width=16, outside=True)).clips) == 2


@pytest.mark.parametrize("table", ["metadata.jsonl", "a.json"])
def test_actions_outside_are_refused_unless_allowed(clips: Path, table: str) -> None:
    np.save(clips / "b.npy", CLIP)
    (clips / "b.csv").write_text("1\n" * 4)
    rows = [{"file_name": "a.npy", "actions": "../secret.csv"}, {"file_name": "b.npy", "actions": "b.csv"}]
    if table == "a.json":
        (clips / table).write_text(json.dumps(rows[0]))
        (clips / "b.json").write_text(json.dumps(rows[1]))
    else:
        (clips / table).write_text("\n".join(map(json.dumps, rows)))
    folder = scan(clips)
    assert [clip.path.name for clip in folder.clips] == ["b.npy"]
    assert "its actions ../secret.csv, which is outside" in folder.skipped[0].reason
    assert [clip.actions.name for clip in scan(clips, outside=True).clips] == ["secret.csv", "b.csv"]


@pytest.mark.parametrize("root", [".", "../clips", "clips/.."])
def test_a_folder_by_another_name(clips: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.chdir(clips.parent if root == "clips/.." else clips)
    (clips / "metadata.csv").write_text(f"file_name\na.npy\n{clips}/a.npy\n../secret.npy\n")
    inside = 2 if root == "clips/.." else 1
    found = scan(root)
    assert len(found.clips) == inside
    assert any("outside" in one.reason for one in found.skipped) == (root != "clips/..")


def test_links_that_lead_outside_are_followed_and_named(clips: Path) -> None:
    os.symlink(clips.parent / "secret.npy", clips / "b.npy")
    os.symlink(clips / "a.npy", clips / "c.npy")
    (clips.parent / "more").mkdir()
    np.save(clips.parent / "more/d.npy", CLIP)
    os.symlink(clips.parent / "more", clips / "more")
    folder = scan(clips)
    assert len(folder.clips) == 4
    assert folder.notes == ("2 links lead outside of the folder, and what is there is read: more, b.npy",)


def test_text_is_shown_without_what_a_terminal_obeys() -> None:
    assert printable(ESCAPES) == SHOWN
    assert printable("a\r\nb\tc\u2028d\ud800") == r"a b c\u2028d\ud800"
    assert printable("Ärger 日本 🤖\u200d🔧 e\u0301") == "Ärger 日本 🤖\u200d🔧 e\u0301"
    assert as_text("a\ud800\x1b") == "a\\ud800\x1b"


def test_a_line_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"[red]{ESCAPES}[/red] " + 200 * "x")
    assert capsys.readouterr().out == f"[red]{SHOWN}[/red] " + 200 * "x" + "\n"


def raw(text: str) -> list[str]:
    return [one for one in text if one != "\n" and (ord(one) < 32 or 127 <= ord(one) < 160 or one in "\u202e\u2066")]


def test_no_escape_of_a_folder_reaches_the_terminal(
    clips: Path, kinema: Callable[..., tuple[int, str, str]], refused: Callable[..., str]
) -> None:
    np.save(clips / f"{ESCAPES}.npy", CLIP)
    (clips / f"{ESCAPES}.doc").write_text("")
    bad = {"file_name": f"{ESCAPES}{ESCAPES}.npy", "label": ESCAPES, "caption": ESCAPES, ESCAPES: 1, "patient": ESCAPES}
    good = [bad | {"file_name": name} for name in ("a.npy", f"{ESCAPES}.npy")]
    (clips / "metadata.json").write_text(json.dumps([*good, bad, bad | {"file_name": f"../{ESCAPES}"}]))
    flags = "--data.frames", 2, "--data.height", 16, "--data.width", 16, "--data.holdout", 0
    status, out, err = kinema("data", "check", clips, "--out", clips.parent / f"{ESCAPES}.png", *flags)
    assert status == 0 and not raw(out + err), (out, err)
    assert out.count(SHOWN) >= 5
    assert not raw(refused("data", "check", clips, "--data.camera", ESCAPES))
    (clips / "metadata.json").write_text(json.dumps([bad]))
    assert not raw(refused("evaluate", clips / ESCAPES))


def test_data_check_reads_outside_if_it_may(clips: Path, kinema: Callable[..., tuple[int, str, str]]) -> None:
    (clips / "metadata.csv").write_text("file_name\na.npy\n../secret.npy\n")
    words = "data", "check", clips, "--data.frames", 2, "--out", clips.parent / "sheet.png"
    status, out, _ = kinema(*words)
    assert status == 0 and "2 found, 1 usable, 1 skipped" in out
    assert "skipped ../secret.npy: metadata.csv names ../secret.npy, which is outside of the folder" in out
    status, out, _ = kinema(*words, "--data.outside")
    assert status == 0 and "2 found, 2 usable, 0 skipped" in out


def test_html_shows_no_markup_of_others() -> None:
    hostile = f'<script>alert("x")</script>{ESCAPES}'
    table = Table(hostile, [Cell(hostile)], [[Cell(hostile)]])
    page = html_page(Report(hostile, hostile, [Section(hostile, hostile, [table], (hostile,), (hostile,))]))
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not raw(page.replace("\t", " "))


def test_the_choice_reads_outside_if_it_may(clips: Path, kinema: Callable[..., tuple[int, str, str]]) -> None:
    (clips / "metadata.csv").write_text("file_name\n../secret.npy\n")
    words = "data", "check", clips, "--data.frames", 2, "--out", clips.parent / "sheet.png"
    assert kinema(*words)[0] == 2
    assert "2 found, 1 usable" in kinema(*words, "--data.outside")[1]
