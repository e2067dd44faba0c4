"""What a run will take, measured before it begins: time, memory and disk, and what of it will not fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from kinema.data.clips import FolderSource, Source
from kinema.experiment import Experiment
from kinema.family import Codec, encode_exactly
from kinema.nn.reconstruction import mean_psnr
from kinema.runtime.device import Runtime
from kinema.runtime.memory import available_memory, peak_memory
from kinema.training.loop import Trainer
from kinema.types import Batch, hash_seed

__all__ = ["Plan", "make_plan"]

STEPS = 3  # that are timed, after one that is not
DECODED = 8  # clips whose PSNR is measured
SMALL = 2, 4  # clips of the batches from which memory is estimated; of 1 there is no batch normalisation
KEPT = 2  # checkpoints of a run
SPARE = 0.9  # share of the available memory that a run may take


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will take on this machine."""

    weights: int  # trained
    seconds: float  # of a step
    memory: float | None  # bytes at the peak; None: unknown here
    steps: int  # in the budget
    passes: float | None  # over the clips, one window of each; None: a world has no end
    disk: int  # bytes of the checkpoints that are kept
    codec_psnr: float | None  # dB, of clips that the codec decodes; None: there is no codec


def make_plan(experiment: Experiment, source: Source, runtime: Runtime) -> Plan:
    """Train a copy of the run for a few steps, and measure them.

    First with two clips and with four, from which the memory of a whole batch is estimated. Raises ValueError, with the
    settings that mend it, where a batch would not fit into memory.
    """
    batch = experiment.train.batch
    few, more = SMALL
    small = [_measure(experiment, source, runtime, size, 1).memory for size in SMALL] if batch > more else []
    if len(small) == 2 and small[0] is not None and small[1] is not None:
        growth = max(0.0, small[1] - small[0]) / (more - few)
        room = SPARE * available_memory(runtime.device)
        if (needed := growth * (batch - more)) > room:
            fits = max(1, more + int(room / growth))
            raise ValueError(
                f"a step of {batch} clips needs about {(small[1] + needed) / 1e9:.1f} GB, and {room / 1e9:.1f} GB are "
                f"free: make it --train.batch {fits}, or frames fewer or smaller (--data.frames, --data.height, "
                "--data.width)"
            )
    return _measure(experiment, source, runtime, batch, STEPS)


def _measure(experiment: Experiment, source: Source, runtime: Runtime, batch: int, steps: int) -> Plan:
    """The plan by steps of `batch` clips."""
    config = replace(experiment.train, batch=batch, compile=False)
    trainer = Trainer(replace(experiment, train=config), source, runtime)
    trainer.begin()
    codec_psnr = None if trainer.family.codec is None else _codec_psnr(trainer.family.codec, trainer)
    if experiment.data.cache_latents and trainer.family.codec is not None:
        trainer.feed = _Encoded(source, trainer.family.codec, runtime)
    trainer.advance()
    _wait(runtime)
    begun = time.perf_counter()
    for _ in range(steps):
        trainer.advance()
    _wait(runtime)
    seconds = (time.perf_counter() - begun) / steps
    memory = peak_memory(runtime.device)
    weights = sum(p.numel() for turn in trainer.turns for p in turn.parameters)
    values = sum(x.numel() for x in trainer.family.state_dict().values())
    count = sum(x.numel() for x in trainer.average.module.state_dict().values())
    moments = sum(
        x.numel()
        for optimizer in trainer.optimizers.values()
        for state in optimizer.state.values()
        for x in state.values()
        if isinstance(x, torch.Tensor)
    )
    trainer.close()
    budget = [] if config.steps is None else [config.steps]
    budget += [] if config.minutes is None else [int(60 * config.minutes / seconds)]
    total = min(budget, default=0)
    clips = len(source.clips) if isinstance(source, FolderSource) else None
    passes = None if clips is None else total * batch * runtime.ranks / clips
    return Plan(weights, seconds, memory, total, passes, 4 * KEPT * (values + count + moments), codec_psnr)


class _Encoded:
    """A source of latents that are encoded now: the steps of a run with cached latents, without its cache."""

    def __init__(self, source: Source, codec: Codec, runtime: Runtime) -> None:
        self.spec, self.skipped, self.key = source.spec, source.skipped, source.key
        self._source, self._codec, self._runtime = source, codec, runtime
        self._batch: Batch | None = None

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The same batch for all steps, as reading cached latents takes next to no time."""
        if self._batch is None:
            batch = self._source.batch(0, size, seed=seed)
            frames = Batch(batch.frames).to(self._runtime.device).frames
            with torch.no_grad(), self._runtime.autocast():
                latents = encode_exactly(self._codec, frames).half().cpu()
            self._batch = Batch(batch.frames[:, :0], batch.conditions, latents)
        return self._batch


@torch.no_grad()
def _codec_psnr(codec: Codec, trainer: Trainer) -> float:
    """The PSNR of a batch of clips that the codec encodes and decodes, in dB: a mean over clips."""
    frames = trainer.source.batch(0, DECODED, seed=hash_seed("plan")).to(trainer.runtime.device).frames
    return mean_psnr(codec.decode(encode_exactly(codec, frames))[0], frames)


def _wait(runtime: Runtime) -> None:
    """Wait until the device has done what it was asked for."""
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
