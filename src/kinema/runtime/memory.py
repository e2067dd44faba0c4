"""Memory settings and memory use of this process."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["available_memory", "keep_freed_memory", "peak_memory", "release_freed_memory"]


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system.

    Otherwise each training step has page faults for all large activations. Does nothing without glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in (
        (-4, 0),
        (-1, 2**31 - 1),
        (-2, 256 * 2**20),
        (-8, 1),
    ):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX
        mallopt(option, value)


def release_freed_memory() -> None:
    """Return freed memory to the system, which `keep_freed_memory` keeps. Does nothing without glibc."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory(device: torch.device) -> float | None:
    """Peak memory in bytes: allocated on a CUDA device, else resident of the process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory(device: torch.device) -> float:
    """Bytes that can still be allocated on a CUDA device or, on Linux, in memory; infinite where it is unknown."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, and not used
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return math.inf
    return min(1024.0 * int(found[1]) if found else math.inf, _address_space())


def _address_space() -> float:
    """Bytes that may still be mapped where `ulimit -v` limits this process; infinite without a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    return max(0.0, limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize())
