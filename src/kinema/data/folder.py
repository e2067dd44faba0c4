"""Folders of clips by the `videofolder` convention: what is in one, what it is called, what cannot be used and why."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kinema.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES

__all__ = ["ClipFile", "Folder", "Skipped", "scan"]

METADATA = ("metadata.csv", "metadata.jsonl")


@dataclass(frozen=True, slots=True)
class ClipFile:
    """One file of a folder and what is known about it."""

    path: Path
    label: str | None = None
    caption: str | None = None
    actions: Path | None = None  # a table of numbers, .npy or .csv, with a row for each frame


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is left out."""

    name: str  # relative to the folder, with forward slashes
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The clips below `root`, in the order of their relative paths; where `classes` is not empty, all have a label."""

    root: Path
    clips: tuple[ClipFile, ...]
    classes: tuple[str, ...]  # in the order of their numbers: integers by value, names by the alphabet
    skipped: tuple[Skipped, ...]


def scan(root: str | Path) -> Folder:
    """Find the clips below `root`, with captions and labels from metadata.csv or metadata.jsonl in any of its folders.

    The metadata's `file_name` is relative to the folder that it lies in; `caption`, `label` and `actions` (a file of
    numbers, relative to it too) are optional. Where no metadata gives a label, two or more top folders that hold all
    the clips between them are the classes. Where there is metadata in a file's folder or above it, a file without a row
    is skipped, as are a row without a file and, where others have some, a row without a label or actions. Hidden files
    and those that are neither video nor image are passed over. Nothing is decoded. Raises ValueError for a
    folder that is not there or has no clips, and for metadata that cannot be read, naming its line.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the path of a folder of clips")
    found, tables = _walk(root)
    clips: dict[str, ClipFile] = {}
    skipped: list[Skipped] = []
    for table in tables:
        for row in _rows(table):
            path = Path(os.path.normpath(table.parent / row["file_name"].strip()))
            name = _name(path, root)
            if name in clips:
                skipped.append(Skipped(name, f"named again in {_name(table, root)}; its first row is kept"))
            elif not path.is_file():
                skipped.append(Skipped(name, f"named in {_name(table, root)} but not there"))
            else:
                table_of = _text(row.get("actions"))
                actions = None if table_of is None else Path(os.path.normpath(table.parent / table_of))
                clips[name] = ClipFile(path, _text(row.get("label")), _text(row.get("caption")), actions)

    governed = {table.parent: _name(table, root) for table in tables}
    for path in found:
        name = _name(path, root)
        table = next((governed[parent] for parent in path.parents if parent in governed), None)
        if name not in clips and table:
            skipped.append(Skipped(name, f"no row in {table}"))
        elif name not in clips:
            clips[name] = ClipFile(path)
    if not clips:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))
        first = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"{root}: no clips in it; put files there that end in one of {suffixes}{first}")

    clips = dict(sorted(clips.items()))
    if any(clip.label is not None for clip in clips.values()):
        skipped += [Skipped(name, "no label in its metadata") for name, clip in clips.items() if clip.label is None]
        clips = {name: clip for name, clip in clips.items() if clip.label is not None}
    elif all("/" in name for name in clips) and len({name.split("/")[0] for name in clips}) > 1:
        clips = {name: replace(clip, label=name.split("/")[0]) for name, clip in clips.items()}
    if any(clip.actions for clip in clips.values()):
        skipped += [Skipped(name, "no actions in its metadata") for name, clip in clips.items() if not clip.actions]
        clips = {name: clip for name, clip in clips.items() if clip.actions}
    classes = sorted({clip.label for clip in clips.values() if clip.label is not None})
    if all(label.isdecimal() for label in classes):
        classes.sort(key=int)
    return Folder(root, tuple(clips.values()), tuple(classes), tuple(sorted(skipped, key=lambda skip: skip.name)))


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """The files below `root` that may be clips, and those that are metadata, neither hidden."""
    found, tables = [], []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(folder, name)
            if name in METADATA:
                tables.append(path)
            elif path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                found.append(path)
    return found, tables


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _text(value: Any) -> str | None:
    """A cell as text; None where it is empty."""
    return None if value is None or str(value).strip() == "" else str(value).strip()


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a metadata file, each with a `file_name`; raises ValueError naming file and line."""
    line = 1
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix == ".csv":
                reader = csv.DictReader(file)
                if "file_name" not in (reader.fieldnames or ()):
                    raise ValueError("there is no column file_name")
                for row in reader:
                    line = reader.line_num
                    yield _checked(row)
            else:
                for line, text in enumerate(file, 1):  # noqa: B007 - the message below says which line it was
                    if text.strip():
                        yield _checked(json.loads(text))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{table}, line {line}: {getattr(error, 'msg', error)}") from error


def _checked(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"].strip():
        raise ValueError("there is no file_name")
    return row
