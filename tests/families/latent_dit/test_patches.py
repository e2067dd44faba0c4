"""Patches: writing inverts reading; cosine waves are orthogonal, and as strong as they are in video."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from kinema.families.latent_dit.patches import Patches, cosine_patches
from kinema.worlds.sprites import Sprites


@pytest.mark.parametrize(("time", "side"), [(1, 1), (1, 16), (4, 8), (3, 5)])
def test_waves_are_orthogonal_and_of_mean_square_one(time: int, side: int) -> None:
    basis = cosine_patches(time, side)
    products = basis @ basis.T
    torch.testing.assert_close(products - products.diag().diag(), torch.zeros_like(products), rtol=0, atol=1e-3)
    assert products.diag().mean().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("channels", "time", "side", "pixels"), [(3, 2, 4, True), (5, 1, 2, False)])
def test_writing_inverts_reading(channels: int, time: int, side: int, pixels: bool) -> None:
    torch.manual_seed(0)
    count = channels * time * side**2
    patches = Patches(channels, time, side, count, pixels)
    x = torch.randn(2, 2 * time, channels, 3 * side, 2 * side)
    clean = torch.zeros(2, 2 * time, 1, 3 * side, 2 * side, dtype=torch.bool)
    tokens = patches.read(x, clean)
    assert tokens.shape == (2, 2, 6, count)
    assert not patches.write(tokens.flatten(1, 2), 2, 3).any()  # at first
    read = patches.embed.weight if patches.basis is None else patches.embed.weight @ patches.basis
    back = torch.linalg.inv(read.detach())
    patches.head.weight.data = back if patches.basis is None else torch.linalg.solve(patches.basis.T, back)
    patches.embed.bias.data.zero_()
    torch.testing.assert_close(patches.write(patches.read(x, clean).flatten(1, 2), 2, 3), x, rtol=0, atol=2e-3)
    marked = patches.read(x, ~clean) - patches.read(x, clean)
    torch.testing.assert_close(marked, patches.mark.weight.sum(1).expand_as(marked), rtol=0, atol=1e-4)


def test_means_are_those_of_the_tokens_patches() -> None:
    patches, x = Patches(5, 2, 4, 8, pixels=False), torch.randn(3, 4, 5, 12, 8)
    means = patches.means(x)
    assert means.shape == (3, 2 * 3 * 2)
    torch.testing.assert_close(means[1, 0], x[1, :2, :, :4, :4].mean())
    torch.testing.assert_close(means[2, 9], x[2, 2:, :, 4:8, 4:].mean())
    torch.testing.assert_close(patches.means(torch.stack([x, -x]))[1], -means)


def test_the_first_waves_are_the_mean_colours_and_waves_fall_with_frequency() -> None:
    basis = cosine_patches(2, 4).reshape(-1, 3, 2, 4, 4, 3)  # wave, colour, patch
    flat = basis[0].flatten(1, 3)  # [colour, pixels, RGB]
    torch.testing.assert_close(flat, flat[:, :1].expand_as(flat))
    assert (flat[0, 0] > 0).all() and flat[1:, 0].sum(1).abs().max() < 1e-6
    strength = basis.flatten(2).norm(dim=2)
    torch.testing.assert_close(strength[1:, 0] / strength[0, 0], strength[1:, 1] / strength[0, 1])
    assert strength[1, 0] == pytest.approx(strength[0, 0] / 2)  # the first wave along the width, f = 1
    assert strength.argmax() == 0 and strength.min() < strength.max() / 4


def test_waves_are_about_as_strong_in_clips() -> None:
    frames = Sprites(16).batch(0, 16, seed=0).to(torch.device("cpu")).frames
    patches = rearrange(frames, "b (l i) c (h p) (w q) -> (b l h w) (i p q c)", i=4, p=8, q=8)
    basis = cosine_patches(4, 8)
    strength = basis.norm(dim=1)
    found = ((patches - patches.mean()) @ (basis / strength[:, None]).T).square().mean(0).sqrt()
    correlation = torch.corrcoef(torch.stack([found.clamp(min=1e-4).log(), strength.log()]))[0, 1]
    assert correlation > 0.8
