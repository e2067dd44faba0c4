"""Milliseconds of attention by matrix products and by PyTorch's fused kernels, between which kinema chooses.

    python benchmarks/attention.py [--heads 6] [--width 64] [--repeats 20]

Each number of tokens is measured forward, without gradients, and forward and backward, in float32 and in bfloat16,
with as many clips as make the same number of tokens in all. The two run in turn, one call each, so that the machine's
noise is shared: milliseconds are medians, and "plain over fused" is the median of the ratios of neighbouring calls.
"used" is what `kinema.nn.attention` uses there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from runs import machine, seconds
from torch import Tensor

from kinema.nn.attention import fused_attention, plain_attention, plain_is_faster
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory

TOKENS = (64, 128, 192, 256, 320, 384, 448, 512, 768, 1024)
IN_ALL = 4096  # tokens of all clips
WARM_UPS = 3
KERNELS = {"plain": plain_attention, "fused": fused_attention}


def call(kernel: Callable[..., Tensor], qkv: Tensor, training: bool) -> Callable[[], object]:
    """One attention without a mask, with its gradients if `training`."""
    q, k, v = qkv.detach().requires_grad_(training)

    def attention() -> None:
        with torch.set_grad_enabled(training):
            out = kernel(q, k, v, None)
        if training:
            torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    return attention


def measure(qkv: Tensor, training: bool, repeats: int) -> dict[str, list[float]]:
    """The milliseconds of both kernels, call by call."""
    calls = {name: call(kernel, qkv, training) for name, kernel in KERNELS.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(WARM_UPS + repeats):
        for name, attention in calls.items():
            times[name].append(1e3 * seconds(attention))
    return {name: values[WARM_UPS:] for name, values in times.items()}


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--heads", type=int, default=6, help="(%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of a head (%(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="calls measured of each (%(default)s)")
    arguments = parser.parse_args()
    if min(arguments.heads, arguments.width, arguments.repeats) < 1:
        parser.error("--heads, --width and --repeats must be at least 1")

    keep_freed_memory()  # as `kinema train` does
    device = detect_runtime().device
    torch.manual_seed(0)
    table = Table(
        title=f"Attention on {machine(device)}, PyTorch {torch.__version__}, medians of {arguments.repeats}",
        caption=f"{arguments.heads} heads of {arguments.width}, {IN_ALL} tokens in all, no mask, seed 0",
    )
    for header in ("precision", "pass", "tokens", "plain ms", "fused ms", "plain over fused", "used"):
        table.add_column(header, justify="left" if header in ("precision", "pass", "used") else "right")
    for dtype in (torch.float32, torch.bfloat16):
        for training in (False, True):
            for tokens in TOKENS:
                shape = (3, max(1, IN_ALL // tokens), arguments.heads, tokens, arguments.width)
                qkv = torch.randn(shape, device=device).to(dtype)
                times = measure(qkv, training, arguments.repeats)
                ratio = median(plain / fused for plain, fused in zip(times["plain"], times["fused"], strict=True))
                with torch.set_grad_enabled(training):
                    q, k, _ = qkv.detach().requires_grad_(training)
                    used = "plain" if plain_is_faster(q, k) else "fused"
                name, what = str(dtype).removeprefix("torch."), "forward, backward" if training else "forward"
                milliseconds = [f"{median(times[kernel]):.2f}" for kernel in KERNELS]
                table.add_row(name, what, str(tokens), *milliseconds, f"{ratio:.2f}x", used)
            table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
