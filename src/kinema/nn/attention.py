"""Attention over the tokens of a video, and its key-value cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.nn.rotary import rotate

__all__ = [
    "Attention",
    "AttentionAxis",
    "Cache",
    "CrossAttention",
    "Mask",
    "attend",
    "fused_attention",
    "plain_attention",
    "plain_is_faster",
]

Mask = Bool[Tensor, "*#B #N #M"] | Literal["causal"] | None  # "causal": the queries are the last N of the M tokens
AttentionAxis = Literal["all", "space", "time"]

AMX = bool(torch.cpu.get_capabilities().get("amx_bf16"))  # whether this CPU has matrix units

LAYOUTS: dict[AttentionAxis, tuple[str, str]] = {  # flat tokens -> tokens grouped by what attends to each other
    "all": ("b (t s) h d", "b h (t s) d"),
    "space": ("b (t s) h d", "(b t) h s d"),
    "time": ("b (t s) h d", "(b s) h t d"),
}


def plain_is_faster(q: Tensor, k: Tensor) -> bool:
    """Whether two matrix products and a softmax are faster than PyTorch's fused attention.

    That is the case in bfloat16 on a CPU up to 1,024 keys. Measured (`benchmarks/attention.py`), in parts of the fused
    time: training 0.1 to 0.6 at 64 to 1,024 tokens, 0.5 at 270 tokens with AMX; sampling 0.4 to 0.7 without AMX, and
    above 1 with AMX; float32 0.7 to 1.3.
    """
    usable = (torch.is_grad_enabled() and q.requires_grad) or not AMX
    return usable and q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 1024


def attend(
    q: Float[Tensor, "B heads N D"], k: Float[Tensor, "B heads M D"], v: Float[Tensor, "B heads M D"], mask: Mask = None
) -> Float[Tensor, "B heads N D"]:
    """Scaled dot-product attention (arXiv 1706.03762, eq. 1); a boolean mask is true where a query may attend."""
    return (plain_attention if plain_is_faster(q, k) else fused_attention)(q, k, v, mask)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """`attend` by matrix products."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [B, heads, N, M]
    if (matrix := _mask_matrix(q, k, mask)) is not None:
        scores = scores.masked_fill(~matrix, -torch.inf)
    return scores.softmax(-1) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """`attend` by PyTorch's fused kernels, whose own causal mask is only for as many queries as keys."""
    if isinstance(mask, str) and q.shape == k.shape:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, _mask_matrix(q, k, mask))


def _mask_matrix(q: Tensor, k: Tensor, mask: Mask) -> Bool[Tensor, "*#B #N #M"] | None:
    """The mask as a boolean matrix, or None where every query attends to all keys."""
    if not isinstance(mask, str):
        return mask
    queries, keys = q.shape[-2], k.shape[-2]
    if queries == 1:
        return None
    return torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)


@dataclass(frozen=True, slots=True)
class Cache:
    """The keys and values of past tokens in an attention layer, in a buffer with spare capacity.

    `extended` returns a new cache and leaves this one valid, so that a frame can be computed several times from the
    same past. All caches that extend one cache write into the same buffer, so only the latest of them is valid.
    """

    stored: Float[Tensor, "2 B heads capacity D"] | None = None
    length: int = 0  # tokens stored; the buffer is uninitialised beyond them

    def extended(self, keys: Float[Tensor, "B heads N D"], values: Float[Tensor, "B heads N D"]) -> Cache:
        """A cache with N more tokens; a buffer that is too small is replaced by one of twice the length needed."""
        new, end = torch.stack([keys, values]), self.length + keys.shape[-2]
        stored = self.stored
        if stored is None or end > stored.shape[-2]:
            stored = new.new_empty(*new.shape[:-2], 2 * end, new.shape[-1])
            if self.stored is not None:
                stored[..., : self.length, :] = self.stored[..., : self.length, :]
        stored[..., self.length : end, :] = new
        return Cache(stored, end)

    def seen(self) -> tuple[Float[Tensor, "B heads M D"], Float[Tensor, "B heads M D"]]:
        """The keys and the values of all tokens."""
        assert self.stored is not None
        keys, values = self.stored[..., : self.length, :]
        return keys, values


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, within each frame ("space") or along time at each position ("time").

    Queries and keys of every head are normalised to unit mean square, with a learned gain for each channel, so that
    scores stay bounded (ViT-22B, arXiv 2302.05442, section 2; as RMSNorm in Stable Diffusion 3, arXiv 2403.03206,
    section 5.3.2). Positions are rotary. Raises ValueError for a width that does not divide into heads.
    """

    def __init__(self, width: int, heads: int, over: AttentionAxis = "all") -> None:
        super().__init__()
        if width % heads or width // heads < 6 or width // heads % 2:
            raise ValueError(f"a width of {width} in {heads} heads: choose one that gives heads an even width above 5")
        self.heads, self.layouts = heads, LAYOUTS[over]
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gain = nn.Parameter(torch.ones(2, 1, width // heads))  # of queries and of keys
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        table: Float[Tensor, "2 N pairs"],
        mask: Mask = None,
        frames: int = 1,
        cache: Cache | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Cache | None]:
        """The output for the tokens of `frames` frames, in order, and the cache extended by them if there is one.

        `mask` is over the queries and keys that attend to each other, cached keys first.
        """
        qkv = rearrange(self.qkv(x), "b n (i h d) -> b n i h d", i=3, h=self.heads)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]  # [B, N, 2, heads, d] and [B, N, heads, d]
        qk = F.rms_norm(qk.float(), qk.shape[-1:], eps=1e-6) * self.gain
        q, k = rotate(qk, table).to(v.dtype).unbind(2)
        flat, grouped = self.layouts
        q, k, v = (rearrange(y, f"{flat} -> {grouped}", t=frames) for y in (q, k, v))
        if cache is not None:
            cache = cache.extended(k, v)
            k, v = cache.seen()
        y = rearrange(attend(q, k, v, mask), f"{grouped} -> {flat}", b=len(x), t=frames)
        return self.out(y.flatten(2)), cache


class CrossAttention(nn.Module):
    """Multi-head cross-attention from tokens to a context.

    Queries and keys are normalised as in `Attention`; there are no rotary positions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.gain = nn.Parameter(torch.ones(2, width // heads))  # of queries and of keys
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N D"], context: Float[Tensor, "B M D"], seen: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B N D"]:
        """The output for each token; `seen` is true for the context's valid tokens, at least one for each clip."""
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(context), "b m (i h d) -> i b h m d", i=2, h=self.heads)
        q, k = (F.rms_norm(y.float(), y.shape[-1:], self.gain[i], 1e-6).to(v.dtype) for i, y in enumerate((q, k)))
        y = attend(q, k, v, seen[:, None, None].expand(-1, -1, q.shape[2], -1))
        return self.out(rearrange(y, "b h n d -> b n (h d)"))
