"""The training loop, which runs the turns of any family."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from kinema.data.clips import Source, open_source
from kinema.experiment import Experiment, TrainConfig
from kinema.family import Calibrated, Codec, Family, Turn
from kinema.registry import CODECS
from kinema.runtime.device import Runtime, channels_last, detect_runtime
from kinema.training import checkpoint
from kinema.training.ema import MovingAverage
from kinema.training.latents import LatentSource
from kinema.training.optimizers import load_optimizer, make_optimizers
from kinema.types import Batch, ClipSpec, Progress, hash_seed, no_progress
from kinema.zoo import is_model, load_codec, load_model
from kinema.zoo.files import CODEC, GENERATOR, list_checkpoints
from kinema.zoo.tensors import TRAINING_COPIES, check_fits, check_tensors, outline

__all__ = ["Trainer", "train", "validate"]

FREE_SETTINGS = {"family.sampling"}  # may change when a run is resumed
CALIBRATION_BATCHES, CALIBRATION_BATCH = 48, 8  # clips that codecs are computed from
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
CALIBRATION_SEED = hash_seed("calibrate")
FIXED_TRAINING = ("init_from", "optimizer")  # may not
FIXED_DATA = ("holdout", "fit")


class Trainer:
    """A family with its optimizers and moving average, trained step by step.

    Step k is a function of the state before it and (seed, k), so a resumed run equals an uninterrupted one.
    """

    def __init__(self, experiment: Experiment, source: Source, runtime: Runtime) -> None:
        self.spec, self.source, self.runtime = source.spec, source, runtime
        self.feed = source  # of the training batches: the clips, or their cached latents
        family = experiment.family.resolve_codec(lambda name: load_codec(name)[0], source.spec).fitted(source.spec)
        self.experiment = replace(experiment, family=family)
        self.config = experiment.train
        check_fits(outline(family), runtime.device, TRAINING_COPIES)
        torch.manual_seed(self.config.seed)  # the same on all ranks, so that all start from the same weights
        self.family: Family = family.build().to(runtime.device)
        if experiment.data.cache_latents and self.family.codec is None:
            raise ValueError(
                f"{type(self.family).__name__} learns from pixels, so there are no latents to cache: "
                "leave --data.cache-latents out"
            )
        channels_last(self.family)
        self.turns: Sequence[Turn] = self.family.turns()
        trained = {id(p): p for turn in self.turns for p in turn.parameters}
        names = {id(module): name or "family" for name, module in self.family.named_modules()}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._optimizers_of: dict[int, list[torch.optim.Optimizer]] = {}
        for turn in self.turns:
            if id(turn.module) not in self._optimizers_of:
                optimizers = make_optimizers(self.config, turn.module, turn.parameters)
                self._optimizers_of[id(turn.module)] = list(optimizers.values())
                self.optimizers |= {names[id(turn.module)] + suffix: opt for suffix, opt in optimizers.items()}
        self._trained = list(trained.values())
        self._frozen = {f"generator.{n}" for n, p in self.family.generator.named_parameters() if id(p) not in trained}
        self.average = MovingAverage(self.family.generator, self._trained, self.config.ema_decay)
        self.compiled, self._compile_works = self.config.compile, False
        if self.compiled:
            for turn in self.turns:
                turn.module.compile()
        self.step = 0
        self.saved: int | None = None  # step of the newest checkpoint
        self.seconds = 0.0
        self._loader = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,))  # other cores compute the step
        self._pending: dict[int, Future[Batch]] = {}
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        c = self.config
        used = 0.0 if c.steps is None else self.step / c.steps
        if c.minutes is not None:
            used = max(used, self.seconds / (60 * c.minutes))
        return c.lr * min(1.0, (1 - min(used, 1.0)) / c.cooldown) if c.cooldown else c.lr

    def begin(self) -> None:
        """Load the codec's weights and those of `init_from`; raises ValueError if they are missing or do not fit."""
        codec, origin = self.family.codec, self.experiment.family.codec_source
        if codec is not None and origin is not None and origin in CODECS:
            self._calibrate(codec, origin)
        elif codec is not None and origin is not None:
            weights, what = load_codec(origin)[1], f"{origin}: its weights are not those of the codec here"
            try:
                check_tensors(weights, codec.inference_state(), what)
            except ValueError as error:
                raise ValueError(f"{error}: name the codec with --family.codec") from error
            codec.load_inference_state(weights)
        if (origin := self.config.init_from) is not None:
            weights, what = load_model(origin).generator, f"{origin}: its weights are of another network"
            try:
                check_tensors(weights, self.family.generator.state_dict(), what)
            except ValueError as error:
                raise ValueError(
                    f"{error}: start from a model of the same family, settings, size of frames and kinds of conditions"
                ) from error
            self.family.generator.load_state_dict(weights)
        self.average.reset()

    def _calibrate(self, codec: Codec, name: str) -> None:
        """Compute the codec from clips, on rank 0 for all; with `init_from` it is that model's, whose latents it knows.

        Raises ValueError for a codec that has to be trained, and where that model's codec is another.
        """
        if not isinstance(codec, Calibrated):
            raise ValueError(f"{name} has to be trained: kinema train {name}, then --family.codec RUN")
        if (model := self.config.init_from) is not None:
            config, weights = load_codec(model)
            if config != getattr(self.experiment.family, "codec_config", None):
                raise ValueError(
                    f"{model} has another codec than {name} with these settings: it was trained with {config}, so "
                    "give these with --family.codec-options"
                )
            codec.load_inference_state(weights)
            return
        if self.runtime.rank == 0:
            codec.calibrate(self._calibration_clips())
        self.runtime.broadcast(codec.inference_state().values())

    def _calibration_clips(self) -> Iterator[Tensor]:
        """Yield batches of clips, float32 on the CPU, the same for all seeds of training."""
        for step in range(CALIBRATION_BATCHES):
            yield self.source.batch(step, CALIBRATION_BATCH, seed=CALIBRATION_SEED).to(torch.device("cpu")).frames

    def cache_latents(self, progress: Progress = no_progress) -> None:
        """Encode `data.cache_latents` windows now and train on their latents; the codec must have its weights.

        Raises ValueError if the latents cannot be stored.
        """
        data, codec = self.experiment.data, self.family.codec
        assert codec is not None, "checked when the trainer was made"
        self.feed = LatentSource(self.source, codec, self.runtime, data.cache_latents, data.cache, progress)

    def advance(self) -> None:
        """Run one training step: every turn on one batch, then the update of the moving average."""
        batch = self._batch()
        self.family.train()
        for turn in self.turns:
            scalars = self._backward(turn, batch)
            if self.runtime.ranks > 1:  # a missing gradient is zero, as all ranks must reduce the same tensors
                for p in turn.parameters:
                    p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                self.runtime.average(p.grad for p in turn.parameters if p.grad is not None)
            if self.config.clip_norm is not None:
                nn.utils.clip_grad_norm_(turn.parameters, self.config.clip_norm)
            for optimizer in self._optimizers_of[id(turn.module)]:
                for group in optimizer.param_groups:
                    group["lr"] = self.lr
                optimizer.step()
                optimizer.zero_grad()
            turn.after(self.step)
            for name, value in scalars.items():
                self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        self.average.update(self.step)
        self._compile_works = True
        self.step += 1
        self._count += 1

    def _backward(self, turn: Turn, batch: Batch) -> dict[str, Tensor]:
        """Compute the gradients of a turn's parameters; return its scalars."""
        for p in self._trained:
            p.requires_grad_(False)
        for p in turn.parameters:
            p.requires_grad_(True)
        try:
            return self._loss(turn, batch)
        except Exception as error:
            if not self.compiled or self._compile_works:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        self._fall_back(reason)
        return self._loss(turn, batch)

    def _loss(self, turn: Turn, batch: Batch) -> dict[str, Tensor]:
        with self.runtime.autocast():
            loss, scalars = turn.loss(batch, self.runtime.train_step(self.config.seed, self.step, turn.name))
        loss.backward()
        return scalars

    def _fall_back(self, reason: str) -> None:
        """Turn compilation off."""
        self.compiled = False
        for turn in self.turns:
            turn.module._compiled_call_impl = None  # Module.compile has no public inverse
            for p in turn.parameters:
                p.grad = None
        print(f"kinema: torch.compile failed, so training continues without it: {reason}", file=sys.stderr)

    def _batch(self) -> Batch:
        """The batch of this step; the next one is loaded in the background."""
        for step in (self.step, self.step + 1):
            if step not in self._pending:
                self._pending[step] = self._loader.submit(self._read, step)
        return self._pending.pop(self.step).result()

    def _read(self, step: int) -> Batch:
        c, runtime = self.config, self.runtime
        batch = self.feed.batch(step, c.batch, seed=c.seed, rank=runtime.rank, ranks=runtime.ranks)
        return batch.to(runtime.device)

    def close(self) -> None:
        """End the thread that loads batches."""
        self._loader.shutdown(cancel_futures=True)

    def losses(self) -> dict[str, float]:
        """The mean of each scalar since the last call (synchronises the device); raises ValueError if not finite."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        if broken := [name for name, value in means.items() if value != value or abs(value) == float("inf")]:
            raise self._diverged(broken[0])
        return means

    def check_weights(self) -> None:
        """Raise ValueError if a weight, its average or a moment is not finite: gradients of a finite loss can be."""
        states = [self.family.state_dict(), self.average.module.state_dict()]
        for name, optimizer in self.optimizers.items():
            states += [
                {f"the optimizer of {name}": t for t in moments.values()} for moments in optimizer.state.values()
            ]
        for state in states:
            if broken := [name for name, value in state.items() if not value.isfinite().all()]:
                raise self._diverged(broken[0])

    def _diverged(self, name: str) -> ValueError:
        fix = "start again" if self.saved is None else f"resume, from the checkpoint of step {self.saved},"
        return ValueError(
            f"training diverged before step {self.step}: {name} is not finite; {fix} with a smaller --train.lr or "
            "--train.precision float32"
        )

    @contextmanager
    def averaged(self) -> Iterator[Family]:
        """The family in eval mode with the moving average as its generator."""
        generator = self.family.generator
        try:
            self.family.generator = self.average.module
            yield self.family.eval()
        finally:
            self.family.generator = generator

    def state(self) -> checkpoint.Checkpoint:
        """All that the next step depends on; frozen tensors are stored once."""
        codec = self.family.codec
        return checkpoint.Checkpoint(
            config=self.experiment.to_dict(self.spec),
            generator=self.average.module.state_dict(),
            training={name: value for name, value in self.family.own_state().items() if name not in self._frozen},
            optimizers={name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            step=self.step,
            seconds=self.seconds,
            codec=None if codec is None else codec.inference_state(),
        )

    def restore(self, state: checkpoint.Checkpoint) -> None:
        """Load `state`, but keep the optimizers' current settings; raises ValueError if it does not fit."""
        check_resumable(self.experiment, self.spec, state)
        codec, average = self.family.codec, self.average.module
        try:
            check_tensors(state.generator, average.state_dict(), GENERATOR)
            frozen = {name: state.generator[name.removeprefix("generator.")] for name in self._frozen}
            check_tensors(frozen | state.training, self.family.own_state(), checkpoint.TRAINING)
            if codec is not None:
                check_tensors(state.codec or {}, codec.inference_state(), CODEC)
            for name, optimizer in self.optimizers.items():
                load_optimizer(optimizer, state.optimizers.get(name), f"{checkpoint.OPTIMIZERS}: {name}")
        except ValueError as error:
            raise ValueError(
                f"the checkpoint does not fit the network of its own configuration ({error}): it is damaged, or of "
                "another version of kinema; resume from the step before it, or start again with another --out"
            ) from error
        if codec is not None and state.codec is not None:
            codec.load_inference_state(state.codec)
        self.family.load_state_dict(frozen | state.training, strict=False)
        average.load_state_dict(state.generator)
        self.step, self.seconds, self.saved = state.step, state.seconds, state.step


