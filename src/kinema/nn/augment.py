"""Differentiable augmentation of clips, which keeps a critic from memorising a small dataset."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["augment"]


def augment(
    frames: Float[Tensor, "B T C H W"], generator: torch.Generator, colour: bool = True
) -> Float[Tensor, "B T C H W"]:
    """Colour, translation and cutout of DiffAugment (Zhao et al. 2020, arXiv 2006.10738, section 4).

    Brightness in +-0.5, saturation in [0, 2], contrast in [0.5, 1.5], shifts of up to 1/8 of a side padded with zeros,
    and a hole of half the height and width. All frames of a clip have the same draw, which preserves its motion.
    `colour` is for pixels; latents are only shifted and cut out.
    """
    batch, _, _, height, width = frames.shape
    device = frames.device

    def integers(low: int, high: int) -> Tensor:  # [B 1], both ends included
        return torch.randint(low, high + 1, (batch, 1), generator=generator, device=device)

    if colour:
        frames = _recolour(frames, generator)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    from_row = rows + integers(-(height // 8), height // 8)  # [B H]
    from_column = columns + integers(-(width // 8), width // 8)  # [B W]
    inside = ((from_row >= 0) & (from_row < height))[:, :, None] & ((from_column >= 0) & (from_column < width))[:, None]
    hole_row = (rows - integers(0, height)).add(height // 4)
    hole_column = (columns - integers(0, width)).add(width // 4)
    hole = ((hole_row >= 0) & (hole_row < height // 2))[:, :, None]
    hole = hole & ((hole_column >= 0) & (hole_column < width // 2))[:, None]  # [B H W]
    clip = torch.arange(batch, device=device)[:, None, None]
    row, column = from_row.clamp(0, height - 1)[:, :, None], from_column.clamp(0, width - 1)[:, None]
    shifted = frames.permute(0, 3, 4, 1, 2)[clip, row, column].permute(0, 3, 4, 1, 2)
    return shifted * (inside & ~hole)[:, None, None]


def _recolour(frames: Float[Tensor, "B T 3 H W"], generator: torch.Generator) -> Float[Tensor, "B T 3 H W"]:
    """Clips with another brightness, saturation and contrast."""

    def uniform(low: float, high: float) -> Tensor:  # [B 1 1 1 1]
        return torch.rand(len(frames), 1, 1, 1, 1, generator=generator, device=frames.device) * (high - low) + low

    frames = frames + uniform(-0.5, 0.5)
    grey = frames.mean(2, keepdim=True)
    frames = grey + (frames - grey) * uniform(0.0, 2.0)
    level = frames.mean((2, 3, 4), keepdim=True)
    return level + (frames - level) * uniform(0.5, 1.5)
