"""Average Content Distance: values worked out by hand, and the frames that could break the protocol."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinema.metrics.acd import acd, mean_colour, shape_colour
from kinema.worlds.shape_motion import ShapeMotion


def square(*colours: tuple[float, float, float], side: int = 6, edge: float = 1.0) -> Tensor:
    """A clip [1, T, 3, 16, 16]: a square that wanders, its outermost ring dimmed to `edge`, a colour a frame."""
    rgb = torch.zeros(1, len(colours), 3, 16, 16)
    for t, colour in enumerate(colours):
        corner = 1 + t
        body = torch.full((side, side), edge)
        body[1:-1, 1:-1] = 1
        rgb[0, t, :, corner : corner + side, corner : corner + side] = torch.tensor(colour)[:, None, None] * body
    return rgb / 127.5 - 1


def test_a_kept_colour_scores_zero() -> None:
    assert acd(square((40.0, 90.0, 200.0), (40.0, 90.0, 200.0), (40.0, 90.0, 200.0))).item() == pytest.approx(
        0, abs=1e-3
    )


def test_two_colours_by_hand() -> None:
    # Frames A, A, B: of the three pairs two differ, by the length of (30, 40, 0), which is 50.
    clip = square((100.0, 50.0, 20.0), (100.0, 50.0, 20.0), (130.0, 90.0, 20.0))
    assert acd(clip).item() == pytest.approx(50 * 2 / 3, rel=1e-4)


@pytest.mark.parametrize("features", [shape_colour, mean_colour])
def test_agrees_with_loops(features) -> None:
    frames = torch.rand(3, 5, 3, 12, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vectors = features(frames)
    for clip, distance in zip(vectors, acd(frames, features), strict=True):
        pairs = [(clip[i] - clip[j]).norm() for i in range(5) for j in range(i)]
        assert distance.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-4)


def test_dim_edges_do_not_change_the_colour() -> None:
    clip = torch.cat([square((200.0, 80.0, 40.0), edge=edge) for edge in (0.3, 0.6, 1.0)], dim=1)
    torch.testing.assert_close(shape_colour(clip)[0], torch.tensor([[200.0, 80.0, 40.0]] * 3), atol=1e-2, rtol=0)


def test_dark_shapes_and_specks_are_shapes() -> None:
    torch.testing.assert_close(
        shape_colour(square((6.0, 4.0, 0.0)))[0, 0], torch.tensor([6.0, 4.0, 0.0]), atol=1e-3, rtol=0
    )
    speck = shape_colour(square((60.0, 90.0, 30.0), side=2))[0, 0]
    torch.testing.assert_close(speck, torch.tensor([60.0, 90.0, 30.0]), atol=1e-2, rtol=0)


def test_an_empty_frame_is_a_black_shape() -> None:
    clip = square((0.0, 0.0, 0.0), (120.0, 160.0, 0.0))
    torch.testing.assert_close(shape_colour(clip)[0, 0], torch.zeros(3))
    assert acd(clip).item() == pytest.approx(200, rel=1e-4)


def test_real_clips_score_zero_though_they_move() -> None:
    frames = ShapeMotion(frames=32).batch(0, 32, seed=0).frames
    assert acd(frames).amax().item() < 1e-2
    assert acd(frames.flip(0).roll(1, 1), mean_colour).amax().item() < 1
    mixed = torch.cat([frames[:16, :16], frames[16:, :16]], dim=1)  # what changes its content half way
    assert acd(mixed).mean().item() > 10


def test_a_single_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        acd(square((1.0, 2.0, 3.0)))
