"""Seconds of a training iteration, and how much of the machine's arithmetic it uses, by family and preset.

    python benchmarks/train_speed.py --preset latent-dit/cpu --steps 20
    python benchmarks/train_speed.py --preset latent-dit/cpu --steps 20 --against ../other-checkout
    python benchmarks/train_speed.py --preset mocogan/paper --plain --float32

"kinema" is this checkout as it comes, with the precision that it finds for the machine; with --compile,
--train.compile is on. It can be compared with:

- --against: another checkout of kinema, run by its own copy of this benchmark;
- --float32: the same with --train.precision float32;
- --plain: the network in a plain float32 port (plain_*.py), in a process with the default memory allocator.

Presets that do not fit a laptop's memory are made smaller: svg-lp/paper has 16 clips of 20 frames a step, and
latent-dit/gpu 4 clips. Families of latents learn from cached ones, of an untrained codec.

Each is a process of its own. They run in turn, one iteration each, so that they never compete and the machine's noise
is shared: seconds are medians, and the speed-ups, "over", medians of the ratios of neighbouring iterations.

GFLOP are the multiplications and additions of an iteration's convolutions and matrix products, padding included;
GFLOP/s is the rate that kinema achieves, and "of matmul" its share of the rate, in the same precision, of large matrix
products.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import plain_latent_dit
import plain_mocogan
import plain_svg_lp
import plain_tgan
import plain_vgan
import torch
from rich.console import Console
from rich.table import Table
from runs import machine, seconds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.config import to_dict
from kinema.data.clips import DataConfig
from kinema.data.folder import Skipped
from kinema.experiment import Experiment
from kinema.families.token_transformer import TokenTransformerConfig
from kinema.family import Codec, LatentFamily, LatentFamilyConfig
from kinema.presets import PRESETS, preset
from kinema.registry import CODECS
from kinema.runtime.device import Runtime, detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.training.loop import Trainer
from kinema.types import Batch, ClipSpec, Conditions

CLASSES = ("a", "b", "c", "d")
WARM_UPS = 2
PLAIN = {  # the presets that there is a plain port of
    "latent-dit/latent": plain_latent_dit.Port(),
    "latent-dit/gpu": plain_latent_dit.LARGE,
    "mocogan/paper": plain_mocogan,
    "svg-lp/paper": plain_svg_lp,
    "tgan/paper": plain_tgan,
    "vgan/paper": plain_vgan,
}
SMALLER: dict[str, dict[str, dict[str, Any]]] = {  # presets that do not fit a laptop's memory
    "latent-dit/gpu": {"train": {"batch": 4}},
    "svg-lp/paper": {"data": {"frames": 20}, "train": {"batch": 16}},
}
SIDE = 2048  # of the matrices whose product measures the machine


class RandomClips:
    """The same labelled clips at every step: data that costs nothing."""

    key = "random clips"
    skipped: tuple[Skipped, ...] = ()

    def __init__(self, data: DataConfig, size: int) -> None:
        self.spec = ClipSpec(data.frames, data.height, data.width, classes=CLASSES)
        self.frames = torch.rand(size, data.frames, 3, data.height, data.width) * 2 - 1
        self.labels = torch.arange(size) % len(CLASSES)
        self.latents: Tensor | None = None

    @torch.no_grad()
    def encode(self, codec: Codec, device: torch.device) -> None:
        """Give latents in place of frames from now on."""
        self.latents, self.frames = codec.encode(self.frames.to(device))[0], self.frames[:, :0]

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """All clips."""
        return Batch(self.frames, Conditions(label=self.labels), self.latents)


def measured_experiment(name: str) -> Experiment:
    """The preset as it is measured: small enough, and with an untrained codec where it has a trained one."""
    experiment = preset(*name.split("/")).changed(**SMALLER.get(name, {}))
    family, data = experiment.family, experiment.data
    tokens = isinstance(family, TokenTransformerConfig)
    trained = isinstance(family, LatentFamilyConfig) and family.codec is not None and family.codec not in CODECS
    if tokens or trained:
        levels = (8, 5, 5, 5) if tokens else ()
        codec = {"name": "video-vae", **to_dict(VideoVAEConfig(levels=levels))}
        spec = ClipSpec(data.frames, data.height, data.width)
        experiment = replace(experiment, family=replace(family.with_codec(codec, spec), codec=None))
    return experiment


def kinema_step(experiment: Experiment) -> Callable[[], object]:
    """One iteration, under the conditions that `kinema train` sets up."""
    keep_freed_memory()
    runtime = detect_runtime(precision=experiment.train.precision)
    clips = RandomClips(experiment.data, experiment.train.batch)
    trainer = Trainer(experiment, clips, runtime)
    trainer.begin()
    if isinstance(trainer.family, LatentFamily) and trainer.family.codec is not None:
        clips.encode(trainer.family.codec, runtime.device)
    return trainer.advance


def plain_step(experiment: Experiment, port: ModuleType | plain_latent_dit.Port) -> Callable[[], object]:
    """One iteration of a plain port on clips of the same number and size."""
    device = detect_runtime().device
    clips = RandomClips(experiment.data, experiment.train.batch)
    frames, labels = clips.frames.to(device), clips.labels.to(device)
    images, videos = frames[:, 0].contiguous(), frames.transpose(1, 2).contiguous()
    players = port.build(len(CLASSES), device=device)
    return lambda: port.step(players, images, videos, labels)


def work(player: str, family: str, name: str) -> None:
    """Answer each line of stdin with one number: "step" with its seconds, "count" with the GFLOP of a step.

    Other checkouts call this too, by `--worker default FAMILY PRESET`.
    """
    experiment = measured_experiment(f"{family}/{name}")
    if player == "plain":
        step = plain_step(experiment, PLAIN[f"{family}/{name}"])
    else:
        precision = "float32" if player == "float32" else "auto"
        step = kinema_step(experiment.changed(train={"compile": player == "compiled", "precision": precision}))
    print(0.0, flush=True)  # ready
    for line in sys.stdin:
        if line.strip() == "count":
            with FlopCounter() as counter:
                step()
            answer = counter.flop / 1e9
        else:
            answer = seconds(step)
        print(answer, flush=True)


class FlopCounter(TorchDispatchMode):
    """Counts by PyTorch's own formulas; its FlopCounterMode, which tracks modules too, fails in `autograd.grad`."""

    flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.flop += formula(*args, **(kwargs or {}), out_val=out)
        return out


