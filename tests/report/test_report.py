"""The report: one file without external references, the same numbers in all its forms, and names as text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image
from rich.console import Console

from kinema.metrics.protocol import Difference, Number, Protocol, Result
from kinema.report import html
from kinema.report.html import ClipColumn, ClipGroup, Plot, html_page
from kinema.report.tables import build_report, format_number
from kinema.report.text import markdown, terminal_table

PROTOCOL = Protocol(256, 16, 8.0, 64, 64, "area", {"name": "a network"}, "9f" * 32, 0)
NAN = math.nan
HOSTILE = "</td></script><script>alert(1)</script> \"'& | `x` *y* [z](https://example.org) <img src=//example.org>\n# h"


def results() -> list[Result]:
    first = {
        "fvd": Number(212.34567, 198.1, 228.2, 256, "squared distance", "lower", 31.27),
        "kept": Number(0.91, 0.88, 0.94, 128, "share", "higher", 0.99),
        "motion": Number(4.25, 4.1, 4.4, 256, "8-bit pixels", "near", 4.31, "Forced: 256 clips are few."),
    }
    second = {
        "fvd": Number(1361.2, 1300.0, 1420.0, 256, "squared distance", "lower", 31.27),
        "kept": Number(NAN, NAN, NAN, 256, "share", "higher", 0.99, "There are no captions to keep."),
        "motion": Number(4.39, 4.3, 4.5, 256, "8-bit pixels", "near", 4.31),
        "extra": Number(-0.00004, -0.011, 0.012, 256),
    }
    return [
        Result("one", "generated", PROTOCOL, first, {"torch": "2.9"}, {}, ("broken.mp4: no frames",)),
        Result("two", "generated", PROTOCOL, second, {"solver": "heun"}),
    ]


def clips(count: int = 2, frames: int = 5, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, frames, height, width, 3), np.uint8)


class Tables(HTMLParser):
    """The tables of a page by their captions: rows of cells, each with its text and the exact numbers in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[tuple[str, list[float]]]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("caption", "td", "th"):
            self._inside = tag
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append(("", []))
        if tag == "data":
            self._rows[-1][-1][1].append(float(dict(attrs)["value"] or ""))
        if tag in ("sup", "small"):
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "caption":
            self._rows = self.tables.setdefault(data, [])
        elif self._inside:
            text, exact = self._rows[-1][-1]
            self._rows[-1][-1] = (text + data, exact)


def page(results: list[Result], columns: Sequence[ClipColumn] = (), plots: Sequence[Plot] = (), **words: Any) -> str:
    return html_page(build_report(results, **{"title": "t"} | words), columns, plots)


def document(results: list[Result], **words: Any) -> str:
    return markdown(build_report(results, **{"title": "t"} | words))


def terminal(results: list[Result]) -> str:
    """The printed table of numbers."""
    console = Console(width=200, file=io.StringIO())
    console.print(terminal_table(build_report(results, title="t").sections[0].tables[0], "t"))
    return console.file.getvalue()


