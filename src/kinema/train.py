"""The one training loop: it plays a family's turns and knows no family."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kinema import checkpoint
from kinema.config import from_dict, to_dict
from kinema.data.clips import DataConfig, Progress, Source, open_source
from kinema.data.latents import LatentSource
from kinema.families import FAMILIES, config_class
from kinema.family import Facts, Family, FamilyConfig
from kinema.run import Precision, Run, channels_last, start
from kinema.types import Batch
from kinema.weights import shipped

__all__ = ["Experiment", "TrainConfig", "Trainer", "refuse", "train"]


@dataclass(frozen=True)
class TrainConfig:
    """How any family is trained."""

    steps: int | None = None
    """Stop after so many steps in all."""
    minutes: float | None = None
    """Stop after so many minutes of training in all, pauses between resumed pieces not counted."""
    batch: int = 32
    """Clips in a step, on each machine that takes part."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Of all weights; or Muon, whose steps are dearer and get further, of the matrices of linear layers."""
    lr: float = 2e-4
    """Learning rate: Muon's steps are as large as AdamW's would be."""
    cooldown: int = 0
    """Of `steps`, the last so many, over which the learning rate falls to 0."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay of AdamW's two moments."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip_norm: float | None = None
    """Largest norm of a player's gradient."""
    average: float = 0.999
    """Decay of the moving average of the generator that is sampled from (0: its last weights)."""
    precision: Precision = "auto"
    """Of matrix work: bfloat16 where the machine is fast at it, or as told."""
    compile: bool = False
    """Compile what is trained with torch.compile, for runs of hours: it takes a C++ compiler and a minute at first."""
    seed: int = 0
    """Of the first weights, the data order and all noise."""
    start: str | None = None
    """A run, or a model that ships, whose weights training starts from: of the same network, on clips of any length."""
    save_minutes: float = 3.0
    """Minutes between checkpoints: the most that a kill can lose."""
    look_minutes: float = 3.0
    """Minutes between the sample grids in TensorBoard."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes must be more than 0, not {self.minutes}")
        if self.batch < 1 or self.lr <= 0 or not 0 <= self.average < 1:
            raise ValueError("batch must be at least 1, lr more than 0 and average in [0, 1)")
        if self.cooldown < 0:
            raise ValueError(f"cooldown must be 0 or more steps, not {self.cooldown}")


@dataclass(frozen=True)
class Experiment:
    """All that decides what a run becomes."""

    family: FamilyConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def changed(self, **parts: dict[str, Any]) -> Experiment:
        """The same experiment with other settings: `changed(data={"source": "clips/"}, train={"minutes": 60})`.

        Raises TypeError for a setting that is not there.
        """
        return replace(self, **{part: replace(getattr(self, part), **settings) for part, settings in parts.items()})

    def to_dict(self, facts: Facts) -> dict[str, Any]:
        """Plain values for a checkpoint's config.json, with the facts of the clips it was trained on."""
        name = next(n for n in FAMILIES if config_class(n) is type(self.family))
        return {
            "family": {"name": name, **to_dict(self.family)},
            "data": to_dict(self.data),
            "train": to_dict(self.train),
            "facts": asdict(facts),
        }

    @staticmethod
    def from_dict(values: dict[str, Any], where: str) -> tuple[Experiment, Facts]:
        """The experiment and the facts in a checkpoint's values; raises ValueError that starts with `where`."""
        if set(values) != {"family", "data", "train", "facts"} or "name" not in values["family"]:
            raise ValueError(f"{where}: not a kinema configuration (family with a name, data, train and facts)")
        family = dict(values["family"])
        cls = config_class(family.pop("name"))
        experiment = Experiment(
            from_dict(cls, family, f"{where}: family"),
            from_dict(DataConfig, values["data"], f"{where}: data"),
            from_dict(TrainConfig, values["train"], f"{where}: train"),
        )
        return experiment, from_dict(Facts, values["facts"], f"{where}: facts")


