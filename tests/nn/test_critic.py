"""Critics give a logit a clip, for clips of any size that a family may have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kinema.families.vgan import VGANConfig
from kinema.nn.critic import Critic, critic_input, critic_of_clips, init_kaiming_
from kinema.types import ClipSpec


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
    plain, augmented = (critic_input(clips, seeded(), VGANConfig(augment=on)) for on in (False, True))
    assert torch.equal(plain, clips.transpose(1, 2))
    assert not torch.equal(augmented, plain)


def test_a_critic_of_latents_has_as_many_layers() -> None:
    critic = critic_of_clips(16, 2, 8, 32, 64, "none", space=4)
    assert critic(torch.randn(3, 16, 8, 8, 16), seeded()).shape == (3, 1, 1, 1, 1)
    assert [convolution.stride[1] for convolution in critic.convolutions] == [1, 1, 2, 2, 1]


def test_latents_keep_their_colours() -> None:
    config = VGANConfig(augment=True, codec_config={"name": "transform"})
    latents = torch.ones(4, 2, 5, 8, 8)
    assert set(critic_input(latents, seeded(), config).unique().tolist()) == {0.0, 1.0}  # shifted and cut out only


@pytest.mark.parametrize("family", [{"codec": "transform", "codec_options": {"time": 4}}, {"codec": "runs/vae"}])
def test_a_codec_of_groups_of_frames_is_refused(family: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="transform with a time of 1"):
        VGANConfig(**family).resolve_codec(lambda _: {}, ClipSpec(16, 64, 64))


def test_a_transform_codes_single_frames() -> None:
    config = VGANConfig(codec="transform", codec_options={"space": 8})
    resolved = config.resolve_codec(lambda _: {}, ClipSpec(16, 64, 64)).fitted(ClipSpec(16, 64, 64))
    assert resolved.latents == (16, 32, 8, 8) and resolved.space == 8
    assert resolved.codec_options == config.codec_options