def markdown_table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading, its head first."""
    lines = text[text.index(heading) :].split("\n\n")
    table = next(part for part in lines if part.startswith("|")).split("\n")
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    return rows[:1] + rows[2:]


def figures(text: str) -> list[str]:
    """The numbers in a cell, without the mark of a note."""
    return re.findall(r"-?\d+\.?\d*", re.sub(r"\[\^?\d+\]", "", text))


def test_page_document_terminal_and_json_have_the_same_numbers() -> None:
    found = results()
    rows = Tables(page(found)).tables["Numbers of each source"]
    lines = markdown_table(document(found), "## Numbers")
    printed = [[cell.strip() for cell in line.split("│")[1:-1]] for line in terminal(found).splitlines() if "│" in line]
    assert [row[0][0].split()[0] for row in rows[1:]] == ["fvd", "kept", "motion", "extra"]
    assert [text for text, _ in rows[0]] == ["Measure", "one generated", "two generated", "Reference"]
    seen = 0
    for row, line, shown in zip(rows[1:], lines[1:], printed, strict=True):
        name = row[0][0].split()[0]
        for column, result in enumerate(found, 1):
            (text, exact), saved = row[column], json.loads(json.dumps(result.to_dict(), allow_nan=False))["numbers"]
            assert figures(text) == figures(line[column]) == figures(shown[column])
            number = saved.get(name, {"value": None})
            if number["value"] is None:
                assert (
                    all(cell.startswith("not measured") for cell in (text, line[column], shown[column])) and not exact
                )
                continue
            assert exact == [number["value"]]
            values = [number[key] for key in ("value", "low", "high")]
            for figure, value in zip(figures(text), values, strict=False):
                assert abs(float(figure) - value) <= 0.5000001 * 10 ** -len(figure.partition(".")[2])
            seen += 1
        assert figures(row[3][0]) == figures(line[3]) == figures(shown[3])
    assert seen == 6
    assert [row[3][1] for row in rows[1:]] == [[31.27], [0.99], [4.31], []]
    assert [row[0][0] for row in rows[1:]] == [
        "fvd squared distance, lower is better",
        "kept share, higher is better",
        "motion 8-bit pixels, best near the reference",
        "extra",
    ]


@pytest.mark.parametrize(
    ("three", "expected"),
    [
        ((212.34567, 198.1, 228.2), ("212.3", "198.1", "228.2")),  # the width of 30.1 to a tenth
        ((0.912345, 0.9, 0.9234), ("0.9123", "0.9000", "0.9234")),
        ((123456.7, 123000.0, 124000.0), ("123457", "123000", "124000")),
        ((-0.00004, -0.011, 0.012), ("0.0000", "-0.0110", "0.0120")),  # no zero has a sign
        ((250.12345, 250.1234, 250.12349), ("250.123", "250.123", "250.123")),  # six digits at most
        ((1.0, 1.0, 1.0), ("1.000", "1.000", "1.000")),
        ((0.0, 0.0, 0.0), ("0.000", "0.000", "0.000")),
        ((12.3456, NAN, NAN), ("12.35", "", "")),
        ((NAN, NAN, NAN), ("not measured", "", "")),
    ],
)
def test_how_a_number_is_written(three: tuple[float, float, float], expected: tuple[str, str, str]) -> None:
    assert format_number(*three) == expected


def test_the_best_is_what_better_says() -> None:
    rows = build_report(results(), title="t").sections[0].tables[0].rows
    assert [[cell.best for cell in row[1:3]] for row in rows] == [
        [True, False],
        [False, False],
        [False, False],  # 4.25 is nearer to 4.31 than 4.39 is, but their intervals overlap
        [False, False],
    ]
    single = build_report(results()[:1], title="t").sections[0]
    assert not any(cell.best for row in single.tables[0].rows for cell in row) and "bold" not in single.text
    text = page(results())
    assert re.findall(r"<b>([\d.]+)</b>", text) == ["212.3"]
    assert re.findall(r"\*\*([^*]*)\*\*", document(results())) == ["212.3"]
    assert "best value of a row is bold" in text


@pytest.mark.parametrize(
    ("better", "intervals", "best"),
    [
        ("lower", [(1, 2), (3, 4), (2.5, 5)], 0),
        ("lower", [(1, 2), (1.9, 4)], None),
        ("higher", [(1, 2), (3, 4)], 1),
        ("near", [(9.9, 10.1), (11, 12)], 0),  # the reference is 10
        ("near", [(8.5, 9.2), (10.5, 10.6)], 1),
        ("near", [(8.5, 9.5), (10.1, 11)], None),
        ("near", [(0, 5), (11, 12), (9, 10.5)], None),
        ("", [(1, 2), (3, 4)], None),
        ("lower", [(1, 2)], None),
        ("lower", [(1, NAN), (3, 4)], None),
    ],
)
def test_bold_is_the_best_whose_interval_is_apart(better: str, intervals: list, best: int | None) -> None:
    numbers = [
        Number(low if math.isnan(high) else (low + high) / 2, low, high, 256, "", better, 10.0)
        for low, high in intervals
    ]
    found = [Result(f"{k}", "generated", PROTOCOL, {"x": number}) for k, number in enumerate(numbers)]
    bold = [cell.best for cell in build_report(found, title="t").sections[0].tables[0].rows[0][1 : 1 + len(found)]]
    assert bold == [k == best for k in range(len(found))]


def test_baselines_are_neither_bold_nor_rivals() -> None:
    def result(name: str, kind: str, value: float) -> Result:
        return Result(name, kind, PROTOCOL, {"x": Number(value, value - 0.1, value + 0.1, 256, "", "lower", 0.0)})

    model, other, held_out = result("m", "generated", 5), result("n", "generated", 7), result("real", "baseline", 1)
    for found, bold in (([model, held_out], []), ([model, other, held_out], ["5.000"])):
        row = build_report(found, title="t").sections[0].tables[0].rows[0]
        assert [cell.text for cell in row if cell.best] == bold
    assert build_report([model, held_out], title="t").lead.startswith("m, ")


def test_without_a_reference_there_is_no_column_for_it() -> None:
    bare = Result("one", "folder", PROTOCOL, {"flow": Number(1.0, 0.5, 1.5, 256)})
    section = build_report([bare], title="t").sections[0]
    assert [cell.text for cell in section.tables[0].head] == ["Measure", "one"] and "floor" not in section.text


def test_given_frames_are_in_the_lead_and_the_protocol() -> None:
    number = {"fvd": Number(1.0, 0.5, 1.5, 256)}
    report = build_report([Result("one", "generated", replace(PROTOCOL, given=5), number)], title="t")
    assert "16 frames (the first 5 are given and not measured)" in report.lead
    assert "the first 5 of a clip, not measured" in markdown(report)
    assert "given" not in build_report([Result("one", "generated", PROTOCOL, number)], title="t").lead


def test_clips_come_before_numbers_and_other_groups_after() -> None:
    nearest = [ClipColumn("one", clips(), 8, ["near", "far"], [5, 3]), ClipColumn("training", clips(), 8, ["a", "b"])]
    report, group = build_report(results(), title="t"), ClipGroup("Copies", "What is near.", nearest)
    text = html_page(report, [ClipColumn("real", clips(), 8)], [Plot("p", "s", clips()[0, 0])], [group])
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Clips", "Numbers", "Copies", "Plots", "Protocol", "Skipped files"]
    rows = Tables(text).tables["Copies"]
    assert [rows[1][0][0].strip(), rows[3][0][0].strip()] == ["Seed 5", "Seed 3"]
    assert [cell.strip() for cell, _ in rows[2]] == ["one near", "training a"]
    assert "<h2>Clips</h2>" not in page(results())


@pytest.mark.parametrize("columns", [4, 5])
def test_a_table_of_numbers_fits_a_phone(columns: int) -> None:
    """By its rules: 360 pixels less the page's margins hold five columns."""
    style = (Path(html.__file__).with_name("page.css")).read_text()
    phone = style[style.index("@media (max-width: 40rem)") :]
    first, other = map(float, re.findall(r"calc\(([\d.]+)rem \+ \(var\(--columns\) - 1\) \* ([\d.]+)rem\)", phone)[0])
    margin = float(re.findall(r"main \{\s*padding: 2rem ([\d.]+)rem", phone)[0])
    assert 16 * (first + (columns - 1) * other) <= 360 - 2 * 16 * margin
    assert f'class="data numbers" style="--columns: {columns}"' in page((results() * 2)[: columns - 2])