class Trainer:
    """A family, its optimizers and its moving average, one step at a time.

    Step k is a function of the weights before it and (seed, k), so a resumed run equals an unbroken one.
    """

    def __init__(self, experiment: Experiment, source: Source, run: Run) -> None:
        self.facts, self.source, self.run = source.facts, source, run
        self.feed = source  # what steps learn from: the clips, or latents that are kept of them
        self.experiment = replace(experiment, family=experiment.family.fitted(source.facts))
        self.config = experiment.train
        torch.manual_seed(self.config.seed)  # not by rank: all start from the same weights
        self.family: Family = self.experiment.family.build().to(run.device)
        channels_last(self.family)
        self.turns = self.family.turns()
        names = {id(module): name or "family" for name, module in self.family.named_modules()}
        players = {names[id(turn.player)]: turn.player for turn in self.turns}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._optimizers_of: dict[int, list[torch.optim.Optimizer]] = {}
        for name, player in players.items():
            own = self._optimizers(player)
            self._optimizers_of[id(player)] = list(own.values())
            self.optimizers |= {name + part: optimizer for part, optimizer in own.items()}
        self.average = copy.deepcopy(self.family.generator).requires_grad_(False).eval()
        if self.config.compile:
            for player in players.values():
                player.compile()
        self.step = 0
        self.seconds = 0.0
        self._ahead = ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,))  # the other cores are the step's
        self._coming: dict[int, Future[Batch]] = {}
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def _optimizers(self, player: nn.Module) -> dict[str, torch.optim.Optimizer]:
        """Those of a player's weights, by what is added to its name.

        Muon (Jordan et al. 2024) is told to move matrices as far as AdamW would (Liu et al. 2025, arXiv 2502.16982,
        section 2.2).
        """
        c, matrices = self.config, []
        if c.optimizer == "muon":
            matrices = [module.weight for module in player.modules() if isinstance(module, nn.Linear)]
        others = [p for p in player.parameters() if all(p is not matrix for matrix in matrices)]
        own: dict[str, torch.optim.Optimizer] = {}
        if others:
            own[""] = torch.optim.AdamW(others, c.lr, c.betas, weight_decay=c.weight_decay, fused=True)
        if matrices:
            own[".matrices"] = torch.optim.Muon(
                matrices, c.lr, weight_decay=c.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        return own

    @property
    def lr(self) -> float:
        """The learning rate of the step that comes next."""
        c = self.config
        if not c.cooldown or c.steps is None:
            return c.lr
        return c.lr * min(1.0, (c.steps - self.step) / c.cooldown)

    def begin(self) -> None:
        """Take what a new run begins from; raises ValueError where that cannot be had."""
        self.family.begin()
        if (origin := self.config.start) is not None:
            _, weights = checkpoint.load_generator(shipped().get(origin, origin))
            try:
                self.family.generator.load_state_dict(weights)
            except RuntimeError as error:
                raise ValueError(
                    f"{origin}: its weights are of another network ({str(error).splitlines()[1].strip()}): start from "
                    "a model of the same family, settings, size of frames and kinds of conditions"
                ) from error
        self.average.load_state_dict(self.family.generator.state_dict())

    def keep_latents(self, progress: Progress | None = None) -> None:
        """Learn from `data.latents` windows that are encoded once, now, when the codec has its weights.

        Raises ValueError where the family has no codec, and where the latents cannot be kept.
        """
        data, codec = self.experiment.data, self.family.codec
        if codec is None:
            raise ValueError(
                f"{type(self.family).__name__} learns from pixels, so there are no latents to keep: "
                "leave --data.latents out"
            )
        self.feed = LatentSource(self.source, codec, self.run, data.latents, data.cache, progress)

    def advance(self) -> None:
        """Play every turn once, on one batch, and let the moving average follow."""
        c, run = self.config, self.run
        batch = self._batch()
        self.family.train()
        for turn in self.turns:
            self.family.requires_grad_(False)
            turn.player.requires_grad_(True)
            with run.autocast():
                loss, scalars = turn.loss(batch, run.generator(c.seed, self.step, turn.name))
            loss.backward()
            parameters = [p for p in turn.player.parameters() if p.grad is not None]
            run.average(p.grad for p in parameters if p.grad is not None)
            if c.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, c.clip_norm, foreach=True)
            for optimizer in self._optimizers_of[id(turn.player)]:
                for group in optimizer.param_groups:
                    group["lr"] = self.lr
                optimizer.step()
                optimizer.zero_grad()
            turn.after()
            for name, value in scalars.items():
                self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        self._follow()
        self.step += 1
        self._count += 1

    def _batch(self) -> Batch:
        """The batch of this step; the next one is made during it."""
        for step in (self.step, self.step + 1):
            if step not in self._coming:
                self._coming[step] = self._ahead.submit(self._made, step)
        return self._coming.pop(self.step).result()

    def _made(self, step: int) -> Batch:
        c, run = self.config, self.run
        return self.feed.batch(step, c.batch, seed=c.seed, rank=run.rank, ranks=run.ranks).to(run.device)

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))  # short at first, when weights move fast
        if self.config.average == 0:
            decay = 0.0
        mine, theirs = _tensors(self.average), _tensors(self.family.generator)
        floating = [(a, b) for a, b in zip(mine, theirs, strict=True) if a.is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [a for a, _ in floating], [b for _, b in floating], 1 - decay
        )

    def losses(self) -> dict[str, float]:
        """Mean of each scalar since last asked, which waits for the device; raises ValueError if one is not finite."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        if broken := [name for name, value in means.items() if value != value or abs(value) == float("inf")]:
            raise self._broke(broken[0])
        return means

    def check_weights(self) -> None:
        """Raise ValueError if a weight is no longer a number: a finite loss can have a gradient that is not."""
        if broken := [name for name, value in self.family.state_dict().items() if not value.isfinite().all()]:
            raise self._broke(broken[0])

    def _broke(self, name: str) -> ValueError:
        return ValueError(
            f"training broke before step {self.step}: {name} is not finite; the last checkpoint is from before it: "
            "resume with a smaller --train.lr or --train.precision float32"
        )

    @contextmanager
    def averaged(self) -> Iterator[Family]:
        """The family as it is sampled from: its moving average in the generator's place."""
        mine = self.family.generator
        try:
            self.family.generator = self.average
            yield self.family.eval()
        finally:
            self.family.generator = mine

    def state(self) -> checkpoint.Checkpoint:
        """All that the next step depends on."""
        return checkpoint.Checkpoint(
            config=self.experiment.to_dict(self.facts),
            generator=self.average.state_dict(),
            training=self.family.state_dict(),
            optimizers={name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            step=self.step,
            seconds=self.seconds,
        )

    def restore(self, state: checkpoint.Checkpoint) -> None:
        """Go on from `state`, with the optimizers' settings as they are now; raises ValueError if it does not fit."""
        try:
            self.family.load_state_dict(state.training)
            self.average.load_state_dict(state.generator)
            for name, optimizer in self.optimizers.items():
                settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
                optimizer.load_state_dict(state.optimizers[name])
                for group, own in zip(optimizer.param_groups, settings, strict=True):
                    group.update(own)  # a learning rate that was changed on resuming
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                "the run was begun with another network or other sizes of clips: resume it without --family and --data "
                "flags, or begin another with another --out"
            ) from error
        self.step, self.seconds = state.step, state.seconds


