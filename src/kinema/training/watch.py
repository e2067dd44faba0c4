"""Progress of a training run: a status line in the terminal, TensorBoard scalars, and sample sheets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.live import Live
from rich.text import Text
from torch import Tensor

from kinema.data.writing import contact_sheet, to_uint8, write_image
from kinema.experiment import TrainConfig
from kinema.nn.reconstruction import mean_psnr
from kinema.printable import printable
from kinema.runtime.memory import peak_memory
from kinema.sampling.model import stream
from kinema.training.board import Board
from kinema.training.loop import Trainer
from kinema.types import Seeds

__all__ = ["Watcher", "draw_sheet", "sample_clips"]

SCALARS, LINES = 5.0, 30.0  # seconds between scalars, and between lines if stderr is not a terminal
FIRST_SHEET = 40.0  # seconds before the first sample sheet
REAL, CLIPS = 2, 4  # real and generated clips on a sample sheet


class _Console(Console):
    """Standard error, after whose end nothing is shown; rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Watcher:
    """Reports the progress of a run: `with Watcher(out, config) as watch: train(..., watch=watch)`.

    Where it cannot write, as on a full disk or to a terminal that was closed, training goes on.
    """

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self.config, self.out = config, out
        self.console = _Console(file=sys.stderr)
        self.live = Live(console=self.console, auto_refresh=False)
        self._last_scalars = self._last_print = self._last_sheet = time.monotonic()
        self._sheet_after = FIRST_SHEET
        self._start: tuple[int, float] | None = None  # step and seconds of the first call
        self._line = ""
        self._board: Board | None = None  # made at the first step: a run that fails validation leaves no files
        self._board_failed = False

    def __enter__(self) -> Watcher:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):
            self.live.stop()
        if self._start is not None:
            if not self.console.is_terminal:
                self._print(self._line)
            if self._board is not None:
                self._record(lambda board: board.close())

    def __call__(self, trainer: Trainer) -> None:
        """Report the last step, at most every few seconds."""
        now = time.monotonic()
        if self._start is None:
            self._start = (trainer.step, trainer.seconds)
            self._print(_summary(trainer))
        if not self._line or now - self._last_scalars >= SCALARS:
            losses = trainer.losses()
            for name, value in losses.items():
                self._record(
                    lambda board, name=name, value=value: board.add_scalar(f"loss/{name}", value, trainer.step)
                )
            self._line = self._describe(trainer, losses)
            self._show(self._line)
            self._last_scalars = now
        if now - self._last_print >= LINES and not self.console.is_terminal:
            self._print(self._line)
            self._last_print = now
        if now - self._last_sheet >= min(self._sheet_after, 60 * self.config.sample_every_minutes):
            self._add_sheet(trainer)
            self._last_sheet = time.monotonic()
            self._sheet_after *= 2

    def encoding(self, done: int, total: int) -> None:
        """Report the encoding of latents before the first step."""
        line = f"encoded {done:,} of {total:,} windows"
        self._show(line)
        if time.monotonic() - self._last_print >= LINES and not self.console.is_terminal:
            self._print(line)
            self._last_print = time.monotonic()

    def _add_sheet(self, trainer: Trainer) -> None:
        """Add a sample sheet to TensorBoard and the run's folder; a failure is reported and does not stop training."""
        try:
            real, made = sample_clips(trainer)
            if trainer.family.reconstructs:
                likeness = mean_psnr(made, real)
                self._record(lambda board: board.add_scalar("psnr", likeness, trainer.step))
            sheet = draw_sheet(real, made, trainer.family.reconstructs)
            self._record(lambda board: board.add_image("samples", sheet, trainer.step))
            path = self.out / "samples" / f"step-{trainer.step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            self._print(f"samples after {trainer.step:,} steps: {write_image(path, sheet)}")
        except Exception as error:  # of any kind: a GPU without memory, a full disk
            self._print(
                f"no sample sheet at step {trainer.step}: {(str(error).splitlines() or [type(error).__name__])[0]}"
            )

    def _record(self, write: Callable[[Board], None]) -> None:
        """Write to TensorBoard's log; after a failure, which is said once, the next one begins another file."""
        try:
            self._board = self._board or Board(self.out / "tensorboard")
            write(self._board)
            self._board_failed = False
        except OSError as error:
            if not self._board_failed:
                self._print(f"TensorBoard's log cannot be written, and training goes on: {error.strerror or error}")
            self._board, self._board_failed = None, True

    def _show(self, line: str) -> None:
        """Put a line in place of the last one in a terminal."""
        with suppress(OSError):
            self.live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=self.console.is_terminal)

    def _print(self, line: str) -> None:
        with suppress(OSError):
            self.console.print(printable(line), soft_wrap=True, highlight=False, markup=False, emoji=False)

    def _describe(self, trainer: Trainer, losses: dict[str, float]) -> str:
        assert self._start is not None
        steps, seconds = trainer.step - self._start[0], trainer.seconds - self._start[1]
        rate = steps / seconds if seconds else 0.0
        left = []
        if self.config.minutes is not None:
            left.append(60 * self.config.minutes - trainer.seconds)
        if self.config.steps is not None and rate:
            left.append((self.config.steps - trainer.step) / rate)
        parts = [f"step {trainer.step:,}", f"{rate:.2f} it/s"]
        parts += [f"{timedelta(seconds=max(0, round(min(left))))} left"] if left else []
        if (memory := peak_memory(trainer.runtime.device)) is not None:
            parts.append(f"{memory / 1e9:.1f} GB")
        # the losses last, as a narrow terminal truncates the line
        return " · ".join([*parts, *(f"{name} {value:.3f}" for name, value in losses.items())])


def _summary(trainer: Trainer) -> str:
    """One line on the family, the data and the machine."""
    spec, runtime = trainer.spec, trainer.runtime
    weights = sum(p.numel() for turn in trainer.turns for p in turn.parameters) / 1e6
    return (
        f"{type(trainer.family).__name__} with {weights:.2f}M trained weights on {trainer.experiment.data.source}: "
        f"{trainer.config.batch} clips a step of {spec.frames} frames at {spec.width}x{spec.height}, "
        f"{runtime.device} in {str(runtime.precision).removeprefix('torch.')}; Ctrl-C saves and stops"
    )


def sample_clips(trainer: Trainer) -> tuple[Float[Tensor, "B T 3 H W"], Float[Tensor, "B T 3 H W"]]:
    """Real clips, and clips with fixed seeds under their conditions, in [-1, 1]; of a codec the real ones decoded."""
    batch = trainer.source.batch(0, CLIPS, seed=trainer.config.seed).to(trainer.runtime.device)
    conditions = trainer.family.conditions_from(batch)
    with trainer.averaged() as family:
        chunks = stream(family, trainer.runtime, Seeds(tuple(range(CLIPS))), trainer.spec.frames, conditions)
        return batch.frames, torch.cat(list(chunks), 1)


def draw_sheet(
    real: Float[Tensor, "B T 3 H W"], made: Float[Tensor, "B T 3 H W"], reconstructs: bool = False
) -> UInt8[np.ndarray, "Hs Ws 3"]:
    """A contact sheet of some real clips, and below them the generated ones."""
    labels = [f"decoded {k}" if reconstructs else f"seed {k}" for k in range(len(made))]
    clips = to_uint8(torch.cat([real[:REAL], made]))
    return contact_sheet(clips, labels=["real"] * len(real[:REAL]) + labels)
