"""What a person sees of a training run: a live line, and TensorBoard scalars and sample sheets."""

from __future__ import annotations

import resource
import sys
import time
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch.utils.tensorboard.writer import SummaryWriter

from kinema.data.write import contact_sheet, to_uint8
from kinema.run import Run
from kinema.sample import stream
from kinema.train import TrainConfig, Trainer
from kinema.types import Noise

__all__ = ["Watcher"]

SCALARS, LINES = 5.0, 30.0  # seconds between scalars, and between lines where the output is no terminal
CLIPS = 4  # on a sheet


class Watcher:
    """Watches a run: `with Watcher(out, config) as watch: train(..., watch=watch)`."""

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self.config, self.out = config, out
        self.console = Console(file=sys.stderr)
        self.live = Live(console=self.console, auto_refresh=False)
        self._scalars = self._lines = self._look = time.monotonic()
        self._began: tuple[int, float] | None = None  # step and seconds of the first call
        self._line = ""

    @cached_property
    def board(self) -> SummaryWriter:
        """Opened at the first step: a run that is refused leaves nothing behind."""
        return SummaryWriter(str(self.out / "tensorboard"))

    def __enter__(self) -> Watcher:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.live.stop()
        if self._began is not None:
            if not self.console.is_terminal:
                self._print(self._line)
            self.board.close()

    def __call__(self, trainer: Trainer) -> None:
        """Show this step, if it is time to."""
        now = time.monotonic()
        if self._began is None:
            self._began = (trainer.step, trainer.seconds)
            self._print(_summary(trainer))
            self.board.flush()  # where it cannot be written, say so now
        if not self._line or now - self._scalars >= SCALARS:
            losses = trainer.losses()
            for name, value in losses.items():
                self.board.add_scalar(f"loss/{name}", value, trainer.step)
            self._line = self._describe(trainer, losses)
            self.live.update(Text(self._line, no_wrap=True, overflow="ellipsis"), refresh=self.console.is_terminal)
            self._scalars = now
        if now - self._lines >= LINES and not self.console.is_terminal:
            self._print(self._line)
            self._lines = now
        if now - self._look >= 60 * self.config.look_minutes:
            self.board.add_image("samples", _sheet(trainer), trainer.step, dataformats="HWC")
            self._look = time.monotonic()

    def encoding(self, done: int, total: int) -> None:
        """Show how many windows of how many are encoded, before the first step."""
        line = f"encoded {done:,} of {total:,} windows"
        self.live.update(Text(line), refresh=self.console.is_terminal)
        if time.monotonic() - self._lines >= LINES and not self.console.is_terminal:
            self._print(line)
            self._lines = time.monotonic()

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _describe(self, trainer: Trainer, losses: dict[str, float]) -> str:
        assert self._began is not None
        steps, seconds = trainer.step - self._began[0], trainer.seconds - self._began[1]
        rate = steps / seconds if seconds else 0.0
        left = []
        if self.config.minutes is not None:
            left.append(60 * self.config.minutes - trainer.seconds)
        if self.config.steps is not None and rate:
            left.append((self.config.steps - trainer.step) / rate)
        parts = [f"step {trainer.step:,}", f"{rate:.2f} it/s"]
        parts += [f"{timedelta(seconds=max(0, round(min(left))))} left"] if left else []
        parts += [f"{_memory(trainer.run):.1f} GB"]  # the losses last: they are what a narrow terminal cuts
        return " · ".join([*parts, *(f"{name} {value:.3f}" for name, value in losses.items())])


def _summary(trainer: Trainer) -> str:
    """What is trained, on what and how."""
    facts, run = trainer.facts, trainer.run
    weights = sum(p.numel() for p in trainer.family.parameters()) / 1e6
    return (
        f"{type(trainer.family).__name__} of {weights:.2f}M weights on {trainer.experiment.data.source}: "
        f"{trainer.config.batch} clips a step of {facts.frames} frames at {facts.width}x{facts.height}, "
        f"{run.device} in {str(run.precision).removeprefix('torch.')}; Ctrl-C saves and stops"
    )


def _memory(run: Run) -> float:
    """Peak memory so far, in GB: the GPU's where there is one."""
    if run.device.type == "cuda":
        return torch.cuda.max_memory_allocated(run.device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _sheet(trainer: Trainer) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """A contact sheet of the same few clips every time, under conditions that real clips have."""
    batch = trainer.source.batch(0, CLIPS, seed=trainer.config.seed)
    given = trainer.family.conditions_of(batch)
    with trainer.averaged() as family:
        chunks = stream(family, trainer.run, Noise(tuple(range(CLIPS))), trainer.facts.frames, given)
        return contact_sheet(to_uint8(torch.cat(list(chunks), 1)))
