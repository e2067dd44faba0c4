"""Tokens as pure functions: random masks, likelihood, sampling from logits, and captions as bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = [
    "BEGIN",
    "END",
    "decode_bytes",
    "decode_masked",
    "encode_bytes",
    "filter_logits",
    "gumbel",
    "sample_mask",
    "token_nll",
]

END, BEGIN = 256, 257  # tokens of a caption beside its bytes; it is padded with END


def encode_bytes(texts: Sequence[str], length: int) -> Int64[Tensor, "B S"]:
    """BEGIN, at most `length` bytes of UTF-8, and END up to length + 2 tokens; none at all for a length of 0."""
    if not length:
        return torch.empty(len(texts), 0, dtype=torch.int64)
    rows = [list(text.encode()[:length]) for text in texts]
    return torch.tensor([[BEGIN, *row, *[END] * (length + 1 - len(row))] for row in rows])


def decode_bytes(tokens: Int64[Tensor, "B S"]) -> tuple[str, ...]:
    """The texts of bytes up to the first END, if there is one; bytes that are no UTF-8 are dropped."""
    rows = [row[: row.index(END)] if END in row else row for row in tokens.tolist()]
    return tuple(bytes(row).decode(errors="ignore") for row in rows)


def token_nll(logits: Float[Tensor, "B n V"], tokens: Int64[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """The cross-entropy of each token."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view_as(tokens)


def sample_mask(
    clips: int, count: int, generator: torch.Generator
) -> tuple[Bool[Tensor, "clips count"], Float[Tensor, " clips"]]:
    """A random mask over each clip's tokens, and the weight that makes their mean a bound of the likelihood.

    ceil(count cos(pi u / 2)) tokens are masked, for a uniform u (MaskGIT, arXiv 2202.04200, section 3.3). The mean
    cross-entropy of the masked tokens bounds that of all, on average, where every number from 1 to `count` is as
    probable (arXiv 2110.02037, section 2.1); the weight is that probability over the number's own.
    """
    u, order = (torch.rand(s, generator=generator, device=generator.device) for s in ((clips,), (clips, count)))
    many = (count * (math.pi / 2 * u).cos()).ceil().clamp(1, count)
    share = 2 / math.pi * (((many - 1) / count).acos() - (many / count).acos())
    return order.argsort(1).argsort(1) < many[:, None], 1 / (count * share)


def gumbel(uniform: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Gumbel noise of uniform noise in [0, 1): where logits plus it are largest is a draw from their distribution."""
    return -(-uniform.log()).log()


def filter_logits(
    logits: Float[Tensor, "*n V"], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Float[Tensor, "*n V"]:
    """Logits divided by `temperature`, those outside the `top_k` (0: all) and the nucleus of `top_p` set to -inf.

    The nucleus are the fewest likeliest tokens that have this probability together (arXiv 1904.09751, section 3.1).
    """
    logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(descending=True)
        probability = ordered.softmax(-1)
        beyond = probability.cumsum(-1) - probability >= top_p  # those before it are enough
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)
    return logits


def decode_masked(
    predict: Callable[[Tensor, Tensor], Tensor],
    tokens: Int64[Tensor, "B n"],
    uniform: Callable[..., Tensor],
    steps: int,
    confidence: float,
) -> Int64[Tensor, "B n"]:
    """`tokens` with those that are -1 sampled in `steps` steps (MaskGIT, arXiv 2202.04200, section 3.2).

    `predict` gives the logits [B, n, V] of tokens under a mask, `uniform` the next uniform noise of a shape. Each step
    samples all masked tokens and keeps the likeliest, with Gumbel noise of a temperature `confidence` that falls to 0;
    by the cosine schedule few are kept at first and many at last (section 3.3).
    """
    mask = tokens < 0
    tokens, count = tokens.clamp(min=0), mask.sum(1)
    for step in range(1, steps + 1):
        logits = predict(tokens, mask)
        tokens = torch.where(mask, (logits + gumbel(uniform(*logits.shape[1:]))).argmax(-1), tokens)
        likely = logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
        likely = likely + confidence * (1 - step / steps) * gumbel(uniform(tokens.shape[1]))
        remaining = (count * math.cos(math.pi / 2 * step / steps)).floor()  # to be sampled again
        mask = likely.where(mask, torch.inf).argsort(1).argsort(1) < remaining[:, None]
    return tokens
