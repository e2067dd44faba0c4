"""kinema export: write a trained model as one small file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kinema import checkpoint
from kinema.commands.arguments import parse


@dataclass(frozen=True)
class Arguments:
    """Write all that sampling needs of a trained model, its configuration included, as one file.

    Example: kinema export runs/x --out x.safetensors --half
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder or a checkpoint."""
    out: str
    """The file to write, such as x.safetensors."""
    half: bool = False
    """Weights in half precision: half as large, and hardly another clip."""


def main(words: Sequence[str]) -> None:
    """Write the file and say how large it is."""
    arguments = parse(Arguments, "kinema export", words)
    out = Path(arguments.out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: a model is written as .safetensors: end --out in that")
    checkpoint.export(arguments.model, out, arguments.half)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
