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
from kinema.sample import stream
from kinema.train import Progress, TrainConfig
from kinema.types import Conditions, Noise

__all__ = ["Watcher"]

SCALARS, LINES = 5.0, 30.0  # seconds between scalars, and between lines where the output is no terminal
CLIPS = 4  # on a sheet


class Watcher:
    """Watches a run: `with Watcher(out, config) as watch: train(..., watch=watch)`."""

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self.config, self.out = config, out
        self.console = Console(file=sys.stderr)
        self.live = Live(console=self.console, transient=False, auto_refresh=False)
        self._scalars = self._lines = self._look = time.monotonic()
        self._first: tuple[int, float] | None = None  # step and seconds when the watch began

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
        if self._first is not None:
            self.board.close()

    def __call__(self, progress: Progress) -> None:
        """Show this step, if it is time to."""
        now = time.monotonic()
        if self._first is None:
            self._first = (progress.step, progress.seconds)
            self.board.flush()  # where it cannot be written, say so now
        if now - self._scalars >= SCALARS:
            losses = progress.losses()
            for name, value in losses.items():
                self.board.add_scalar(f"loss/{name}", value, progress.step)
            line = self._line(progress, losses)
            if self.console.is_terminal:
                self.live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
            elif now - self._lines >= LINES:
                self.console.print(line, soft_wrap=True, highlight=False)
                self._lines = now
            self._scalars = time.monotonic()
        if now - self._look >= 60 * self.config.look_minutes:
            self.board.add_image("samples", _sheet(progress), progress.step, dataformats="HWC")
            self._look = time.monotonic()

    def _line(self, progress: Progress, losses: dict[str, float]) -> str:
        assert self._first is not None
        steps, seconds = progress.step - self._first[0], progress.seconds - self._first[1]
        rate = steps / seconds if seconds else 0.0
        left = []
        if self.config.minutes is not None:
            left.append(60 * self.config.minutes - progress.seconds)
        if self.config.steps is not None and rate:
            left.append((self.config.steps - progress.step) / rate)
        parts = [f"step {progress.step:,}", f"{rate:.2f} it/s"]
        parts += [f"{timedelta(seconds=max(0, round(min(left))))} left"] if left else []
        parts += [f"{_memory(progress):.1f} GB"]  # the losses last: they are what a narrow terminal cuts
        return " · ".join([*parts, *(f"{name} {value:.3f}" for name, value in losses.items())])


def _memory(progress: Progress) -> float:
    """Peak memory so far, in GB: the GPU's where there is one."""
    if progress.trainer.run.device.type == "cuda":
        return torch.cuda.max_memory_allocated(progress.trainer.run.device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _sheet(progress: Progress) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """A contact sheet of the same few clips every time, under conditions that real clips have."""
    trainer = progress.trainer
    real = trainer.source.batch(0, CLIPS, seed=trainer.config.seed).given
    given = Conditions(**{name: getattr(real, name) for name in real.present & trainer.family.accepts})
    with trainer.averaged() as family:
        chunks = stream(family, trainer.run, Noise(tuple(range(CLIPS))), trainer.facts.frames, given)
        return contact_sheet(to_uint8(torch.cat(list(chunks), 1)))
