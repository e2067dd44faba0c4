"""Seconds of a clip from a token transformer: with a cache of keys and values and without, and at once in steps.

    python benchmarks/token_sampling.py [--levels 8 5 5 5] [--clips 8] [--repeats 3]

The network is that of the preset "cpu" with random weights, which are no faster or slower than trained ones, and the
clip as long as in training: its tokens are drawn, but not decoded. Without a cache the whole sequence so far is run
through the network for every token. The more clips are drawn together, the more the cache helps: each token takes all
weights from memory, whatever the number of clips. All ways take turns, so that the machine's noise meets them alike:
seconds are medians, and "faster" is the median of the ratios of neighbouring runs to the one without a cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from train_speed import seconds

from kinema import run
from kinema.families.token_transformer import TokenTransformer, TokenTransformerConfig, TokenTransformerSampling
from kinema.families.video_vae import VideoVAEConfig
from kinema.family import Facts
from kinema.presets import preset
from kinema.types import Noise

STEPS = (4, 8, 12, 24)


def built(mode: str, arguments: argparse.Namespace) -> TokenTransformer:
    """A model of the preset's size."""
    config = preset("token-transformer", "cpu").family
    assert isinstance(config, TokenTransformerConfig)
    torch.manual_seed(0)
    coded = VideoVAEConfig(levels=tuple(arguments.levels), hidden=4)  # which is not measured
    sizes = {"hidden": arguments.hidden, "depth": arguments.depth, "heads": arguments.heads}
    facts = Facts(arguments.frames, arguments.side, arguments.side)
    family = replace(config, mode=mode, coded=coded, **sizes).fitted(facts).build()
    assert isinstance(family, TokenTransformer)
    return family.to(run.start().device).eval()


@contextmanager
def without_cache(family: TokenTransformer) -> Iterator[None]:
    """The transformer's `extend` by `forward` of all inputs so far."""
    transformer = family.generator.network.transformer

    def extend(x: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        if cache is not None:
            x, positions = torch.cat([cache[0], x], 1), torch.cat([cache[1], positions])
        return transformer(x, positions), (x, positions)  # of which the last is read

    transformer.extend = extend
    try:
        yield
    finally:
        del transformer.extend


@torch.inference_mode()
def draw(family: TokenTransformer, clips: int) -> None:
    """The tokens of clips as long as in training."""
    noise, cells = Noise(tuple(range(clips))), family.config.cells
    window = torch.empty(clips, 0, cells[1] * cells[2], dtype=torch.int64, device=run.start().device)
    told = family._told(None, None, clips)
    way = family._one_by_one if family.config.mode == "autoregressive" else family._at_once
    assert sum(tokens.shape[1] for tokens in way(window, window, told, noise)) == cells[0]


def main() -> None:
    """Measure, and print one table."""
    config = preset("token-transformer", "cpu").family
    assert isinstance(config, TokenTransformerConfig)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--levels", type=int, nargs="+", default=[8, 5, 5, 5], help="of a token's channels (8 5 5 5)")
    parser.add_argument("--hidden", type=int, default=config.hidden, help="(%(default)s)")
    parser.add_argument("--depth", type=int, default=config.depth, help="(%(default)s)")
    parser.add_argument("--heads", type=int, default=config.heads, help="(%(default)s)")
    parser.add_argument("--frames", type=int, default=17, help="of a clip (%(default)s)")
    parser.add_argument("--side", type=int, default=64, help="of a frame, pixels (%(default)s)")
    parser.add_argument("--clips", type=int, default=8, help="drawn together (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs measured of each way (%(default)s)")
    arguments = parser.parse_args()
    if min(arguments.clips, arguments.repeats) < 1:
        parser.error("--clips and --repeats must be at least 1")

    run.keep_freed_memory()  # as `kinema sample` could
    one, all_ = built("autoregressive", arguments), built("masked", arguments)

    def uncached() -> None:
        with without_cache(one):
            draw(one, arguments.clips)

    def at_once(steps: int) -> None:
        all_.sampling = TokenTransformerSampling(steps=steps)
        draw(all_, arguments.clips)

    ways: dict[str, Callable[[], None]] = {
        "one by one, no cache": uncached,
        "one by one, cache": lambda: draw(one, arguments.clips),
        **{f"at once, {steps} steps": lambda steps=steps: at_once(steps) for steps in STEPS},
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + arguments.repeats):  # the first warms up
        for name, way in ways.items():
            taken[name].append(seconds(way))
    device, (length, height, width) = run.start().device, one.config.cells
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    weights = sum(parameter.numel() for parameter in one.generator.network.parameters()) / 1e6
    tokens = length * height * width
    table = Table(
        title=f"{tokens} tokens of {one.generator.network.fsq.vocabulary}, {weights:.1f}M weights, {machine}",
        caption=f"{arguments.clips} clips together, medians of {arguments.repeats}, PyTorch {torch.__version__}",
    )
    for header in ("drawn", "seconds", "tokens/s", "faster"):
        table.add_column(header, justify="left" if header == "drawn" else "right")
    slowest = taken["one by one, no cache"][1:]
    for name, times in taken.items():
        ratio = median(slow / fast for slow, fast in zip(slowest, times[1:], strict=True))
        rate = arguments.clips * tokens / median(times[1:])
        table.add_row(name, f"{median(times[1:]):.3f}", f"{rate:.0f}", f"{ratio:.1f}x")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