def matmul_rate(device: torch.device, dtype: torch.dtype, products: int = 10) -> float:
    """GFLOP/s of matrix products, the best of five measurements."""
    a, b, out = torch.randn(3, SIDE, SIDE, device=device).to(dtype)

    def multiply() -> None:
        for _ in range(products):
            torch.mm(a, b, out=out)

    multiply()
    return 2e-9 * products * SIDE**3 / min(seconds(multiply) for _ in range(5))


Worker = subprocess.Popen[str]


def start(player: str, name: str, checkout: Path | None = None) -> Worker:
    """A process that is ready for `ask`; it ends when its stdin is closed, as leaving its context does."""
    environment = dict(os.environ)
    script = Path(__file__)
    if checkout is not None:
        script = checkout / "benchmarks" / script.name
        environment["PYTHONPATH"] = str(checkout / "src")
    words = [sys.executable, str(script), "--worker", player, *name.split("/")]
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    _answer(worker)
    return worker


def ask(worker: Worker, word: str) -> float:
    """The worker's answer once it has done what `word` says."""
    assert worker.stdin
    print(word, file=worker.stdin, flush=True)
    return _answer(worker)


def _answer(worker: Worker) -> float:
    assert worker.stdout
    if not (line := worker.stdout.readline()):
        raise RuntimeError(f"a worker ended with status {worker.wait()}; it says why above")
    return float(line)


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements of one preset."""

    name: str
    gflop: float  # an iteration
    seconds: dict[str, list[float]]  # by player, in the order of the iterations; "kinema" is the first

    def cells(self, players: Sequence[str], rate: float) -> list[str]:
        """The row as text; `rate` is the machine's, in GFLOP/s."""
        ours = self.seconds["kinema"]
        achieved = self.gflop / median(ours)
        cells = [self.name, f"{median(ours):.3f}"]
        for player in players[1:]:
            if player in self.seconds:
                ratios = [other / own for other, own in zip(self.seconds[player], ours, strict=True)]
                cells += [f"{median(self.seconds[player]):.3f}", f"{median(ratios):.2f}x"]
            else:
                cells += ["-", "-"]
        return [*cells, f"{self.gflop:.0f}", f"{achieved:.0f}", f"{achieved / rate:.0%}"]


