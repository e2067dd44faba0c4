"""Causal 3D convolutions: a video in chunks gives what it gives as a whole, and nothing looks across time but they."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CausalConv3d", "ChannelNorm", "Past"]


class Past:
    """What causal layers find of the chunks before, and keep for those after, on one walk of a chunk through them.

    `state` is that of the walk before, over the same layers in the same order; None begins a video, before whose first
    frame there are copies of it. Only with `keep` is there a state afterwards.
    """

    def __init__(self, state: tuple[Tensor, ...] | None = None, *, keep: bool = False) -> None:
        self.begins, self.keep = state is None, keep
        self._before = iter(state or ())
        self._after: list[Tensor] = []

    def join(self, x: Float[Tensor, "B C T H W"], frames: int) -> Float[Tensor, "B C T2 H W"]:
        """`x` with the `frames` before it, as the next layer of the walk has kept them."""
        # slices, not an expansion, so that channels-last memory stays so
        before = [x[:, :, :1]] * frames if self.begins else [next(self._before)]
        x = torch.cat([*before, x], 2)
        if self.keep:
            self._after.append(x[:, :, -frames:].clone())  # a view would keep the whole chunk
        return x

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What the walk over the next chunk begins from: as much however many chunks there were."""
        assert self.keep, "nothing was kept"
        return tuple(self._after)


class CausalConv3d(nn.Conv3d):
    """A convolution whose output at a time sees that time and the two before, and 3x3 pixels; it keeps all sizes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=(0, 1, 1))

    def forward(self, x: Float[Tensor, "B C T H W"], past: Past) -> Float[Tensor, "B D T H W"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What it makes of the chunk `x` after `past`."""
        return super().forward(past.join(x, 2))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of each time (Ba et al. 2016, arXiv 1607.06450)."""

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`x` normalised; where its memory is channels-last nothing is copied."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
