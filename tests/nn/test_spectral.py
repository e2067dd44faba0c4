"""Clipped weights against the singular value decomposition that defines them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kinema.nn.critic import critic_of_clips
from kinema.nn.spectral import bound_slope_, clip_singular_values_


def norms(weight: Tensor) -> Tensor:
    """Singular values, largest first."""
    return torch.linalg.svdvals(weight.detach().flatten(1).double())


LAYERS = {
    "linear-wide": lambda: nn.Linear(40, 12),
    "linear-tall": lambda: nn.Linear(12, 40),
    "conv2d": lambda: nn.Conv2d(5, 8, 4),
    "conv3d": lambda: nn.Conv3d(3, 16, 4),
    "one-row": lambda: nn.Conv3d(16, 1, 4),
}


@pytest.fixture(params=LAYERS)
def weight(request: pytest.FixtureRequest) -> Tensor:
    """A layer's weight whose singular values are spread evenly from 0.1 to 3, or one of 3."""
    torch.manual_seed(0)
    weight = LAYERS[request.param]().weight.detach()
    u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    spread = torch.linspace(3, 0.1, len(s))
    return ((u * spread) @ v).view_as(weight)


def test_clipping_is_what_the_decomposition_says(weight: Tensor) -> None:
    u, s, v = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    expected = ((u * s.clamp(max=1)) @ v).float().view_as(weight)
    clip_singular_values_(weight)
    torch.testing.assert_close(weight, expected, atol=2e-6, rtol=0)
    assert norms(weight).max() <= 1 + 1e-5


def test_smaller_weights_are_left_alone(weight: Tensor) -> None:
    small = weight / 3.01
    before = small.clone()
    clip_singular_values_(small)
    assert torch.equal(small, before)


def test_a_weight_keeps_its_memory_layout() -> None:
    weight = torch.randn(16, 3, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    contiguous = weight.clone(memory_format=torch.contiguous_format)
    clip_singular_values_(weight)
    clip_singular_values_(contiguous)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(weight, contiguous, atol=1e-6, rtol=0)


def test_a_critic_is_clipped_layer_by_layer() -> None:
    torch.manual_seed(0)
    critic = critic_of_clips(3, 4, 8, 16, 16, "batch")
    for parameter in critic.parameters():
        parameter.data.mul_(5)
    scales = [norm for norm in critic.norms if isinstance(norm, nn.BatchNorm3d)]
    for norm in scales:
        nn.init.uniform_(norm.running_var, 0.1, 4)
        norm.weight.data[:2] = torch.tensor([-1.0, 0.05])
    wanted = [norm.weight.clone() for norm in scales]
    bound_slope_(critic)
    for convolution in critic.convolutions:
        assert norms(convolution.weight).max() <= 1 + 1e-5
    for norm, weight in zip(scales, wanted, strict=True):
        deviation = norm.running_var.sqrt()
        torch.testing.assert_close(norm.weight.detach(), weight.minimum(deviation).maximum(0.01 * deviation))
        assert (norm.weight.detach()[2:] == deviation[2:]).all()  # 5 is more than any deviation seen
