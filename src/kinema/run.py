"""The machine a run is on: device, precision, memory, randomness and data parallelism."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kinema.types import mix

__all__ = ["Precision", "Run", "channels_last", "fast_bf16", "keep_freed_memory", "start"]

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Run:
    """Where and how arithmetic is done, and this process's place among its peers."""

    device: torch.device
    precision: torch.dtype  # of matrix work; weights and losses are float32
    rank: int = 0
    ranks: int = 1

    def autocast(self) -> AbstractContextManager[object]:
        """The context that matrix work runs under; never hold it over a `yield`, it would leak into the caller."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def generator(self, *key: object) -> torch.Generator:
        """Randomness that is a function of `key` and of this rank; the global generator is seeded alike."""
        seed = mix(*key, self.rank)
        torch.manual_seed(seed)
        return torch.Generator(self.device).manual_seed(seed)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all ranks."""
        if self.ranks == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.div_(self.ranks).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def any(self, value: bool) -> bool:
        """Whether `value` holds on any rank, so that all of them stop at the same step."""
        if self.ranks == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        dist.all_reduce(flag)
        return bool(flag > 0)


def start(device: str = "auto", precision: Precision = "auto") -> Run:
    """Look at the machine and join the other processes if `torchrun` started several.

    `device` is "auto" (the GPU where there is one), "cpu" or a torch device; raises ValueError where it is not there.
    """
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}): try --device cpu"
        ) from None
    if ranks > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
    if precision == "auto":
        dtype = torch.bfloat16 if fast_bf16(place) else torch.float32
    else:
        dtype = getattr(torch, precision)
    return Run(place, dtype, rank, ranks)


def fast_bf16(device: torch.device) -> bool:
    """Whether `device` has arithmetic units for bf16 (AMX or AVX512-BF16 on a CPU, compute capability 8 on a GPU)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of giving it back to the system at every training step.

    Large activations otherwise cost a page fault a page, every step. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 256 * 2**20), (-8, 1)):  # mmap max, trim, top pad, arenas
        mallopt(option, value)


def channels_last(module: nn.Module) -> None:
    """Lay the weights of convolutions out channels-last, in place; activations follow.

    Parameter by parameter, because `Module.to(memory_format=...)` refuses modules that mix 4-D and 5-D weights.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
