"""Folders of clips by the `videofolder` convention: clips, labels and captions, and what cannot be used and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from kinema.data import tables
from kinema.data.limits import check_limits
from kinema.data.readers.base import Clip, Reader, ReadError, find_reader, registered_readers
from kinema.printable import as_text, printable

__all__ = ["SPLITS", "Folder", "Skipped", "clip_name", "labels_are_names", "scan"]

LEAST_PER_CLASS = 2  # clips
OUTSIDE = ", which is outside of the folder: copy it there, or give --data.outside (evaluate, export-clips: --outside)"
SPLITS = {"train": True, "training": True} | dict.fromkeys(
    ("dev", "eval", "test", "testing", "val", "valid", "validation"), False
)  # names, and whether their clips are trained on; those of other splits beside them are not
NAMED = 5  # files that are passed over, by name
LONGEST_RATE = 40  # characters; more digits say no more


@dataclass(frozen=True, slots=True)
class Skipped:
    """A clip that cannot be used."""

    name: str  # of `clip_name`
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))
        object.__setattr__(self, "reason", printable(self.reason))


@dataclass(frozen=True, slots=True)
class Folder:
    """The clips below `root`, in the order of their names; where `classes` is not empty, all have a label."""

    root: Path
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]  # in the order of their numbers: integers by value, names alphabetically
    skipped: tuple[Skipped, ...]
    grouped_by: tuple[str, ...] = ()  # what the clips' groups are: columns of the metadata, or what readers say
    notes: tuple[str, ...] = ()  # what is used and what is passed over, a line each


def labels_are_names(classes: Sequence[str], clips: int) -> bool:
    """Whether labels are names of clips and no classes: 8 or more, and fewer than `LEAST_PER_CLASS` clips for each."""
    return len(classes) >= 8 and len(classes) * LEAST_PER_CLASS > clips


def clip_name(clip: Clip, root: Path) -> str:
    """What a clip is called: its path relative to the folder `root`, with forward slashes, and its member."""
    name = _name(clip.path, root)
    return name if not clip.member else clip.member if name == "." else f"{name}:{clip.member}"


def scan(root: str | Path, label: str = "label", camera: str = "", outside: bool = False) -> Folder:
    """Find the clips below `root`, with what tables in any of its folders, and files beside clips, say of them.

    Clips are what a registered reader can read. Tables are metadata.csv, .tsv, .jsonl, .json or .parquet, or else other
    such files that name files in a column of `tables.FILE`, relative to the table's folder. A caption, actions (a file
    of numbers, relative to it too), frames a second, a group and a split are each those of the first of their columns
    (`tables.CAPTION` and so on) that has a value; labels are those of the column `label`, and "none" is no labels. A
    text beside a clip, of the same name, is its caption. A clip without a caption where others have one has an empty
    one.

    Where all clips are in folders of splits, one of them called train, or a column says so, or tables are called so,
    clips of the others are not trained on. Where no table gives a label, and two or more top folders hold all the
    clips, these are the classes. Where there is a table in a file's folder or above it, a file without a row is
    skipped, as are a row without a file and, where others have some, a row without a label or actions. Hidden files are
    ignored, and others that no reader can read are named in `notes`. Of what several cameras filmed, the clips of
    `camera` are taken, or else of the first by name. Nothing is decoded.

    Rows that name files outside of `root` are skipped, unless `outside` is true. Links in `root` are followed, and
    those that lead outside of it are named in `notes`. Raises ValueError for a folder that does not
    exist or has no clips, for a camera that is not there, and for tables that cannot be read, naming the line.
    """
    check_limits()
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the path of a folder of clips")
    readers, label = registered_readers(), label.strip().lower()
    found = _Found(root, label, _walk(root, readers), outside)
    found.read_tables()
    found.read_files()
    columns, skipped = found.columns, found.skipped
    if label not in {"label", "none"} | columns.keys():
        raise ValueError(f"{root}: its metadata has no column {label!r}; it has {', '.join(sorted(columns)) or 'none'}")
    named = ((clip_name(clip, root), clip) for file in found.files.values() for clip in file)
    clips = dict(sorted(named, key=itemgetter(0)))
    if not clips:
        suffixes = " ".join(sorted(frozenset().union(*(reader.suffixes for reader in readers))))
        first = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"{root}: no clips in it; put files there that end in one of {suffixes}{first}")
    if not any(clip.fps for clip in clips.values()):
        columns |= dict.fromkeys(columns.keys() & {*tables.FPS}, False)
    grouped = dict.fromkeys(name for name in tables.GROUP if columns.get(name))
    used = {clip.actions for clip in clips.values()} | {clip.path for clip in clips.values()}
    notes = [*_linked(root, found.tree), *_passed_over(root, found.tree, used), *_not_used(columns)]

    clips, said = _of_camera(clips, camera)
    notes += said
    clips, said = _with_splits(clips, root)
    notes += said
    if any(clip.label is not None for clip in clips.values()):
        skipped += [Skipped(name, "no label in its metadata") for name, clip in clips.items() if clip.label is None]
        clips = {name: clip for name, clip in clips.items() if clip.label is not None}
    elif label != "none":
        clips, said = _with_class_folders(clips, root)
        notes += said
    if any(clip.actions for clip in clips.values()):
        skipped += [Skipped(name, "no actions in its metadata") for name, clip in clips.items() if not clip.actions]
        clips = {name: clip for name, clip in clips.items() if clip.actions}
    bare = [name for name, clip in clips.items() if clip.caption is None]
    if bare and len(bare) < len(clips):
        notes.append(f"{len(bare)} of {len(clips)} clips have no caption, and are trained on without ({bare[0]})")
        clips |= {name: replace(clips[name], caption="") for name in bare}
    classes = sorted({clip.label for clip in clips.values() if clip.label is not None})
    if all(label.isdecimal() and len(label) < 19 for label in classes):
        classes.sort(key=int)
    of_files = (find_reader(clip.path).groups_are for clip in clips.values() if clip.group is not None)
    grouped = grouped or dict.fromkeys(of_files)
    ordered = tuple(sorted(skipped, key=lambda skip: skip.name))
    return Folder(root, tuple(clips.values()), tuple(classes), ordered, tuple(grouped), tuple(notes))


class _Found:
    """The clips below `root` by the name of their file, with what is said of them in the column `label` and others."""

    def __init__(self, root: Path, label: str, tree: _Tree, outside: bool) -> None:
        self.root, self.label, self.tree, self.outside = root, label, tree, outside
        # beside a folder that is a clip as a whole are its captions
        self.above = root.absolute().parent if root in tree.found else root
        self.files: dict[str, Sequence[Clip]] = {}
        self.columns: dict[str, bool] = {}  # of the tables, and whether they are used
        self.skipped = [Skipped(_name(path, root), reason) for path, reason in tree.bad]

    def read_tables(self) -> None:
        """Add the clips that tables name; of several tables that name a clip, the later ones add what is missing."""
        named: dict[str, Path] = {}  # the table that named a file first
        for table in self.tree.tables:
            of_all = {tables.SPLIT[0]: table.stem} if table.stem.lower() in SPLITS else {}  # as of train.csv
            for cells in tables.rows(table):
                row = of_all | cells
                used = _used(row, self.label)
                self.columns |= dict.fromkeys(row.keys() - self.columns.keys(), False) | dict.fromkeys(used, True)
                path = Path(os.path.normpath(table.parent / tables.cell(row, tables.FILE)))
                name = _name(path, self.root)
                if left := self._left(path, table.parent, row):
                    self._skip(path, f"{_name(table, self.root)} names {left}{OUTSIDE}")
                elif name not in named and not _is_there(path):
                    self._skip(path, f"named in {_name(table, self.root)} but does not exist")
                elif named.setdefault(name, table) != table:
                    self.files[name] = self._with_row(self.files[name], row, table.parent, missing_only=True)
                elif name in self.files:
                    self._skip(path, f"named again in {_name(table, self.root)}; its first row is used")
                else:
                    self.files[name] = self._with_row(find_reader(path).clips(path), row, table.parent)

    def read_files(self) -> None:
        """Add the clips of the other files, and what files beside clips say; tables are read before."""
        of_tables = {*self.files}
        actions = {clip.actions for clips in self.files.values() for clip in clips}
        metadata = {table.parent: _name(table, self.root) for table in self.tree.tables}
        for path in self.tree.found:
            if path in actions:
                continue
            name = _name(path, self.root)
            table = next((metadata[parent] for parent in path.parents if parent in metadata), None)
            clips = self.files[name] if name in of_tables else find_reader(path).clips(path)
            if not clips:
                self.tree.others.append(path)
                continue
            if name not in of_tables and table:
                self._skip(path, f"no row in {table}")
                continue
            try:
                row = tables.sidecar(path, self.tree.names.get(path.parent, frozenset()))
                if left := self._left(path, path.parent, row):
                    raise ReadError(path, f"a file beside it names {left}{OUTSIDE}")
                self.files[name] = self._with_row(clips, row, path.parent, missing_only=name in of_tables)
            except ValueError as error:
                self._skip(path, error.reason if isinstance(error, ReadError) and error.path == path else str(error))
                self.files.pop(name, None)
                continue
            self.columns |= dict.fromkeys(_used(row, self.label), True)

    def _left(self, path: Path, folder: Path, row: Mapping[str, Any]) -> str:
        """What a row in a table of `folder` names outside of the root, where that is not allowed; "" if nothing."""
        if self.outside:
            return ""
        actions = tables.cell(row, tables.ACTIONS)
        named = [(tables.cell(row, tables.FILE, "it"), path), (f"its actions {actions}", folder / (actions or "."))]
        return next((what for what, file in named if not _is_below(file, self.above)), "")

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(_name(path, self.root), reason))

    def _with_row(
        self, clips: Sequence[Clip], row: Mapping[str, Any], folder: Path, missing_only: bool = False
    ) -> Sequence[Clip]:
        return [_with_row(clip, row, folder, self.label, missing_only) for clip in clips] if row else clips


@dataclass(slots=True)
class _Tree:
    """What is below a folder; hidden files are left out."""

    found: list[Path]  # what readers can read, files and whole folders
    tables: list[Path]
    others: list[Path]
    bad: list[tuple[Path, str]]  # folders that are not entered, and why
    names: dict[Path, frozenset[str]]  # of the files in each folder
    links: list[Path]  # that lead outside


def _walk(root: Path, readers: Sequence[Reader]) -> _Tree:
    """Look through a folder and those below it; links are followed, but not in circles."""
    tree, seen, real_root = _Tree([], [], [], [], {}, []), set(), os.path.realpath(root)
    if any(reader.can_read(root) for reader in readers):  # the folder itself is a clip
        tree.found.append(root)
        tree.names[root.parent] = frozenset(entry.name for entry in os.scandir(root.parent) if entry.is_file())
        return tree

    def unreadable(error: OSError) -> None:
        tree.bad.append((Path(error.filename), f"it cannot be opened ({error.strerror})"))

    for folder, subfolders, files in os.walk(root, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            tree.bad.append((Path(folder), "a link to a folder that is here already"))
            subfolders.clear()
            continue
        seen.add(real)
        files = [name for name in sorted(files) if not name.startswith(".")]
        strange = [name for name in files if not Path(folder, name).is_file()]
        tree.bad += [(Path(folder, name), "it is no file: a link to nothing, or a pipe") for name in strange]
        files = [name for name in files if name not in strange]
        for name in [*sorted(subfolders), *files]:
            path = os.path.join(folder, name)
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(real_root):
                tree.links.append(Path(path))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        tree.names[Path(folder)] = frozenset(files)
        found, taken = tables.find_tables(Path(folder), files), set()
        tree.tables += found
        for name in [*subfolders, *files]:
            path = Path(folder, name)
            if path in found:
                continue
            if any(reader.can_read(path) for reader in readers):
                tree.found.append(path)
                taken.add(name)
            elif name in files:
                tree.others.append(path)
        subfolders[:] = [name for name in subfolders if name not in taken]
    return tree


def _is_there(path: Path) -> bool:
    """Whether there is such a file or folder, and no pipe or device; not where its name is too long to be one."""
    try:
        return path.is_file() or path.is_dir()
    except (OSError, ValueError):
        return False


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder by its name, wherever links on the way lead."""
    return os.path.join(os.path.abspath(path), "").startswith(os.path.join(os.path.abspath(folder), ""))


