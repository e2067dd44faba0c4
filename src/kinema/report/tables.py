"""The tables of a report, which the HTML page, the Markdown document and the terminal all render."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kinema.metrics.protocol import Difference, Number, Protocol, Result
from kinema.printable import printable

__all__ = ["Cell", "Report", "Section", "Table", "build_report", "format_number", "one_line"]

UNMEASURED = "not measured"
BETTER = {"higher": "higher is better", "lower": "lower is better", "near": "best near the reference"}
FLOOR_NOTE = "The reference of a distance is its floor: real clips against other real clips."
INTERVAL_NOTE = "The 95 % interval is beside each value."
BEST_NOTE = "The best value of a row is bold where its interval is apart from all others."
DIFFERENCE_NOTE = "A less B, with the 95 % interval; p is of a paired test, where clips have the same seeds or files."
PROTOCOL_NOTE = "Numbers compare only where the hash is the same."


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of a table."""

    text: str
    detail: str = ""  # smaller, such as a unit
    interval: str = ""  # "[low, high]"
    exact: float | None = None  # the number with all its digits
    best: bool = False
    note: int = 0  # counted from 1; 0: none


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head; the first cell of each row is its name."""

    title: str
    head: list[Cell]
    rows: list[list[Cell]]
    numeric: bool = False  # all columns but the first hold numbers


@dataclass(frozen=True, slots=True)
class Section:
    """Tables under a heading."""

    title: str
    text: str
    tables: list[Table]
    notes: tuple[str, ...] = ()  # that cells refer to
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """All that a report says of results in words and tables."""

    title: str
    lead: str
    sections: list[Section]


def build_report(
    results: Sequence[Result], *, title: str, reference: str = "", differences: Sequence[Difference] = ()
) -> Report:
    """The report of results of one protocol; `reference` is the reference's name.

    Raises ValueError without a result.
    """
    if not results:
        raise ValueError("there are no results to report: measure something first")
    sections = [_numbers(results)]
    if differences:
        sections.append(Section("Differences", DIFFERENCE_NOTE, [_differences(differences)]))
    tables = [_protocol(results[0].protocol), *_provenance(results)]
    sections.append(Section("Protocol", PROTOCOL_NOTE, tables))
    skipped = tuple(f"{result.source}: {file}" for result in results for file in result.skipped)
    sections.append(Section("Skipped files", "" if skipped else "None.", [], files=skipped))
    return Report(title, _lead(results, reference), sections)


def format_number(value: float, low: float, high: float) -> tuple[str, str, str]:
    """A value and the ends of its interval as text; ends that are not finite are empty.

    To three significant digits of the interval's width, at most six of the value; without a width to four of the value.
    A value that is not finite is "not measured".
    """
    if not math.isfinite(value):
        return UNMEASURED, "", ""
    if not math.isfinite(high - low):
        return _fixed(value, _places(value, value, value)), "", ""
    places = _places(value, low, high)
    return _fixed(value, places), _fixed(low, places), _fixed(high, places)


def one_line(text: str) -> str:
    """One line of text that UTF-8 can encode: names of files may have line breaks, escapes and bytes of no text."""
    return " ".join(printable(text).split())


def _numbers(results: Sequence[Result]) -> Section:
    """A row for each measure, a column for each source."""
    measures: dict[str, Number] = {}
    for result in results:
        measures |= {name: number for name, number in result.numbers.items() if name not in measures}
    clips, notes = results[0].protocol.clips, dict[str, int]()
    absent = Number(math.nan, math.nan, math.nan, clips)
    head = [Cell("Measure"), *(Cell(result.source, result.kind) for result in results)]
    rows, references = [], []
    for name, measure in measures.items():
        numbers = [result.numbers.get(name, absent) for result in results]
        best = _best([None if result.kind == "baseline" else result.numbers.get(name) for result in results])
        cells = []
        for index, number in enumerate(numbers):
            of = "" if number.clips == clips else f"of {number.clips} clips"
            note = notes.setdefault(number.note, len(notes) + 1) if number.note else 0
            cells.append(_cell((number.value, number.low, number.high), of, index == best, note))
        words = ", ".join(filter(None, (measure.unit, BETTER.get(measure.better, measure.better))))
        rows.append([Cell(name, words), *cells])
        references.append(_reference(numbers, cells))
    if any(cell.text for cell in references):
        head.append(Cell("Reference"))
        rows = [[*row, reference] for row, reference in zip(rows, references, strict=True)]
    bold = any(cell.best for row in rows for cell in row)
    text = " ".join(
        [INTERVAL_NOTE, *([BEST_NOTE] if bold else []), *([FLOOR_NOTE] if len(head) > len(results) + 1 else [])]
    )
    return Section("Numbers", text, [Table("Numbers of each source", head, rows, numeric=True)], tuple(notes))


def _cell(values: tuple[float, float, float], detail: str = "", best: bool = False, note: int = 0) -> Cell:
    text, low, high = format_number(*values)
    exact = values[0] if math.isfinite(values[0]) else None
    return Cell(text, detail, f"[{low}, {high}]" if low else "", exact, best, note)


def _reference(numbers: Sequence[Number], cells: Sequence[Cell]) -> Cell:
    """The reference's value, or the lowest and highest where results differ, as exact as the numbers beside it."""
    values = [number.real for number in numbers if number.real is not None and math.isfinite(number.real)]
    if not values:
        return Cell("")
    places = [len(cell.text.partition(".")[2]) for cell in cells if cell.exact is not None]
    most = max(places or [_places(values[0], values[0], values[0])])
    texts = dict.fromkeys(_fixed(value, most) for value in (min(values), max(values)))
    return Cell(" to ".join(texts), exact=values[0] if len(texts) == 1 else None)


