"""Causal 3D convolutions with a cache, so that coding a video in chunks equals coding it at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["CausalConv3d", "ChannelNorm", "ConvCache"]


class ConvCache:
    """The inputs that causal layers keep of earlier chunks, during one forward pass over a chunk.

    `state` is the state after the pass over the chunk before, through the same layers in the same order; None starts a
    video, which is padded with copies of its first frame. With `keep` there is a `state` for the next chunk.
    """

    def __init__(self, state: tuple[Tensor, ...] | None = None, *, keep: bool = False) -> None:
        self.is_start, self.keep = state is None, keep
        self._before = iter(state or ())
        self._after: list[Tensor] = []

    def prepend(self, x: Float[Tensor, "B C T H W"], frames: int) -> Float[Tensor, "B C T2 H W"]:
        """`x` preceded by the last `frames` frames of this layer's earlier input; layers call it in order."""
        # slices, because an expansion would lose the channels-last memory format
        before = [x[:, :, :1]] * frames if self.is_start else [next(self._before)]
        x = torch.cat([*before, x], 2)
        if self.keep:
            self._after.append(x[:, :, -frames:].clone())  # a view would hold the whole chunk in memory
        return x

    @property
    def state(self) -> tuple[Tensor, ...]:
        """The state for the next chunk; its size does not depend on the number of chunks."""
        assert self.keep, "build it with keep=True"
        return tuple(self._after)


class CausalConv3d(nn.Conv3d):
    """A 3x3x3 convolution over 3x3 pixels of a frame and the two frames before it; sizes do not change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=(0, 1, 1))

    def forward(self, x: Float[Tensor, "B C T H W"], cache: ConvCache) -> Float[Tensor, "B D T H W"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The output for the chunk `x`, with the earlier frames from `cache`."""
        return super().forward(cache.prepend(x, 2))


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels at each position (Ba et al. 2016, arXiv 1607.06450)."""

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B C T H W"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`x` normalised; channels-last memory is not copied."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