def check_resumable(experiment: Experiment, spec: ClipSpec, state: checkpoint.Checkpoint) -> None:
    """Raise ValueError if a run cannot go on from `state`: with other clips, another family or other settings of it.

    Settings are compared once the experiment's family is fitted to the clips.
    """
    saved, saved_spec = Experiment.from_dict(state.config, "the checkpoint")
    own, theirs = asdict(spec), asdict(saved_spec)
    changed = [f"clips' {name}: {own[name]}, not {value}" for name, value in theirs.items() if own[name] != value]
    if type(experiment.family) is not type(saved.family) or experiment.family.frames is not None:
        lines = experiment.differences(saved)
        changed += [line for line in lines if line.split(":")[0] not in FREE_SETTINGS | {"family.codec"}]
    values = {name: (getattr(experiment.train, name), getattr(saved.train, name)) for name in FIXED_TRAINING}
    changed += [f"train.{name}: {ours}, not {theirs}" for name, (ours, theirs) in values.items() if ours != theirs]
    values = {name: (getattr(experiment.data, name), getattr(saved.data, name)) for name in FIXED_DATA}
    changed += [f"data.{name}: {ours}, not {theirs}" for name, (ours, theirs) in values.items() if ours != theirs]
    source = experiment.family.codec_source
    if source != saved.family.codec_source and source is not None and is_model(source):
        weights, codec = load_codec(source)[1], state.codec or {}
        if weights.keys() != codec.keys() or any(not torch.equal(weights[name], codec[name]) for name in codec):
            changed.append(f"family.codec: {source}, not {saved.family.codec_source}")
    if changed:
        raise ValueError(
            f"the run was started with other settings or clips ({'; '.join(changed[:3])[:400]}): resume it without "
            "flags of --family and on clips of the same kind, or start another with another --out"
        )


