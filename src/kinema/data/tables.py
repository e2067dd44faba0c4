"""What people write down about their clips: tables of a row a clip, and files beside a clip with its caption."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from kinema.data.limits import most_bytes

__all__ = [
    "ACTIONS",
    "CAPTION",
    "FILE",
    "FPS",
    "GROUP",
    "SPLIT",
    "cell",
    "check_parquet",
    "column",
    "find_tables",
    "rows",
    "sidecar",
]

# names of columns by what they are, in lower case; of several the first that has a value counts
FILE = ("file_name", "filename", "file", "file_path", "path", "video", "video_path", "video_file", "media_path", "clip")
CAPTION = ("caption", "text", "prompt", "description", "sentence")
ACTIONS = ("actions",)
GROUP = ("patient", "speaker", "subject", "group")
SPLIT = ("split",)
FPS = ("fps", "frame_rate", "framerate")

NAMED = "metadata"  # the name of tables that count for sure, without their suffix
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
DELIMITERS = ",;\t|"
ROW = 1000  # bytes of memory that a row takes, about
TEXT = 8  # bytes of memory that a byte of text takes once it is rows
LISTS = (("videos.txt", ("prompts.txt", "prompt.txt", "captions.txt")),)  # of paths, and of their captions
TEXTS = (".txt", ".caption")  # suffixes of a caption beside a clip
SIDECARS = (".json", *TEXTS)  # suffixes of files beside a clip


def find_tables(folder: Path, files: Iterable[str]) -> list[Path]:
    """The tables among a folder's files: those called metadata, or else those that name files of the folder.

    Of lists of paths with captions in another list, the list of paths.
    """
    files = sorted(files)
    tables = [Path(folder, name) for name in files if Path(name).suffix.lower() in SUFFIXES]
    if named := [table for table in tables if table.stem.lower() == NAMED]:
        return named
    stems = {Path(name).stem for name in files if Path(name).suffix.lower() not in {*SUFFIXES, *TEXTS}}
    found = [table for table in tables if table.stem not in stems and _names_files(table)]
    return found + [Path(folder, paths) for paths, captions in LISTS if paths in files and {*captions} & {*files}]


def _names_files(table: Path) -> bool:
    """Whether the first row of a table names a file that exists."""
    try:
        first = next(iter(islice(rows(table), 1)), {})
        return (table.parent / cell(first, FILE, "")).is_file()
    except (ValueError, OSError):
        return False


def column(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of these columns that has a value."""
    return next((name for name in names if _text(row.get(name)) is not None), None)


def cell(row: Mapping[str, Any], names: Iterable[str], default: Any = None) -> Any:
    """The value of the first of these columns that has one, as text."""
    found = column(row, names)
    return default if found is None else _text(row[found])


def _text(value: Any) -> str | None:
    """A cell as text; None where it is empty or an object. Of a list of texts the first counts."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if value is None or isinstance(value, (dict, list, tuple)) or value != value:
        return None
    return str(value).strip() or None


def rows(table: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table by column, whose names are in lower case; each has a file in one of `FILE`.

    Raises ValueError naming the file and the line.
    """
    line = 1
    try:
        for line, row in _lines(table):  # noqa: B007 - the message below says which line it was
            if not isinstance(row, dict) or cell(row, FILE) is None:
                raise ValueError("there is no file_name")
            yield row
    except (ValueError, RecursionError, csv.Error) as error:
        line = getattr(error, "line", line)
        raise ValueError(f"{table}, line {line}: {getattr(error, 'msg', error)}") from error


class _BadLine(ValueError):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _lines(table: Path) -> Iterator[tuple[int, Any]]:
    """Yield each row with its line, or its number where there are no lines."""
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        yield from enumerate(map(_lower, _parquet(table)), 1)
        return
    text = _decoded(table)
    if suffix in {".csv", ".tsv"}:
        yield from _csv(text)
    elif suffix == ".txt":
        captions = next(
            table.parent / name
            for paths, names in LISTS
            for name in names
            if paths == table.name and (table.parent / name).is_file()
        )
        yield from _pairs(text.rstrip().split("\n"), _decoded(captions).rstrip().split("\n"), captions)
    elif suffix == ".jsonl":
        for line, one in enumerate(text.split("\n"), 1):
            if one.strip():
                try:
                    yield line, _lower(json.loads(one, parse_int=str))  # whose digits may be many
                except json.JSONDecodeError as error:
                    raise _BadLine(line, error.msg) from error
    else:
        try:
            content = json.loads(text, parse_int=str)
        except json.JSONDecodeError as error:
            raise _BadLine(error.lineno, error.msg) from error
        if isinstance(content, dict):  # of rows or captions by file
            content = [
                {FILE[0]: name} | (row if isinstance(row, dict) else {CAPTION[0]: row}) for name, row in content.items()
            ]
        if not isinstance(content, list):
            raise _BadLine(1, "it is neither a list of rows nor an object of rows by file")
        yield from enumerate(map(_lower, content), 1)


