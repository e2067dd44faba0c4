"""Device, precision and rank of this process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kinema.types import TrainStep, hash_seed

__all__ = ["Precision", "Runtime", "channels_last", "detect_runtime", "fast_bf16"]

MOST_RANKS = 10**5
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """The device, the precision of matrix work, and this process's rank."""

    device: torch.device
    precision: torch.dtype  # of matrix work; weights and losses are float32
    rank: int = 0
    ranks: int = 1

    def autocast(self) -> AbstractContextManager[object]:
        """The autocast context of matrix work; never hold it over a `yield`, as it would leak into the caller."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def train_step(self, seed: int, index: int, turn: str) -> TrainStep:
        """The random generators of a turn of step `index`; seeds the global generator too."""
        key = hash_seed(seed, index, turn, self.rank)
        torch.manual_seed(key)
        shared = torch.Generator().manual_seed(hash_seed(seed, index, turn, "shared"))
        return TrainStep(index, torch.Generator(self.device).manual_seed(key), shared)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over all ranks, in place; all ranks pass the same shapes."""
        if self.ranks == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.div_(self.ranks).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def mean(self, value: float) -> float:
        """The mean of `value` over all ranks; reduced on the CPU, so that no GPU is synchronised."""
        if self.ranks == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total) / self.ranks

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of rank 0, in place; all ranks pass the same shapes."""
        if self.ranks > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def any(self, value: bool) -> bool:
        """Whether `value` is true on any rank; reduced on the CPU, so that no GPU is synchronised."""
        if self.ranks == 1:
            return value
        flag = torch.tensor(float(value))
        dist.all_reduce(flag)
        return bool(flag > 0)


def detect_runtime(device: str = "auto", precision: Precision = "auto") -> Runtime:
    """The device and precision for this machine; joins the process group if `torchrun` started several processes.

    `device` is "auto" (CUDA, else Apple's MPS, else the CPU), "cpu" or a torch device. Each process on
    a machine takes the GPU of its local rank. Raises ValueError if the device cannot be used.
    """
    ranks = _stated("WORLD_SIZE", 1, 1, MOST_RANKS)
    rank, local = _stated("RANK", 0, 0, ranks - 1), _stated("LOCAL_RANK", 0, 0, MOST_RANKS)
    if device == "auto":
        device = _best_device(local)
    try:
        place = torch.device(device)
        if place == torch.device("cuda"):
            place = torch.device("cuda", local)
        torch.empty(0, device=place)
        if place.type == "cuda":
            torch.cuda.set_device(place)  # NCCL and kernels without a device argument use the current one
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}): try --device cpu"
        ) from None
    if ranks > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        try:
            dist.init_process_group(backend, timeout=timedelta(minutes=10))
        except (RuntimeError, ValueError) as error:  # an address or a port that is missing, or cannot be used
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise ValueError(
                f"the {ranks} processes of $WORLD_SIZE cannot be joined ({reason}): start them with torchrun, or unset "
                "it to train alone"
            ) from None
    if precision == "auto":
        dtype = torch.bfloat16 if fast_bf16(place) else torch.float32
    else:
        dtype = getattr(torch, precision)
    return Runtime(place, dtype, rank, ranks)


def _stated(name: str, default: int, least: int, most: int) -> int:
    """The whole number that an environment variable states."""
    text = os.environ.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ValueError(
            f"${name} is {text[:40]!r}: it must be {least} to {most}, as torchrun sets it; unset it to train alone"
        )
    return value


def _best_device(local: int) -> str:
    if torch.cuda.is_available():
        return f"cuda:{local}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def fast_bf16(device: torch.device) -> bool:
    """Whether `device` has bfloat16 instructions (AMX or AVX512-BF16 on a CPU, compute capability 8 on a GPU)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text()
        return "amx_bf16" in flags or "avx512_bf16" in flags
    return False


def channels_last(module: nn.Module) -> None:
    """Convert the weights of convolutions to channels-last memory, in place; activations follow.

    Parameter by parameter, because `Module.to(memory_format=...)` fails for modules that mix 4-D and 5-D weights.
    """
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in module.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
