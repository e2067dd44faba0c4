"""kinema export: write a trained model as one small file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kinema.cli.arguments import parse
from kinema.cli.say import say
from kinema.sampling.model import load_experiment
from kinema.zoo import export


@dataclass(frozen=True)
class Arguments:
    """Write a trained model's sampling weights and configuration as one file.

    Example: kinema export runs/x --out x.safetensors --half
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder or a checkpoint."""
    out: str
    """The file to write, such as x.safetensors."""
    half: bool = False
    """Write float16 weights: half the size, with nearly the same clips."""


def main(words: Sequence[str]) -> None:
    """Write the file and print its size."""
    arguments = parse(Arguments, "kinema export", words)
    out = Path(arguments.out)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: a model is written as .safetensors: end --out in that")
    experiment, spec = load_experiment(arguments.model)
    export(arguments.model, out, experiment.portable().to_dict(spec), arguments.half)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
