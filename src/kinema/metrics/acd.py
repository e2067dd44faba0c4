"""Average Content Distance: how much the content of a clip changes from frame to frame.

From MoCoGAN (Tulyakov et al., CVPR 2018, arXiv 1707.04993, section 4, Table 1).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["acd"]


def acd(content: Float[Tensor, "B T F"]) -> Float[Tensor, " B"]:
    """The mean Euclidean distance over all pairs of a clip's frames, whose content is given as vectors.

    0 for content that stays the same, whatever the motion. Raises ValueError for clips of a single frame.
    """
    count = content.shape[1]
    if count < 2:
        raise ValueError("a content distance compares the frames of a clip, so it needs clips of 2 frames or more")
    # not by a matrix product, whose cancellation would turn a distance of exactly 0 into small noise
    distances = torch.cdist(content, content, compute_mode="donot_use_mm_for_euclid_dist")  # [B, T, T]
    return distances.sum((-2, -1)) / (count * (count - 1))
