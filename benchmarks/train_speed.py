"""Seconds a training iteration takes, and how much of the machine's arithmetic it uses, by family and preset.

    python benchmarks/train_speed.py [--family mocogan] [--preset paper cpu] [--steps 10] [--plain] [--compile]

- default: kinema as it comes, with the precision it finds for the machine; with --compile also --train.compile;
- float32: the same with --train.precision float32;
- plain:   the network in a plain float32 port (plain_*.py), in a process whose memory allocator is as it comes.

The "paper" preset of svg-lp is measured at 16 clips of 20 frames a step and "gpu" of latent-dit at 4 clips, which fit a
laptop's memory as 100 and 32 do not.
Families that work on a codec's latents learn from some that are kept, of a codec that is not trained.

Each is a process of its own. They take turns, one iteration each, so that they never compete and the machine's noise
meets all alike: seconds are medians, and "over" is the median of the ratios of neighbouring iterations.

GFLOP are the multiplications and additions of an iteration's convolutions and matrix products, those with padding
included; GFLOP/s is what the default achieves of them, "of matmul" its share of the rate, in the same precision, of
large matrix products.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
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
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from kinema import run
from kinema.data.clips import DataConfig
from kinema.data.folder import Skipped
from kinema.families import FAMILIES
from kinema.families.video_vae import VideoVAEConfig
from kinema.family import Codec, Facts
from kinema.presets import PRESETS, preset
from kinema.train import Experiment, Trainer
from kinema.types import Batch, Conditions

CLASSES = ("a", "b", "c", "d")
WARM_UPS = 2
PLAIN = {  # what there is a plain port of: the authors' networks, and the transformer over latents
    ("latent-dit", "latent"): plain_latent_dit.Port(),
    ("latent-dit", "gpu"): plain_latent_dit.LARGE,
    ("mocogan", "paper"): plain_mocogan,
    ("svg-lp", "paper"): plain_svg_lp,
    ("tgan", "paper"): plain_tgan,
    ("vgan", "paper"): plain_vgan,
}
CODED = {"family": {"codec": None, "coded": VideoVAEConfig()}}
TOKENS = {"family": {"codec": None, "coded": VideoVAEConfig(levels=(8, 5, 5, 5))}}
OTHERWISE = {  # what cannot be measured as it comes
    ("latent-dit", "latent"): CODED,
    ("latent-dit", "gpu"): CODED | {"train": {"batch": 4}},
    ("svg-lp", "paper"): {"data": {"frames": 20}, "train": {"batch": 16}},
    ("token-transformer", "cpu"): TOKENS,
    ("token-transformer", "masked"): TOKENS,
}
SIDE = 2048  # of the matrices whose product measures the machine


class RandomClips:
    """The same labelled clips at every step: data that costs nothing."""

    key = "random clips"
    skipped: tuple[Skipped, ...] = ()

    def __init__(self, data: DataConfig, size: int) -> None:
        self.facts = Facts(data.frames, data.height, data.width, classes=CLASSES)
        self.frames = torch.rand(size, data.frames, 3, data.height, data.width) * 2 - 1
        self.labels = torch.arange(size) % len(CLASSES)
        self.latents: Tensor | None = None

    @torch.no_grad()
    def keep(self, codec: Codec) -> None:
        """Give latents in place of frames from now on."""
        self.latents, self.frames = codec.eval().encode(self.frames)[0], self.frames[:, :0]

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """All clips."""
        return Batch(self.frames, Conditions(label=self.labels), self.latents)


def kinema_step(experiment: Experiment, precision: run.Precision) -> Callable[[], object]:
    """One iteration, under the conditions that `kinema train` sets up."""
    run.keep_freed_memory()
    place = run.start(precision=precision)
    clips = RandomClips(experiment.data, experiment.train.batch)
    trainer = Trainer(experiment, clips, place)
    if (codec := trainer.family.codec) is not None:
        clips.frames = clips.frames.to(place.device)
        clips.keep(codec)
    return trainer.advance


def plain_step(experiment: Experiment, port: ModuleType | plain_latent_dit.Port) -> Callable[[], object]:
    """One iteration of a plain port on clips of the same number and size."""
    device = run.start().device
    clips = RandomClips(experiment.data, experiment.train.batch)
    frames, labels = clips.frames.to(device), clips.labels.to(device)
    images, videos = frames[:, 0].contiguous(), frames.transpose(1, 2).contiguous()
    players = port.build(len(CLASSES), device=device)
    return lambda: port.step(players, images, videos, labels)


def work(player: str, family: str, name: str) -> None:
    """Answer each line of stdin with one number: "step" with its seconds, "count" with the GFLOP of a step."""
    experiment = preset(family, name).changed(**OTHERWISE.get((family, name), {}))
    experiment = experiment.changed(train={"compile": player == "compiled"})
    if player == "plain":
        step = plain_step(experiment, PLAIN[family, name])
    else:
        step = kinema_step(experiment, "float32" if player == "float32" else "auto")
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
    """Counts by PyTorch's own formulas; its FlopCounterMode, which also asks which module, refuses `autograd.grad`."""

    flop = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.flop += formula(*args, **(kwargs or {}), out_val=out)
        return out


