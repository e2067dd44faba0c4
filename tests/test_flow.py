"""Paths, parameterisations and solvers against closed forms: of Gaussian data N(MEAN, DEVIATION^2) all are known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import Tensor

from kinema import flow
from kinema.flow import Denoise, Parameterisation, Path, Prediction, Solver, coefficients, solve, trailing

MEAN, DEVIATION = 0.3, 0.5
PATHS, PARAMETERISATIONS, SOLVERS = get_args(Path), get_args(Parameterisation), get_args(Solver)
ORDERS = {"euler": 1, "heun": 2, "ddim": 1, "dpm++": 2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def ideal(path: Path) -> Denoise:
    """What the best network knows: the means of x_0 and eps given x_t."""

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        alpha, sigma, *_ = coefficients(path, trailing(t, x))
        surprise = (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)
        return Prediction(MEAN + alpha * DEVIATION**2 * surprise, sigma * surprise)

    return denoise


def carried(path: Path, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Where the probability-flow ODE takes x: as many deviations from the mean as before."""
    (a, s, *_), (b, r, *_) = coefficients(path, start), coefficients(path, end)
    return b * MEAN + (x - a * MEAN) * ((b**2 * DEVIATION**2 + r**2) / (a**2 * DEVIATION**2 + s**2)).sqrt()


