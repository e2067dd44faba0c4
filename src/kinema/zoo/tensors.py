"""What the tensors of a model are, known without memory for them: whether they fit, and whether a file has them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kinema.family import Family, FamilyConfig
from kinema.runtime.memory import available_memory

__all__ = ["TRAINING_COPIES", "check_fits", "check_tensors", "outline"]

TRAINING_COPIES = 4  # of the weights, at least: their gradients, their average and one moment beside them
HALVES = (torch.float16, torch.bfloat16)  # that a file may have in place of wider numbers, as an export has
FIX = "make the settings of --family smaller (kinema train FAMILY --help lists them)"


def outline(config: FamilyConfig) -> Family | None:
    """The untrained family on the device "meta", which takes no memory; raises ValueError as `config.build`.

    None for a family of another package that cannot be built there: what its weights are is known once it is built.
    """
    try:
        with torch.device("meta"):
            return config.build()
    except ValueError:
        raise
    except Exception as error:
        if "overflow" in str(error):
            raise ValueError(f"these settings make a network of more weights than can be counted: {FIX}") from None
        return None


def check_fits(family: Family | None, device: torch.device, copies: int = 1) -> None:
    """Raise ValueError, before memory is taken, unless an outlined family fits into the device's, trained parts often.

    `copies` are those of a weight that is trained; frozen ones, as a codec's, are there once.
    """
    if family is None:
        return
    trained = {id(p) for p in family.parameters() if p.requires_grad}
    tensors = [*family.parameters(), *family.buffers()]
    count = sum(x.numel() for x in tensors)
    needed = sum((copies if id(x) in trained else 1) * x.numel() * x.element_size() for x in tensors)
    room = available_memory(device)
    if needed > room:
        what = "its weights take" if copies == 1 else "training them takes"
        raise ValueError(
            f"these settings make a network of {count / 1e6:,.1f}M weights, and {what} {needed / 1e9:,.1f} GB, more "
            f"than the {room / 1e9:,.1f} GB that are free: {FIX}"
        )


def check_tensors(found: Mapping[str, object], expected: Mapping[str, Tensor], what: str) -> None:
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


def _difference(found: object, expected: Tensor) -> str:
    """What is wrong with a tensor; "" where nothing is."""
    if not isinstance(found, Tensor):
        return f"is {_kind(found)}, not {_kind(expected)}"
    if found.layout != torch.strided or found.is_meta:
        return "is not dense"
    narrower = expected.is_floating_point() and found.dtype in HALVES
    if found.shape != expected.shape or not (found.dtype == expected.dtype or narrower):
        return f"is {_kind(found)}, not {_kind(expected)}"
    if found.is_floating_point() and not found.isfinite().all():
        return "has values that are not finite"
    return ""


def _kind(tensor: object) -> str:
    """The type and the shape, in words."""
    if not isinstance(tensor, Tensor):
        return f"no tensor but a {type(tensor).__name__}"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
