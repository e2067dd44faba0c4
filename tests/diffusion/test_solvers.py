"""Solvers against closed forms: for Gaussian data N(MEAN, DEVIATION^2) the best network and the ODE are known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor

from kinema.diffusion.guidance import guided
from kinema.diffusion.paths import Path, Prediction, coefficients, expand_like, noised, prediction, target
from kinema.diffusion.solvers import Denoise, Solver, solve
from kinema.diffusion.times import times

MEAN, DEVIATION = 0.3, 0.5
PATHS, SOLVERS = get_args(Path), get_args(Solver)
ORDERS = {"euler": 1, "heun": 2, "ddim": 1, "dpm++": 2}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def even(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def ideal(path: Path) -> Denoise:
    """The best network: the means of x_0 and eps given x_t."""

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma, *_ = coefficients(path, expand_like(t, x))
        score = (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)
        return Prediction(MEAN + alpha * DEVIATION**2 * score, sigma * score)

    return denoise


def exact(path: Path, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Where the probability-flow ODE takes x: as many deviations from the mean as before."""
    (a, s, *_), (b, r, *_) = coefficients(path, start), coefficients(path, end)
    return b * MEAN + (x - a * MEAN) * ((b**2 * DEVIATION**2 + r**2) / (a**2 * DEVIATION**2 + s**2)).sqrt()


def test_arithmetic_is_float32_under_autocast() -> None:
    t = torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    x0, eps = (normal(2, 3, 4, seed=s).bfloat16() for s in (0, 1))

    def everything(x0: Tensor, eps: Tensor) -> list[Tensor]:
        predicted = prediction("velocity", "linear", x0, eps, t)
        out = solve("dpm++", lambda x, t: Prediction(x0, eps), x0, torch.tensor([1.0, 0.8, 0.5, 0.1]), "linear")
        pushed = guided(x0, [(3.0, eps)], t)
        return [*predicted, out, pushed, target("v", "cosine", x0, eps, t), noised("rectified", x0, eps, t)]

    expected = everything(x0.float(), eps.float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(everything(x0, eps), expected, rtol=0, atol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ORDERS)
def test_solvers_converge_at_their_order(solver: Solver, path: Path) -> None:
    """Short of t = 1 and 0, where dpm++'s steps, in log(alpha / sigma), stay large however many they are."""
    x = torch.tensor([-1.5, 0.2, 2.0], dtype=torch.float64)
    errors = []
    for steps in (8, 16, 32, 64, 128):
        t = even(0.95, 0.05, steps)
        errors.append((solve(solver, ideal(path), x, t, path) - exact(path, x, t[0], t[-1])).abs().max())
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(ORDERS[solver], abs=0.1), slopes
    assert errors[-1] < {1: 2e-2, 2: 1e-3}[ORDERS[solver]]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ORDERS)
def test_solvers_reach_the_data(solver: Solver, path: Path) -> None:
    x, t = normal(100).float(), times(100)
    error = (solve(solver, ideal(path), x, t, path) - exact(path, x, t[0], t[-1])).abs().max()
    assert error < {1: 6e-2, 2: 3e-3}[ORDERS[solver]]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_is_eulers_method_on_straight_paths(shift: float) -> None:
    x, t = normal(100), times(7, shift).double()
    euler, ddim = (solve(solver, ideal("rectified"), x, t, "rectified") for solver in ("euler", "ddim"))
    torch.testing.assert_close(ddim, euler, rtol=1e-12, atol=1e-12)


def test_heun_corrects_all_steps_but_those_to_data() -> None:
    asked = []

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        asked.append(t.tolist())
        return ideal("rectified")(x, t)

    of_two = torch.stack([times(2), torch.ones(3)], 1)  # [S+1, B]: the second stays at 1
    solve("heun", denoise, normal(2, 3), of_two, "rectified")
    assert asked == [[1.0, 1.0], [0.5, 1.0], [0.5, 1.0]]


