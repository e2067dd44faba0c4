"""A transformer over the tokens of a video, for diffusion and for token prediction."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from kinema.nn.attention import Attention, AttentionAxis, Cache, CrossAttention, Mask
from kinema.nn.rotary import rotary_table

__all__ = ["AttentionKind", "Block", "Caches", "Causal", "Context", "Transformer"]

AttentionKind = Literal["full", "factorised"]
Causal = Literal["frames", "tokens"] | None
Context = tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"]]  # tokens to attend to, and which of them are valid
Caches = tuple[Cache | None, ...]  # one for each block; None for attention within frames


class Block(nn.Module):
    """A pre-norm transformer block: self-attention, optional cross-attention, and an MLP, each with a residual.

    If `conditioned`, the condition shifts, scales and gates the attention and the MLP by six vectors that all blocks of
    a `Transformer` share, plus a learned offset of each block (adaLN-single: PixArt-alpha, arXiv 2310.00426, section
    2.3). They start at zero, so that a block starts as the identity (adaLN-Zero: DiT, arXiv 2212.09748, section 3.2).
    If `cross_attention`, tokens attend to a context, such as the words of a text. If `local_conv`, a 3x3 convolution,
    by channel, of the tokens around it in its frame is added to each token first (conditional positional encoding: Chu
    et al. 2021, arXiv 2102.10882, section 3.2), so that neighbouring patches agree early in training; it starts at 0.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        over: AttentionAxis = "all",
        conditioned: bool = False,
        cross_attention: bool = False,
        local_conv: bool = False,
    ) -> None:
        super().__init__()
        self.local_conv = nn.Conv2d(width, width, 3, padding=1, groups=width) if local_conv else None
        if self.local_conv is not None:
            for parameter in self.local_conv.parameters():
                nn.init.zeros_(parameter)
        self.norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.attention = Attention(width, heads, over)
        self.cross = CrossAttention(width, heads) if cross_attention else None
        self.cross_norm = nn.LayerNorm(width) if cross_attention else None
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        # exact GELU: the tanh approximation is three times slower in bfloat16 on a CPU
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
        height: int | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Cache | None]:
        """The tokens after the block; see `Transformer` for the modulation and `Attention` for the rest."""
        if self.local_conv is not None:
            assert height is not None, "a transformer with local convolutions needs the rows of a frame's tokens"
            rows = rearrange(x, "b (t h w) d -> (b t) d h w", t=frames, h=height)  # channels-last, as in memory
            x = x + rearrange(self.local_conv(rows), "(b t) d h w -> b (t h w) d", t=frames)
        if self.modulation is None or modulation is None:
            change, cache = self.attention(self.norm(x), table, mask, frames, cache)
            x = self._attend_to_context(x + change, context)
            return x + self.mlp(self.mlp_norm(x)), cache
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (modulation + self.modulation).chunk(6, -1)
        change, cache = self.attention(_modulate(self.norm(x), shift, scale), table, mask, frames, cache)
        x = self._attend_to_context(x + _gate(change, gate), context)
        return x + _gate(self.mlp(_modulate(self.mlp_norm(x), mlp_shift, mlp_scale)), mlp_gate), cache

    def _attend_to_context(self, x: Tensor, context: Context | None) -> Tensor:
        """`x` plus its cross-attention to the context, if there is one."""
        if self.cross is None or self.cross_norm is None:
            return x
        assert context is not None, "a transformer with cross-attention needs a context"
        return x + self.cross(self.cross_norm(x), *context)


