"""Saving datasets of the package `datasets` (Hugging Face) that have a column of videos as folders of clips."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from kinema.data import tables
from kinema.data.folder import SPLITS, Skipped
from kinema.data.readers.actions import to_actions
from kinema.data.readers.base import ReadError
from kinema.data.readers.video import VideoReader
from kinema.data.writing import new_folder

__all__ = ["save_folder"]

FILE, CAPTION, LABEL, ACTIONS, SPLIT = tables.FILE[0], tables.CAPTION[0], "label", tables.ACTIONS[0], tables.SPLIT[0]
NAME = re.compile(r"\w[\w.-]*")  # of a split, which becomes a folder
VIDEOS = re.compile(r"(.*_)?file_names?")  # names of columns that load_dataset("videofolder") takes for files
TYPES = re.compile(r"(large_)?string|bool|u?int\d+|float\d+")  # of columns that come along
HEAD = 64  # bytes
MAGIC = {  # suffixes by how the first bytes of a file match
    ".mov": rb"(?s)....ftypqt",
    ".mp4": rb"(?s)....ftyp",
    ".webm": rb"(?s)\x1a\x45\xdf\xa3.*webm",
    ".mkv": rb"\x1a\x45\xdf\xa3",
    ".avi": rb"(?s)RIFF....AVI ",
    ".gif": rb"GIF8",
    ".mpeg": rb"\0\0\x01[\xba\xb3]",
}


def save_folder(
    dataset: Any,
    folder: str | Path,
    video: str = "video",
    caption: str | None = None,
    label: str = LABEL,
    actions: str = ACTIONS,
) -> tuple[int, tuple[Skipped, ...]]:
    """Save a dataset as a folder of clips that kinema reads, and `datasets.load_dataset("videofolder")`.

    `dataset` is a Dataset, an IterableDataset or a dict of them by split, which become folders. Its column `video` has
    the feature Video, or paths; nothing is decoded. Files of this machine are hard-linked, so that editing one edits
    both, or copied where that cannot be. Bytes are written. A `metadata.jsonl` has a row for each. `caption` is the
    column of captions, by default one of those that kinema finds (`tables.CAPTION`); `label` that of labels, of which
    classes are written by name; `actions` that of numbers [T, A], a row for each frame, which become a .npy file. Other
    columns of text and numbers come along, and the rest are named in a warning.

    Returns how many rows were written, and those that were not and why. Raises ValueError where a column is not there
    or holds no videos, no row can be written, or `folder` is there already; nothing is left of a folder that fails.

    Source: https://huggingface.co/docs/datasets/video_dataset
    """
    splits: Mapping[str, Any] = dataset if isinstance(dataset, Mapping) else {"": dataset}
    if wrong := [type(one).__name__ for one in splits.values() if not hasattr(one, "with_format")]:
        raise ValueError(f"a {wrong[0]} is no dataset: make it one with datasets.Dataset.from_list")
    if bad := [name for name in splits if name and not NAME.fullmatch(name)]:
        raise ValueError(f"the split {bad[0]!r} is no name of a folder: give it one of letters, digits and _")
    by_folder_name = {True, False} <= {SPLITS.get(name.lower()) for name in splits}
    columns, count = _Columns(video, caption, label, actions), 0
    skipped, left_out = list[Skipped](), dict[str, None]()
    with new_folder(Path(folder).expanduser()) as root:
        for split, rows in splits.items():
            of_all = {SPLIT: split} if split and not by_folder_name else {}
            rows = _prepared(rows, columns, left_out)
            count += _save(rows, root / split, of_all, columns, split, skipped, left_out)
        if not count:
            first = f"; the first is {skipped[0].name}: {skipped[0].reason}" if skipped else ""
            raise ValueError(f"{folder}: there is no row that can be written{first}")
    if left_out:
        warnings.warn(f"{folder}: columns that are left out: {', '.join(left_out)}", stacklevel=2)
    return count, tuple(skipped)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The names of a dataset's columns by what they hold."""

    video: str
    caption: str | None
    label: str
    actions: str

    def check(self, present: Collection[str]) -> None:
        """Raise ValueError where a column that was named is not there."""
        defaults = (LABEL, ACTIONS)  # which need not be there
        for name in (self.video, self.caption, self.label, self.actions):
            if name and name not in present and name not in defaults:
                raise ValueError(f"the dataset has no column {name!r}; it has {', '.join(present)}")

    @property
    def renamed(self) -> dict[str, str]:
        """What columns of texts and numbers are called in the table, where kinema must know them."""
        return {self.label: LABEL} | ({self.caption: CAPTION} if self.caption else {})


