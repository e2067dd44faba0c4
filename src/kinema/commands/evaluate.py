"""kinema evaluate: measure clips, generated or real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from kinema import run
from kinema.commands.arguments import parse
from kinema.commands.reading import open_and_report
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.write import from_uint8
from kinema.metrics.acd import acd, mean_colour, shape_colour
from kinema.metrics.bootstrap import mean_interval
from kinema.sample import load
from kinema.types import Noise
from kinema.worlds import WORLDS

FEATURES = {"shape": shape_colour, "mean": mean_colour}
AT_ONCE = 32  # clips in memory


@dataclass(frozen=True)
class Arguments:
    """Average Content Distance: how much the content of a clip changes over its frames; lower is steadier.

    Example: kinema evaluate runs/x --count 256 --frames 16
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run or a checkpoint, whose clips are generated; a folder of clips; or an embedded world."""
    count: int = 256
    """How many clips."""
    frames: int = 16
    """Frames a clip."""
    features: Literal["shape", "mean"] = "shape"
    """What is content: the mean colour of a shape over black, or of the whole frame."""
    seed: int = 0
    """Of the first generated clip, or of the choice of real ones."""
    json: str | None = None
    """A file for the numbers and the protocol."""
    data: DataConfig = field(default_factory=DataConfig)
    """Size and rate of real clips; --data.source, --data.frames and --data.latents are not used."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Measure, print one line, and write the numbers where asked."""
    arguments = parse(Arguments, "kinema evaluate", words)
    if arguments.count < 2:
        raise ValueError("--count must be at least 2, or there is no interval to state")
    frames, kind = _clips(arguments)
    parts = [acd(part, FEATURES[arguments.features]) for part in frames.split(AT_ONCE)]
    mean, low, high = mean_interval(torch.cat(parts))
    result = {
        "metric": "acd",
        "value": mean,
        "interval95": [low, high],
        "features": f"{arguments.features} colour, 0-255",
        "clips": len(frames),
        "frames": arguments.frames,
        "size": f"{frames.shape[-1]}x{frames.shape[-2]}",
        "source": arguments.source,
        "kind": kind,
        "seed": arguments.seed,
    }
    print(
        f"ACD {mean:.3f}  (95 % {low:.3f} to {high:.3f}; {result['features']}; {len(frames)} {kind} clips of "
        f"{arguments.frames} frames at {result['size']}; seed {arguments.seed})"
    )
    if arguments.json:
        try:
            Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n")
        except OSError as error:
            raise ValueError(f"{arguments.json} could not be written: {error.strerror}") from None


def _clips(arguments: Arguments) -> tuple[Tensor, str]:
    """The clips [N, T, 3, H, W] in [-1, 1] and what they are; generated ones as 8-bit pixels, as a file holds them."""
    path = Path(arguments.source)
    if path.is_file() or any(path.glob("step-*")) or (path / "config.json").exists():
        model = load(path, run.start(arguments.device))
        seeds = range(arguments.seed, arguments.seed + arguments.count)
        pixels = model.clips(Noise(tuple(seeds)), arguments.frames)
        return from_uint8(pixels), "generated"
    config = replace(arguments.data, source=arguments.source, frames=arguments.frames)
    source = open_and_report(config)
    kind = "world" if arguments.source in WORLDS else "real"
    count = arguments.count
    if isinstance(source, FolderSource):  # a clip that counted twice would narrow the interval
        count = min(count, len(source.clips))
    return source.batch(0, count, seed=arguments.seed).frames, kind