def test_notes_are_referred_to_from_their_cells() -> None:
    text, plain = page(results()), document(results())
    rows = Tables(text).tables["Numbers of each source"]
    assert rows[3][1][0].split()[:2] == ["4.250", "[2]"] and rows[2][2][0].split() == ["not", "measured", "[1]"]
    assert '<li id="note-1"><b>[1]</b>There are no captions to keep.</li>' in text
    assert '<li id="note-2"><b>[2]</b>Forced: 256 clips are few.</li>' in text
    lines = markdown_table(plain, "## Numbers")
    assert lines[3][1].endswith("[^2]") and lines[2][2] == "not measured [^1]"
    assert "[^1]: There are no captions to keep.\n[^2]: Forced: 256 clips are few." in plain
    assert "of 128 clips" in rows[2][1][0] and "of 128 clips" in lines[2][1]
    assert "4.250 [4.100, 4.400] [2]" in terminal(results())


def test_references_that_differ_are_both_shown() -> None:
    one, two = (
        Result(name, "generated", PROTOCOL, {"fvd": Number(10.0, 9.0, 11.0, 256, real=real)})
        for name, real in (("one", 3.0), ("two", 3.5))
    )
    assert markdown_table(document([one, two]), "## Numbers")[1][3] == "3.00 to 3.50"