def _prepared(dataset: Any, columns: _Columns, left_out: dict[str, None]) -> Iterator[dict[str, Any]]:
    """The rows of a dataset as plain values, with the names of classes, and without what cannot come along.

    Raises ValueError where a column is not there.
    """
    features, classes = dataset.features, ()
    dataset = dataset.with_format(None)
    if features is not None:  # else the package does not know them before the rows
        columns.check(features)
        classes = getattr(features.get(columns.label), "names", ())
        kept = {columns.video, columns.actions}
        kept |= {name for name, one in features.items() if hasattr(one, "names") or TYPES.fullmatch(_dtype(one))}
        if unread := [name for name in features if name not in kept]:  # images would be decoded
            left_out |= dict.fromkeys(unread)
            dataset = dataset.remove_columns(unread)
        if getattr(features[columns.video], "decode", False):
            from datasets import Video

            dataset = dataset.cast_column(columns.video, Video(decode=False))
    for row in dataset:
        index = row.get(columns.label)
        if classes and index is not None:
            row[columns.label] = classes[index] if index >= 0 else None  # -1 stands for no label
        yield row


def _dtype(feature: Any) -> str:
    """The type of a column of plain values; "" of others."""
    dtype = getattr(feature, "dtype", None)
    return dtype if isinstance(dtype, str) else ""


def _save(
    rows: Iterator[dict[str, Any]],
    folder: Path,
    of_all: Mapping[str, Any],
    columns: _Columns,
    split: str,
    skipped: list[Skipped],
    left_out: dict[str, None],
) -> int:
    """Write rows, each with the cells `of_all`, and their table; return how many there are."""
    folder.mkdir(exist_ok=True)
    count = 0
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as table:
        for number, row in enumerate(rows):
            columns.check(row)
            name = f"{number:06d}"
            try:
                actions = _actions(row.get(columns.actions))
                file = _write(row[columns.video], folder / name, columns.video)
            except ReadError as error:
                skipped.append(Skipped(f"{split} row {number}".strip(), error.reason))
                continue
            cells = {FILE: file} | _cells(row, columns, {*of_all}, left_out)
            if columns.actions in row:
                cells[ACTIONS] = None if actions is None else f"{name}.npy"
            if actions is not None:
                np.save(folder / f"{name}.npy", actions)
            table.write(f"{json.dumps({**cells, **of_all})}\n")
            count += 1
    if not count:
        shutil.rmtree(folder)
    return count


def _cells(
    row: Mapping[str, Any], columns: _Columns, taken: set[str], left_out: dict[str, None]
) -> dict[str, str | float | None]:
    """The cells of a row that are texts and numbers; the names of the others, and of those in the way, are kept."""
    cells, renamed = {}, columns.renamed
    taken = {*renamed.values(), ACTIONS, *taken}
    for name, value in row.items():
        if name in (columns.video, columns.actions):
            continue
        in_the_way = (name in taken and renamed.get(name) != name) or VIDEOS.fullmatch(name)
        if in_the_way or not isinstance(value, str | int | float | None):
            left_out[name] = None
        else:
            cells[renamed.get(name, name)] = None if isinstance(value, float) and not math.isfinite(value) else value
    return cells


def _actions(values: Any) -> Float32[np.ndarray, "T A"] | None:
    """The actions in a cell."""
    if values is None:
        return None
    try:
        return to_actions(Path(ACTIONS), np.asarray(values, np.float32))
    except (ValueError, TypeError) as error:
        reason = error.reason if isinstance(error, ReadError) else f"its actions are no table of numbers ({error})"
        raise ReadError(Path(ACTIONS), reason) from error


def _write(value: Any, path: Path, column: str) -> str:
    """Write the file in a cell under `path` and its suffix, and return its name.

    Raises ReadError where there is none, and ValueError for a column of something else.
    """
    if isinstance(value, str | bytes | None):
        value = {"bytes" if isinstance(value, bytes) else "path": value}
    if not isinstance(value, Mapping) or not value.keys() & {"path", "bytes"}:
        raise ValueError(
            f"the column {column!r} holds {type(value).__name__}, not files: cast it first, "
            f"dataset.cast_column({column!r}, datasets.Video(decode=False))"
        )
    source, content = str(value.get("path") or ""), value.get("bytes")
    if content is None and not source:
        raise ReadError(path, "there is no video in it")
    if content is None and "://" in source:
        raise ReadError(path, f"{source} is not on this machine: load the dataset without streaming")
    if content is None:
        try:
            with Path(source).open("rb") as file:
                head = file.read(HEAD)
        except OSError as error:
            raise ReadError(path, f"{source} cannot be read ({error.strerror})") from error
    else:
        head = content[:HEAD]
    path = path.with_suffix(_suffix(source, head))
    if content is not None:
        path.write_bytes(content)
        return path.name
    real = os.path.realpath(source)  # of what a hub's cache links to
    try:
        os.link(real, path)
    except OSError:  # of another disk, or of a system without links
        shutil.copyfile(real, path)
    return path.name


def _suffix(name: str, head: bytes) -> str:
    """The suffix of a video file by its name, or else by its first bytes; raises ReadError for what is none."""
    suffix = Path(name).suffix.lower()
    if suffix in VideoReader.suffixes:
        return suffix
    found = next((suffix for suffix, magic in MAGIC.items() if re.match(magic, head)), None)
    if found is None:
        raise ReadError(Path(name), "it is no video, or of a format that is not known")
    return found