def validate(config: TrainConfig, out: Path, resume: bool, source: str = "") -> None:
    """Raise ValueError for a run that cannot start: without a budget, or if `out` is in use or among the clips."""
    if source and out.expanduser().resolve().is_relative_to(Path(source).expanduser().resolve()):
        raise ValueError(
            f"{out} is in the folder of clips, {source}: what a run writes would be taken for clips; "
            "choose another --out"
        )
    if config.steps is None and config.minutes is None:
        raise ValueError("no budget: give --steps or --minutes")
    if wall := next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None):
        raise ValueError(f"{wall} is a file, so a run cannot be kept at {out}: choose another --out")
    if not resume and out.is_dir() and list_checkpoints(out):
        raise ValueError(f"{out} already holds a run: go on with --resume, or choose another --out")


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    source: Source | None = None,
    runtime: Runtime | None = None,
    resume: bool = False,
    watch: Callable[[Trainer], None] = lambda _: None,
    encoding: Progress = no_progress,
) -> Path:
    """Train until the budget is spent or a SIGINT or SIGTERM; return the path of the last checkpoint.

    Writes `out/step-N` every `save_every_minutes` and at the end. `source` defaults to the experiment's data and
    `runtime` to this machine. `watch` is called after every step and must not change weights; `encoding` is the
    progress of caching latents, which is not counted in `minutes`. Raises ValueError if the run cannot start or resume,
    training diverges, or a checkpoint is damaged or cannot be written.
    """
    out, config = Path(out), experiment.train
    validate(config, out, resume, experiment.data.source)
    runtime = runtime or detect_runtime(precision=config.precision)
    source = source or open_source(experiment.data)
    with _run_lock(out, runtime):
        validate(config, out, resume, experiment.data.source)  # another run may have ended since
        if runtime.rank == 0:
            checkpoint.remove_old(out)
        state = checkpoint.load(out) if resume else None
        if state is not None:
            check_resumable(experiment, source.spec, state)
        trainer = Trainer(experiment, source, runtime)
        if state is not None:
            trainer.restore(state)
        else:
            trainer.begin()
            if runtime.rank == 0:
                (out / CODEC).unlink(missing_ok=True)  # left over from a run whose steps were removed
        if experiment.data.cache_latents:
            trainer.cache_latents(encoding)
        _run(trainer, out, watch)
    return out / f"step-{trainer.step:08d}"


