"""Corruptions: none at strength 0, more with strength, and each of its own kind."""

from __future__ import annotations

import numpy as np
import pytest

from kinema.metrics.corruptions import SPATIAL, TEMPORAL, corrupted

ORDERED = [name for name in TEMPORAL if name != "flicker"]


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """A bright square that goes to the right over a slope of colour, on frames of a width that no block divides."""
    frames = np.empty((4, 16, 32, 36, 3), np.uint8)
    frames[:] = np.linspace(40, 120, 36).astype(np.uint8)[None, None, None, :, None] * np.array([1, 0.8, 0.5])
    for clip in range(4):
        for t in range(16):
            frames[clip, t, 8 + clip : 16 + clip, 2 * t : 2 * t + 6] = (220, 60, 30)
    return frames


@pytest.mark.parametrize("name", SPATIAL | TEMPORAL)
def test_more_is_worse_and_nothing_is_nothing(name, clips) -> None:
    assert np.array_equal(corrupted(clips, name, 0.0), clips)
    errors = [
        np.square(corrupted(clips, name, s, seed).astype(float) - clips).mean() for s in (0.3, 0.9) for seed in range(4)
    ]
    assert sum(errors[:4]) < sum(errors[4:])
    assert np.array_equal(corrupted(clips, name, 0.7, seed=3), corrupted(clips, name, 0.7, seed=3))
    assert not np.array_equal(corrupted(clips, name, 0.7), clips)


@pytest.mark.parametrize("name", SPATIAL)
def test_spatial_ones_do_the_same_to_every_frame(name, clips) -> None:
    still = clips[:, :1].repeat(16, 1)
    spoiled = corrupted(still, name, 1.0)
    assert (spoiled == spoiled[:, :1]).all()


@pytest.mark.parametrize("name", ORDERED)
def test_temporal_ones_take_frames_of_the_clip(name, clips) -> None:
    for clip, spoiled in zip(clips, corrupted(clips, name, 1.0), strict=True):
        known = {frame.tobytes() for frame in clip}
        assert {frame.tobytes() for frame in spoiled} <= known
        if name in ("shuffle", "reverse", "swap"):
            assert {frame.tobytes() for frame in spoiled} == known


def order(clips: np.ndarray, name: str, strength: float) -> list[int]:
    """The number of the clip's frame at each time."""
    frames = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None, None, None], (1, 16, 8, 8, 3))
    return corrupted(frames, name, strength)[0, :, 0, 0, 0].tolist()


def test_each_does_what_it_says(clips) -> None:
    assert order(clips, "swap", 1.0) == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]
    assert order(clips, "freeze", 1.0) == [0] * 16
    half = order(clips, "freeze", 0.5)
    assert max(half.count(frame) for frame in half) == 8
    dropped = order(clips, "drop", 1.0)
    assert dropped == sorted(dropped) and dropped[0] == 0 and len(set(dropped)) == 7
    back = np.diff(order(clips, "reverse", 1.0))
    assert (back == -1).sum() == 7
    spoiled = corrupted(clips, "flicker", 1.0)
    assert len({frame.mean() for frame in spoiled[0]}) == 16
    blocks = corrupted(clips, "blocks", 1.0)[0, 0]
    assert (blocks[:4, :4] == blocks[0, 0]).all() and np.abs(blocks.mean() - clips[0, 0].mean()) < 1