def _differences(differences: Sequence[Difference]) -> Table:
    rows = [
        [Cell(d.metric), Cell(d.a), Cell(d.b), _cell((d.value, d.low, d.high)), Cell(_p_value(d.p))]
        for d in differences
    ]
    return Table("Differences", [*map(Cell, ("Measure", "A", "B", "A - B", "p"))], rows, numeric=True)


def _protocol(protocol: Protocol) -> Table:
    values = {
        "hash": protocol.hash,
        "clips": f"{protocol.clips} in each set",
        "frames": f"{protocol.frames} in a clip",
        "given frames": f"the first {protocol.given} of a clip, not measured" if protocol.given else "none",
        "frame rate": "unknown" if protocol.fps is None else f"{protocol.fps:g} frames a second",
        "size": f"{protocol.width}x{protocol.height} pixels",
        "resizing": protocol.resize,
        "reference": protocol.reference or "none",
        "seed": str(protocol.seed),
        "paired with the reference's files": "yes" if protocol.paired else "no",
        "weights of LPIPS": protocol.lpips or "none",
        "version of the measures": str(protocol.version),
    }
    values |= {f"features: {name}": value for name, value in protocol.features.items()}
    return Table(
        "Protocol", [Cell("Field"), Cell("Value")], [[Cell(name), Cell(value)] for name, value in values.items()]
    )


def _provenance(results: Sequence[Result]) -> Iterable[Table]:
    keys = dict.fromkeys(key for result in results for key in result.provenance)
    rows = [[Cell(key), *(Cell(result.provenance.get(key, "")) for result in results)] for key in keys]
    return [Table("How each was made", [Cell("Field"), *(Cell(r.source) for r in results)], rows)] if rows else []


def _lead(results: Sequence[Result], reference: str) -> str:
    """What was measured against what, in one sentence."""
    protocol = results[0].protocol
    names = [result.source for result in results if result.kind != "baseline"]
    what = names[0] if len(names) == 1 else f"{len(names)} sources"
    named = f"{reference or 'the reference'} ({protocol.reference[:10]})"
    against = f"measured against {named}" if protocol.reference else "measured without a reference"
    rate = "at an unknown rate" if protocol.fps is None else f"at {protocol.fps:g} frames a second"
    given = f" (the first {protocol.given} are given and not measured)" if protocol.given else ""
    frames = f"{protocol.clips} clips of {protocol.frames} frames{given}"
    size = f"{frames}, {protocol.width}x{protocol.height} pixels, {rate}"
    return f"{what}, {against}: {size}."


def _p_value(p: float) -> str:
    if math.isnan(p):
        return UNMEASURED
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _places(value: float, low: float, high: float) -> int:
    """Decimals of a value and its interval."""
    largest = max(abs(value), abs(low), abs(high))
    wanted = 2 - _exponent(high - low) if high > low else 3 - _exponent(largest)
    return max(0, min(wanted, 5 - _exponent(largest)))


def _exponent(value: float) -> int:
    return math.floor(math.log10(value)) if value > 0 else 0


def _fixed(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:.{places}f}"  # adding zero turns -0.0 into 0.0


def _losses(number: Number) -> tuple[float, float]:
    """The ends of the interval as values that are lower where the number is better; NaN where that is not defined."""
    low, high = number.low, number.high
    if number.better == "near" and number.real is not None:
        ends = abs(low - number.real), abs(high - number.real)
        return (0.0 if low <= number.real <= high else min(ends)), max(ends)
    return {"higher": (-high, -low), "lower": (low, high)}.get(number.better, (math.nan, math.nan))


def _best(numbers: Sequence[Number | None]) -> int | None:
    """The place of the number whose interval is better than those of all others; None where there is no such number."""
    losses = {k: _losses(n) for k, n in enumerate(numbers) if n is not None and math.isfinite(n.value)}
    if len(losses) < 2:
        return None
    best = min(losses, key=lambda k: losses[k][1])
    return best if all(losses[best][1] < low for k, (low, _) in losses.items() if k != best) else None