def _run(trainer: Trainer, out: Path, watch: Callable[[Trainer], None]) -> None:
    """Train to the end of the budget or a signal, and save."""
    config, runtime = trainer.config, trainer.runtime
    last_save = begun = time.monotonic()
    save_after = 60 * min(1.0, config.save_every_minutes)  # seconds
    before = trainer.seconds

    def save() -> None:
        nonlocal last_save
        trainer.losses()  # raises before a broken state is saved
        trainer.check_weights()
        if runtime.rank == 0 and trainer.saved != trainer.step:
            checkpoint.save_step(out, trainer.state())
        runtime.any(False)  # a barrier: other ranks must not look for the checkpoint or exit while it is written
        trainer.saved, last_save = trainer.step, time.monotonic()

    with _stop_signals() as stop:
        while not runtime.any(
            stop.requested
            or (config.steps is not None and trainer.step >= config.steps)
            or (config.minutes is not None and trainer.seconds >= 60 * config.minutes)
        ):
            trainer.advance()
            trainer.seconds = runtime.mean(before + time.monotonic() - begun)  # it may decide the learning rate
            if runtime.rank == 0:
                watch(trainer)
            if runtime.any(time.monotonic() - last_save >= save_after):
                save()
                save_after = 60 * config.save_every_minutes
        save()


