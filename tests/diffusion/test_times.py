"""Noise levels to train at and to sample at."""

from __future__ import annotations

import pytest
import torch

from kinema.diffusion.times import logit_normal_times, shifted, staggered_times, times


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_logit_normal_times() -> None:
    t = logit_normal_times((20_001,), seeded(1), mean=0.5, deviation=1.5)
    expected = torch.special.expit(0.5 + 1.5 * torch.tensor([-1.0, 0.0, 1.0]))  # a deviation below, median, above
    torch.testing.assert_close(t.quantile(torch.tensor([0.15866, 0.5, 0.84134])), expected, rtol=0, atol=0.01)
    assert torch.equal(t, logit_normal_times((20_001,), seeded(1), mean=0.5, deviation=1.5))
    assert not torch.equal(t, logit_normal_times((20_001,), seeded(2), mean=0.5, deviation=1.5))


@pytest.mark.parametrize("shift", [0.1, 1.0, 3.0, 3.7])
def test_shift_is_equation_23(shift: float) -> None:
    t = torch.rand(100, generator=seeded())
    torch.testing.assert_close(shifted(t, shift), shift * t / (1 + (shift - 1) * t))
    ends = torch.tensor([0.0, 1.0])
    assert torch.equal(shifted(ends, shift), ends)


def test_times_go_down_from_noise_to_data() -> None:
    assert torch.equal(times(4), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    torch.testing.assert_close(times(4, shift=3.0), torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))
    for steps, shift in ((0, 1.0), (4, 0.0)):
        with pytest.raises(ValueError, match="at least 1 step"):
            times(steps, shift)


def test_staggered_frames_follow_the_same_times_later() -> None:
    assert torch.equal(staggered_times(5, 3.0, torch.tensor([0, 0])), times(5, 3.0)[:, None].expand(-1, 2))
    levels, steps = staggered_times(8, 3.0, torch.tensor([[0, 2], [4, 7]])), times(8, 3.0)
    assert levels.shape == (16, 2, 2)
    for frame, begin in zip(levels.flatten(1).T, (0, 2, 4, 7), strict=True):
        assert torch.equal(frame, torch.cat([torch.ones(begin), steps, torch.zeros(7 - begin)]))
