"""Class labels, where a model was trained with them."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from kinema.types import Conditions, Noise

__all__ = ["labels"]


def labels(given: Conditions, classes: int, noise: Noise, stream: str, device: torch.device) -> Int64[Tensor, " B"]:
    """The label of each clip: as given, or else drawn from `stream`; all 0 where there are no classes.

    Raises ValueError for a label that is not among `classes`.
    """
    if given.label is None:
        return noise.integers(stream, max(1, classes), device=device)
    if not classes:
        raise ValueError("this model was trained without labels: leave the label out")
    if not all(0 <= label < classes for label in given.label.tolist()):
        raise ValueError(f"this model knows the labels 0 to {classes - 1}, not {given.label.tolist()}")
    return given.label.to(device)
