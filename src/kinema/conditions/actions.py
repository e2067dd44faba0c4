"""Actions: what was done on the way to each frame."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["ActionEncoder"]


class ActionEncoder(nn.Module):
    """A vector for the actions of each frame, normalised by the mean and the deviation of those it was trained on."""

    def __init__(self, actions: int, width: int) -> None:
        super().__init__()
        self.actions = actions
        self.norm = nn.BatchNorm1d(actions, affine=False, momentum=0.01)
        self.embed = nn.Sequential(nn.Linear(actions, width), nn.GELU(), nn.Linear(width, width))
        self.nothing = nn.Parameter(torch.zeros(width))

    def forward(
        self, actions: Float[Tensor, "B t A"] | None, frames: int, told: Bool[Tensor, " B"]
    ) -> Float[Tensor, "B T D"]:
        """A vector for each frame, another one where `told` is false, and for all without actions.

        Raises ValueError for actions of another number or for fewer frames; those of more frames are left out.
        """
        nothing = self.nothing.expand(len(told), frames, -1)
        if actions is None:
            return nothing
        if actions.shape[2] != self.actions or actions.shape[1] < frames:
            raise ValueError(
                f"actions are {actions.shape[2]} numbers for each of {actions.shape[1]} frames, but this model takes "
                f"{self.actions} for each of {frames}: give a row of as many for every frame"
            )
        known = self.norm(actions[:, :frames].float().flatten(0, 1)).unflatten(0, (-1, frames))
        return torch.where(told[:, None, None], self.embed(known), nothing)