def _name(path: Path, root: Path) -> str:
    text, above = str(path), f"{root}{os.sep}"
    below = text.removeprefix(above) if text.startswith(above) else os.path.relpath(path, root)  # which is slow
    return below.replace(os.sep, "/")


def _used(row: Mapping[str, Any], label: str) -> set[str]:
    """The columns of a row that are used."""
    kinds = (tables.FILE, tables.CAPTION, tables.ACTIONS, tables.GROUP, tables.SPLIT, tables.FPS, (label,))
    return {name for kind in kinds if (name := tables.column(row, kind))}


def _with_row(clip: Clip, row: Mapping[str, Any], folder: Path, label_column: str, missing_only: bool = False) -> Clip:
    """A clip with what a row of a table in `folder` says of it; what it says not stays as it is.

    With `missing_only` what is known of the clip already stays too. Raises ValueError for a rate that is none.
    """
    if missing_only:
        known = {tables.CAPTION: clip.caption, (label_column,): clip.label, tables.ACTIONS: clip.actions}
        known |= {tables.GROUP: clip.group, tables.SPLIT: clip.split}
        names = {name for kind, value in known.items() if value is not None for name in kind}
        row = {name: value for name, value in row.items() if name not in names}
    actions, fps = tables.cell(row, tables.ACTIONS), tables.cell(row, tables.FPS)
    fps = None if find_reader(clip.path).states_rate else fps
    return replace(
        clip,
        fps=clip.fps if fps is None else _rate(fps, clip),
        label=None if label_column == "none" else as_text(tables.cell(row, (label_column,), clip.label)),
        caption=as_text(tables.cell(row, tables.CAPTION, clip.caption)),
        actions=Path(os.path.normpath(folder / actions)) if actions else clip.actions,
        group=as_text(tables.cell(row, tables.GROUP, clip.group)),
        split=as_text(tables.cell(row, tables.SPLIT, clip.split)),
    )


