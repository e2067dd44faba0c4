"""The report as a Markdown document, and the numbers and words that the HTML page has in common with it.

A number is written in one place, `written`, and what stands in the tables is made in one, `leaderboard`, so that page,
document and JSON cannot say different things.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kinema.metrics.protocol import Number, Protocol, Result

__all__ = [
    "BETTER",
    "PAIRED",
    "Cell",
    "Difference",
    "Leaderboard",
    "document",
    "leaderboard",
    "made",
    "plain",
    "reading",
    "record",
    "sentence",
    "written",
    "written_p",
]

UNMEASURED = "not measured"
REFERENCE = "Reference (of a distance, its floor)"
PAIRED = (
    "A less B, with the 95 % interval; p is of a test over pairs of clips, of the same seeds or files, where there are "
    "such."
)
BETTER = {
    "higher": "higher is better",
    "lower": "lower is better",
    "near": "nearer the reference is better",
    "": "neither is better",
}
INTERVALS = "Beside each value is its 95 % interval."
BOLD = "The best value of a column is bold; where intervals overlap, the order may be chance."


@dataclass(frozen=True, slots=True)
class Difference:
    """How much two sources differ by one measure over the same seeds."""

    metric: str
    a: str
    b: str
    difference: float
    """a less b."""
    low: float
    """With `high` its 95 % interval."""
    high: float
    p: float
    """That chance alone makes a difference as large, by the test that was used."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a leaderboard has in one place."""

    number: Number
    texts: tuple[str, str, str]
    """Value, low and high as `written` has them."""
    of: str
    """Says how many clips it is of where the protocol has another count; else empty."""
    best: bool
    note: int
    """Counted from 1 in the leaderboard's notes; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All numbers of all results: a row for each result, a column for each measure."""

    columns: dict[str, Number]
    """A number of each measure, for its unit and what is better."""
    rows: list[list[Cell]]
    real: list[dict[str, float]]
    """The reference's value of each column by its text: none, one, or the lowest and highest where results differ."""
    notes: list[str]


def written(value: float, low: float, high: float) -> tuple[str, str, str]:
    """A value and the ends of its interval as they are printed everywhere; ends that are not finite are empty.

    To three significant digits of the interval's width, at most six of the value; without a width to four of the value.
    A value that is not finite is "not measured".
    """
    if not math.isfinite(value):
        return UNMEASURED, "", ""
    if not math.isfinite(high - low):
        return _fixed(value, _places(value, value, value)), "", ""
    places = _places(value, low, high)
    return _fixed(value, places), _fixed(low, places), _fixed(high, places)


