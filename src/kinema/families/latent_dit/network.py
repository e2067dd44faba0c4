"""The network of latent DiT."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.conditions.encoder import ConditionEncoder, EncodedConditions, RawConditions
from kinema.families.latent_dit.hourglass import Hourglass
from kinema.families.latent_dit.patches import Patches
from kinema.nn.rotary import grid
from kinema.nn.transformer import Transformer

__all__ = ["Network"]

FREQUENCIES = 128  # of a noise level's embedding


class Network(nn.Module):
    """A transformer over patches of latents, with conditions and a noise level for each token's time."""

    def __init__(
        self,
        patches: Patches,
        places: int,
        hidden: int,
        conditions: ConditionEncoder,
        transformer: Transformer | Hourglass,
    ) -> None:
        super().__init__()
        self.patches, self.conditions, self.transformer = patches, conditions, transformer
        self.places = nn.Parameter(0.02 * torch.randn(places, hidden))  # rotary positions only tell distances
        self.level = nn.Sequential(nn.Linear(2 * FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.first_frame = nn.Parameter(torch.zeros(hidden))

    def forward(
        self,
        x: Float[Tensor, "B L C h w"],
        clean: Bool[Tensor, "B L 1 h w"],
        levels: Float[Tensor, "B L"],
        conditions: EncodedConditions | RawConditions,
        has_first_frame_latent: bool,
    ) -> Float[Tensor, "B L C h w"]:
        """The output for `x`, which is without noise where `clean`, in the model's parameterisation; float32.

        The `levels` of latents that share a token are the same. `has_first_frame_latent` says whether the first latent
        is of a single frame.
        """
        tokens = self.patches.read(x, clean)
        encoded = self._encode(conditions, tokens) if isinstance(conditions, RawConditions) else conditions
        frames, (height, width) = tokens.shape[1], (side // self.patches.side for side in x.shape[3:])
        condition = self.level(_embed_levels(levels[:, :: self.patches.time])) + encoded.groups  # [B, frames, D]
        if has_first_frame_latent:
            condition = torch.cat([condition[:, :1] + self.first_frame, condition[:, 1:]], 1)
        tokens, positions = (tokens + self.places).flatten(1, 2), grid(frames, height, width, device=x.device)
        tokens = self.transformer(tokens, positions, condition, frames, encoded.context, height)
        return self.patches.write(tokens, frames, height)

    def _encode(self, raw: RawConditions, tokens: Float[Tensor, "B l N D"]) -> EncodedConditions:
        encoded = self.conditions(raw.conditions, raw.frames, len(tokens), raw.dropped)
        return encoded.slice(raw.first, tokens.shape[1])


def _embed_levels(levels: Float[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Cosines and sines of noise levels at many frequencies, as DiT's of its 1,000 steps."""
    frequencies = 1000 * 10_000.0 ** (-torch.arange(FREQUENCIES, device=levels.device) / FREQUENCIES)
    angles = levels[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
