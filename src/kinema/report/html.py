"""The report as one HTML file that asks for nothing else: its style, script, clips and plots are in it.

A clip is a picture of all its frames side by side, of which one is seen at a time. So every browser plays it without a
codec, all clips show the same moment, and each can be stopped at any frame. Small ones are lossless, as H.264 is not:
its halved colour would be the first thing to see in clips that are enlarged.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kinema.metrics.protocol import Result
from kinema.report.markdown import (
    BETTER,
    PAIRED,
    Cell,
    Difference,
    Leaderboard,
    leaderboard,
    made,
    plain,
    reading,
    record,
    sentence,
    written,
    written_p,
)

__all__ = ["Picture", "Shown", "page"]

FOLDER = Path(__file__).parent
DESK, PHONE = 192, 128  # pixels of the screen that a clip's longer side may take
LOSSLESS = 2**20  # pixels of a clip in all; of more, WebP's lossless pictures make a page of many clips too heavy
QUALITY = 90  # of the others
SIDE = 16383  # pixels, the longest side that WebP has


@dataclass(frozen=True, slots=True, eq=False)  # two are one only if they are the same object
class Shown:
    """Clips of one source to look at: a column of the page, beside the same seeds of other sources.

    Raises ValueError for captions or seeds of another number than clips, and for clips too long for one picture.
    """

    name: str
    clips: UInt8[np.ndarray, "N T H W 3"]
    fps: float
    captions: Sequence[str] = ()
    """What each clip should show."""
    seeds: Sequence[int] = ()
    """That each clip was made from; empty for clips that were not generated."""

    def __post_init__(self) -> None:
        count, frames, height, width, _ = self.clips.shape
        for what, of in (("captions", self.captions), ("seeds", self.seeds)):
            if of and len(of) != count:
                raise ValueError(f"{self.name}: {len(of)} {what} for {count} clips: give each clip its own")
        if not frames or not self.fps > 0:
            raise ValueError(f"{self.name}: {frames} frames at {self.fps:g} a second cannot be played")
        if math.ceil(math.sqrt(frames)) * max(height, width) > SIDE:
            raise ValueError(f"{self.name}: {frames} frames of {width}x{height} are too much for a page: show a part")


@dataclass(frozen=True, slots=True)
class Picture:
    """A plot with what it shows, in a sentence."""

    title: str
    sentence: str
    pixels: UInt8[np.ndarray, "H W 3"]


def page(
    results: Sequence[Result],
    *,
    title: str,
    reference: str = "",
    shown: Sequence[Shown] = (),
    pictures: Sequence[Picture] = (),
    differences: Sequence[Difference] = (),
) -> str:
    """The report of results of one protocol as an HTML document.

    `reference` is how the reference is called; `shown` are the columns of clips, the reference's first, in whose rows
    stand the same seeds; `differences` are between the results. Raises ValueError without a result, and where a row
    of clips would mix seeds.
    """
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    sections = [_numbers(results)]
    sections += [_clips(shown)] if shown else []
    sections += [_plots(pictures)] if pictures else []
    sections += [_differences(differences)] if differences else []
    sections += [_protocol(results), _left_out(results)]
    return Template((FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        title=_text(title),
        lead=_text(sentence(results, reference)),
        sections="\n".join(sections),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=script,
        # only this script may run, whatever came in with names and captions
        digest="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _numbers(results: Sequence[Result]) -> str:
    board = leaderboard(results)
    heads = "".join(
        f'<th scope="col" class="number">{_text(name)}<small>{_text(number.unit)}</small></th>'
        for name, number in board.columns.items()
    )
    rows = [
        f'<tr><th scope="row">{_text(result.source)}<small>{_text(result.kind)}</small></th>'
        f"{''.join(map(_cell, cells))}</tr>"
        for result, cells in zip(results, board.rows, strict=True)
    ]
    if any(board.real):
        cells = "".join(f'<td class="number">{_real(real)}</td>' for real in board.real)
        rows.append(
            f'<tr class="real"><th scope="row">Reference<small>of a distance, its floor</small></th>{cells}</tr>'
        )
    table = _table("Numbers of each source", f'<tr><th scope="col">Source</th>{heads}</tr>', rows)
    notes = "".join(
        f'<li id="note-{index}"><b>[{index}]</b>{_text(note)}</li>' for index, note in enumerate(board.notes, 1)
    )
    return _section(
        "Numbers", table, f"<p>{reading(board)}</p>", notes and f'<ul class="notes">{notes}</ul>', _legend(board)
    )


def _legend(board: Leaderboard) -> str:
    rows = [
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(number.unit)}</td>'
        f'<td>{_text(BETTER.get(number.better, number.better))}</td><td class="number">{_real(real)}</td></tr>'
        for (name, number), real in zip(board.columns.items(), board.real, strict=True)
    ]
    heads = (
        '<tr><th scope="col">Number</th><th scope="col">Unit</th><th scope="col">Better</th>'
        '<th scope="col" class="number">Reference<small>of a distance, its floor</small></th></tr>'
    )
    return "<h3>What the numbers are</h3>" + _table("What the numbers are", heads, rows)


def _clips(shown: Sequence[Shown]) -> str:
    rows = []
    for index in range(max(len(column.clips) for column in shown)):
        here = [column for column in shown if index < len(column.clips)]
        seeds = {column.seeds[index] for column in here if column.seeds}
        if len(seeds) > 1:
            raise ValueError(f"row {index + 1} of the clips mixes seeds {sorted(seeds)}: show the same of each source")
        captions = {column.captions[index] for column in here if column.captions}
        shared = captions.pop() if len(captions) == 1 else ""
        name = f"Seed {seeds.pop()}" if seeds else f"Clip {index + 1}"
        rows.append(
            f'<tr><th scope="rowgroup" colspan="{len(shown)}"><span><span class="seed">{name}</span> '
            f'<span dir="auto">{_text(shared)}</span></span></th></tr>\n<tr>'
            + "".join(f"<td>{_clip(column, index, name, shared) if column in here else ''}</td>" for column in shown)
            + "</tr>"
        )
    # names are seen below each clip, where no scrolling takes them out of sight
    heads = "".join(f'<th scope="col"><span class="hidden">{_text(column.name)}</span></th>' for column in shown)
    table = _table("Clips, a column for each source", f"<tr>{heads}</tr>", rows, "clips", group=True)
    lossless = all(_lossless(column) for column in shown)
    how = (
        "are lossless"
        if lossless
        else f"of more than {LOSSLESS} pixels in all are compressed (WebP, quality {QUALITY})"
    )
    made = [column for column in shown if column.seeds]
    seeds = "Clips that were generated stand in the row of their seed. " if made else ""
    return _section(
        "Clips",
        f"<p>{seeds}Clips {how}.</p>",
        '<div class="player" role="group" aria-label="All clips" hidden><button type="button">Play</button>'
        '<input type="range" min="0" value="0" aria-label="Time"><output>0.00 s</output></div>',
        table,
    )


def _lossless(column: Shown) -> bool:
    return math.prod(column.clips.shape[1:4]) <= LOSSLESS


def _clip(column: Shown, index: int, row: str, shared: str) -> str:
    frames, height, width, _ = column.clips[index].shape
    across = math.ceil(math.sqrt(frames))
    down = math.ceil(frames / across)
    sheet = np.zeros((down * across, height, width, 3), np.uint8)
    sheet[:frames] = column.clips[index]
    sheet = sheet.reshape(down, across, height, width, 3).swapaxes(1, 2).reshape(down * height, across * width, 3)
    side = max(height, width)
    how = {"lossless": True, "quality": 50} if _lossless(column) else {"quality": QUALITY}
    caption = column.captions[index] if column.captions else ""
    own = f'<small dir="auto">{_text(caption)}</small>' if caption not in ("", shared) else ""
    alt = f"{column.name}, {row}" + (f": {caption}" if caption else "")
    return (
        f'<figure style="--width: {width}; --height: {height}; --desk: {_scale(side, DESK)}; '
        f'--phone: {_scale(side, PHONE)}"><div class="clip{" crisp" if side <= PHONE else ""}">'
        f'<img src="{_picture(sheet, "webp", **how)}" alt="{_text(alt)}" style="width: {100 * across}%" '
        f'data-frames="{frames}" data-columns="{across}" data-fps="{column.fps:g}"></div>'
        f"<figcaption>{_text(column.name)}{own}</figcaption></figure>"
    )


def _scale(side: int, room: int) -> float:
    """How many times a clip is enlarged: a whole number, so that all its pixels are as large as each other."""
    return room // side if side <= room else round(room / side, 4)


def _plots(pictures: Sequence[Picture]) -> str:
    figures = [
        f'<figure><img src="{_picture(picture.pixels, "png", optimize=True)}" alt="{_text(picture.title)}" '
        f'width="{picture.pixels.shape[1]}" height="{picture.pixels.shape[0]}">'
        f"<figcaption><h3>{_text(picture.title)}</h3><p>{_text(picture.sentence)}</p></figcaption></figure>"
        for picture in pictures
    ]
    return _section("Plots", f'<div class="plots">{"".join(figures)}</div>')


def _differences(differences: Sequence[Difference]) -> str:
    rows = [
        f'<tr><th scope="row">{_text(d.metric)}</th><td>{_text(d.a)}</td><td>{_text(d.b)}</td>'
        f'<td class="number">{_value((d.difference, d.low, d.high), written(d.difference, d.low, d.high))}</td>'
        f'<td class="number">{_data(d.p, written_p(d.p))}</td></tr>'
        for d in differences
    ]
    heads = (
        '<tr><th scope="col">Number</th><th scope="col">A</th><th scope="col">B</th>'
        '<th scope="col" class="number">Difference</th><th scope="col" class="number">p</th></tr>'
    )
    table = _table("Differences", heads, rows)
    return _section("Differences", f"<p>{_text(PAIRED)}</p>", table)


def _protocol(results: Sequence[Result]) -> str:
    rows = [
        f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
        for name, value in record(results[0].protocol).items()
    ]
    heads = '<tr><th scope="col">What</th><th scope="col">Value</th></tr>'
    parts = ["<p>Numbers may be compared only where the hash is the same.</p>", _table("Protocol", heads, rows)]
    if how := made(results):
        sources = "".join(f'<th scope="col">{_text(result.source)}</th>' for result in results)
        rows = [
            f'<tr><th scope="row">{_text(key)}</th>{"".join(f"<td>{_text(value)}</td>" for value in values)}</tr>'
            for key, values in how.items()
        ]
        heads = f'<tr><th scope="col">What</th>{sources}</tr>'
        parts += ["<h3>How each was made</h3>", _table("How each was made", heads, rows)]
    return _section("Protocol", *parts)


def _left_out(results: Sequence[Result]) -> str:
    files = [f"<li>{_text(result.source)}: {_text(file)}</li>" for result in results for file in result.left_out]
    return _section("Files left out", f"<ul>{''.join(files)}</ul>" if files else "<p>None.</p>")


def _cell(cell: Cell) -> str:
    exact = (cell.number.value, cell.number.low, cell.number.high)
    mark = (
        f'<sup><a href="#note-{cell.note}" aria-label="note {cell.note}">[{cell.note}]</a></sup>' if cell.note else ""
    )
    of = f"<small>{cell.of}</small>" if cell.of else ""
    return f'<td class="number">{_value(exact, cell.texts, cell.best, mark)}{of}</td>'


def _value(exact: tuple[float, float, float], texts: tuple[str, str, str], best: bool = False, mark: str = "") -> str:
    value, low, high = map(_data, exact, texts)
    value = (f"<b>{value}</b>" if best else value) + mark
    return f"{value}<small>[{low}, {high}]</small>" if texts[1] else value


def _data(exact: float, text: str) -> str:
    """A number as it is read, with all its digits for who looks into the page."""
    if not math.isfinite(exact):
        return f'<span class="unmeasured">{_text(text)}</span>'
    return f'<data value="{exact!r}">{_text(text)}</data>'


def _real(real: dict[str, float]) -> str:
    return " to ".join(_data(value, text) for text, value in real.items())


def _section(title: str, *parts: str) -> str:
    return "\n".join(["<section>", f"<h2>{title}</h2>", *filter(None, parts), "</section>"])


def _table(caption: str, heads: str, rows: Iterable[str], kind: str = "data", group: bool = False) -> str:
    """In a box of its own that can be scrolled by keyboard."""
    body = "".join(f"<tbody>{row}</tbody>\n" for row in rows) if group else "<tbody>" + "\n".join(rows) + "</tbody>"
    return (
        f'<div class="box" role="region" aria-label="{caption}" tabindex="0"><table class="{kind}">'
        f"<caption>{caption}</caption>\n<thead>{heads}</thead>\n{body}</table></div>"
    )


def _picture(pixels: np.ndarray, kind: str, **how: bool | int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _text(text: str) -> str:
    return escape(plain(text))