def written_p(p: float) -> str:
    """A p value to three decimals."""
    if math.isnan(p):
        return UNMEASURED
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def plain(text: str) -> str:
    """One line of text that UTF-8 can hold: names of files may have bytes that are no text, and line breaks."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def leaderboard(results: Sequence[Result]) -> Leaderboard:
    """The table of all numbers, in the order of the results and of their numbers. Raises ValueError without one."""
    if not results:
        raise ValueError("there are no results to report: measure something first")
    columns: dict[str, Number] = {}
    for result in results:
        columns |= {name: number for name, number in result.numbers.items() if name not in columns}
    notes: dict[str, int] = {}
    absent = Number(math.nan, math.nan, math.nan, results[0].protocol.clips)
    best = {name: _best([result.numbers.get(name, absent) for result in results]) for name in columns}

    def cell(number: Number, winner: float | None) -> Cell:
        return Cell(
            number,
            written(number.value, number.low, number.high),
            "" if number.clips == absent.clips else f"of {number.clips} clips",
            winner is not None and _far(number) == winner,
            notes.setdefault(number.note, len(notes) + 1) if number.note else 0,
        )

    rows = [[cell(result.numbers.get(name, absent), best[name]) for name in columns] for result in results]
    real = [_real(column) for column in zip(*rows, strict=True)]
    return Leaderboard(columns, rows, real, list(notes))


def reading(board: Leaderboard) -> str:
    """How the leaderboard is to be read."""
    return f"{INTERVALS} {BOLD}" if any(cell.best for row in board.rows for cell in row) else INTERVALS


def sentence(results: Sequence[Result], reference: str = "") -> str:
    """What was measured against what, in one sentence; `reference` is how the reference is called."""
    protocol = results[0].protocol
    what = results[0].source if len(results) == 1 else f"{len(results)} sources"
    named = f"{reference or 'the reference'} ({protocol.reference[:10]})"
    against = f"measured against {named}" if protocol.reference else "measured without a reference"
    rate = "at an unknown rate" if protocol.fps is None else f"at {protocol.fps:g} frames a second"
    size = f"{protocol.clips} clips of {protocol.frames} frames, {protocol.width}x{protocol.height} pixels, {rate}"
    return f"{what}, {against}: {size}."


def record(protocol: Protocol) -> dict[str, str]:
    """All of the protocol in words, its hash first."""
    rows = {
        "hash": protocol.hash,
        "clips": f"{protocol.clips} of each side",
        "frames": f"{protocol.frames} of a clip",
        "frame rate": "not known" if protocol.fps is None else f"{protocol.fps:g} frames a second",
        "size": f"{protocol.width}x{protocol.height} pixels",
        "resized": protocol.resize,
        "reference": protocol.reference or "none",
        "seed": str(protocol.seed),
        "paired with the reference's files": "yes" if protocol.paired else "no",
        "weights of LPIPS": protocol.lpips or "none",
        "version of the measures": str(protocol.version),
    }
    return rows | {f"features: {name}": value for name, value in protocol.features.items()}


def made(results: Sequence[Result]) -> dict[str, list[str]]:
    """What is known of how each result was made, by what it is; empty where a result does not say."""
    keys = dict.fromkeys(key for result in results for key in result.made)
    return {key: [result.made.get(key, "") for result in results] for key in keys}


def document(
    results: Sequence[Result], *, title: str, reference: str = "", differences: Sequence[Difference] = ()
) -> str:
    """The report of results of one protocol as a Markdown document with GitHub's tables and footnotes.

    `reference` is how the reference is called, `differences` are between the results. Raises ValueError without a
    result.
    """
    board = leaderboard(results)
    heads = ["Source", *map(_text, board.columns)]
    rows = [
        [f"{_text(result.source)} ({_text(result.kind)})", *map(_cell, cells)]
        for result, cells in zip(results, board.rows, strict=True)
    ]
    if any(board.real):
        rows.append([REFERENCE, *(" to ".join(real) for real in board.real)])
    parts = [
        f"# {_text(title)}",
        _text(sentence(results, reference)),
        "## Numbers",
        _table(heads, rows),
        reading(board),
    ]
    parts += ["\n".join(f"[^{index}]: {_text(note)}" for index, note in enumerate(board.notes, 1))] * bool(board.notes)
    legend = [
        [_text(name), _text(number.unit), _text(BETTER.get(number.better, number.better)), " to ".join(real)]
        for (name, number), real in zip(board.columns.items(), board.real, strict=True)
    ]
    parts += ["### What the numbers are", _table(["Number", "Unit", "Better", REFERENCE], legend)]
    if differences:
        rows = [[*map(_text, (d.metric, d.a, d.b)), _difference(d), _text(written_p(d.p))] for d in differences]
        parts += ["## Differences", PAIRED]
        parts += [_table(["Number", "A", "B", "Difference", "p"], rows)]
    parts += ["## Protocol", "Numbers may be compared only where the hash is the same."]
    parts += [
        _table(["What", "Value"], [[_text(name), _text(value)] for name, value in record(results[0].protocol).items()])
    ]
    if how := made(results):
        heads = ["What", *(_text(result.source) for result in results)]
        parts += ["### How each was made", _table(heads, [[_text(x) for x in (key, *row)] for key, row in how.items()])]
    left = [f"- {_text(result.source)}: {_text(file)}" for result in results for file in result.left_out]
    parts += ["## Files left out", "\n".join(left) or "None."]
    return "\n\n".join(parts) + "\n"


def _places(value: float, low: float, high: float) -> int:
    largest = max(abs(value), abs(low), abs(high))
    wanted = 2 - _power(high - low) if high > low else 3 - _power(largest)
    return max(0, min(wanted, 5 - _power(largest)))


def _power(value: float) -> int:
    return math.floor(math.log10(value)) if value > 0 else 0


def _fixed(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:.{places}f}"  # the zero turns -0.0 into 0.0


def _far(number: Number) -> float:
    """How far from the best a number is thinkable to be: less is better, NaN where that cannot be said."""
    if number.better == "near":
        return math.nan if number.real is None else abs(number.value - number.real)
    return {"higher": -number.value, "lower": number.value}.get(number.better, math.nan)


def _best(numbers: Sequence[Number]) -> float | None:
    """Where the best stands; None where there are not two to choose from."""
    known = [far for far in map(_far, numbers) if math.isfinite(far)]
    return min(known) if len(known) > 1 else None


def _real(cells: Sequence[Cell]) -> dict[str, float]:
    reals = [cell.number.real for cell in cells if cell.number.real is not None and math.isfinite(cell.number.real)]
    if not reals:
        return {}
    # as exact as the numbers above it; where none was measured, as a number without an interval
    places = [len(cell.texts[0].partition(".")[2]) for cell in cells if math.isfinite(cell.number.value)]
    most = max(places or [_places(reals[0], reals[0], reals[0])])
    return {_fixed(real, most): real for real in (min(reals), max(reals))}


def _text(text: str) -> str:
    """As Markdown that shows exactly this."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", plain(text))


def _cell(cell: Cell) -> str:
    value, low, high = cell.texts
    note = f"[^{cell.note}]" if cell.note else ""
    return " ".join(filter(None, [f"**{value}**" if cell.best else value, low and f"[{low}, {high}]", cell.of, note]))


def _difference(row: Difference) -> str:
    value, low, high = written(row.difference, row.low, row.high)
    return f"{value} [{low}, {high}]" if low else value


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
