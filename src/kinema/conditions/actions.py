"""Actions: numbers that led to each frame."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.conditions.encoder import Encoding

__all__ = ["ActionEncoder"]


class ActionEncoder(nn.Module):
    """A vector for the actions of each frame, standardised by those it was trained on."""

    def __init__(self, actions: int, width: int) -> None:
        super().__init__()
        self.actions, self.frame_width = actions, width
        self.norm = nn.BatchNorm1d(actions, affine=False, momentum=0.01)
        self.embed = nn.Sequential(nn.Linear(actions, width), nn.GELU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, actions: Float[Tensor, "B t A"] | None, frames: int, present: Bool[Tensor, " B"]) -> Encoding:
        """A vector for each frame; `null` where `present` is false, and everywhere without actions.

        Raises ValueError for actions of another size or for fewer frames; those of further frames are ignored.
        """
        null = self.null.expand(len(present), frames, -1)
        if actions is None:
            return Encoding(frames=null)
        if actions.shape[2] != self.actions or actions.shape[1] < frames:
            raise ValueError(
                f"actions are {actions.shape[2]} numbers for each of {actions.shape[1]} frames, but this model takes "
                f"{self.actions} for each of {frames}: give a row of as many for every frame"
            )
        normed = self.norm(actions[:, :frames].float().flatten(0, 1)).unflatten(0, (-1, frames))
        return Encoding(frames=torch.where(present[:, None, None], self.embed(normed), null))
