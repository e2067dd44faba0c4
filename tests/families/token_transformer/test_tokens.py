"""Tokens are sampled by their probability and masked by the schedule, and captions are bytes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinema.families.token_transformer.tokens import (
    BEGIN,
    END,
    decode_bytes,
    decode_masked,
    encode_bytes,
    filter_logits,
    gumbel,
    sample_mask,
    token_nll,
)
from kinema.types import Seeds

LOGITS = torch.randn(5, 3, 9, generator=torch.Generator().manual_seed(0))


def allowed(logits: Tensor, temperature: float, top_k: int, top_p: float) -> set[int]:
    """The tokens that may be drawn, found one after another."""
    ranked = sorted(range(len(logits)), key=lambda token: -logits[token].item())
    ranked = ranked[: top_k or len(logits)]
    weights = [math.exp(logits[token].item() / temperature) for token in ranked]
    kept, so_far = set(), 0.0
    for token, weight in zip(ranked, weights, strict=True):
        if so_far >= top_p:
            break
        kept.add(token)
        so_far += weight / sum(weights)
    return kept


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 4, 9, 20])
@pytest.mark.parametrize("top_p", [0.2, 0.7, 0.95, 1.0])
def test_filtered_logits_leave_the_allowed_tokens(temperature: float, top_k: int, top_p: float) -> None:
    for before, after in zip(
        LOGITS.flatten(0, 1), filter_logits(LOGITS, temperature, top_k, top_p).flatten(0, 1), strict=True
    ):
        assert set(after.isfinite().nonzero().flatten().tolist()) == allowed(before, temperature, top_k, top_p)
        torch.testing.assert_close(after[after.isfinite()], (before / temperature)[after.isfinite()])


def test_gumbel_noise_draws_by_probability() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf])
    uniform = Seeds(tuple(range(40))).stream("x").uniform(500, 5).flatten(0, 1)
    counts = (logits + gumbel(uniform)).argmax(-1).bincount(minlength=5)
    expected = 20_000 * logits.softmax(0)
    assert counts[4] == 0
    assert ((counts - expected).square() / expected)[:4].sum() < 16.3  # chi-square, 3 degrees of freedom: 0.1 %


def test_gumbel_noise_at_its_ends() -> None:
    low, high = gumbel(torch.tensor([0.0, 1 - 2**-24]))
    assert low == -torch.inf and 16 < high < 17


def test_the_number_of_masked_tokens_follows_the_cosine() -> None:
    count, clips = 7, 40_000
    mask, weight = sample_mask(clips, count, torch.Generator().manual_seed(0))
    many = mask.sum(1)
    u = (torch.arange(100_000) + 0.5) / 100_000
    share = (count * (math.pi / 2 * u).cos()).ceil().long().bincount(minlength=count + 1)[1:] / len(u)
    expected = clips * share
    assert ((many.bincount(minlength=count + 1)[1:] - expected).square() / expected).sum() < 22.5  # 6 degrees: 0.1 %
    torch.testing.assert_close(weight, 1 / (count * share[many - 1]), rtol=1e-3, atol=0)
    of_places = mask[many == 3].float().mean(0)  # all places alike
    assert (of_places - 3 / 7).abs().max() < 0.03


def test_nats_are_negative_logarithms_of_probabilities() -> None:
    tokens = torch.randint(9, (5, 3))
    for clip, row in enumerate(token_nll(LOGITS, tokens)):
        for place, value in enumerate(row):
            assert value.item() == pytest.approx(-LOGITS[clip, place].softmax(0)[tokens[clip, place]].log().item())


def test_masked_decoding_keeps_known_tokens_and_samples_the_others_in_steps() -> None:
    tokens = torch.tensor([[3, -1, -1, -1, -1, 5], [-1, -1, 0, -1, 1, -1]])
    left = []

    def predict(tokens: Tensor, mask: Tensor) -> Tensor:
        left.append(mask.sum(1).tolist())
        return torch.full((2, 6, 8), -50.0).index_fill(2, torch.tensor(7), 50.0)

    for steps, expected in ((1, [4]), (2, [4, 2]), (4, [4, 3, 2, 1])):  # 4 cos(pi / 2 * step / steps), rounded down
        left.clear()
        drawn = decode_masked(predict, tokens, lambda *shape: torch.rand(2, *shape), steps, 4.5)
        assert torch.equal(drawn, tokens.where(tokens >= 0, 7))
        assert left == [[count, count] for count in expected]


def test_masked_decoding_keeps_the_likeliest() -> None:
    masks = []

    def predict(tokens: Tensor, mask: Tensor) -> Tensor:
        masks.append(mask[0].tolist())
        logits = torch.zeros(1, 4, 3)
        logits[0, :, 2] = torch.tensor([4.0, 0.5, 1.0, 3.0])  # the first and the last are the surest
        return logits

    decode_masked(predict, torch.full((1, 4), -1), lambda *shape: torch.full((1, *shape), 0.5), 2, 0.0)
    assert masks == [[True] * 4, [False, True, True, False]]


def test_captions_are_bytes() -> None:
    tokens = encode_bytes(["ab", "", "größer"], 5)
    assert tokens[0].tolist() == [BEGIN, 97, 98, END, END, END, END]
    assert tokens.shape == (3, 7)
    assert decode_bytes(tokens[:, 1:]) == ("ab", "", "grö")  # the sharp s is cut in two
    assert decode_bytes(torch.tensor([[97, 255, 98]])) == ("ab",)
    assert encode_bytes(["ab"], 0).shape == (1, 0)