def even(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


# Paths


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


def test_every_frame_has_its_own_time() -> None:
    x0, eps, t = normal(2, 3, 4, 5, 5), normal(2, 3, 4, 5, 5, seed=1), torch.rand(2, 3, generator=seeded())
    x = flow.noised("rectified", x0, eps, t)
    torch.testing.assert_close(x[1, 2], (1 - t[1, 2]) * x0[1, 2] + t[1, 2] * eps[1, 2])
    assert trailing(t[:, 0], x0).shape == (2, 1, 1, 1, 1)


# What a network predicts


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_targets_tell_data_and_noise_at_all_times(parameterisation: Parameterisation, path: Path) -> None:
    t = torch.cat([torch.tensor([0, 1e-7, 1e-4, 1 - 1e-4, 1]), torch.rand(7, generator=seeded())]).double()
    x0, eps = normal(12, 3), normal(12, 3, seed=1)
    x = flow.noised(path, x0, eps, t)
    told = flow.prediction(parameterisation, path, x, flow.target(parameterisation, path, x0, eps, t), t)
    if parameterisation == "epsilon" and path != "linear":
        x0[t == 1] = 0  # what nothing is known of
    if parameterisation == "data":
        eps[t == 0] = 0
    torch.testing.assert_close(told, Prediction(x0, eps), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("path", PATHS)
def test_targets_are_what_they_are_called(path: Path) -> None:
    x0, eps, t, h = normal(20), normal(20, seed=1), even(0.05, 0.95, 19), 1e-6
    slope = (flow.noised(path, x0, eps, t + h) - flow.noised(path, x0, eps, t - h)) / (2 * h)
    torch.testing.assert_close(flow.target("velocity", path, x0, eps, t), slope, rtol=1e-6, atol=1e-6)
    assert torch.equal(flow.target("epsilon", path, x0, eps, t), eps)
    alpha, sigma, *_ = coefficients(path, t)
    torch.testing.assert_close(flow.target("v", path, x0, eps, t), alpha * eps - sigma * x0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_an_error_of_data_weighs_as_the_velocitys(parameterisation: Parameterisation, path: Path) -> None:
    t, error = even(0.1, 1, 10), 0.3
    x0, eps = normal(11), normal(11, seed=1)
    x = flow.noised(path, x0, eps, t)
    told = flow.prediction("data", path, x, x0 + error, t)
    velocity = flow.target("velocity", path, told.x0, told.eps, t) - flow.target("velocity", path, x0, eps, t)
    weight = flow.weight(parameterisation, path, t)
    expected = velocity.square() / error**2 if parameterisation == "data" else torch.ones_like(t)
    torch.testing.assert_close(weight, expected)
    assert flow.weight(parameterisation, path, torch.zeros(1)).isfinite()


def test_the_velocity_of_straight_paths() -> None:
    x0, eps = normal(3, 4).float(), normal(3, 4, seed=1).float()
    for t in torch.tensor([0.0, 0.3, 1.0]):
        assert torch.equal(flow.target("velocity", "rectified", x0, eps, t), eps - x0)


def test_arithmetic_is_float32_under_autocast() -> None:
    t = torch.rand(2, 3, generator=seeded())
    x0, eps = (normal(2, 3, 4, seed=s).bfloat16() for s in (0, 1))

    def everything(x0: Tensor, eps: Tensor) -> list[Tensor]:
        told = flow.prediction("velocity", "linear", x0, eps, t)
        out = solve("dpm++", lambda x, t: Prediction(x0, eps), x0, torch.tensor([1.0, 0.8, 0.5, 0.1]), "linear")
        guided = flow.guided(x0, [(3.0, eps)], t)
        return [*told, out, guided, flow.target("v", "cosine", x0, eps, t), flow.noised("rectified", x0, eps, t)]

    expected = everything(x0.float(), eps.float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(everything(x0, eps), expected, rtol=0, atol=0)


# Times


def test_logit_normal_times() -> None:
    t = flow.logit_normal_times((20_001,), seeded(1), mean=0.5, deviation=1.5)
    expected = torch.special.expit(0.5 + 1.5 * torch.tensor([-1.0, 0.0, 1.0]))  # a deviation below, median, above
    torch.testing.assert_close(t.quantile(torch.tensor([0.15866, 0.5, 0.84134])), expected, rtol=0, atol=0.01)
    assert torch.equal(t, flow.logit_normal_times((20_001,), seeded(1), mean=0.5, deviation=1.5))
    assert not torch.equal(t, flow.logit_normal_times((20_001,), seeded(2), mean=0.5, deviation=1.5))


def test_uniform_times() -> None:
    t = flow.uniform_times((2, 10_000), seeded(1))
    assert t.min() >= 0 and t.max() < 1
    quarters = torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(t.quantile(quarters), quarters, rtol=0, atol=0.02)
    assert torch.equal(t, flow.uniform_times((2, 10_000), seeded(1)))


@pytest.mark.parametrize("shift", [0.1, 1.0, 3.0, 3.7])
def test_shift_is_equation_23(shift: float) -> None:
    t = torch.rand(100, generator=seeded())
    torch.testing.assert_close(flow.shifted(t, shift), shift * t / (1 + (shift - 1) * t))
    ends = torch.tensor([0.0, 1.0])
    assert torch.equal(flow.shifted(ends, shift), ends)


def test_times_go_down_from_noise_to_data() -> None:
    assert torch.equal(flow.times(4), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    torch.testing.assert_close(flow.times(4, shift=3.0), torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))
    for steps, shift in ((0, 1.0), (4, 0.0)):
        with pytest.raises(ValueError, match="at least 1 step"):
            flow.times(steps, shift)


def test_frames_that_wait_go_the_same_way_later() -> None:
    assert torch.equal(flow.waiting(5, 3.0, torch.tensor([0, 0])), flow.times(5, 3.0)[:, None].expand(-1, 2))
    levels, steps = flow.waiting(8, 3.0, torch.tensor([[0, 2], [4, 7]])), flow.times(8, 3.0)
    assert levels.shape == (16, 2, 2)
    for frame, begin in zip(levels.flatten(1).T, (0, 2, 4, 7), strict=True):
        assert torch.equal(frame, torch.cat([torch.ones(begin), steps, torch.zeros(7 - begin)]))


# Guidance


def test_guidance_goes_beyond_the_condition_within_its_interval() -> None:
    conditional, unconditional = normal(2, 4, 3).float(), normal(2, 4, 3, seed=1).float()
    t = torch.tensor([0.0, 0.2, 0.5, 0.9]).expand(2, 4)
    out = flow.guided(conditional, [(2.5, unconditional)], t, (0.2, 0.5))
    assert torch.equal(out[:, [0, 1, 3]], conditional[:, [0, 1, 3]])
    torch.testing.assert_close(out[:, 2], 2.5 * conditional[:, 2] - 1.5 * unconditional[:, 2])  # eq. 6, w = 1.5
    assert not torch.isclose(flow.guided(conditional, [(2.5, unconditional)], t), conditional)[:, 1:].any()


def test_guidance_by_several_conditions_adds_up() -> None:
    conditional, silent, unread = (normal(2, 4, seed=seed).float() for seed in range(3))
    out = flow.guided(conditional, [(3.0, silent), (0.5, unread)], torch.tensor([0.5, 0.9]))
    expected = conditional + 2 * (conditional - silent) - 0.5 * (conditional - unread)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("scale", "interval"), [(1.0, (0.0, 1.0)), (4.0, (0.6, 0.8))])
def test_without_guidance_nothing_changes(scale: float, interval: tuple[float, float]) -> None:
    conditional, t = normal(2, 3).float(), torch.tensor([0.5, 0.9])
    assert torch.equal(flow.guided(conditional, [(scale, normal(2, 3, seed=1))], t, interval), conditional)
    assert flow.within(t, interval).any() == (interval == (0.0, 1.0))


# Solvers


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ORDERS)
def test_solvers_converge_at_their_order(solver: Solver, path: Path) -> None:
    """Short of t = 1 and 0, where dpm++'s steps, in log(alpha / sigma), stay large however many they are."""
    x = torch.tensor([-1.5, 0.2, 2.0], dtype=torch.float64)
    errors = []
    for steps in (8, 16, 32, 64, 128):
        t = even(0.95, 0.05, steps)
        errors.append((solve(solver, ideal(path), x, t, path) - carried(path, x, t[0], t[-1])).abs().max())
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(ORDERS[solver], abs=0.1), slopes
    assert errors[-1] < {1: 2e-2, 2: 1e-3}[ORDERS[solver]]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ORDERS)
def test_solvers_go_all_the_way(solver: Solver, path: Path) -> None:
    x, t = normal(100).float(), flow.times(100)
    error = (solve(solver, ideal(path), x, t, path) - carried(path, x, t[0], t[-1])).abs().max()
    assert error < {1: 6e-2, 2: 3e-3}[ORDERS[solver]]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_is_eulers_method_on_straight_paths(shift: float) -> None:
    x, t = normal(100), flow.times(7, shift).double()
    euler, ddim = (solve(solver, ideal("rectified"), x, t, "rectified") for solver in ("euler", "ddim"))
    torch.testing.assert_close(ddim, euler, rtol=1e-12, atol=1e-12)


def test_heun_corrects_all_steps_but_those_to_data() -> None:
    asked = []

    def denoise(x: Tensor, t: Tensor) -> Prediction:
        asked.append(t.tolist())
        return ideal("rectified")(x, t)

    waiting = torch.stack([flow.times(2), torch.ones(3)], 1)  # [S+1, B]: one goes, one stays
    solve("heun", denoise, normal(2, 3), waiting, "rectified")
    assert asked == [[1.0, 1.0], [0.5, 1.0], [0.5, 1.0]]


@pytest.mark.parametrize("path", PATHS)
def test_ddpm_converges_to_the_data(path: Path) -> None:
    """What comes out is affine in the start and in each step's noise, so its mean and variance are known exactly."""

    def mean_and_variance(steps: int) -> tuple[float, float]:
        kicks = iter(torch.eye(steps + 1, steps + 2, dtype=torch.float64).flip(1).unbind())
        x = next(kicks)  # samples with the start alone, with one step's noise alone, and the first with none
        out = solve("ddpm", ideal(path), x, even(1, 0, steps), path, lambda: next(kicks))
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
    told = Prediction(x0, (x - now.sqrt() * x0) / (1 - now).sqrt())
    for kick in (0.0, 1.0):
        out = solve("ddpm", lambda x, t: told, x, t, "linear", lambda k=kick: torch.full_like(x, k))
        torch.testing.assert_close(out, mean + kick * deviation)


def test_ddpm_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="give noise"):
        solve("ddpm", ideal("linear"), normal(2), flow.times(2), "linear")


