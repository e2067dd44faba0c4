"""The exponential moving average of a generator's weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """An exponential moving average of a module's trained parameters and buffers; frozen parameters are shared.

    A `decay` of 0 copies the module's last weights.
    """

    def __init__(self, module: nn.Module, trained: Iterable[nn.Parameter], decay: float) -> None:
        trained_ids = {id(p) for p in trained}
        shared = {id(p): p for p in module.parameters() if id(p) not in trained_ids}
        self.decay, self.source = decay, module
        self.module = copy.deepcopy(module, dict(shared)).requires_grad_(False).eval()
        shared_ids = set(shared)
        pairs = zip(_tensors(self.module), _tensors(module), strict=True)
        self._pairs = [(a, b) for a, b in pairs if id(a) not in shared_ids and a.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after step `step`; the decay warms up, as weights change fast at first."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        averages, weights = zip(*self._pairs, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def reset(self) -> None:
        """Restart from the module's weights."""
        self.module.load_state_dict(self.source.state_dict())


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
