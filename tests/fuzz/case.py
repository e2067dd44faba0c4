"""A case of a fuzz test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kinema.runtime.device import Runtime

CPU = Runtime(torch.device("cpu"), torch.float32)


class Wrong(Exception):
    """What is hostile or damaged is accepted."""


@dataclass(frozen=True)
class Case:
    """What is hostile or damaged, and what uses it: it raises ValueError where it refuses it."""

    what: str
    use: Callable[[], None]
