"""A report as one HTML file without external references: style, script, clips and plots are embedded.

A clip is a picture of all its frames, of which one is visible at a time. So every browser plays it without a codec, all
clips show the same time, and each can be stopped at any frame. Small clips are lossless: H.264 halves the resolution of
colour, which enlarged clips would show first.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from kinema.report.tables import Report, one_line

__all__ = ["ClipColumn", "ClipGroup", "Plot", "html_page"]

FOLDER = Path(__file__).parent
DESK, PHONE = 192, 128  # pixels of the screen for a clip's longer side
LOSSLESS = 2**20  # pixels of a clip in all; WebP's lossless pictures of more make a page too large
QUALITY = 90  # of the others
SIDE = 16383  # pixels, the longest side of a WebP picture


@dataclass(frozen=True, slots=True, eq=False)
class ClipColumn:
    """Clips of one source: a column of the page, beside the same seeds of other sources.

    Raises ValueError for captions or seeds of another number than clips, and for clips too long for one picture.
    """

    name: str
    clips: UInt8[np.ndarray, "N T H W 3"]
    fps: float
    captions: Sequence[str] = ()
    seeds: Sequence[int] = ()  # of generated clips

    def __post_init__(self) -> None:
        count, frames, height, width, _ = self.clips.shape
        for what, of in (("captions", self.captions), ("seeds", self.seeds)):
            if of and len(of) != count:
                raise ValueError(f"{self.name}: {len(of)} {what} for {count} clips: give each clip its own")
        if not frames or not self.fps > 0:
            raise ValueError(f"{self.name}: {frames} frames at {self.fps:g} a second cannot be played")
        if math.ceil(math.sqrt(frames)) * max(height, width) > SIDE:
            raise ValueError(f"{self.name}: {frames} frames of {width}x{height} are too much for a page: show a part")

    @property
    def lossless(self) -> bool:
        """Whether its pictures are."""
        return math.prod(self.clips.shape[1:4]) <= LOSSLESS


@dataclass(frozen=True, slots=True)
class ClipGroup:
    """Columns of clips under a heading of their own."""

    title: str
    text: str
    columns: Sequence[ClipColumn]


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot with its title and a caption."""

    title: str
    caption: str
    pixels: UInt8[np.ndarray, "H W 3"]


def html_page(
    report: Report,
    columns: Sequence[ClipColumn] = (),
    plots: Sequence[Plot] = (),
    groups: Sequence[ClipGroup] = (),
) -> str:
    """The report as an HTML document; `columns` are clips, the reference's first, with the same seeds in each row.

    The clips come first, then the first section, then `groups` of other clips, plots and the other sections. Raises
    ValueError where a row of clips would mix seeds.
    """
    script, style = (Markup((FOLDER / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css"))
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: one_line(value) if type(value) is str else value,  # Markup is left as it is
    )
    lossless = all(column.lossless for group in (columns, *(group.columns for group in groups)) for column in group)
    lossy = f"Clips of more than {LOSSLESS} pixels in all are compressed (WebP, quality {QUALITY})."
    seeded = "Generated clips are in the row of their seed. " if any(column.seeds for column in columns) else ""
    clips = ClipGroup("Clips", seeded + ("Clips are lossless." if lossless else lossy), columns)
    return environment.get_template("page.html.j2").render(
        report=report,
        clips=(clips, _rows(columns)),
        groups=[(group, _rows(group.columns)) for group in groups],
        plots=[(plot, _data_url(plot.pixels, "png", optimize=True)) for plot in plots],
        style=style,
        script=script,
        digest="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _rows(columns: Sequence[ClipColumn]) -> list[dict[str, Any]]:
    return [_row(columns, index) for index in range(max((len(column.clips) for column in columns), default=0))]


def _row(columns: Sequence[ClipColumn], index: int) -> dict[str, Any]:
    """The clips with one index, and their caption where they share it."""
    present = [column for column in columns if index < len(column.clips)]
    seeds = {column.seeds[index] for column in present if column.seeds}
    if len(seeds) > 1:
        raise ValueError(f"row {index + 1} of the clips mixes seeds {sorted(seeds)}: show the same of each source")
    captions = {column.captions[index] for column in present if column.captions}
    shared = captions.pop() if len(captions) == 1 else ""
    name = f"Seed {seeds.pop()}" if seeds else f"Clip {index + 1}"
    clips = [_clip(column, index, name, shared) if column in present else None for column in columns]
    return {"name": name, "caption": shared, "clips": clips}


def _clip(column: ClipColumn, index: int, row: str, shared: str) -> dict[str, Any]:
    frames, height, width, _ = column.clips[index].shape
    across = math.ceil(math.sqrt(frames))
    down = math.ceil(frames / across)
    sheet = np.zeros((down * across, height, width, 3), np.uint8)
    sheet[:frames] = column.clips[index]
    sheet = sheet.reshape(down, across, height, width, 3).swapaxes(1, 2).reshape(down * height, across * width, 3)
    side = max(height, width)
    caption = column.captions[index] if column.captions else ""
    options = {"lossless": True, "quality": 50} if column.lossless else {"quality": QUALITY}  # lossless: its effort
    return {
        "source": column.name,
        "caption": caption if caption != shared else "",
        "alt": f"{column.name}, {row}" + (f": {caption}" if caption else ""),
        "image": _data_url(sheet, "webp", **options),
        "width": width,
        "height": height,
        "desk": _scale(side, DESK),
        "phone": _scale(side, PHONE),
        "crisp": side <= PHONE,
        "frames": frames,
        "across": across,
        "fps": f"{column.fps:g}",
    }


def _scale(side: int, room: int) -> float:
    """How many times a clip is enlarged: a whole number, so that all its pixels have one size, unless it is shrunk."""
    return room // side if side <= room else round(room / side, 4)


def _data_url(pixels: np.ndarray, kind: str, **options: bool | int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
