"""Folders of clips by the `videofolder` convention: clips, labels and captions, and what cannot be used and why."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kinema.data.readers.base import Clip, Reader, find_reader, registered_readers

__all__ = ["Folder", "Skipped", "clip_name", "labels_are_names", "scan"]

LEAST_PER_CLASS = 2  # clips
METADATA = ("metadata.csv", "metadata.jsonl")
GROUPS = ("patient", "speaker", "subject", "group")  # columns of the metadata; the first that has a value counts


@dataclass(frozen=True, slots=True)
class Skipped:
    """A clip that cannot be used."""

    name: str  # of `clip_name`
    reason: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The clips below `root`, in the order of their names; where `classes` is not empty, all have a label."""

    root: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]  # in the order of their numbers: integers by value, names alphabetically
    skipped: tuple[Skipped, ...]
    grouped_by: tuple[str, ...] = ()  # the columns of the metadata that the clips' groups are from


def labels_are_names(classes: Sequence[str], clips: int) -> bool:
    """Whether labels are names of clips and no classes: 8 or more, and fewer than `LEAST_PER_CLASS` clips for each."""
    return len(classes) >= 8 and len(classes) * LEAST_PER_CLASS > clips


def clip_name(clip: Clip, root: Path) -> str:
    """What a clip is called: its path relative to the folder `root`, with forward slashes, and its member."""
    return _name(clip.path, root) + (f":{clip.member}" if clip.member else "")


def scan(root: str | Path, label: str = "label") -> Folder:
    """Find the clips below `root`, with captions and labels from metadata.csv or metadata.jsonl in any of its folders.

    Clips are what a registered reader can read. The metadata's `file_name` is relative to the folder that it is in;
    `caption`, `label`, `actions` (a file of numbers, relative to it too) and a group, by the column `patient`,
    `speaker`, `subject` or `group`, are optional. Labels are those of the column `label`; "none" is no labels. Where no
    metadata gives a label, and two or more top folders hold all the clips, these folders are the classes. Where there
    is metadata in a file's folder or above it, a file without a row is skipped, as are a row without a file and, where
    others have some, a row without a label or actions. Hidden files and those that no reader can read are ignored.
    Nothing is decoded. Raises ValueError for a folder that does not exist or has no clips, and for metadata that cannot
    be read, naming its line.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the path of a folder of clips")
    readers = registered_readers()
    found, tables = _walk(root, readers)
    files: dict[str, list[Clip]] = {}
    skipped: list[Skipped] = []
    grouped_by: dict[str, None] = {}
    columns: set[str] = set()
    for table in tables:
        for row in _rows(table):
            columns |= row.keys()
            path = Path(os.path.normpath(table.parent / row["file_name"].strip()))
            name = _name(path, root)
            if name in files:
                skipped.append(Skipped(name, f"named again in {_name(table, root)}; its first row is used"))
            elif not path.exists():
                skipped.append(Skipped(name, f"named in {_name(table, root)} but does not exist"))
            else:
                files[name] = [_with_row(clip, row, table.parent, label) for clip in find_reader(path).clips(path)]
                if column := _group_column(row):
                    grouped_by[column] = None

    if label not in {"label", "none"} | columns:
        raise ValueError(f"{root}: its metadata has no column {label!r}; it has {', '.join(sorted(columns)) or 'none'}")
    metadata = {table.parent: _name(table, root) for table in tables}
    for path in found:
        name = _name(path, root)
        table = next((metadata[parent] for parent in path.parents if parent in metadata), None)
        if name not in files and table:
            skipped.append(Skipped(name, f"no row in {table}"))
        elif name not in files:
            files[name] = list(find_reader(path).clips(path))
    clips = {clip_name(clip, root): clip for file in files.values() for clip in file}
    if not clips:
        suffixes = " ".join(sorted(frozenset().union(*(reader.suffixes for reader in readers))))
        first = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"{root}: no clips in it; put files there that end in one of {suffixes}{first}")

    clips = dict(sorted(clips.items()))
    if any(clip.label is not None for clip in clips.values()):
        skipped += [Skipped(name, "no label in its metadata") for name, clip in clips.items() if clip.label is None]
        clips = {name: clip for name, clip in clips.items() if clip.label is not None}
    elif label != "none" and all("/" in name for name in clips) and len({name.split("/")[0] for name in clips}) > 1:
        clips = {name: replace(clip, label=name.split("/")[0]) for name, clip in clips.items()}
    if any(clip.actions for clip in clips.values()):
        skipped += [Skipped(name, "no actions in its metadata") for name, clip in clips.items() if not clip.actions]
        clips = {name: clip for name, clip in clips.items() if clip.actions}
    classes = sorted({clip.label for clip in clips.values() if clip.label is not None})
    if all(label.isdecimal() for label in classes):
        classes.sort(key=int)
    ordered = tuple(sorted(skipped, key=lambda skip: skip.name))
    return Folder(root, tuple(clips.values()), tuple(classes), ordered, tuple(grouped_by))


def _walk(root: Path, readers: Sequence[Reader]) -> tuple[list[Path], list[Path]]:
    """What readers can read below `root`, files and whole folders, and the metadata files; hidden ones are ignored."""
    found, tables = [], []
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        paths = {name: Path(folder, name) for name in (*subfolders, *sorted(files)) if not name.startswith(".")}
        tables += [paths.pop(name) for name in METADATA if name in files]
        clips = {name: path for name, path in paths.items() if any(reader.can_read(path) for reader in readers)}
        found += clips.values()
        subfolders[:] = [name for name in subfolders if name not in clips]
    return found, tables


def _name(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _with_row(clip: Clip, row: dict[str, Any], folder: Path, label_column: str) -> Clip:
    """A clip with what a row of the metadata in `folder` says of it."""
    label, caption, actions = (_text(row.get(column)) for column in (label_column, "caption", "actions"))
    column = _group_column(row)
    return replace(
        clip,
        label=None if label_column == "none" else label or clip.label,
        caption=caption or clip.caption,
        actions=Path(os.path.normpath(folder / actions)) if actions else clip.actions,
        group=_text(row[column]) if column else clip.group,
    )


def _group_column(row: dict[str, Any]) -> str | None:
    """The first column of `GROUPS` that has a value."""
    return next((column for column in GROUPS if _text(row.get(column))), None)


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
                    raise ValueError("it has no column file_name")
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