def test_differences_are_the_same_in_page_and_document() -> None:
    rows = [
        Difference("psnr", "one", "two", 1.2345, 0.812, 1.654, 0.0002),
        Difference("x", "one", "two", NAN, NAN, NAN, NAN),
        Difference("y", "one", "two", 1.0, 0.5, 1.5, 0.214),
    ]
    table = Tables(page(results(), differences=rows)).tables["Differences"]
    lines = markdown_table(document(results(), differences=rows), "## Differences")
    assert [figures(text) for text, _ in table[1]] == [figures(cell) for cell in lines[1]]
    assert figures(lines[1][3]) == ["1.234", "0.812", "1.654"] and table[1][3][1] == [1.2345]
    assert table[1][4][0] == "< 0.001" and lines[1][4] == r"\< 0.001" and lines[3][4] == "0.214"
    assert table[2][3][0] == lines[2][3] == table[2][4][0] == lines[2][4] == "not measured"


def test_the_page_has_no_external_references() -> None:
    shown = [ClipColumn("real", clips(), 8), ClipColumn("one", clips(), 8.0, ["a", "b"], [0, 1])]
    text = page(results(), shown, [Plot("p", "s", clips()[0, 0])])
    assert not re.search(r"https?://|@import|url\(", text)
    tags = Tables(text).tags
    sources = [attrs["src"] for tag, attrs in tags if "src" in attrs]
    assert len(sources) == 5 and all(source and source.startswith("data:image/") for source in sources)
    assert [attrs["href"] for tag, attrs in tags if tag == "link"] == ["data:,"]
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'; img-src data:;")


def test_the_script_is_the_one_that_the_policy_allows() -> None:
    text = page(results())
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    digest = re.search(r"script-src 'sha256-([^']*)'", text)
    assert script and digest
    assert base64.b64decode(digest[1]) == hashlib.sha256(script[1].encode()).digest()


@pytest.mark.parametrize("frames", [1, 5, 16])
def test_clips_are_in_the_page_pixel_for_pixel(frames: int) -> None:
    given = clips(3, frames)
    page_tags = Tables(page(results(), [ClipColumn("one", given, 8)])).tags
    images = [attrs for tag, attrs in page_tags if tag == "img"]
    assert len(images) == 3
    for clip, attrs in zip(given, images, strict=True):
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode((attrs["src"] or "").split(",")[1]))).convert("RGB"))
        across = int(attrs["data-columns"] or "")
        for index in range(int(attrs["data-frames"] or "")):
            top, left = index // across * 6, index % across * 8
            np.testing.assert_array_equal(sheet[top : top + 6, left : left + 8], clip[index])
        assert attrs["data-frames"] == str(frames) and attrs["data-fps"] == "8"


def test_large_clips_are_compressed_and_the_page_says_so() -> None:
    small, large = (page(results(), [ClipColumn("one", clips(1, n, 128, 128), 8)]) for n in (64, 65))
    assert "Clips are lossless" in small and "quality 90" in large
    assert len(large) < len(small) / 2


def test_rows_have_one_seed_and_a_shared_caption_once() -> None:
    shown = [
        ClipColumn("real", clips(), 8, ["a red ball", "a blue ball"]),
        ClipColumn("one", clips(), 8, ["a red ball", "a green ball"], [7, 8]),
        ClipColumn("two", clips(1), 8, (), [7]),
    ]
    rows = Tables(page(results(), shown)).tables["Clips, a column for each source"]
    assert [text for text, _ in rows[0]] == ["real", "one", "two"]
    assert rows[1][0][0] == "Seed 7 a red ball" and [text.strip() for text, _ in rows[2]] == ["real", "one", "two"]
    assert rows[3][0][0] == "Seed 8 " and [text.strip() for text, _ in rows[4]] == [
        "real a blue ball",
        "one a green ball",
        "",
    ]