def _rate(text: str, clip: Clip) -> float:
    """Frames a second; raises ValueError for what is none."""
    above, _, below = text[:LONGEST_RATE].partition("/")  # such as 30000/1001
    try:
        fps = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        fps = 0.0
    if not 0 < fps < float("inf"):
        raise ReadError(clip.path, f"its fps is said to be {text[:LONGEST_RATE]!r}, which is not a number above 0")
    return fps


def _of_camera(clips: dict[str, Clip], camera: str) -> tuple[dict[str, Clip], list[str]]:
    """Without the clips of other cameras than the chosen one, where there are several; and what is to be said."""
    cameras: dict[Path, set[str]] = {}
    for clip in clips.values():
        cameras.setdefault(clip.path, set()).add(clip.camera)
    names = sorted(set[str]().union(*cameras.values()) - {""})
    if camera and camera not in names:
        raise ValueError(f"there is no camera {camera!r} in the clips; there are {', '.join(names) or 'none'}")
    kept = {name: clip for name, clip in clips.items() if clip.camera == (camera or min(cameras[clip.path]))}
    read = {clip.camera for clip in kept.values()}
    if len(kept) == len(clips):
        return clips, []
    said = f"cameras: {', '.join(names)}, of which {', '.join(sorted(read))} is read (--data.camera chooses)"
    return kept, [said]


