"""A transformer most of whose blocks see merged tokens."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Real
from torch import Tensor, nn

from kinema.nn.rotary import grid
from kinema.nn.transformer import Context, Transformer

__all__ = ["Hourglass"]

SIDE = 2  # tokens of a row and of a column that are merged


class Hourglass(nn.Module):
    """A transformer whose first and last block see all tokens, the others 2x2 tokens of a frame merged into one.

    Merged tokens are a quarter as many, so that blocks of twice the width take the time of the others (hourglass
    transformers: Nawrot et al. 2021, arXiv 2110.13711; for diffusion: Crowson et al. 2024, arXiv 2401.11605). What they
    add to the tokens starts at zero. An odd row or column is merged with zeros. Heads have the same size in all blocks.
    Raises ValueError for fewer than 3 blocks.
    """

    def __init__(
        self,
        width: int,
        merged_width: int,
        depth: int,
        heads: int,
        cross_attention: bool = False,
        local_conv: bool = False,
    ) -> None:
        super().__init__()
        if depth < 3:
            raise ValueError(f"a first block, a last one and merged ones between are 3 or more, not {depth}")

        def transformer(width: int, depth: int, heads: int) -> Transformer:
            return Transformer(
                width, depth, heads, conditioned=True, cross_attention=cross_attention, local_conv=local_conv
            )

        self.first, self.last = transformer(width, 1, heads), transformer(width, 1, heads)
        self.merged = transformer(merged_width, depth - 2, heads * merged_width // width)
        self.merge, self.split = nn.Linear(SIDE**2 * width, merged_width), nn.Linear(merged_width, SIDE**2 * width)
        nn.init.zeros_(self.split.weight)
        nn.init.zeros_(self.split.bias)
        self.condition = nn.Linear(width, merged_width)
        self.context = nn.Linear(width, merged_width) if cross_attention else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        positions: Real[Tensor, "N 3"],
        condition: Float[Tensor, "B G D"],
        frames: int,
        context: Context | None,
        height: int,
    ) -> Float[Tensor, "B N D"]:
        """The tokens after all blocks, normalised, float32.

        The arguments are those of `Transformer.forward`, with `height` rows of tokens in each of `frames` frames.
        `positions` are of the first and the last block; merged tokens are at the places of a grid of their own.
        """
        x = self.first(x, positions, condition, frames, context, height)
        rows = rearrange(x, "b (t h w) d -> (b t) h w d", t=frames, h=height)
        width = rows.shape[2]
        rows = F.pad(rows, (0, 0, 0, -width % SIDE, 0, -height % SIDE))
        merged_height, merged_width = rows.shape[1] // SIDE, rows.shape[2] // SIDE
        sizes: dict[str, int] = {"t": frames, "h": merged_height, "p": SIDE, "q": SIDE}
        merged = self.merge(rearrange(rows, "(b t) (h p) (w q) d -> b (t h w) (p q d)", **sizes))
        merged_positions = grid(frames, merged_height, merged_width, device=x.device)
        merged_context = None if self.context is None or context is None else (self.context(context[0]), context[1])
        merged = self.merged(merged, merged_positions, self.condition(condition), frames, merged_context, merged_height)
        added = rearrange(self.split(merged), "b (t h w) (p q d) -> (b t) (h p) (w q) d", **sizes)
        x = x + rearrange(added[:, :height, :width], "(b t) h w d -> b (t h w) d", t=frames)
        return self.last(x, positions, condition, frames, context, height)