def test_rows_of_different_seeds_raise() -> None:
    shown = [ClipColumn("one", clips(), 8, (), [0, 1]), ClipColumn("two", clips(), 8, (), [0, 2])]
    with pytest.raises(ValueError, match=r"row 2 .* mixes seeds \[1, 2\]"):
        page(results(), shown)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"captions": ["a"]}, "1 captions for 2 clips"),
        ({"seeds": [1, 2, 3]}, "3 seeds for 2 clips"),
        ({"fps": 0.0}, "cannot be played"),
        ({"clips": np.zeros((1, 0, 4, 4, 3), np.uint8)}, "cannot be played"),
        ({"clips": np.zeros((1, 17, 1, 4000, 3), np.uint8)}, "too much for a page"),
    ],
)
def test_clips_that_cannot_be_shown_raise(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClipColumn("one", **({"clips": clips(), "fps": 8} | wrong))


def test_hostile_names_are_text() -> None:
    number = Number(1.0, 0.5, 1.5, 256, HOSTILE, HOSTILE, 1.0, HOSTILE)
    protocol = Protocol(256, 16, None, 64, 64, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, 0)
    found = [Result(HOSTILE, HOSTILE, protocol, {HOSTILE: number}, {HOSTILE: HOSTILE}, {}, (HOSTILE, "\udcff.mp4"))]
    shown = [ClipColumn(HOSTILE, clips(), 8, [HOSTILE, HOSTILE])]
    pictures = [Plot(HOSTILE, HOSTILE, clips()[0, 0])]
    rows = [Difference(HOSTILE, HOSTILE, HOSTILE, 1.0, 0.0, 2.0, 0.5)]
    text = page(found, shown, pictures, title=HOSTILE, reference=HOSTILE, differences=rows)
    tags = [tag for tag, _ in Tables(text).tags]
    assert tags.count("script") == 1 and tags.count("img") == 3
    assert text.count("alert(1)") == text.count("&lt;script&gt;alert(1)")
    assert str(escape(" ".join(HOSTILE.split()))) in text and r"\udcff.mp4" in text
    text.encode()

    plain = document(found, title=HOSTILE, reference=HOSTILE, differences=rows)
    assert not re.search(r"(?<!\\)<|(?<!\\)`|(?<!\\)\[z|^# h", plain, re.MULTILINE)
    for heading in ("## Numbers", "## Differences", "### Protocol", "### How"):
        assert len({len(row) for row in markdown_table(plain, heading)}) == 1  # no name has made a column
    plain.encode()
    assert "[z](https://example.org)" in terminal(found)  # no markup of the terminal either


def test_one_result_without_anything_else() -> None:
    bare = Result("one", "real", PROTOCOL, {"fvd": Number(1.0, 0.5, 1.5, 256)})
    text, plain = page([bare], title="A report"), document([bare], title="A report")
    assert (
        not any(f"{title}</h2>" in text for title in ("Clips", "Plots", "Differences")) and "Differences" not in plain
    )
    assert "<img" not in text and 'class="player"' not in text
    for form in (text, plain):
        assert "95 % interval" in form and "bold" not in form
        assert PROTOCOL.hash in form and "None." in form and "How each was made" not in form
        assert "one, measured against the reference (9f9f9f9f9f): 256 clips of 16 frames, 64x64 pixels" in form


def test_many_results_each_have_a_column_and_their_skipped_files() -> None:
    found = results() * 6
    text = page(found, reference="the test split")
    assert {len(row) for row in Tables(text).tables["Numbers of each source"]} == {1 + 12 + 1}
    assert "12 sources, measured against the test split (9f9f9f9f9f)" in text
    assert text.count("<li>one: broken.mp4: no frames</li>") == 6
    assert Tables(text).tables["How each was made"][1][1][0] == "2.9"


def test_a_report_of_nothing_raises() -> None:
    for make in (page, document):
        with pytest.raises(ValueError, match="no results"):
            make([])


def test_wide_tables_scroll_in_their_own_box_and_are_accessible() -> None:
    text = page(results(), [ClipColumn("one", clips(), 8)], [Plot("p", "s", clips()[0, 0])])
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "@media (max-width: 40rem)" in text and "@media (prefers-color-scheme: dark)" in text
    assert re.search(r"\.box \{[^}]*overflow-x: auto", text)
    tags = Tables(text).tags
    boxes = [attrs for _, attrs in tags if attrs.get("class") == "box"]
    assert len(boxes) == [tag for tag, _ in tags].count("table") == [tag for tag, _ in tags].count("caption")
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in boxes)
    assert all(attrs.get("scope") for tag, attrs in tags if tag == "th")
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
