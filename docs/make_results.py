"""Make the tables of measured numbers on the documentation's pages from docs/results/*.json.

    python docs/make_results.py

A page has a place for each table, `<!-- table: FILE/NAME -->` to `<!-- end -->`; what is between them is replaced.
`<!-- table: summary -->` is a table of all records with a "summary".

A JSON file holds {"tables": {NAME: table}}. A table has "rows" (header of the first column), "measure" (header of the
number), "interval_of" (header of the intervals, if they are not of 95 %) and "records", one a row:

    claim, number        what was measured, and its value (null where there is none)
    interval             [low, high], optional
    also                 optional further columns: {header: a value, or {"number": ..., "interval": [...]}}
    command, commit, date, hardware    what gives the number, and how and when it was measured
    summary              optional: what it is called in the summary

A field of the fourth line that records share may stand once, in their table or at the top of the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PAGES = sorted([DOCS.parent / "README.md", *DOCS.rglob("*.md")])
PLACE = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end -->", re.DOTALL)
SHARED = ("command", "commit", "date", "hardware")


def load_tables() -> dict[str, dict[str, Any]]:
    """All tables by FILE/NAME, each record with all of its fields; numbers stay as they are written."""
    tables = {}
    for path in sorted(DOCS.glob("results/*.json")):
        file = json.loads(path.read_text(), parse_float=str, parse_int=lambda digits: f"{int(digits):,}")
        top = {name: file[name] for name in SHARED if name in file}
        for name, table in file["tables"].items():
            shared = top | {field: table[field] for field in SHARED if field in table}
            tables[f"{path.stem}/{name}"] = table | {"records": [shared | record for record in table["records"]]}
    return tables


def render(page: Path, tables: dict[str, dict[str, Any]]) -> str:
    """The text of a page with its tables filled in; raises KeyError for a table that does not exist."""

    def table(match: re.Match[str]) -> str:
        name = match[1]
        made = _summary(page, tables) if name == "summary" else _table(tables[name])
        return f"<!-- table: {name} -->\n{made}\n<!-- end -->"

    return PLACE.sub(table, page.read_text())


def _table(table: dict[str, Any]) -> str:
    """Rows in Markdown, and below them how they were measured."""
    records = table["records"]
    intervals = any("interval" in record for record in records)
    others = list(dict.fromkeys(header for record in records for header in record.get("also", {})))
    origins = list(dict.fromkeys(_origin(record) for record in records))
    headers = [table["rows"], table["measure"]]
    headers += [table.get("interval_of", "95 %")] * intervals + others + ["measured"] * (len(origins) > 1)
    rows = []
    for record in records:
        row = [record["claim"], _number(record["number"])]
        row += [_interval(record)] * intervals
        row += [_also(record.get("also", {}).get(header)) for header in others]
        row += [str(origins.index(_origin(record)) + 1)] * (len(origins) > 1)
        rows.append(row)
    marks = ["Measured by"] if len(origins) == 1 else [f"{k}." for k in range(1, len(origins) + 1)]
    return "\n".join([_markdown(headers, rows), "", *(f"{m} {o}" for m, o in zip(marks, origins, strict=True))])


def _summary(page: Path, tables: dict[str, dict[str, Any]]) -> str:
    """The records with a summary, each with a link to the page of its file."""
    rows = []
    for name, table in tables.items():
        file = name.split("/")[0]
        link = f"[{file}]({os.path.relpath(DOCS / 'results' / f'{file}.md', page.parent)})"
        for record in table["records"]:
            if "summary" in record:
                rows.append(
                    [record["summary"], record["number"], _interval(record), record["hardware"], record["date"], link]
                )
    return _markdown(["what", "number", "95 %", "on", "measured", "page"], rows)


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _origin(record: dict[str, Any]) -> str:
    commands = " and ".join(f"`{command}`" for command in record["command"].split(" && "))
    return f"{commands} at `{record['commit']}`, {record['date']}, {record['hardware']}."


def _number(value: str | None) -> str:
    return "" if value is None else value


def _interval(value: dict[str, Any]) -> str:
    return f"{value['interval'][0]} to {value['interval'][1]}" if "interval" in value else ""


def _also(value: str | dict[str, Any] | None) -> str:
    return f"{value['number']} ({_interval(value)})" if isinstance(value, dict) else _number(value)


def main() -> None:
    """Write every page whose tables are not what the records say."""
    tables = load_tables()
    for page in PAGES:
        text = render(page, tables)
        if text != page.read_text():
            page.write_text(text)
            print(f"wrote {page.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
