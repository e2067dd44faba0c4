"""The ImageNet network's features of clips: what is in the frames, and how it changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinema.metrics.features import FeatureNetwork, load_network
from kinema.metrics.imagenet import CHANGE, ImageNetFeatures
from kinema.nn import efficientnet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> ImageNetFeatures:
    return ImageNetFeatures()


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    """Three clips of 5 frames, of noise in blocks that goes by."""
    noise = np.random.default_rng(0).integers(256, size=(3, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    return torch.from_numpy(np.stack([np.roll(noise, 8 * t, 2) for t in range(5)], 1))


def test_features_do_not_depend_on_the_batch(network, clips) -> None:
    assert isinstance(network, FeatureNetwork)
    together = network(clips)
    assert together.shape == (3, network.dimensions) and together.dtype == torch.float32
    assert torch.allclose(together[1:2], network(clips[1:2]), atol=1e-4)
    assert torch.equal(together, network(clips))


def test_they_are_the_mean_and_the_change_of_frames(network, clips) -> None:
    frames = torch.stack([network(clips[0, t].repeat(1, 2, 1, 1, 1))[0, :1280] for t in range(5)])
    assert torch.allclose(frames.square().mean(1), torch.ones(5))
    expected = torch.cat([frames.mean(0), CHANGE * frames.diff(dim=0).abs().mean(0)])
    assert torch.allclose(network(clips)[0], expected, atol=1e-4)


def test_a_clip_at_rest_has_no_change(network, clips) -> None:
    still = network(clips[:, :1].repeat(1, 2, 1, 1, 1))
    assert still[:, 1280:].eq(0).all() and network(clips)[:, 1280:].gt(0).any(1).all()
    with pytest.raises(ValueError, match="2 frames of a clip or more, not 1"):
        network(clips[:, :1])


def test_its_weights_are_checked(monkeypatch) -> None:
    assert load_network("imagenet", None, CPU).checksum == efficientnet.WEIGHTS_SHA256
    with pytest.raises(ValueError, match="leave --weights out"):
        load_network("imagenet", "weights.pth", CPU)
    efficientnet.pretrained.cache_clear()
    monkeypatch.setattr(efficientnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="has changed"):
        load_network("imagenet", None, CPU)
