"""Class labels, where a model was trained with them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from kinema.conditions.encoder import Encoding
from kinema.types import Conditions, Seeds

__all__ = ["LabelEncoder", "choose_labels"]


class LabelEncoder(nn.Module):
    """A vector for each class, and one for no label."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes + 1, width)  # the last is for no label
        nn.init.normal_(self.embed.weight, std=0.2)

    def forward(self, labels: Int64[Tensor, " B"] | None, frames: int, present: Bool[Tensor, " B"]) -> Encoding:
        """A vector for each clip; that of no label where `present` is false."""
        none = torch.full_like(present, self.embed.num_embeddings - 1, dtype=torch.int64)
        return Encoding(clip=self.embed(none if labels is None else torch.where(present, labels, none)))


def choose_labels(
    conditions: Conditions, classes: int, seeds: Seeds, stream: str, device: torch.device
) -> Int64[Tensor, " B"]:
    """The label of each clip: from the conditions, or drawn from (`stream`, "label"); all 0 where there are no classes.

    Raises ValueError for a label that is not among `classes`.
    """
    if conditions.label is None:
        return seeds.stream(stream, "label").integers(max(1, classes), device=device)
    if not classes:
        raise ValueError("this model was trained without labels: leave the label out")
    if not all(0 <= label < classes for label in conditions.label.tolist()):
        raise ValueError(f"this model knows the labels 0 to {classes - 1}, not {conditions.label.tolist()}")
    return conditions.label.to(device)