@pytest.mark.parametrize("path", PATHS)
def test_ddpm_converges_to_the_data(path: Path) -> None:
    """What comes out is affine in the start and in each step's noise, so its mean and variance are known exactly."""

    def mean_and_variance(steps: int) -> tuple[float, float]:
        draws = torch.eye(steps + 1, steps + 2, dtype=torch.float64).flip(1)
        x = draws[0]  # samples with the start alone, with one step's noise alone, and the first with none
        out = solve("ddpm", ideal(path), x, even(1, 0, steps), path, lambda step: draws[step + 1])
        return out[0].item(), (out[1:] - out[0]).square().sum().item()

    errors = [[abs(a - b) for a, b in zip(mean_and_variance(n), (MEAN, DEVIATION**2), strict=True)] for n in (64, 128)]
    assert errors[1][0] < 3e-3  # the linear path ends a little short of pure noise
    assert errors[1][1] < 0.03 and errors[1][1] == pytest.approx(errors[0][1] / 2, rel=0.15)


def test_ddpm_draws_from_the_posterior() -> None:
    x, x0, t = normal(3), normal(3, seed=1), torch.tensor([0.6, 0.55], dtype=torch.float64)
    now, then = coefficients("linear", t).alpha.square()  # the paper's alpha-bar, for which eq. 7 is
    beta = 1 - now / then
    mean = then.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - then) / (1 - now) * x
    deviation = ((1 - then) / (1 - now) * beta).sqrt()
    known = Prediction(x0, (x - now.sqrt() * x0) / (1 - now).sqrt())
    for noise in (0.0, 1.0):
        out = solve("ddpm", lambda x, t: known, x, t, "linear", lambda _, k=noise: torch.full_like(x, k))
        torch.testing.assert_close(out, mean + noise * deviation)


def test_ddpm_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="give noise"):
        solve("ddpm", ideal("linear"), normal(2), times(2), "linear")


FRAMES = (  # times of three frames: known; one that pauses half way; one that begins after it
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [1.0, 0.8, 0.5, 0.5, 0.3, 0.1, 0.0, 0.0],
    [1.0, 1.0, 1.0, 0.9, 0.9, 0.6, 0.2, 0.0],
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_frames_follow_times_of_their_own(solver: Solver, path: Path) -> None:
    x = normal(2, 3, 4, 5)
    t = torch.tensor(FRAMES, dtype=torch.float64).T[:, None].expand(-1, 2, 3)  # [S+1, B, T]

    def denoise(now: Tensor, t: Tensor) -> Prediction:
        assert torch.equal(now[:, 0], x[:, 0])
        predicted = ideal(path)(now, t)
        return Prediction(*(torch.where(expand_like(t, now) == 0, 1e30, value) for value in predicted))

    out = solve(solver, denoise, x, t, path, lambda _: torch.ones_like(x))
    assert torch.equal(out[:, 0], x[:, 0])
    for frame in (1, 2):
        own = torch.tensor(sorted(set(FRAMES[frame]), reverse=True), dtype=torch.float64)
        by_itself = solve(solver, ideal(path), x[:, frame], own, path, lambda _: torch.ones_like(x[:, 0]))
        torch.testing.assert_close(out[:, frame], by_itself, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_of_no_length_change_nothing(solver: Solver, path: Path) -> None:
    x = normal(3, 4).float()
    t = torch.tensor([1.0, 0.3, 0.0]).expand(3, -1)  # thrice the same
    out = solve(solver, ideal(path), x.T, t[:, None].expand(-1, 4, -1), path, lambda _: torch.ones(4, 3))
    assert torch.equal(out, x.T)


def test_each_step_is_reported_and_may_cancel() -> None:
    steps = []
    solve("ddim", ideal("rectified"), normal(3), times(4), "rectified", callback=lambda *done: steps.append(done))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve("ddim", ideal("rectified"), normal(3), times(4), "rectified", callback=cancel)