def _with_splits(clips: dict[str, Clip], root: Path) -> tuple[dict[str, Clip], list[str]]:
    """The clips with the split that their top folder says, where all are in folders of splits; and what is to be said.

    Folders are splits where there is one to train on and another of a known name. Splits that say nothing, as without
    one to train on, are left out.
    """
    tops = {name: _top(clip, root).lower() for name, clip in clips.items()}
    known = {SPLITS.get(top) for top in tops.values()}
    if "" not in tops.values() and {True, False} <= known:
        clips = {name: replace(clip, split=clip.split or tops[name]) for name, clip in clips.items()}
    splits = {clip.split.lower() for clip in clips.values() if clip.split}
    held = sorted(split for split in splits if not SPLITS.get(split))
    if len(held) == len(splits) or not held:
        said = [f"splits that are not used, as none is called train: {', '.join(held)}"] if held else []
        return {name: replace(clip, split=None) for name, clip in clips.items()}, said
    return clips, [f"clips of {', '.join(held)} are held out, and those of train are trained on"]


def _top(clip: Clip, root: Path) -> str:
    """The folder below `root` that a clip is in; "" where it is in none."""
    folder, _, rest = _name(clip.path, root).partition("/")
    return folder if rest else ""


def _with_class_folders(clips: dict[str, Clip], root: Path) -> tuple[dict[str, Clip], list[str]]:
    """The clips with their top folders as labels, where these are classes; and what is to be said."""
    tops = {}
    for name, clip in clips.items():
        parts = _name(clip.path, root).split("/")[:-1]
        if clip.split and parts and parts[0].lower() == clip.split.lower():
            parts = parts[1:]
        tops[name] = parts[0] if parts else ""
    folders = sorted({*tops.values()} - {""})
    if len(folders) < 2:
        return clips, []
    if all(folder.lower() in SPLITS for folder in folders):
        said = f"folders {_listed(folders)} are named like splits, but there is no train: all clips are trained on"
        return clips, [said]
    if outside := [name for name, top in tops.items() if not top]:
        return clips, [
            f"{len(folders)} folders ({_listed(folders)}) are not taken for labels, as {len(outside)} clips are "
            f"outside of them ({outside[0]})"
        ]
    return {name: replace(clip, label=as_text(tops[name])) for name, clip in clips.items()}, []


