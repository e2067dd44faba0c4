"""A transformer over the tokens of a video: to denoise latents, or to predict tokens."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from kinema.nn.attention import Attention, Cache, CrossAttention, Mask, Over
from kinema.nn.rotary import rotary_table

__all__ = ["AttentionKind", "Block", "Caches", "Causal", "Context", "Transformer"]

AttentionKind = Literal["full", "factorised"]
Causal = Literal["frames", "tokens"] | None
Context = tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]  # tokens to attend to, and which are there
Caches = tuple[Cache | None, ...]  # one a block; inside a frame there is nothing to remember


class Block(nn.Module):
    """Attention and an MLP, each normalised first and added to what it is given.

    If `conditioned`, the condition shifts and scales what both are given and gates what they add: six vectors that all
    blocks of a `Transformer` share, to which each adds its own (adaLN-single: PixArt-alpha, arXiv 2310.00426, section
    2.3). All start at zero, and so the block as the identity (adaLN-Zero: DiT, arXiv 2212.09748, section 3.2). If
    `crossed`, tokens attend to a context between the two, such as the words of a text.
    """

    def __init__(
        self, width: int, heads: int, over: Over = "all", conditioned: bool = False, crossed: bool = False
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.attention = Attention(width, heads, over)
        self.cross = CrossAttention(width, heads) if crossed else None
        self.cross_norm = nn.LayerNorm(width) if crossed else None
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        # GELU by the error function: on a CPU the one by tanh is three times slower in bfloat16
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Parameter(torch.zeros(6 * width)) if conditioned else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        table: Float[Tensor, "2 N pairs"],
        mask: Mask = None,
        frames: int = 1,
        modulation: Float[Tensor, "B G 6*D"] | None = None,
        cache: Cache | None = None,
        context: Context | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Cache | None]:
        """The tokens after the block; see `Transformer` for the modulation and `Attention` for the rest."""
        if self.modulation is None or modulation is None:
            change, cache = self.attention(self.norm(x), table, mask, frames, cache)
            x = self._crossed(x + change, context)
            return x + self.mlp(self.mlp_norm(x)), cache
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (modulation + self.modulation).chunk(6, -1)
        change, cache = self.attention(_modulated(self.norm(x), shift, scale), table, mask, frames, cache)
        x = self._crossed(x + _gated(change, gate), context)
        return x + _gated(self.mlp(_modulated(self.mlp_norm(x), mlp_shift, mlp_scale)), mlp_gate), cache

    def _crossed(self, x: Tensor, context: Context | None) -> Tensor:
        """`x` with what it gathers from the context."""
        if self.cross is None or self.cross_norm is None:
            return x
        assert context is not None, "a crossed transformer attends to a context"
        return x + self.cross(self.cross_norm(x), *context)


class Transformer(nn.Module):
    """Blocks over tokens in the order of time, and a last normalisation; what embeds and reads them is the caller's.

    Attention is "full", over all tokens, or "factorised": blocks attend by turns inside each frame and along time
    (Latte, arXiv 2401.03048, variant 1). With causal "frames" a token sees its own frame and those before, with
    "tokens" itself and those before; such a transformer can go on from a cache. Frames are told apart by the time in
    their positions, in factorised attention by their number.

    Weights are Xavier uniform and biases zero, as in DiT. What a condition does starts at zero; without one, what each
    block adds is divided by sqrt(2 depth), so that the sum keeps its scale (GPT-2, Radford et al. 2019, section 2.3).
    Multiples of 32 tokens are the fastest. Raises ValueError where the settings do not fit together.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        attention: AttentionKind = "full",
        causal: Causal = None,
        conditioned: bool = False,
        crossed: bool = False,
    ) -> None:
        super().__init__()
        if attention == "factorised" and (depth % 2 or causal == "tokens"):
            raise ValueError("factorised attention takes an even depth, and is causal in frames or not at all")
        self.causal: Causal = causal
        self.head = width // heads
        turns: tuple[Over, ...] = ("all",) if attention == "full" else ("space", "time")
        self.overs: list[Over] = [turns[i % len(turns)] for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, over, conditioned, crossed) for over in self.overs)
        self.norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.modulation = nn.Linear(width, 8 * width) if conditioned else None  # of the blocks, and of the last norm
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if name.endswith(("modulation", "cross.out")):
                    nn.init.zeros_(module.weight)
                elif not conditioned and name.endswith(("attention.out", "mlp.2")):
                    module.weight.data /= (2 * depth) ** 0.5
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        positions: Real[Tensor, "N 3"],
        condition: Float[Tensor, "B G D"] | None = None,
        frames: int | None = None,
        context: Context | None = None,
    ) -> Float[Tensor, "B N D"]:
        """The tokens after all blocks, normalised, float32.

        A position is a time, a row and a column. There is a condition for each of G groups of N/G tokens: one a frame,
        or one for all. `frames` is how many frames the tokens are: factorised attention has to know, and full
        attention needs no mask inside a single one.
        """
        return self._run(x, positions, condition, frames, (None,) * len(self.blocks), context)[0]

    @torch.no_grad()
    def extend(
        self,
        x: Float[Tensor, "B N D"],
        positions: Real[Tensor, "N 3"],
        cache: Caches | None,
        condition: Float[Tensor, "B G D"] | None = None,
        frames: int | None = None,
        context: Context | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Caches]:
        """`forward` of the tokens that come after those in `cache` (None: the first), without gradients.

        Whole frames, unless causal in tokens. Returns the cache to go on from as well: see `Cache` for trying again.
        """
        if self.causal is None:
            raise ValueError("tokens that see later ones cannot be gone on from: build the transformer causal")
        if cache is None:
            cache = tuple(None if over == "space" else Cache() for over in self.overs)
        return self._run(x, positions, condition, frames, cache, context)

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        condition: Tensor | None,
        frames: int | None,
        caches: Caches,
        context: Context | None,
    ) -> tuple[Tensor, Caches]:
        assert (condition is None) == (self.modulation is None), "a condition belongs to a conditioned transformer"
        positions = positions.to(x.device)
        table = rotary_table(positions, self.head)
        masks: dict[Over, Mask] = {
            "all": self._mask(positions[:, 0], frames, caches[0].length if caches[0] else 0),
            "space": None,
            "time": "causal" if self.causal else None,
        }
        each = last = None
        if self.modulation is not None and condition is not None:
            each, last = self.modulation(F.silu(condition)).split((6 * x.shape[2], 2 * x.shape[2]), -1)
        x, after = x.float(), []  # what blocks add up, from which bfloat16 would drop small changes
        for block, over, cache in zip(self.blocks, self.overs, caches, strict=True):
            assert over == "all" or frames is not None, "factorised attention has to know how many frames there are"
            x, cache = block(x, table, masks[over], frames or 1, each, cache, context)
            after.append(cache)
        x = self.norm(x)
        if last is not None:
            x = _modulated(x, *last.chunk(2, -1))
        return x, tuple(after)

    def _mask(self, times: Real[Tensor, " N"], frames: int | None, past: int) -> Mask:
        """What new tokens see of each other, and all of the `past` ones."""
        if self.causal == "tokens":
            return "causal"
        if self.causal is None or frames == 1:
            return None
        return F.pad(times[:, None] >= times, (past, 0), value=True)  # [N, past + N]


def _modulated(x: Float[Tensor, "B N D"], shift: Float[Tensor, "B G D"], scale: Float[Tensor, "B G D"]) -> Tensor:
    """`x` scaled and shifted in groups of N/G tokens."""
    groups = x.unflatten(1, (shift.shape[1], -1))  # [B, G, N/G, D]
    return (groups * (1 + scale[:, :, None]) + shift[:, :, None]).flatten(1, 2)


def _gated(x: Float[Tensor, "B N D"], gate: Float[Tensor, "B G D"]) -> Tensor:
    """`x` scaled in groups of N/G tokens."""
    return (x.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]).flatten(1, 2)
