"""Seconds from a prompt to a file, for the model that ships: the whole command, and with the model in memory.

    python benchmarks/prompt_time.py [--repeats 5]

"cold" is `kinema generate` in a process of its own. The other rows are in this process, with the model loaded and one
clip made before, with its own settings and with fewer candidates and steps. Every row is a median.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from runs import seconds

from kinema.cli.writing import NOMINAL_FPS
from kinema.data.writing import write_video
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load
from kinema.sampling.request import GenerateRequest

MODEL = "sprites"
PROMPT = "a small red star bouncing, then a blue square moving left"
COUNTS = ("candidates", "steps")
SETTINGS = ({}, {"candidates": 1}, {"steps": 8}, {"steps": 8, "candidates": 1}, {"steps": 4, "candidates": 1})


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="clips of each row (%(default)s)")
    repeats = parser.parse_args().repeats
    keep_freed_memory()  # as `kinema generate` does

    table = Table("", *COUNTS, "s", title=f"{MODEL}: from a prompt to a file, medians of {repeats}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        command = [sys.executable, "-m", "kinema.cli", "generate", PROMPT, "--model", MODEL, "-o", str(out)]
        cold = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(repeats)]
        table.add_row("cold", "as shipped", "as shipped", f"{median(cold):.2f}")
        model = load(MODEL)
        fps = model.spec.fps or NOMINAL_FPS
        for settings in SETTINGS:
            chosen = model.with_sampling(**settings)

            def make(chosen: Model = chosen) -> None:
                write_video(out, chosen.generate(GenerateRequest(text=[PROMPT]))[0], fps)

            make()
            warm = median(seconds(make) for _ in range(repeats))
            table.add_row("warm", *(str(settings.get(name, "as shipped")) for name in COUNTS), f"{warm:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
