"""Critics give a logit a clip, for clips of any size that a family may have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kinema.nn.critic import Critic, critic_input, critic_of_clips, init_kaiming_


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize(("frames", "height", "width"), [(8, 16, 32), (5, 32, 16), (24, 48, 16)])
def test_a_clip_has_one_logit(norm: str, frames: int, height: int, width: int) -> None:
    critic = critic_of_clips(4, 2, frames, height, width, norm)
    assert critic(torch.randn(3, 4, frames, height, width), seeded()).shape == (3, 1, 1, 1, 1)


def test_the_critic_of_the_papers() -> None:
    with torch.device("meta"):
        critic = critic_of_clips(3, 64, 32, 64, 64, "batch")
    shapes = [tuple(convolution.weight.shape) for convolution in critic.convolutions]
    widths = [(64, 3), (128, 64), (256, 128), (512, 256)]
    assert shapes == [(*width, 4, 4, 4) for width in widths] + [(1, 512, 2, 4, 4)]
    assert [norm.num_features for norm in critic.norms if isinstance(norm, nn.BatchNorm3d)] == [128, 256, 512]


def test_noise_comes_from_the_generator() -> None:
    critic = Critic([nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 1, 4)], noise=1.0)
    x = torch.zeros(2, 3, 16, 16)
    assert torch.equal(critic(x, seeded(1)), critic(x, seeded(1)))
    assert not torch.equal(critic(x, seeded(1)), critic(x, seeded(2)))


def test_weights_keep_the_scale_of_their_input() -> None:
    torch.manual_seed(0)
    critic = Critic([nn.Conv2d(64, 64, 4), nn.Conv3d(64, 64, 4)], "none")
    init_kaiming_(critic)
    for convolution in critic.convolutions:
        inputs = convolution.weight[0].numel()
        expected = (2 / (1 + 0.2**2) / inputs) ** 0.5  # He et al. 2015, arXiv 1502.01852, equation 15
        assert convolution.weight.std().item() == pytest.approx(expected, rel=0.01)


def test_a_critic_of_clips_gets_all_frames() -> None:
    clips = torch.rand(2, 4, 3, 16, 16)
    assert torch.equal(critic_input(clips, seeded(), False), clips.transpose(1, 2))
    assert not torch.equal(critic_input(clips, seeded(), True), clips.transpose(1, 2))