FRAMES = (  # given; waits half way; waits for the one before
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [1.0, 0.8, 0.5, 0.5, 0.3, 0.1, 0.0, 0.0],
    [1.0, 1.0, 1.0, 0.9, 0.9, 0.6, 0.2, 0.0],
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_frames_go_at_their_own_pace(solver: Solver, path: Path) -> None:
    x = normal(2, 3, 4, 5)
    t = torch.tensor(FRAMES, dtype=torch.float64).T[:, None].expand(-1, 2, 3)  # [S+1, B, T]

    def denoise(seen: Tensor, t: Tensor) -> Prediction:
        assert torch.equal(seen[:, 0], x[:, 0])
        told = ideal(path)(seen, t)
        return Prediction(*(torch.where(trailing(t, seen) == 0, 1e30, value) for value in told))

    out = solve(solver, denoise, x, t, path, lambda: torch.ones_like(x))
    assert torch.equal(out[:, 0], x[:, 0])
    for frame in (1, 2):
        own = torch.tensor(sorted(set(FRAMES[frame]), reverse=True), dtype=torch.float64)
        alone = solve(solver, ideal(path), x[:, frame], own, path, lambda: torch.ones_like(x[:, 0]))
        torch.testing.assert_close(out[:, frame], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_what_stands_still_is_left_as_it_is(solver: Solver, path: Path) -> None:
    x = normal(3, 4).float()
    t = torch.tensor([1.0, 0.3, 0.0]).expand(3, -1)  # thrice the same
    out = solve(solver, ideal(path), x.T, t[:, None].expand(-1, 4, -1), path, lambda: torch.ones(4, 3))
    assert torch.equal(out, x.T)