class Transformer(nn.Module):
    """Transformer blocks over tokens in temporal order, and a final normalisation, without embedding and head.

    Attention is "full", over all tokens, or "factorised": blocks alternate between attention within each frame and
    along time (Latte, arXiv 2401.03048, variant 1). With causal "frames" a token attends to its own and earlier frames,
    with "tokens" to itself and earlier tokens; a causal transformer can continue from a cache. Full attention takes the
    frame of a token from the time in its position, factorised attention from `frames`.

    Weights are Xavier uniform and biases zero, as in DiT; modulation and cross-attention outputs start at zero. Without
    conditioning, residual outputs are divided by sqrt(2 depth) (GPT-2, Radford et al. 2019, section 2.3). Multiples of
    32 tokens are the fastest. Raises ValueError where the settings do not fit together.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        attention: AttentionKind = "full",
        causal: Causal = None,
        conditioned: bool = False,
        cross_attention: bool = False,
        local_conv: bool = False,
    ) -> None:
        super().__init__()
        if attention == "factorised" and (depth % 2 or causal == "tokens"):
            raise ValueError("factorised attention takes an even depth, and is causal in frames or not at all")
        self.causal: Causal = causal
        self.head = width // heads
        axes: tuple[AttentionAxis, ...] = ("all",) if attention == "full" else ("space", "time")
        self.overs: list[AttentionAxis] = [axes[i % len(axes)] for i in range(depth)]
        settings = conditioned, cross_attention, local_conv
        self.blocks = nn.ModuleList(Block(width, heads, over, *settings) for over in self.overs)
        self.norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.modulation = (
            nn.Linear(width, 8 * width) if conditioned else None
        )  # 6 vectors for the blocks, 2 for the last norm
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
        height: int | None = None,
    ) -> Float[Tensor, "B N D"]:
        """The tokens after all blocks, normalised, float32.

        A position is a time, a row and a column. `condition` has one vector for each of G groups of N/G tokens: one for
        each frame, or one for all. `frames` is the number of frames; factorised attention requires it, and full
        attention skips the causal mask for a single frame. Local convolutions require `height`, the rows of tokens of a
        frame.
        """
        return self._run(x, positions, condition, frames, (None,) * len(self.blocks), context, height)[0]

    @torch.no_grad()
    def extend(
        self,
        x: Float[Tensor, "B N D"],
        positions: Real[Tensor, "N 3"],
        cache: Caches | None,
        condition: Float[Tensor, "B G D"] | None = None,
        frames: int | None = None,
        context: Context | None = None,
        height: int | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Caches]:
        """`forward` for the tokens after those in `cache` (None: the first tokens), without gradients.

        Takes complete frames unless `causal` is "tokens". Returns the extended cache too; see `Cache` for reuse. Raises
        ValueError if the transformer is not causal.
        """
        if self.causal is None:
            raise ValueError("only a causal transformer can continue from a cache: build the transformer causal")
        if cache is None:
            cache = tuple(None if over == "space" else Cache() for over in self.overs)
        return self._run(x, positions, condition, frames, cache, context, height)

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        condition: Tensor | None,
        frames: int | None,
        caches: Caches,
        context: Context | None,
        height: int | None,
    ) -> tuple[Tensor, Caches]:
        assert (condition is None) == (self.modulation is None), (
            "a conditioned transformer needs a condition, another takes none"
        )
        positions = positions.to(x.device)
        table = rotary_table(positions, self.head)
        masks: dict[AttentionAxis, Mask] = {
            "all": self._mask(positions[:, 0], frames, caches[0].length if caches[0] else 0),
            "space": None,
            "time": "causal" if self.causal else None,
        }
        block_modulation = last_modulation = None
        if self.modulation is not None and condition is not None:
            sizes = (6 * x.shape[2], 2 * x.shape[2])
            block_modulation, last_modulation = self.modulation(F.silu(condition)).split(sizes, -1)
        x, extended = x.float(), []  # the residual stream: bfloat16 would lose small changes
        for block, over, cache in zip(self.blocks, self.overs, caches, strict=True):
            assert over == "all" or frames is not None, "factorised attention needs the number of frames"
            x, cache = block(x, table, masks[over], frames or 1, block_modulation, cache, context, height)
            extended.append(cache)
        x = self.norm(x)
        if last_modulation is not None:
            x = _modulate(x, *last_modulation.chunk(2, -1))
        return x, tuple(extended)

    def _mask(self, times: Real[Tensor, " N"], frames: int | None, cached: int) -> Mask:
        """The mask of full attention over new tokens, which attend to all `cached` tokens."""
        if self.causal == "tokens":
            return "causal"
        if self.causal is None or frames == 1:
            return None
        return F.pad(times[:, None] >= times, (cached, 0), value=True)  # [N, cached + N]


def _modulate(x: Float[Tensor, "B N D"], shift: Float[Tensor, "B G D"], scale: Float[Tensor, "B G D"]) -> Tensor:
    """`x` scaled and shifted in groups of N/G tokens."""
    groups = x.unflatten(1, (shift.shape[1], -1))  # [B, G, N/G, D]
    return (groups * (1 + scale[:, :, None]) + shift[:, :, None]).flatten(1, 2)


def _gate(x: Float[Tensor, "B N D"], gate: Float[Tensor, "B G D"]) -> Tensor:
    """`x` scaled in groups of N/G tokens."""
    return (x.unflatten(1, (gate.shape[1], -1)) * gate[:, :, None]).flatten(1, 2)