def _passed_over(root: Path, tree: _Tree, used: set[Path | None]) -> list[str]:
    """A line about files that nothing is read from."""
    clips = {(path.parent, name) for path in tree.found for name in (path.stem, path.name)} if tree.others else set()
    lists = {table.parent / name for table in tree.tables for _, names in tables.LISTS for name in names}
    names = [
        _name(path, root)
        for path in tree.others
        if path not in used
        and path not in lists
        and not (path.suffix in tables.SIDECARS and (path.parent, path.stem) in clips)
    ]
    if not names:
        return []
    are = "1 file is" if len(names) == 1 else f"{len(names)} files are"
    return [f"{are} passed over, as there are no clips in them: {_listed(names)}"]


def _linked(root: Path, tree: _Tree) -> list[str]:
    """A line about links that lead outside of the folder."""
    if not tree.links:
        return []
    lead = "1 link leads" if len(tree.links) == 1 else f"{len(tree.links)} links lead"
    names = _listed([_name(path, root) for path in tree.links])
    return [f"{lead} outside of the folder, and what is there is read: {names}"]


def _not_used(columns: Mapping[str, bool]) -> list[str]:
    """A line about the columns of tables that are not used."""
    names = sorted(name for name, used in columns.items() if not used)
    return [f"columns that are not used: {_listed(names)}"] if names else []


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