def refuse(config: TrainConfig, out: Path, resume: bool) -> None:
    """Raise ValueError for a run that cannot begin: without a budget, or where something else is."""
    if config.steps is None and config.minutes is None:
        raise ValueError("no budget: give --steps or --minutes")
    if config.cooldown and config.steps is None:
        raise ValueError("--train.cooldown is over the last of so many steps: give --steps")
    if wall := next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None):
        raise ValueError(f"{wall} is a file, so a run cannot be kept at {out}: choose another --out")
    if not resume and out.is_dir() and any(out.glob("step-*")):
        raise ValueError(f"{out} already holds a run: go on with --resume, or choose another --out")


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    source: Source | None = None,
    run: Run | None = None,
    resume: bool = False,
    watch: Callable[[Trainer], None] = lambda _: None,
    encoding: Progress | None = None,
) -> Path:
    """Train until the budget is spent or SIGINT or SIGTERM comes; return the last checkpoint.

    Writes `out/step-N` every `save_minutes` and at the end. `source` and `run` are the experiment's data and this
    machine if not given; `watch` is called after every step and must not touch the weights, `encoding` as latents that
    are to be kept are encoded, which counts for no minutes. Raises ValueError for a run that cannot begin or go on, and
    where a checkpoint is damaged or cannot be written.
    """
    out, config = Path(out), experiment.train
    refuse(config, out, resume)
    run = run or start(precision=config.precision)
    trainer = Trainer(experiment, source or open_source(experiment.data), run)
    if resume:
        trainer.restore(checkpoint.load(out))
    else:
        trainer.begin()
    if experiment.data.latents:
        trainer.keep_latents(encoding)
    saved = trainer.step if resume else -1
    last_save = begun = time.monotonic()
    before = trainer.seconds

    def save() -> None:
        nonlocal saved, last_save
        trainer.losses()  # raises before a broken state is kept
        trainer.check_weights()
        if run.rank == 0 and saved != trainer.step:
            checkpoint.save_step(out, trainer.state())
        run.any(False)  # the others wait: they would look for it too soon, and end the run while it is written
        saved, last_save = trainer.step, time.monotonic()

    with _stop_signals() as stop:
        while not run.any(
            stop.asked
            or (config.steps is not None and trainer.step >= config.steps)
            or (config.minutes is not None and trainer.seconds >= 60 * config.minutes)
        ):
            trainer.advance()
            trainer.seconds = before + time.monotonic() - begun
            if run.rank == 0:
                watch(trainer)
            if run.any(time.monotonic() - last_save >= 60 * config.save_minutes):
                save()
        save()
    return checkpoint.find(out)


@dataclass
class _Stop:
    asked: bool = False


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Turn the first SIGINT or SIGTERM into a wish to stop after this step; a second one acts as usual."""
    stop = _Stop()
    before: dict[int, Any] = {}

    def ask(number: int, _: object) -> None:
        stop.asked = True
        signal.signal(number, before[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a shell's & have it
                before[number] = signal.signal(number, ask)
    except ValueError:  # not the main thread: the caller's to handle
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
