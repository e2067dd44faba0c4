"""Adversarial losses against their closed forms, and the penalty where the gradient is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinema.nn.adversarial import Penalty, critic_loss, generator_loss, gradient_penalty

REAL, FAKE = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [3.0]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def never() -> Tensor:
    raise AssertionError("this loss does not compare with real samples")


def test_vanilla_is_the_cross_entropy() -> None:
    critic = -(math.log(sigmoid(2.0)) + math.log(sigmoid(-1.0))) / 2
    critic -= (math.log(1 - sigmoid(0.5)) + math.log(1 - sigmoid(3.0))) / 2
    assert critic_loss("vanilla", REAL, FAKE).item() == pytest.approx(critic, rel=1e-6)
    generator = -(math.log(sigmoid(0.5)) + math.log(sigmoid(3.0))) / 2
    assert generator_loss("vanilla", FAKE, never).item() == pytest.approx(generator, rel=1e-6)


def test_relativistic_compares_pairs() -> None:
    critic = -(math.log(sigmoid(2.0 - 0.5)) + math.log(sigmoid(-1.0 - 3.0))) / 2
    assert critic_loss("relativistic", REAL, FAKE).item() == pytest.approx(critic, rel=1e-6)
    generator = -(math.log(sigmoid(0.5 - 2.0)) + math.log(sigmoid(3.0 + 1.0))) / 2
    assert generator_loss("relativistic", FAKE, lambda: REAL).item() == pytest.approx(generator, rel=1e-6)


def test_hinge_asks_for_margins_of_one() -> None:
    assert critic_loss("hinge", REAL, FAKE).item() == pytest.approx((0 + 2.0) / 2 + (1.5 + 4.0) / 2)
    assert generator_loss("hinge", FAKE, never).item() == pytest.approx(-(0.5 + 3.0) / 2)


def test_wasserstein_is_the_difference_of_the_means() -> None:
    assert critic_loss("wasserstein", REAL, FAKE).item() == pytest.approx((0.5 + 3.0) / 2 - (2.0 - 1.0) / 2)
    assert generator_loss("wasserstein", FAKE, never).item() == pytest.approx(-(0.5 + 3.0) / 2)


def test_no_gradient_flows_into_real_samples() -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    generator_loss("relativistic", fake, lambda: real * 2).backward()
    assert real.grad is None and fake.grad is not None


@pytest.mark.parametrize("kind", ["vanilla", "relativistic", "hinge", "wasserstein"])
def test_losses_are_float32_and_stay_finite_for_any_logits(kind: str) -> None:
    low, high = torch.full((2, 1), -1e4).bfloat16(), torch.full((2, 1), 1e4).bfloat16()
    for loss in (critic_loss(kind, low, high), generator_loss(kind, low, lambda: high)):
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        assert loss > 1e3


def test_penalty_of_a_linear_critic_is_half_its_squared_norm() -> None:
    weight = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    penalty = gradient_penalty(lambda x: (weight * x).sum((1, 2, 3))[:, None], torch.rand(7, 3, 4, 5))
    torch.testing.assert_close(penalty, weight.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())  # the critic can descend it


def test_many_logits_are_averaged_first() -> None:
    weights = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    penalty = gradient_penalty(lambda x: x @ weights, torch.rand(5, 2))
    assert penalty.item() == pytest.approx((1.5**2 + 2.0**2) / 2)


def test_penalty_is_taken_at_each_sample() -> None:
    samples = torch.tensor([[1.0], [2.0]])
    assert gradient_penalty(lambda x: x**2, samples).item() == pytest.approx((2.0**2 + 4.0**2) / 2 / 2)
    assert not samples.requires_grad


def test_penalties_are_of_a_quarter_of_the_batch() -> None:
    real, fake = torch.arange(8.0)[:, None], torch.arange(8.0)[:, None] + 10
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x**2

    penalty = torch.as_tensor(Penalty(3.0)(critic, real, fake, 0)).item()
    assert [x.tolist() for x in seen] == [[[0.0], [1.0]], [[10.0], [11.0]]]
    expected = 3 * ((0 + 2.0**2) / 2 / 2 + (20.0**2 + 22.0**2) / 2 / 2)
    assert penalty == pytest.approx(expected)
    assert Penalty(0.0)(never, real, fake, 0) == 0
    assert torch.as_tensor(Penalty(3.0)(critic, real, fake, 0, frames=5)).item() == pytest.approx(5 * expected)


def test_penalty_falls_geometrically_and_then_stays() -> None:
    penalty = Penalty(2.0, falls=4)
    expected = [2 * Penalty.LAST ** (k / 4) for k in (0, 1, 2, 3, 4, 4, 4)]
    assert [penalty.weight(step) for step in range(7)] == pytest.approx(expected)
    assert Penalty(2.0).weight(1000) == 2
    real, fake = torch.rand(4, 1), torch.rand(4, 1)
    first, last = (torch.as_tensor(penalty(lambda x: x**2, real, fake, step)).item() for step in (0, 9))
    assert last == pytest.approx(Penalty.LAST * first)
