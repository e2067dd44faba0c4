"""Transformer blocks at two resolutions: few at that of the tokens, most of them over merged tokens."""

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
    """A transformer whose first and last block see all tokens, the others 2x2 tokens as one of `inner` dimensions.

    Merged tokens are a quarter as many, so that blocks of twice the width take the time of the others (hourglass
    transformers: Nawrot et al. 2021, arXiv 2110.13711; for diffusion: Crowson et al. 2024, arXiv 2401.11605). What they
    add to the tokens starts at zero. Of an odd number of rows or columns the last are merged with zeros. Raises
    ValueError for fewer than 3 blocks.
    """

    def __init__(
        self, width: int, inner: int, depth: int, heads: int, cross_attention: bool = False, local_conv: bool = False
    ) -> None:
        super().__init__()
        if depth < 3:
            raise ValueError(f"a first, a last and inner blocks are 3 or more, not {depth}")

        def transformer(width: int, depth: int, heads: int) -> Transformer:
            return Transformer(
                width, depth, heads, conditioned=True, cross_attention=cross_attention, local_conv=local_conv
            )

        self.first, self.last = transformer(width, 1, heads), transformer(width, 1, heads)
        self.middle = transformer(inner, depth - 2, max(1, heads * inner // width))
        self.merge, self.split = nn.Linear(SIDE**2 * width, inner), nn.Linear(inner, SIDE**2 * width)
        nn.init.zeros_(self.split.weight)
        nn.init.zeros_(self.split.bias)
        self.condition = nn.Linear(width, inner)
        self.context = nn.Linear(width, inner) if cross_attention else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        positions: Real[Tensor, "N 3"],
        condition: Float[Tensor, "B G D"],
        frames: int,
        context: Context | None,
        height: int,
    ) -> Float[Tensor, "B N D"]:
        """The tokens after all blocks, as of a `Transformer` with these arguments."""
        x = self.first(x, positions, condition, frames, context, height)
        rows = rearrange(x, "b (t h w) d -> (b t) h w d", t=frames, h=height)
        rows = F.pad(rows, (0, 0, 0, rows.shape[2] % SIDE, 0, height % SIDE))
        few_rows, few_columns = rows.shape[1] // SIDE, rows.shape[2] // SIDE
        sizes: dict[str, int] = {"t": frames, "h": few_rows, "p": SIDE, "q": SIDE}
        merged = self.merge(rearrange(rows, "(b t) (h p) (w q) d -> b (t h w) (p q d)", **sizes))
        places = grid(frames, few_rows, few_columns, device=x.device)
        few_context = None if self.context is None or context is None else (self.context(context[0]), context[1])
        merged = self.middle(merged, places, self.condition(condition), frames, few_context, few_rows)
        added = rearrange(self.split(merged), "b (t h w) (p q d) -> (b t) (h p) (w q) d", **sizes)
        x = x + rearrange(added[:, :height, : x.shape[1] // frames // height], "(b t) h w d -> b (t h w) d", t=frames)
        return self.last(x, positions, condition, frames, context, height)
