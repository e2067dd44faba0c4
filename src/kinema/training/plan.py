"""What a run will take, measured before it begins: time, memory and disk, and what of it will not fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from kinema.data.clips import FolderSource, Source
from kinema.experiment import Experiment
from kinema.family import Codec, encode_exactly
from kinema.nn.reconstruction import mean_psnr
from kinema.runtime.device import Runtime
from kinema.runtime.memory import available_memory, peak_memory, release_freed_memory
from kinema.training.loop import Trainer
from kinema.types import Batch, hash_seed

__all__ = ["Plan", "make_plan"]

STEPS = 3  # that are timed
DECODED = 8  # clips whose PSNR is measured
FEWEST = 2  # clips of the first batch: of 1 there is no batch normalisation
KEPT = 2  # checkpoints of a run
FAR = 8  # times the free memory; what a batch takes is not known well from a few clips
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

    The batch grows from `FEWEST` clips by doubling, so that what will not fit is known before it is tried. Raises
    ValueError, with the settings that mend it, where the network or a batch would not fit into memory.
    """
    config = replace(experiment.train, compile=False)
    trainer = Trainer(replace(experiment, train=config), source, runtime)
    try:
        trainer.begin()
        codec = trainer.family.codec
        codec_psnr = None if codec is None else _codec_psnr(codec, trainer)
        feed = _Encoded(source, codec, runtime) if experiment.data.cache_latents and codec is not None else source
        _check_memory(trainer, feed)
        trainer.feed = feed
        for _ in range(2):  # one batch was loaded before, and the next is the first of its size
            trainer.advance()
        seconds = median(_seconds(trainer) for _ in range(STEPS))
        return Plan(
            weights=sum(p.numel() for turn in trainer.turns for p in turn.parameters),
            seconds=seconds,
            memory=peak_memory(runtime.device),
            steps=(steps := _steps(experiment, seconds)),
            passes=steps * config.batch * runtime.ranks / len(source.clips)
            if isinstance(source, FolderSource)
            else None,
            disk=KEPT * _checkpoint_size(trainer),
            codec_psnr=codec_psnr,
        )
    finally:
        trainer.close()
        del trainer
        release_freed_memory()  # or the run itself would seem not to fit


def _check_memory(trainer: Trainer, feed: Source) -> None:
    """Train on ever more clips, up to half of a batch; raises ValueError where the next doubling would not fit."""
    device, batch, size, before = trainer.runtime.device, trainer.config.batch, FEWEST, None
    while size < batch:
        trainer.feed = _Few(feed, size)
        for _ in range(2):  # the first batch was loaded before
            trainer.advance()
        peak = peak_memory(device)
        if before is not None and peak is not None:
            of_a_clip = max(0.0, peak - before) / (size - size // 2)
            room = SPARE * available_memory(device)
            for clips, times in ((min(batch, 2 * size), 1), (batch, FAR)):  # soon, and at last
                if (needed := of_a_clip * (clips - size)) > times * room:
                    raise ValueError(
                        f"--train.batch {batch} is too large: a step of {clips:,} clips takes about {needed / 1e9:.1f} "
                        f"GB more, and {room / 1e9:.1f} GB are free: make it {size + int(room / of_a_clip)}, or frames "
                        "fewer or smaller (--data.frames, --data.height, --data.width)"
                    )
        before, size = peak, 2 * size
        release_freed_memory()  # pieces for small batches would stay beside those for large ones


def _seconds(trainer: Trainer) -> float:
    """The seconds of a step."""
    _wait(trainer.runtime)
    begun = time.perf_counter()
    trainer.advance()
    _wait(trainer.runtime)
    return time.perf_counter() - begun


def _steps(experiment: Experiment, seconds: float) -> int:
    """The steps in the budget; 0 without one."""
    config = experiment.train
    budget = [] if config.steps is None else [config.steps]
    budget += [] if config.minutes is None else [int(60 * config.minutes / seconds)]
    return min(budget, default=0)


def _checkpoint_size(trainer: Trainer) -> int:
    """The bytes of the tensors in a checkpoint."""
    state = trainer.state()
    moments = [
        value for optimizer in trainer.optimizers.values() for one in optimizer.state.values() for value in one.values()
    ]
    tensors = [
        *state.generator.values(),
        *state.training.values(),
        *(x for x in moments if isinstance(x, torch.Tensor)),
    ]
    return sum(x.numel() * x.element_size() for x in tensors)


class _Few:
    """A source whose batches have no more than `most` clips."""

    def __init__(self, source: Source, most: int) -> None:
        self.spec, self.skipped, self._source, self._most = source.spec, source.skipped, source, most

    @property
    def key(self) -> str:
        """That of the other source."""
        return self._source.key

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """A batch of the other source."""
        return self._source.batch(step, min(size, self._most), seed=seed, rank=rank, ranks=ranks)


class _Encoded:
    """A source of latents that are encoded now: the steps of a run with cached latents, without its cache."""

    def __init__(self, source: Source, codec: Codec, runtime: Runtime) -> None:
        self.spec, self.skipped = source.spec, source.skipped
        self._source, self._codec, self._runtime = source, codec, runtime
        self._batch: Batch | None = None

    @property
    def key(self) -> str:
        """That of the source."""
        return self._source.key

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The same batch for all steps, as reading cached latents takes next to no time."""
        if self._batch is None or len(self._batch.frames) != size:
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
