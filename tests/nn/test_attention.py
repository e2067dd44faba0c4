"""Both implementations of attention against the formula, its masks, and a cache that is a value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import kinema.nn.attention
from kinema.nn.attention import Attention, Cache, Mask, attend, fused_attention, plain_attention
from kinema.nn.rotary import grid, rotary_table

TIME = torch.arange(3).repeat_interleave(4)
MASKS: dict[str, Mask] = {
    "none": None,
    "causal": "causal",
    "frames": TIME[:, None] >= TIME,
    "of-each-clip": torch.arange(12) < torch.tensor([3, 12]).view(2, 1, 1, 1),
}


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Query by query, by the formula."""
    if isinstance(mask, str):
        mask = torch.arange(k.shape[2]) <= torch.arange(k.shape[2] - q.shape[2], k.shape[2])[:, None]
    seen = torch.ones(*q.shape[:3], k.shape[2], dtype=torch.bool) if mask is None else mask.expand(*q.shape[:3], -1)
    out = torch.empty_like(q)
    for i, j, n in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        some = seen[i, j, n]
        weights = (k[i, j, some] @ q[i, j, n] / math.sqrt(q.shape[-1])).exp()
        out[i, j, n] = (weights / weights.sum()) @ v[i, j, some]
    return out


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("way", [plain_attention, fused_attention])
def test_both_implementations_are_the_formula(way, mask: Mask) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 12, 8).requires_grad_().unbind()
    torch.testing.assert_close(way(q, k, v, mask), reference(q, k, v, mask), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_both_implementations_have_one_gradient(mask: Mask) -> None:
    torch.manual_seed(0)
    qkv, wanted = torch.randn(3, 2, 3, 12, 8, requires_grad=True), torch.randn(2, 3, 12, 8)
    q, k, v = qkv
    outs = [way(q, k, v, mask) for way in (plain_attention, fused_attention)]
    gradients = [torch.autograd.grad((out * wanted).sum(), qkv)[0] for out in outs]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("way", [plain_attention, fused_attention])
def test_causal_queries_are_the_last(way, queries: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 12, 8)
    last = reference(q, k, v, "causal")[:, :, -queries:]
    torch.testing.assert_close(way(q[:, :, -queries:], k, v, "causal"), last, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "tokens", "training", "amx", "plain"),
    [
        (torch.bfloat16, 256, True, True, True),
        (torch.bfloat16, 1024, True, True, True),
        (torch.bfloat16, 2048, True, False, False),
        (torch.bfloat16, 256, False, True, False),
        (torch.bfloat16, 256, False, False, True),
        (torch.float32, 256, True, False, False),
    ],
)
def test_the_faster_implementation_is_chosen(
    monkeypatch, dtype: torch.dtype, tokens: int, training: bool, amx: bool, plain: bool
) -> None:
    monkeypatch.setattr(kinema.nn.attention, "AMX", amx)
    taken = []
    for name in ("plain_attention", "fused_attention"):
        monkeypatch.setattr(kinema.nn.attention, name, lambda q, *_, name=name: (taken.append(name), q)[1])
    attend(*torch.zeros(3, 1, 1, tokens, 8, dtype=dtype, requires_grad=training).unbind())
    assert taken == ["plain_attention" if plain else "fused_attention"]


def influence(attention: Attention, mask: Mask) -> Tensor:
    """Which token's output [N] depends on which token [N], of 3 frames of 2x2."""
    table = rotary_table(grid(3, 2, 2), 8)
    x = torch.randn(1, 12, 16)
    jacobian = torch.autograd.functional.jacobian(lambda x: attention(x, table, mask, 3)[0], x)
    assert isinstance(jacobian, Tensor)
    return jacobian.abs().sum((0, 2, 3, 5)) > 0


def test_the_mask_decides_which_tokens_attend() -> None:
    torch.manual_seed(0)
    same_frame = TIME[:, None] == TIME
    same_place = (torch.arange(12)[:, None] - torch.arange(12)) % 4 == 0
    earlier = TIME[:, None] >= TIME
    assert influence(Attention(16, 2), None).all()
    assert torch.equal(influence(Attention(16, 2), "causal"), torch.ones(12, 12).bool().tril())
    assert torch.equal(influence(Attention(16, 2), earlier), earlier)
    assert torch.equal(influence(Attention(16, 2, "space"), None), same_frame)
    assert torch.equal(influence(Attention(16, 2, "time"), None), same_place)
    assert torch.equal(influence(Attention(16, 2, "time"), "causal"), same_place & earlier)


def test_scores_do_not_grow_with_queries_and_keys() -> None:
    torch.manual_seed(0)
    attention, table = Attention(16, 2), rotary_table(grid(3, 2, 2), 8)
    x = torch.randn(1, 12, 16)
    before = attention(x, table)[0]
    attention.qkv.weight.data[:32] *= 100
    torch.testing.assert_close(attention(x, table)[0], before, atol=1e-5, rtol=0)
    attention.gain.data *= 2
    assert (attention(x, table)[0] - before).abs().max() > 1e-3


@pytest.mark.parametrize(("width", "heads"), [(16, 3), (16, 4), (18, 2)])
def test_a_width_that_does_not_split_is_an_error(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"a width of {width} in {heads} heads: choose"):
        Attention(width, heads)


def test_a_cache_is_a_value() -> None:
    pieces = [torch.randn(2, 1, 2, n, 4) for n in (3, 1, 1, 5, 1)]
    caches = [Cache()]
    for keys, values in pieces:
        caches[-1].extended(torch.zeros_like(keys), keys)  # tried and given up
        caches.append(caches[-1].extended(keys, values))
    for count, cache in enumerate(caches[1:], 1):
        keys, values = torch.cat(pieces[:count], 3)
        assert torch.equal(cache.seen()[0], keys) and torch.equal(cache.seen()[1], values)
        assert cache.length == keys.shape[2]


def test_a_cache_is_seldom_copied() -> None:
    cache, rooms = Cache(), set()
    for _ in range(100):
        cache = cache.extended(*torch.zeros(2, 1, 1, 1, 4))
        assert cache.stored is not None
        rooms.add(cache.stored.data_ptr())
    assert len(rooms) <= 7
