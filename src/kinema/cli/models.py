"""kinema models: list the shipped models and their conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from kinema.cli.arguments import parse
from kinema.runtime.device import detect_runtime
from kinema.sampling.model import load
from kinema.zoo import shipped


@dataclass(frozen=True)
class Arguments:
    """List the shipped models: their training data, output, conditions and size.

    Example: kinema models
    """


def main(words: Sequence[str]) -> None:
    """Print a table with a row for each model."""
    parse(Arguments, "kinema models", words)
    if not shipped():
        raise ValueError("no models came with this installation: train one with kinema train")
    table = Table("name", "family", "trained on", "makes", "conditions", "weights")
    for name, path in shipped().items():
        model = load(name, detect_runtime("cpu"))
        spec, accepts = model.spec, model.family.accepts
        rate = f" at {spec.fps:g} a second" if spec.fps else ""
        longer = "" if model.family.max_frames else ", or longer"
        conditions = ", ".join(sorted("known frames" if name == "known" else name for name in accepts - {"mask"}))
        count = sum(parameter.numel() for parameter in model.family.parameters())
        table.add_row(
            name,
            type(model.family).__name__,
            model.experiment.data.source,
            f"{spec.frames} frames of {spec.width}x{spec.height}{rate}{longer}",
            conditions,
            f"{count / 1e6:.1f}M, {path.stat().st_size / 1e6:.1f} MB",
        )
    Console().print(table)
