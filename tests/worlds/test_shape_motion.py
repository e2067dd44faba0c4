"""Shape Motion: what is drawn agrees with the truth behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinema.registry import WORLDS
from kinema.worlds.shape_motion import ShapeMotion, colour_name, render, scene


def test_batch_is_a_function_of_seed_step_and_rank() -> None:
    first = ShapeMotion().batch(3, 4, seed=7, rank=1, ranks=2)
    again = ShapeMotion().batch(3, 4, seed=7, rank=1, ranks=2)
    assert torch.equal(first.frames, again.frames)
    assert first.conditions.text == again.conditions.text
    for other in ({"step": 4}, {"seed": 8}, {"rank": 0}):
        batch = ShapeMotion().batch(**{"step": 3, "size": 4, "seed": 7, "rank": 1, "ranks": 2} | other)
        assert not torch.equal(first.frames, batch.frames)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 64, 64), (16, 64, 64), (40, 32, 48), (8, 65, 17)])
def test_batch_keeps_the_spec(frames: int, height: int, width: int) -> None:
    world = WORLDS["shape-motion"](frames=frames, height=height, width=width)
    batch = world.batch(0, 3, seed=0)
    assert (world.spec.frames, world.spec.height, world.spec.width) == (frames, height, width)
    assert batch.frames.shape == (3, frames, 3, height, width)
    assert batch.frames.dtype == torch.uint8
    assert batch.frames.is_contiguous()
    assert batch.frames.amin() == 0
    truth = scene(np.random.default_rng((0, 0, 0)), 3, frames, height, width)
    assert np.array_equal(batch.frames.movedim(2, -1), render(truth, height, width))
    assert batch.conditions.label is not None
    assert batch.conditions.text is not None
    for label, text in zip(batch.conditions.label.tolist(), batch.conditions.text, strict=True):
        assert text.endswith(("moves from bottom to top", "moves from right to left")[label])


def test_captions_name_what_is_seen() -> None:
    truth = scene(np.random.default_rng(0), 64, 2, 64, 64)
    for text, colour, square in zip(truth.captions, truth.colour, truth.is_square, strict=True):
        article, rest = text.split(" ", 1)
        assert rest.startswith(f"{colour_name(colour)} {'square' if square else 'circle'} moves from ")
        assert article == ("an" if rest.startswith("orange") else "a")


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 96)])
def test_rendered_shapes_have_the_place_the_area_and_the_colour_of_the_scene(height: int, width: int) -> None:
    truth = scene(np.random.default_rng(0), 48, 8, height, width)
    truth.colour[:, 0] = 255  # so that the red channel is the coverage
    video = render(truth, height, width)
    assert video.shape == (48, 8, height, width, 3)

    coverage = video[..., 0] / 255.0
    area = coverage.sum((2, 3))
    expected = truth.size**2 * np.where(truth.is_square, 1, np.pi / 4)
    np.testing.assert_allclose(area, np.repeat(expected[:, None], 8, 1), rtol=0.02)

    x = (coverage.sum(2) * (np.arange(width) + 0.5)).sum(-1) / area
    y = (coverage.sum(3) * (np.arange(height) + 0.5)).sum(-1) / area
    np.testing.assert_allclose(np.stack([x, y], -1), truth.centres, atol=0.05)

    nearest = truth.centres.astype(int)
    clip, frame = np.ogrid[:48, :8]
    np.testing.assert_array_equal(
        video[clip, frame, nearest[..., 1], nearest[..., 0]], np.repeat(truth.colour[:, None], 8, 1)
    )


@pytest.mark.parametrize("frames", [16, 50])
def test_a_path_goes_from_edge_to_edge_and_back_to_its_lane(frames: int) -> None:
    truth = scene(np.random.default_rng(0), 256, frames, 64, 64)
    first, last = truth.centres[:, 0], truth.centres[:, -1]
    each, along, across = np.arange(256), 1 - truth.label, truth.label
    near = truth.size / 2 + 1
    np.testing.assert_allclose(first[each, along], 64 - near, atol=1e-4)
    np.testing.assert_allclose(last[each, along], near, atol=1e-4)
    np.testing.assert_allclose(first[each, across], last[each, across], atol=1e-4)
    assert set(truth.label) == {0, 1}
    assert set(truth.size) == {8, 10, 12, 14}
    assert (truth.centres >= near[:, None, None] - 1e-4).all()
    assert (truth.centres <= 64 - near[:, None, None] + 1e-4).all()


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((92, 115, 194), "blue"),
        ((161, 66, 11), "orange"),
        ((71, 16, 31), "dark pink"),
        ((255, 0, 4), "red"),
        ((169, 170, 155), "light gray"),
        ((250, 250, 250), "white"),
        ((60, 60, 60), "dark gray"),
        ((0, 0, 0), "nearly black"),
    ],
)
def test_colour_name(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_name(rgb) == name


def test_frames_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="16x16"):
        ShapeMotion(height=8)