@contextmanager
def _run_lock(out: Path, runtime: Runtime) -> Iterator[None]:
    """Hold a run's folder, so that no two runs write into it; raises ValueError where another one does.

    The system releases the lock of a process that ends. Its file stays in a folder with anything else in it, as one
    that is removed may be locked by another process meanwhile.
    """
    if runtime.rank:
        if runtime.any(False):
            raise ValueError(f"another run writes into {out}")
        yield
        return
    file, holder, existed = out / ".lock", out / ".lock.pid", out.is_dir()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file, timeout=0).acquire()
    except BaseException as error:
        runtime.any(True)  # the others must not wait
        if not isinstance(error, Timeout):
            raise
        number = "unknown"
        with suppress(OSError):
            number = holder.read_text()
        raise ValueError(
            f"another run writes into {out} (process {number}): wait for its end, or choose another --out"
        ) from None
    runtime.any(False)
    with lock:
        try:
            with suppress(OSError):  # of a full disk: it only helps who is refused
                holder.write_text(str(os.getpid()))
            yield
        finally:
            with suppress(OSError):
                holder.unlink(missing_ok=True)
                if [*out.iterdir()] == [file]:  # nothing was begun
                    file.unlink()
                    if not existed:
                        out.rmdir()


@dataclass
class _Stop:
    requested: bool = False


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Make the first SIGINT or SIGTERM request a stop after the current step; a second one acts as usual."""
    stop = _Stop()
    before: dict[int, Any] = {}

    def request(number: int, _: object) -> None:
        stop.requested = True
        signal.signal(number, before[number])

    try:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup and in background jobs
                before[number] = signal.signal(number, request)
    except ValueError:  # only the main thread can handle signals
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
