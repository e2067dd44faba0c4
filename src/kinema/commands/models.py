"""kinema models: what ships, and what each model can be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from kinema.commands.arguments import parse
from kinema.run import start
from kinema.sample import load
from kinema.weights import shipped


@dataclass(frozen=True)
class Arguments:
    """List the models that came with this installation: what each was trained on, makes, and can be given.

    Example: kinema models
    """


def main(words: Sequence[str]) -> None:
    """Print a row for each model."""
    parse(Arguments, "kinema models", words)
    if not shipped():
        raise ValueError("no models came with this installation: train one with kinema train")
    table = Table("name", "family", "trained on", "makes", "can be given", "weights")
    for name, path in shipped().items():
        model = load(name, start("cpu"))
        facts, accepts = model.facts, model.family.accepts
        rate = f" at {facts.fps:g} a second" if facts.fps else ""
        longest = "" if model.family.longest else ", or longer"
        given = ", ".join(sorted("parts of frames" if what == "known" else what for what in accepts - {"mask"}))
        count = sum(parameter.numel() for parameter in model.family.generator.parameters())
        table.add_row(
            name,
            type(model.family).__name__,
            model.experiment.data.source,
            f"{facts.frames} frames of {facts.width}x{facts.height}{rate}{longest}",
            given,
            f"{count / 1e6:.1f}M, {path.stat().st_size / 1e6:.1f} MB",
        )
    Console().print(table)