def seconds(call: Callable[[], object]) -> float:
    """How long `call` takes, to the end of what it started on a GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    begun = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begun


def matmul_rate(device: torch.device, dtype: torch.dtype, products: int = 10) -> float:
    """GFLOP/s of matrix products, the best of five measurements."""
    a, b, out = torch.randn(3, SIDE, SIDE, device=device).to(dtype)

    def multiply() -> None:
        for _ in range(products):
            torch.mm(a, b, out=out)

    multiply()
    return 2e-9 * products * SIDE**3 / min(seconds(multiply) for _ in range(5))


Worker = subprocess.Popen[str]


def start(player: str, family: str, name: str) -> Worker:
    """A process that is ready for `ask`; it ends when its stdin is closed, as leaving its context does."""
    words = [sys.executable, __file__, "--worker", player, family, name]
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _answer(worker)
    return worker


def ask(worker: Worker, word: str) -> float:
    """What the worker answers once it has done what `word` says."""
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
    """What was measured of one preset."""

    family: str
    name: str
    gflop: float  # an iteration
    seconds: dict[str, list[float]]  # by player, in the order of the iterations

    def speed_up(self, player: str) -> str:
        """How many times faster the default is than `player`."""
        if player not in self.seconds:
            return "-"
        pairs = zip(self.seconds[player], self.seconds["default"], strict=True)
        return f"{median(slow / fast for slow, fast in pairs):.2f}x"

    def cells(self, rate: float) -> list[str]:
        """The row as text; `rate` is the machine's, in GFLOP/s."""
        players = ("plain", "float32", "default")
        times = [f"{median(self.seconds[p]):.3f}" if p in self.seconds else "-" for p in players]
        speed_ups = [self.speed_up(player) for player in players[:-1]]
        achieved = self.gflop / median(self.seconds["default"])
        counts = [f"{self.gflop:.0f}", f"{achieved:.0f}", f"{achieved / rate:.0%}"]
        return [self.family, self.name, *times, *speed_ups, *counts]


def measure(family: str, name: str, steps: int, plain: bool, compiled: bool) -> Row:
    """Let the workers of one preset take turns for `steps` iterations."""
    words = {"float32": "float32", "default": "compiled" if compiled else "default"}  # what a worker is told to be
    players = {"plain": "plain"} | words if plain and (family, name) in PLAIN else words
    with start("default", family, name) as counter:  # what is compiled cannot be looked into
        gflop = ask(counter, "count")
        assert counter.stdin
        counter.stdin.close()
    with ExitStack() as stack:
        workers = {player: stack.enter_context(start(word, family, name)) for player, word in players.items()}
        taken: dict[str, list[float]] = {player: [] for player in players}
        for _ in range(WARM_UPS + steps):
            for player, worker in workers.items():
                taken[player].append(ask(worker, "step"))
    return Row(family, name, gflop, {player: times[WARM_UPS:] for player, times in taken.items()})


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, help="only this one")
    parser.add_argument("--preset", nargs="+", metavar="NAME", help="without it all, gpu on a GPU only")
    parser.add_argument("--steps", type=int, default=10, help="iterations measured of each (%(default)s)")
    parser.add_argument("--plain", action="store_true", help="measure the plain ports too")
    parser.add_argument("--compile", action="store_true", help="measure the default compiled")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")

    place = run.start()
    families = [arguments.family] if arguments.family else list(FAMILIES)
    presets = [(family, name) for family in families for name in PRESETS[family]]
    if unknown := set(arguments.preset or ()) - {name for _, name in presets}:
        parser.error(f"no such preset: {', '.join(sorted(unknown))}")
    on_gpu = place.device.type == "cuda"
    chosen = [p for p in presets if (p[1] in arguments.preset if arguments.preset else on_gpu or p[1] != "gpu")]
    chosen.sort(key=lambda p: p not in PLAIN)  # the authors' networks first

    dtypes = (torch.float32, torch.bfloat16)
    before = [matmul_rate(place.device, dtype) for dtype in dtypes]
    rows = []
    for family, name in chosen:
        print(f"measuring {family} {name}", file=sys.stderr)  # no spinner: it would take time from the workers
        rows.append(measure(family, name, arguments.steps, arguments.plain, arguments.compile))
    after = [matmul_rate(place.device, dtype) for dtype in dtypes]
    rates = dict(zip(dtypes, map(max, before, after), strict=True))

    Console(width=120).print(_table(rows, place, rates, arguments.steps))


def _table(rows: list[Row], place: run.Run, rates: dict[torch.dtype, float], steps: int) -> Table:
    names = {dtype: str(dtype).removeprefix("torch.") for dtype in rates}
    on_gpu = place.device.type == "cuda"
    machine = torch.cuda.get_device_name(place.device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
    products = ", ".join(f"{names[dtype]} {rate:.0f} GFLOP/s" for dtype, rate in rates.items())
    table = Table(
        title=f"Training iterations on {machine}, PyTorch {torch.__version__}, medians of {steps}",
        caption=f"default is {names[place.precision]}; products of {SIDE}x{SIDE} matrices: {products}",
    )
    times = ("plain s", "float32 s", "default s", "over plain", "over float32")
    for header in ("family", "preset", *times, "GFLOP", "GFLOP/s", "of matmul"):
        table.add_column(header, justify="left" if header in ("family", "preset") else "right")
    for row in rows:
        table.add_row(*row.cells(rates[place.precision]))
    return table


if __name__ == "__main__":
    main()
