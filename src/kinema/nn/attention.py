"""Attention over tokens of space and time, and the cache that lets it go on from what it has seen."""

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
    "Cache",
    "CrossAttention",
    "Mask",
    "Over",
    "attend",
    "fused_attention",
    "plain_attention",
    "plain_is_faster",
]

Mask = Bool[Tensor, "*#B #N #M"] | Literal["causal"] | None  # "causal": the queries are the last of the keys
Over = Literal["all", "space", "time"]

AMX = bool(torch.cpu.get_capabilities().get("amx_bf16"))  # whether this CPU has matrix units

LAYOUTS: dict[Over, tuple[str, str]] = {  # what attends to each other is an axis of its own
    "all": ("b (t s) h d", "b h (t s) d"),
    "space": ("b (t s) h d", "(b t) h s d"),
    "time": ("b (t s) h d", "(b s) h t d"),
}


def plain_is_faster(q: Tensor, k: Tensor) -> bool:
    """Whether two matrix products and a softmax beat PyTorch's fused attention.

    Fused attention saves memory traffic and pays for it in the backward pass: in bfloat16 on a CPU plain took 0.1 to
    0.6 of its time at 64 to 1,024 tokens (`benchmarks/attention.py`), and half at 270 on one with AMX. Sampling is
    faster with fused attention on those alone: on a CPU without AMX plain took 0.4 to 0.7 of its time there too.
    In float32 the two are alike: plain took 0.7 to 1.3 of its time.
    """
    wanted = (torch.is_grad_enabled() and q.requires_grad) or not AMX
    return wanted and q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 1024


def attend(
    q: Float[Tensor, "B heads N D"], k: Float[Tensor, "B heads M D"], v: Float[Tensor, "B heads M D"], mask: Mask = None
) -> Float[Tensor, "B heads N D"]:
    """Scaled dot-product attention (arXiv 1706.03762, eq. 1); a boolean mask is true where a query sees a key."""
    return (plain_attention if plain_is_faster(q, k) else fused_attention)(q, k, v, mask)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """`attend` by matrix products."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [B, heads, N, M]
    if (seen := _seen(q, k, mask)) is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """`attend` by PyTorch's fused kernels, which know of a causal mask only that it is square."""
    if isinstance(mask, str) and q.shape == k.shape:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, _seen(q, k, mask))


def _seen(q: Tensor, k: Tensor, mask: Mask) -> Bool[Tensor, "*#B #N #M"] | None:
    """The mask as a matrix, or None where every query sees all keys."""
    if not isinstance(mask, str):
        return mask
    queries, keys = q.shape[-2], k.shape[-2]
    if queries == 1:
        return None
    return torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)


@dataclass(frozen=True, slots=True)
class Cache:
    """The keys and values that an attention layer has seen, and room for more.

    A cache is a value: going on from it leaves it as it was, so a frame can be tried several times. All that went on
    from one cache share its room, however, and of these only the last is still right.
    """

    stored: Float[Tensor, "2 B heads room D"] | None = None
    length: int = 0  # tokens seen; what is stored beyond them is of no meaning

    def extended(self, keys: Float[Tensor, "B heads N D"], values: Float[Tensor, "B heads N D"]) -> Cache:
        """This cache and N more tokens; where the room is too small it is doubled, so that few steps have to copy."""
        new, end = torch.stack([keys, values]), self.length + keys.shape[-2]
        stored = self.stored
        if stored is None or end > stored.shape[-2]:
            stored = new.new_empty(*new.shape[:-2], 2 * end, new.shape[-1])
            if self.stored is not None:
                stored[..., : self.length, :] = self.stored[..., : self.length, :]
        stored[..., self.length : end, :] = new
        return Cache(stored, end)

    def seen(self) -> tuple[Float[Tensor, "B heads M D"], Float[Tensor, "B heads M D"]]:
        """The keys and the values of all tokens seen."""
        assert self.stored is not None
        keys, values = self.stored[..., : self.length, :]
        return keys, values


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, inside each frame ("space") or along time at each place ("time").

    Queries and keys of every head are normalised to unit mean square, with a learned gain a channel, so that scores
    cannot grow without bound (ViT-22B, arXiv 2302.05442, section 2; as RMSNorm in Stable Diffusion 3, arXiv 2403.03206,
    section 5.3.2). Positions are rotary. Raises ValueError for a width that does not split into such heads.
    """

    def __init__(self, width: int, heads: int, over: Over = "all") -> None:
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
        """What the tokens of `frames` frames, in order, gather, and the cache with them if there is one.

        `mask` is between the tokens that attend to each other, those in the cache first.
        """
        qkv = rearrange(self.qkv(x), "b n (i h d) -> b n i h d", i=3, h=self.heads)
        qk, v = qkv[:, :, :2], qkv[:, :, 2]  # [B, N, 2, heads, d] and [B, N, heads, d]
        qk = F.rms_norm(qk.float(), qk.shape[-1:], eps=1e-6) * self.gain
        q, k = rotate(qk, table).to(v.dtype).unbind(2)
        apart, together = self.layouts
        q, k, v = (rearrange(y, f"{apart} -> {together}", t=frames) for y in (q, k, v))
        if cache is not None:
            cache = cache.extended(k, v)
            k, v = cache.seen()
        y = rearrange(attend(q, k, v, mask), f"{together} -> {apart}", b=len(x), t=frames)
        return self.out(y.flatten(2)), cache


class CrossAttention(nn.Module):
    """Multi-head attention of tokens to a context of others, whose gathered values begin at zero.

    Queries and keys are normalised as in `Attention`; a context has no positions but those it brings itself.
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
        """What each token gathers from the context where it is `seen`, which must be one place at least."""
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.kv(context), "b m (i h d) -> i b h m d", i=2, h=self.heads)
        q, k = (F.rms_norm(y.float(), y.shape[-1:], self.gain[i], 1e-6).to(v.dtype) for i, y in enumerate((q, k)))
        y = attend(q, k, v, seen[:, None, None].expand(-1, -1, q.shape[2], -1))
        return self.out(rearrange(y, "b h n d -> b n (h d)"))