def measure(name: str, players: dict[str, tuple[str, Path | None]], steps: int) -> Row:
    """Let the workers of one preset run in turn for `steps` iterations each."""
    with start("default", name) as counter:  # operations inside compiled code cannot be counted
        gflop = ask(counter, "count")
        assert counter.stdin
        counter.stdin.close()
    players = {player: how for player, how in players.items() if player != "plain" or name in PLAIN}
    with ExitStack() as stack:
        workers = {
            player: stack.enter_context(start(word, name, checkout)) for player, (word, checkout) in players.items()
        }
        times: dict[str, list[float]] = {player: [] for player in players}
        for _ in range(WARM_UPS + steps):
            for player, worker in workers.items():
                times[player].append(ask(worker, "step"))
    return Row(name, gflop, {player: values[WARM_UPS:] for player, values in times.items()})


def main() -> None:
    """Measure, and print one table."""
    names = [f"{family}/{name}" for family, presets in PRESETS.items() for name in presets]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--preset", nargs="+", choices=names, metavar="FAMILY/NAME", help="without it all, those called gpu on a GPU"
    )
    parser.add_argument("--steps", type=int, default=10, help="iterations measured of each (%(default)s)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--float32", action="store_true", help="compare with float32")
    parser.add_argument("--plain", action="store_true", help="compare with the plain ports")
    parser.add_argument("--compile", action="store_true", help="compile kinema")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    if arguments.against and not (arguments.against / "benchmarks" / Path(__file__).name).is_file():
        parser.error(f"--against {arguments.against}: no checkout of kinema is there")

    runtime = detect_runtime()
    on_gpu = runtime.device.type == "cuda"
    chosen = arguments.preset or [name for name in names if on_gpu or not name.endswith("/gpu")]
    players: dict[str, tuple[str, Path | None]] = {"kinema": ("compiled" if arguments.compile else "default", None)}
    if arguments.against:
        players["against"] = ("default", arguments.against.resolve())
    if arguments.float32:
        players["float32"] = ("float32", None)
    if arguments.plain:
        players["plain"] = ("plain", None)

    before = matmul_rate(runtime.device, runtime.precision)
    rows = []
    for name in chosen:
        print(f"measuring {name}", file=sys.stderr)  # no spinner: it would take time from the workers
        rows.append(measure(name, players, arguments.steps))
    rate = max(before, matmul_rate(runtime.device, runtime.precision))
    Console(width=120).print(_table(rows, [*players], runtime, rate, arguments.steps))


def _table(rows: list[Row], players: list[str], runtime: Runtime, rate: float, steps: int) -> Table:
    precision = str(runtime.precision).removeprefix("torch.")
    table = Table(
        title=f"Training iterations on {machine(runtime.device)}, PyTorch {torch.__version__}, medians of {steps}",
        caption=f"kinema is in {precision}; products of {SIDE}x{SIDE} matrices in it: {rate:.0f} GFLOP/s",
    )
    others = [header for player in players[1:] for header in (f"{player} s", f"over {player}")]
    for header in ("preset", "kinema s", *others, "GFLOP", "GFLOP/s", "of matmul"):
        table.add_column(header, justify="left" if header == "preset" else "right")
    for row in rows:
        table.add_row(*row.cells(players, rate))
    return table


if __name__ == "__main__":
    main()
