"""Paths and parameterisations against their closed forms."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from kinema.diffusion.paths import (
    Parameterisation,
    Path,
    Prediction,
    coefficients,
    expand_like,
    noised,
    prediction,
    target,
    weight,
)

PATHS, PARAMETERISATIONS = get_args(Path), get_args(Parameterisation)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def even(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS)
def test_paths_go_from_data_to_noise(path: Path) -> None:
    alpha, sigma, *_ = coefficients(path, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(alpha[0], torch.tensor(1.0), rtol=0, atol=0)
    torch.testing.assert_close(sigma[0], torch.tensor(0.0), rtol=0, atol=0)
    if path == "linear":
        assert 0 < alpha[1] < 0.01
    else:
        assert alpha[1] == 0 and sigma[1] == 1


@pytest.mark.parametrize("path", PATHS)
def test_rates_are_the_derivatives(path: Path) -> None:
    t, h = even(0.01, 0.99, 50), 1e-6
    at, before, after = (coefficients(path, t + d) for d in (0, -h, h))
    torch.testing.assert_close(at.d_alpha, (after.alpha - before.alpha) / (2 * h), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(at.d_sigma, (after.sigma - before.sigma) / (2 * h), rtol=1e-6, atol=1e-6)


def test_the_paths_of_the_papers() -> None:
    t = even(0, 1, 1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    ddpm = torch.cat([torch.ones(1), (1 - betas).cumprod(0).sqrt()])
    torch.testing.assert_close(coefficients("linear", t).alpha, ddpm, rtol=0, atol=1e-2)
    torch.testing.assert_close(coefficients("cosine", t).alpha.square(), (math.pi / 2 * t).cos().square())
    for path in ("cosine", "linear"):
        at = coefficients(path, t)
        torch.testing.assert_close(at.alpha**2 + at.sigma**2, torch.ones_like(t))
    assert torch.equal(coefficients("rectified", t).alpha, 1 - t)


def test_every_frame_has_a_time_of_its_own() -> None:
    x0, eps, t = normal(2, 3, 4, 5, 5), normal(2, 3, 4, 5, 5, seed=1), torch.rand(2, 3, generator=seeded())
    x = noised("rectified", x0, eps, t)
    torch.testing.assert_close(x[1, 2], (1 - t[1, 2]) * x0[1, 2] + t[1, 2] * eps[1, 2])
    assert expand_like(t[:, 0], x0).shape == (2, 1, 1, 1, 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_data_and_noise_follow_from_the_target_at_all_times(parameterisation: Parameterisation, path: Path) -> None:
    t = torch.cat([torch.tensor([0, 1e-7, 1e-4, 1 - 1e-4, 1]), torch.rand(7, generator=seeded())]).double()
    x0, eps = normal(12, 3), normal(12, 3, seed=1)
    x = noised(path, x0, eps, t)
    predicted = prediction(parameterisation, path, x, target(parameterisation, path, x0, eps, t), t)
    if parameterisation == "epsilon" and path != "linear":
        x0[t == 1] = 0  # of which x_t holds nothing
    if parameterisation == "data":
        eps[t == 0] = 0
    torch.testing.assert_close(predicted, Prediction(x0, eps), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_targets_are_what_they_are_called(path: Path) -> None:
    x0, eps, t, h = normal(20), normal(20, seed=1), even(0.05, 0.95, 19), 1e-6
    slope = (noised(path, x0, eps, t + h) - noised(path, x0, eps, t - h)) / (2 * h)
    torch.testing.assert_close(target("velocity", path, x0, eps, t), slope, rtol=1e-6, atol=1e-6)
    assert torch.equal(target("epsilon", path, x0, eps, t), eps)
    alpha, sigma, *_ = coefficients(path, t)
    torch.testing.assert_close(target("v", path, x0, eps, t), alpha * eps - sigma * x0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_the_weight_of_data_is_that_of_the_velocitys_error(parameterisation: Parameterisation, path: Path) -> None:
    t, error = even(0.1, 1, 10), 0.3
    x0, eps = normal(11), normal(11, seed=1)
    x = noised(path, x0, eps, t)
    wrong = prediction("data", path, x, x0 + error, t)
    velocity = target("velocity", path, wrong.x0, wrong.eps, t) - target("velocity", path, x0, eps, t)
    expected = velocity.square() / error**2 if parameterisation == "data" else torch.ones_like(t)
    torch.testing.assert_close(weight(parameterisation, path, t), expected)


def test_the_weight_of_data_is_bounded_near_data() -> None:
    t = torch.tensor([0.0, 0.02, 0.05, 0.5])
    torch.testing.assert_close(weight("data", "rectified", t), torch.tensor([400.0, 400.0, 400.0, 4.0]))
    for path in PATHS:
        near = weight("data", path, t)
        assert near.isfinite().all() and torch.equal(near[:2], near[2:3].expand(2))


def test_the_velocity_of_straight_paths() -> None:
    x0, eps = normal(3, 4).float(), normal(3, 4, seed=1).float()
    for t in torch.tensor([0.0, 0.3, 1.0]):
        assert torch.equal(target("velocity", "rectified", x0, eps, t), eps - x0)
