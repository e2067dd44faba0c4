"""Classifier-free guidance against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinema.diffusion.guidance import guided, in_interval


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_guidance_is_the_formula_in_its_interval() -> None:
    conditional, unconditional = normal(2, 4, 3).float(), normal(2, 4, 3, seed=1).float()
    t = torch.tensor([0.0, 0.2, 0.5, 0.9]).expand(2, 4)
    out = guided(conditional, [(2.5, unconditional)], t, (0.2, 0.5))
    assert torch.equal(out[:, [0, 1, 3]], conditional[:, [0, 1, 3]])
    torch.testing.assert_close(out[:, 2], 2.5 * conditional[:, 2] - 1.5 * unconditional[:, 2])  # eq. 6, w = 1.5
    assert not torch.isclose(guided(conditional, [(2.5, unconditional)], t), conditional)[:, 1:].any()


def test_guidance_by_several_conditions_adds_up() -> None:
    conditional, without_audio, without_text = (normal(2, 4, seed=seed).float() for seed in range(3))
    out = guided(conditional, [(3.0, without_audio), (0.5, without_text)], torch.tensor([0.5, 0.9]))
    expected = conditional + 2 * (conditional - without_audio) - 0.5 * (conditional - without_text)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(("scale", "interval"), [(1.0, (0.0, 1.0)), (4.0, (0.6, 0.8))])
def test_without_guidance_nothing_changes(scale: float, interval: tuple[float, float]) -> None:
    conditional, t = normal(2, 3).float(), torch.tensor([0.5, 0.9])
    assert torch.equal(guided(conditional, [(scale, normal(2, 3, seed=1))], t, interval), conditional)
    assert in_interval(t, interval).any() == (interval == (0.0, 1.0))
