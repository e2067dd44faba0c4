"""VGAN: a mask decides between what moves and a background that does not."""

from __future__ import annotations

import pytest
import torch

from kinema.families.vgan import VGAN, VGANConfig
from kinema.types import Batch, ClipSpec, TrainStep

SPEC = ClipSpec(8, 16, 32)


@pytest.fixture
def vgan() -> VGAN:
    torch.manual_seed(0)
    return VGANConfig(latent=5, ngf=2, ndf=2).fitted(SPEC).build()


def test_frames_are_foreground_where_the_mask_says_and_background_elsewhere(vgan: VGAN) -> None:
    layers = vgan.generator(torch.randn(3, 5))
    assert 0 <= layers.mask.min() < layers.mask.max() <= 1
    f, m, b = (x.double() for x in (layers.foreground, layers.mask, layers.background))
    torch.testing.assert_close(layers.composed().double(), m * f + (1 - m) * b, atol=1e-6, rtol=0)


def test_without_a_mask_the_background_stands_still(vgan: VGAN) -> None:
    head = vgan.generator.moving[-1]
    head.bias.data[3] = -1e4
    layers = vgan.generator(torch.randn(3, 5))
    assert torch.equal(layers.composed(), layers.background.expand(3, 8, 3, 16, 32))
    assert layers.foreground.diff(dim=1).abs().max() > 0
    head.bias.data[3] = 1e4
    layers = vgan.generator(torch.randn(3, 5))
    assert torch.equal(layers.composed(), layers.foreground)


def test_a_mask_costs_what_it_covers(vgan: VGAN) -> None:
    batch = Batch(torch.rand(4, 8, 3, 16, 32) * 2 - 1)
    total, scalars = vgan.turns()[1].loss(batch, TrainStep.from_seed(0))
    assert total.item() == pytest.approx(scalars["generator"].item() + 0.1 * scalars["mask"].item(), rel=1e-6)


def test_the_network_is_the_papers() -> None:
    with torch.device("meta"):
        generator = VGANConfig().fitted(ClipSpec(32, 64, 64)).build().generator
    shapes = [tuple(p.shape) for p in generator.moving.parameters() if p.ndim == 5]
    widths = [(512, 256), (256, 128), (128, 64), (64, 4)]  # three colours and the mask
    assert shapes == [(100, 512, 2, 4, 4), *((*width, 4, 4, 4) for width in widths)]
    shapes = [tuple(p.shape) for p in generator.still.parameters() if p.ndim == 4]
    widths = [(100, 512), (512, 256), (256, 128), (128, 64), (64, 3)]
    assert shapes == [(*width, 4, 4) for width in widths]
