"""A report as Markdown, and its tables in the terminal."""

from __future__ import annotations

import re

import rich.table
from rich.text import Text

from kinema.report.tables import Cell, Report, Section, Table, one_line

__all__ = ["markdown", "terminal_table"]


def markdown(report: Report) -> str:
    """The report as a Markdown document with GitHub's tables and footnotes."""
    parts = [f"# {_escaped(report.title)}", _escaped(report.lead)]
    for section in report.sections:
        parts += [f"## {section.title}", *_section(section)]
    return "\n\n".join(part for part in parts if part) + "\n"


def terminal_table(table: Table, title: str) -> rich.table.Table:
    """A table for `rich.console.Console.print`; the mark of a note is its number in brackets."""
    made = rich.table.Table(title=Text(one_line(title)), title_justify="left")
    for index, cell in enumerate(table.head):
        made.add_column(Text(one_line(cell.text)), justify="right" if table.numeric and index else "left")
    for row in table.rows:
        made.add_row(
            *(Text(one_line(" ".join(filter(None, _parts(cell)))), "bold" if cell.best else "") for cell in row)
        )
    return made


def _section(section: Section) -> list[str]:
    parts = [section.text]
    for table in section.tables:
        parts += [f"### {table.title}" if len(section.tables) > 1 else "", _table(table)]
    parts.append("\n".join(f"[^{index}]: {_escaped(note)}" for index, note in enumerate(section.notes, 1)))
    parts.append("\n".join(f"- {_escaped(file)}" for file in section.files))
    return parts


def _table(table: Table) -> str:
    rows = [[_cell(cell) for cell in row] for row in (table.head, *table.rows)]
    rows.insert(1, ["---"] * len(table.head))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: Cell) -> str:
    text, interval, detail, note = _parts(cell)
    text = f"**{_escaped(text)}**" if cell.best else _escaped(text)
    note = f"[^{cell.note}]" if note else ""
    return " ".join(filter(None, [text, interval, _escaped(detail), note]))


def _parts(cell: Cell) -> tuple[str, str, str, str]:
    return cell.text, cell.interval, f"({cell.detail})" if cell.detail else "", f"[{cell.note}]" if cell.note else ""


def _escaped(text: str) -> str:
    """As Markdown that shows exactly this text."""
    return re.sub(r"([\\`*_\[\]<>|~&$#])", r"\\\1", one_line(text))
