"""Quick noise is normal noise, and a function of the generator."""

from __future__ import annotations

import pytest
import torch

from kinema.nn.noise import fast_normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_standard_normal(dtype: torch.dtype) -> None:
    values = fast_normal((3, 100_001), torch.Generator().manual_seed(0), dtype)
    assert values.shape == (3, 100_001)
    assert values.dtype == dtype
    assert values.is_contiguous()
    sample = values.double().flatten()
    normal = torch.distributions.Normal(0.0, 1.0)
    ranks = torch.arange(1, len(sample) + 1, dtype=torch.float64) / len(sample)
    distance = (normal.cdf(sample.sort().values) - ranks).abs().max()
    assert distance < (1.63 / len(sample) ** 0.5 if dtype == torch.float32 else 0.005)  # Kolmogorov-Smirnov, 1 %
    assert abs(torch.corrcoef(torch.stack([sample[:-1], sample[1:]]))[0, 1]) < 0.01


def test_a_seed_is_one_noise_and_the_next_draw_another() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = fast_normal((2, 50), generator), fast_normal((2, 50), generator)
    assert torch.equal(first, fast_normal((2, 50), torch.Generator().manual_seed(1)))
    assert not torch.equal(first, second)