def _lower(row: Any) -> Any:
    """A row with the names of its columns in lower case; raises ValueError where two are the same then."""
    if not isinstance(row, dict):
        return row
    lower = [str(name).strip().lower() for name in row]
    if double := [name for name, count in Counter(lower).items() if count > 1]:
        raise ValueError(f"it has two columns {double[0]}: rename one of them")
    return dict(zip(lower, row.values(), strict=True))


def _decoded(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 as spreadsheets write it."""
    if TEXT * path.stat().st_size > (most := most_bytes()):
        raise ValueError(f"it has over {most // TEXT // 10**6} MB: split it, or set $KINEMA_MOST_GB higher")
    content = path.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _BadLine(line, "it is not text in UTF-8: save it as UTF-8") from error


def _csv(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of text whose cells are apart by a comma, a semicolon, a tab or a bar."""
    lines = io.StringIO(text, newline="").readlines()
    before = 1 if lines and lines[0].lower().startswith("sep=") else 0  # of spreadsheets
    for delimiter in DELIMITERS:
        header = [
            name.strip().lower() for name in next(csv.reader(lines[before : before + 1], delimiter=delimiter), [])
        ]
        if {*header} & {*FILE}:
            break
    else:
        raise ValueError(f"it has no column {FILE[0]}")
    if double := [name for name, count in Counter(header).items() if name and count > 1]:
        raise _BadLine(before + 1, f"it has two columns {double[0]}: rename one of them")
    reader = csv.reader(lines[before + 1 :], delimiter=delimiter, skipinitialspace=True)
    end = before + 1  # lines so far
    for cells in reader:
        begin, end = end, before + 1 + reader.line_num
        line = end
        if end - begin > 1:  # a cell of several lines
            try:
                next(csv.reader(lines[begin:end], delimiter=delimiter, skipinitialspace=True, strict=True))
            except csv.Error as error:
                if "end of data" in str(error):
                    raise _BadLine(begin + 1, "a double quote is not closed") from error
        if not any(one.strip() for one in cells):
            continue
        if len(cells) > len(header) and header[-1] in CAPTION:  # commas of a caption that is not in quotes
            raw = next(csv.reader(lines[begin:end], delimiter=delimiter), cells)  # with blanks after commas
            cells[len(header) - 1 :] = [delimiter.join((raw if len(raw) == len(cells) else cells)[len(header) - 1 :])]
        if any(one.strip() for one in cells[len(header) :]):
            raise _BadLine(
                line,
                f"it has {len(cells)} cells for {len(header)} columns: put text with a {delimiter!r} in double quotes",
            )
        yield line, {name: one for name, one in zip(header, cells, strict=False) if name}


def _pairs(paths: list[str], captions: list[str], of: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield a row of each path and its caption."""
    if len(paths) != len(captions):
        raise _BadLine(min(len(paths), len(captions)) + 1, f"it has {len(paths)} lines, and {of.name} {len(captions)}")
    for line, (path, caption) in enumerate(zip(paths, captions, strict=True), 1):
        if path.strip():
            yield line, {FILE[0]: path, CAPTION[0]: caption}


def check_parquet(table: Path, row: int = ROW) -> None:
    """Raise ValueError for a table that takes more than `most_bytes`, at `row` bytes of memory a row."""
    import pyarrow.parquet

    known = pyarrow.parquet.read_metadata(table)
    size = sum(known.row_group(k).total_byte_size for k in range(known.num_row_groups))
    if max(row * known.num_rows, TEXT * size) > most_bytes():
        large = f"it has {known.num_rows} rows and {size / 1e6:.0f} MB unpacked"
        raise ValueError(f"{large}: split it, or set $KINEMA_MOST_GB higher")


def _parquet(table: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet needs pyarrow: pip install 'kinema[parquet]'") from None
    try:
        check_parquet(table)
        return pyarrow.parquet.read_table(table).to_pylist()
    except (OSError, OverflowError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"it cannot be read ({str(error).splitlines()[0]})") from error


def sidecar(clip: Path, names: frozenset[str]) -> dict[str, Any]:
    """What files beside a clip say of it, of the files called `names`: a text is its caption, a JSON object a row.

    Raises ValueError naming a file that cannot be read.
    """
    found: dict[str, Any] = {}
    for stem in dict.fromkeys((clip.stem, clip.name)):
        for suffix in SIDECARS:
            if stem + suffix not in names:
                continue
            path = clip.parent / (stem + suffix)
            try:
                text = _decoded(path)
                if suffix != ".json":
                    found.setdefault(CAPTION[0], " ".join(text.split()))
                    continue
                row = _lower(json.loads(text, parse_int=str))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}: {getattr(error, 'msg', error)}") from error
            if isinstance(row, dict):
                found = row | found
    return found
