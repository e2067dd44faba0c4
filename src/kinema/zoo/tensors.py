"""What the tensors of a model must be, known without memory for them, and the check of those that are read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["check_tensors"]

HALVES = (torch.float16, torch.bfloat16)  # that a file may have in place of float32, as an export has


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise ValueError unless `found` has the names, shapes and types of `expected`, with finite numbers.

    Floating tensors may have half the precision of what is expected, whose values do not matter: it may be on the
    device "meta". The message is one line that begins with `what` and names the first tensor that differs.
    """
    for name, tensor in expected.items():
        if name not in found:
            raise ValueError(f"{what}: the tensor {name} {_kind(tensor)} is missing")
        if reason := _difference(found[name], tensor):
            raise ValueError(f"{what}: the tensor {name} {reason}")
    if others := sorted(found.keys() - expected.keys()):
        raise ValueError(f"{what}: the tensor {others[0]!r} {_kind(found[others[0]])} is of no part of this network")


def _difference(found: Tensor, expected: Tensor) -> str:
    """What is wrong with a tensor; "" where nothing is."""
    narrower = expected.dtype == torch.float32 and found.dtype in HALVES
    if found.shape != expected.shape or not (found.dtype == expected.dtype or narrower):
        return f"is {_kind(found)}, not {_kind(expected)}"
    if found.is_floating_point() and not found.isfinite().all():
        return "has values that are not finite"
    return ""


def _kind(tensor: Tensor) -> str:
    """The type and the shape, in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
