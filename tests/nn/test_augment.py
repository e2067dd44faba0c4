"""Augmentation changes all frames of a clip alike, draws from its generator only, and lets gradients through."""

from __future__ import annotations

import torch
from torch import Tensor

from kinema.nn.augment import augment


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(batch: int = 8, frames: int = 3) -> Tensor:
    return torch.rand(batch, frames, 3, 16, 32, generator=seeded()) * 2 - 1


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    still = clips(frames=1).expand(-1, 4, -1, -1, -1)
    changed = augment(still, seeded())
    assert changed.shape == still.shape
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed), rtol=0, atol=0)
    assert all(not torch.allclose(a, b) for a, b in zip(changed, still, strict=True))


def test_clips_are_changed_each_in_its_own_way() -> None:
    same = clips(batch=1).expand(8, -1, -1, -1, -1)
    changed = augment(same, seeded())
    assert all(not torch.allclose(changed[0], other) for other in changed[1:])


def test_it_is_a_function_of_its_generator() -> None:
    frames = clips()
    first = augment(frames, seeded(1))
    torch.rand(3)
    torch.testing.assert_close(augment(frames, seeded(1)), first, rtol=0, atol=0)
    assert not torch.equal(augment(frames, seeded(2)), first)


def test_gradients_flow_to_every_clip() -> None:
    frames = clips().requires_grad_()
    augment(frames, seeded()).square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert (frames.grad.flatten(1).abs().amax(1) > 0).all()


def test_content_moves_by_up_to_an_eighth_of_each_side() -> None:
    dot = torch.zeros(512, 1, 3, 16, 32)
    dot[..., 8, 16] = 1.0
    grey = augment(dot, seeded())[:, 0, 0]  # [B H W]
    brightest = grey == grey.amax((1, 2), keepdim=True)
    _, row, column = brightest[brightest.sum((1, 2)) == 1].nonzero().T  # where the hole does not hide the dot
    assert set((row - 8).tolist()) == set(range(-2, 3))
    assert set((column - 16).tolist()) == set(range(-4, 5))


def test_a_hole_of_half_the_sides_is_cut() -> None:
    changed = augment(torch.ones(512, 1, 3, 32, 32), seeded())[:, 0, 0]
    # Seen whole, with nothing shifted in; elsewhere only part of it is within the frame, which has zeros at its edges.
    inner = (changed[:, 4:-4, 4:-4] == 0).sum((1, 2))
    assert inner.max() == 16 * 16
    assert inner.min() < 16 * 16
