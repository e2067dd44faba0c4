"""Seconds of a token transformer's clip: autoregressive, with and without a cache of keys and values, and masked.

    python benchmarks/token_sampling.py [--levels 8 5 5 5] [--clips 8] [--repeats 3]

The network is that of the preset "cpu" with random weights, which are no faster or slower than trained ones, and the
clip as long as in training: its tokens are sampled, but not decoded. Without a cache all tokens so far run through the
network for every new one. The more clips are sampled together, the more the cache helps: each token takes all weights
from memory, whatever the number of clips. All run in turn, so that the machine's noise is shared: seconds are medians,
and "faster" is the median of the ratios of neighbouring runs to the one without a cache.
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
from runs import machine, seconds
from torch import Tensor

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.config import to_dict
from kinema.families.token_transformer import TokenTransformer, TokenTransformerConfig, TokenTransformerSampling
from kinema.presets import preset
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.types import ClipSpec, Seeds

STEPS = (4, 8, 12, 24)


def build(mode: str, arguments: argparse.Namespace) -> TokenTransformer:
    """A model of the preset's size."""
    config = preset("token-transformer", "cpu").family
    assert isinstance(config, TokenTransformerConfig)
    torch.manual_seed(0)
    codec = {"name": "video-vae", **to_dict(VideoVAEConfig(levels=tuple(arguments.levels), hidden=4))}  # not measured
    sizes = {"hidden": arguments.hidden, "depth": arguments.depth, "heads": arguments.heads}
    spec = ClipSpec(arguments.frames, arguments.side, arguments.side)
    family = replace(config, mode=mode, **sizes).with_codec(codec, spec).fitted(spec).build()
    assert isinstance(family, TokenTransformer)
    return family.to(detect_runtime().device).eval()


@contextmanager
def without_cache(family: TokenTransformer) -> Iterator[None]:
    """Replace the transformer's `extend` by `forward` of all inputs so far."""
    transformer = family.generator.transformer

    def extend(x: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        if cache is not None:
            x, positions = torch.cat([cache[0], x], 1), torch.cat([cache[1], positions])
        return transformer(x, positions), (x, positions)  # only the last output is used

    transformer.extend = extend
    try:
        yield
    finally:
        del transformer.extend


@torch.inference_mode()
def sample(family: TokenTransformer, clips: int) -> None:
    """Sample the tokens of clips as long as in training."""
    noise, cells = Seeds(tuple(range(clips))).stream("tokens", 0), family.config.cells
    window = torch.empty(clips, 0, cells[1] * cells[2], dtype=torch.int64, device=detect_runtime().device)
    inputs = family._inputs(None, None, clips)
    method = family._autoregressive if family.config.mode == "autoregressive" else family._masked
    assert sum(tokens.shape[1] for tokens in method(window, window, inputs, noise, clips, lambda: None)) == cells[0]


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
    parser.add_argument("--clips", type=int, default=8, help="sampled together (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs measured of each (%(default)s)")
    arguments = parser.parse_args()
    if min(arguments.clips, arguments.repeats) < 1:
        parser.error("--clips and --repeats must be at least 1")

    keep_freed_memory()  # as `kinema sample` could
    autoregressive, masked = build("autoregressive", arguments), build("masked", arguments)

    def uncached() -> None:
        with without_cache(autoregressive):
            sample(autoregressive, arguments.clips)

    def in_steps(steps: int) -> None:
        masked.sampling = TokenTransformerSampling(steps=steps)
        sample(masked, arguments.clips)

    methods: dict[str, Callable[[], None]] = {
        "autoregressive, no cache": uncached,
        "autoregressive, cache": lambda: sample(autoregressive, arguments.clips),
        **{f"masked, {steps} steps": lambda steps=steps: in_steps(steps) for steps in STEPS},
    }
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(1 + arguments.repeats):  # the first warms up
        for name, method in methods.items():
            times[name].append(seconds(method))
    device, (length, height, width) = detect_runtime().device, autoregressive.config.cells
    weights = sum(parameter.numel() for parameter in autoregressive.generator.parameters()) / 1e6
    tokens, vocabulary = length * height * width, autoregressive.generator.fsq.vocabulary
    table = Table(
        title=f"{tokens} tokens of {vocabulary}, {weights:.1f}M weights, {machine(device)}",
        caption=f"{arguments.clips} clips together, medians of {arguments.repeats}, PyTorch {torch.__version__}",
    )
    for header in ("sampling", "seconds", "tokens/s", "faster"):
        table.add_column(header, justify="left" if header == "sampling" else "right")
    slowest = times["autoregressive, no cache"][1:]
    for name, values in times.items():
        ratio = median(slow / fast for slow, fast in zip(slowest, values[1:], strict=True))
        rate = arguments.clips * tokens / median(values[1:])
        table.add_row(name, f"{median(values[1:]):.3f}", f"{rate:.0f}", f"{ratio:.1f}x")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
