"""Finite scalar quantization against the paper's definition."""

from __future__ import annotations

from math import prod

import pytest
import torch

from kinema.nn.fsq import FSQ


def line(low: float, high: float, count: int = 4001) -> torch.Tensor:
    return torch.linspace(low, high, count)[:, None, None, None]  # [N, C=1, 1, 1]


@pytest.mark.parametrize(
    ("levels", "integers"), [(3, range(-1, 2)), (4, range(-2, 2)), (5, range(-2, 3)), (8, range(-4, 4))]
)
def test_every_level_is_reached_and_no_other(levels: int, integers: range) -> None:
    codes = FSQ([levels])(line(-8, 8))
    assert codes.unique().tolist() == pytest.approx([i / (levels // 2) for i in integers])
    assert (codes.flatten().diff() >= 0).all()


@pytest.mark.parametrize("levels", [3, 4, 5, 8])
def test_bound_and_rounding(levels: int) -> None:
    fsq, z = FSQ([levels]), line(-3, 3, 101).double()
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    shift = torch.atanh(torch.tensor(offset / half, dtype=torch.float64))
    expected = (z + shift).tanh() * half - offset
    torch.testing.assert_close(fsq.bound(z).double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(fsq(z), (expected.round() / (levels // 2)).float())
    assert fsq.bound(torch.zeros(1, 1, 1)).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_goes_straight_through_the_rounding() -> None:
    fsq, z = FSQ([5, 8]), torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(fsq(z).sum(), z)
    (bound,) = torch.autograd.grad((fsq.bound(z) / torch.tensor([2, 4])[:, None, None]).sum(), z)
    assert (gradient > 0).all()
    torch.testing.assert_close(gradient, bound)


def test_tokens_and_codes_are_one_to_one() -> None:
    levels = [3, 4, 5]
    fsq = FSQ(levels)
    assert fsq.vocabulary == prod(levels) == 60
    tokens = torch.arange(60).reshape(2, 5, 6)
    codes = fsq.codes(tokens)
    assert codes.shape == (2, 3, 5, 6) and codes.dtype == torch.float32
    assert len(codes.movedim(1, -1).reshape(60, 3).unique(dim=0)) == 60
    assert torch.equal(fsq.tokens(codes), tokens)
    assert fsq.codes(torch.tensor([[0]])).flatten().tolist() == [-1, -1, -1]
    assert fsq.codes(torch.tensor([[1]])).flatten().tolist() == [0, -1, -1]  # the first channel counts least


def test_codes_are_those_of_their_tokens() -> None:
    fsq = FSQ([8, 5, 6])
    codes = fsq(3 * torch.randn(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(fsq.codes(fsq.tokens(codes)), codes)


def test_arithmetic_is_float32() -> None:
    z = line(-2, 2, 101)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FSQ([8])(z.bfloat16()), FSQ([8])(z.bfloat16().float()))


@pytest.mark.parametrize("levels", [[], [5, 2]])
def test_too_few_levels_are_errors(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="3 or more"):
        FSQ(levels)


def test_digits_are_the_levels_of_the_channels() -> None:
    levels = (4, 5, 3)
    tokens = torch.arange(prod(levels))
    digits = FSQ(levels).digits(tokens)
    assert digits.shape == (60, 3) and digits.amax(0).tolist() == [3, 4, 2]
    assert torch.equal(digits @ torch.tensor([1, 4, 20]), tokens)
