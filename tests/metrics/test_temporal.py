"""Measures of single clips in time, on clips made so that the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kinema.metrics.flow_field import (
    COMPASS,
    Flow,
    direction_distance,
    directions,
    flow_magnitude,
    magnitude_distance,
    optical_flow,
    warping_error,
)
from kinema.metrics.temporal import changes, cuts, flicker, freeze, loop, measures

SIDE, FRAMES = 64, 8
STEPS = {
    "E": (1, 0),
    "NE": (1, -1),
    "N": (0, -1),
    "NW": (-1, -1),
    "W": (-1, 0),
    "SW": (-1, 1),
    "S": (0, 1),
    "SE": (1, 1),
}


def texture(side: int, seed: int) -> np.ndarray:
    """Smooth colour noise [side, side, 3] over the range of 40 to 215."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side, 3)), (2, 2, 0))
    return (40 + 175 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def pan(step: tuple[int, int], frames: int = FRAMES, seed: int = 0) -> np.ndarray:
    """A clip [1, T, H, W, 3] in which all moves by `step` a frame, x and y (down)."""
    margin = frames * max(map(abs, step))
    whole = texture(SIDE + 2 * margin, seed)
    corners = [(margin - t * step[1], margin - t * step[0]) for t in range(frames)]
    return np.stack([whole[y : y + SIDE, x : x + SIDE] for y, x in corners])[None]


def square(step: tuple[int, int]) -> np.ndarray:
    """A clip of a square of 20 pixels that moves over what stands still."""
    clip = texture(SIDE, 1)[None].repeat(FRAMES, 0)
    for t in range(FRAMES):
        y, x = (22 + (t - FRAMES // 2) * s for s in (step[1], step[0]))
        clip[t, y : y + 20, x : x + 20] = texture(20, 2)
    return clip[None]


def still(frames: int = FRAMES) -> np.ndarray:
    return texture(SIDE, 3)[None, None].repeat(frames, 1)


def noise(frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, frames, SIDE, SIDE, 3)).astype(np.uint8)


def brighter(clip: np.ndarray, by: np.ndarray) -> np.ndarray:
    return (clip + by[:, None, None, None]).astype(np.uint8)


@pytest.mark.parametrize("name", COMPASS)
@pytest.mark.parametrize("speed", [1, 3])
def test_a_pan_has_its_speed_and_its_direction(name: str, speed: int) -> None:
    step = (speed * STEPS[name][0], speed * STEPS[name][1])
    flow = optical_flow(pan(step))
    assert flow_magnitude(flow)[0] == pytest.approx(np.hypot(*step), rel=0.03)
    assert directions(flow)[0, COMPASS.index(name)] > 0.97
    middle = flow.backward[..., 16:-16, 16:-16, :].mean((0, 1, 2, 3))
    np.testing.assert_allclose(middle, [-step[0], -step[1]], atol=0.05)


@pytest.mark.parametrize("name", COMPASS)
def test_a_square_moves_where_it_is(name: str) -> None:
    flow = optical_flow(square((2 * STEPS[name][0], 2 * STEPS[name][1])))
    at = FRAMES // 2
    inside = flow.forward[0, at, 26:38, 26:38].mean((0, 1))
    np.testing.assert_allclose(inside, np.multiply(STEPS[name], 2), atol=0.15)
    assert np.abs(flow.forward[0, at, :8]).max() < 0.1
    assert directions(flow)[0].argmax() == COMPASS.index(name)
    true = 2 * np.hypot(*STEPS[name]) * 20**2 / SIDE**2
    assert true < flow_magnitude(flow)[0] < 1.6 * true  # the flow reaches a little beyond the edges


def test_nothing_moves_in_a_still_clip() -> None:
    flow = optical_flow(still())
    assert not flow.forward.any() and not flow.backward.any()
    assert flow_magnitude(flow) == 0 and not directions(flow).any()
    assert warping_error(still(), flow) == 0


def test_what_is_not_of_one_memory_block_flows_the_same() -> None:
    clip = pan((2, 1))
    turned = np.ascontiguousarray(clip.transpose(0, 1, 4, 2, 3)).transpose(0, 1, 3, 4, 2)
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(optical_flow(turned).forward, optical_flow(clip).forward)


def test_warping_error_by_hand() -> None:
    clip = np.full((1, 3, 16, 16, 3), 100, np.uint8)
    clip[0, 1, ..., 0] = 106
    nothing = np.zeros((1, 2, 16, 16, 2), np.float32)
    assert warping_error(clip, Flow(nothing, nothing))[0] == pytest.approx(36 / 3)
    back = nothing.copy()
    back[0, 1, ..., 1] = 0.8  # squared more than 0.5 and a hundredth of itself: the second pair has no pixel in common
    clip[0, 2] = 200
    assert warping_error(clip, Flow(nothing, back))[0] == pytest.approx(36 / 3)
    back[0, 0, ..., 1] = 0.8
    assert np.isnan(warping_error(clip, Flow(nothing, back))).all()
    back[..., 1] = 0.7
    assert warping_error(clip, Flow(nothing, back))[0] > 36 / 3


def test_what_leaves_the_frame_and_what_is_covered_are_left_out() -> None:
    clip = np.zeros((1, 2, 16, 16, 3), np.uint8)
    clip[0, 0, :, 12:] = 255  # leaves to the right
    clip[0, 0, 4:8, 2:6] = 90  # is covered: what is there afterwards came from elsewhere
    forward, backward = np.zeros((2, 1, 1, 16, 16, 2), np.float32)
    forward[..., 12:, 0] = 4
    assert warping_error(clip, Flow(forward, backward))[0] == pytest.approx(90**2 * 16 / (16 * 12))
    backward[0, 0, 4:8, 2:6] = (-3, 3)
    assert warping_error(clip, Flow(forward, backward))[0] == 0


def test_translation_is_explained_and_noise_is_not() -> None:
    clip = pan((3, -2))
    moved = warping_error(clip, optical_flow(clip))[0]
    unexplained = np.square(np.diff(clip.astype(float), axis=1)).mean()
    assert moved < 0.01 * unexplained
    assert warping_error(noise(), optical_flow(noise()))[0] > 1000 * moved


def test_jitter_and_noise_raise_the_warping_error() -> None:
    clip = square((2, 1))
    rng = np.random.default_rng(0)
    clean = warping_error(clip, optical_flow(clip))[0]
    for worse in (
        brighter(clip, rng.permutation([-12, -9, -6, -3, 3, 6, 9, 12])),
        (clip + rng.normal(0, 6, clip.shape)).astype(np.uint8),
    ):
        assert warping_error(worse, optical_flow(worse))[0] > clean + 10


def test_flicker_by_hand() -> None:
    on_and_off = brighter(still(), np.arange(FRAMES) % 2 * 10)
    fade = brighter(still(), np.arange(FRAMES) * 4)
    flash = brighter(still(), 12 * (np.arange(FRAMES) == 3))
    for clip, value in ((on_and_off, 10), (fade, 0), (still(), 0), (flash, 12 * (1 + 2 / 2) / (FRAMES - 2))):
        assert flicker(clip)[0] == pytest.approx(value, abs=1e-9)
    green = still()
    green[0, ::2, ..., 1] += 10
    assert flicker(green)[0] == pytest.approx(5.87)


def test_motion_is_no_flicker() -> None:
    clip = square((2, 1))
    assert changes(clip).min() > 2
    assert flicker(clip)[0] < 0.1
    assert flicker(brighter(clip, np.arange(FRAMES) % 2 * 6))[0] == pytest.approx(6, abs=0.1)


def test_changes_by_hand() -> None:
    clip = np.zeros((2, 3, 4, 4, 3), np.uint8)
    clip[1, 1, 0, 0] = (255, 0, 129)  # 8-bit differences do not wrap around
    np.testing.assert_allclose(changes(clip), [[0, 0], [8, 8]])


def test_freezing_is_the_share_of_pairs_that_are_the_same() -> None:
    clip = pan((1, 0), 11)
    assert freeze(clip) == 0 and freeze(still()) == 1
    clip[0, 4:7] = clip[0, 4]  # frames 4 to 6 are one: 2 of 10 pairs
    assert freeze(clip)[0] == pytest.approx(0.2)
    clip[0, 5, 0, :12] += 1  # 12 * 3 of 12288 values by a level: 0.003
    assert freeze(clip)[0] == pytest.approx(0.2)
    clip[0, 5, :12] += 2  # a fifth by 2 levels: 0.4
    assert freeze(clip) == 0


@pytest.mark.parametrize("at", [(), (1,), (9,), (5, 10), (3, 6, 12)])
def test_cuts_are_counted_where_they_are(at: tuple[int, ...]) -> None:
    shots = np.searchsorted(at, np.arange(16), "right")
    clip = np.stack([pan((1, 1), 16, seed=10 + shot)[0, t] for t, shot in enumerate(shots)])[None]
    assert cuts(clip)[0] == len(at)


def test_what_is_no_cut() -> None:
    odd = pan((1, 0))
    odd[0, 4] = texture(SIDE, 20)
    resumed = pan((1, 0), 16)
    resumed[0, :8] = resumed[0, 7]
    small = still()
    small[0, 4:] += 7  # a step below the least
    for clip in (odd, resumed, small, still(), noise(), pan((5, 3))):
        assert cuts(clip) == 0
    small[0, 4:] += 1
    assert cuts(small) == 1


@pytest.mark.parametrize("period", [2, 3, 5, 8])
def test_a_loop_of_any_period_scores_one(period: int) -> None:
    clip = pan((2, 1), 16)[:, np.arange(16) % period]
    assert loop(clip)[0] == pytest.approx(1)


def test_a_loop_that_holds_its_frames_or_has_noise_is_still_one() -> None:
    held = pan((2, 1), 16)[:, np.arange(16) // 2 % 3]  # 0 0 1 1 2 2 0 0 ...
    assert loop(held)[0] == pytest.approx(1)
    clip = pan((2, 1), 16)[:, np.arange(16) % 5]
    noisy = (clip + np.random.default_rng(0).normal(0, 2, clip.shape)).astype(np.uint8)
    assert 0.7 < loop(noisy)[0] < 1
    late = pan((2, 1), 16)[:, [*range(6), *(6 + np.arange(10) % 3)]]
    assert 0.2 < loop(late)[0] < 0.6


def test_what_is_no_loop() -> None:
    back = pan((2, 1), 16)[:, [*range(8), *range(7, -1, -1)]]
    odd = still(16)
    odd[0, 14] = texture(SIDE, 20)
    for clip, most in ((still(16), 0), (pan((1, 0), 16), 0), (noise(16), 0.02), (back, 0.1), (odd, 0.1)):
        assert loop(clip)[0] <= most


def test_a_loop_by_hand() -> None:
    levels = np.array([0, 10, 2, 12, 4, 10])
    clip = np.zeros((1, 6, 4, 4, 3), np.uint8) + levels.astype(np.uint8)[:, None, None, None]
    # period 2: |2-0| against |2-10| and so on; period 3: the median of the differences to the two frames between
    two = np.mean([(8 - 2) / 8, (10 - 2) / 10, (8 - 2) / 8, (6 - 2) / 6])
    three = np.mean([(6 - 12) / 12, (5 - 6) / 6, (4 - 8) / 8])
    assert three < 0 < two
    assert loop(clip)[0] == pytest.approx(two)


def test_measures_of_a_batch_are_those_of_its_clips() -> None:
    clips = np.concatenate([square((2, 1)), still(), noise()])
    found = measures(clips)
    assert list(found) == ["flicker", "warping error", "flow", "freeze", "loop", "cuts"]
    for n in range(3):
        for name, value in measures(clips[n : n + 1]).items():
            assert value.dtype == np.float64 and value[0] == found[name][n]
    assert found["freeze"].tolist() == [0, 1, 0]
    for name, value in measures(clips, optical_flow(clips[::-1])).items():  # the flow is taken as it is given
        assert np.array_equal(value, found[name]) == (name not in ("warping error", "flow"))


def test_what_clips_are_too_short_for_is_nan() -> None:
    for frames, undefined in ((2, {"flicker", "loop", "cuts"}), (3, {"loop"}), (4, set())):
        found = measures(pan((1, 0), frames))
        assert {name for name, value in found.items() if np.isnan(value).all()} == undefined


@pytest.mark.parametrize("measure", [measures, changes, flicker, freeze, loop, cuts, optical_flow])
def test_one_frame_is_refused(measure) -> None:
    with pytest.raises(ValueError, match="2 frames or more"):
        measure(still(1))


def test_small_frames_are_refused() -> None:
    optical_flow(still()[:, :, :16, :16])
    with pytest.raises(ValueError, match="64x15 are too small"):
        optical_flow(still()[:, :, :15])


def test_distances_of_sets_by_hand() -> None:
    assert magnitude_distance(np.array([1.0, 2, 3]), np.array([2.5, 4.5, 3.5])) == pytest.approx(1.5)
    east, north, both = np.eye(8)[:1], np.eye(8)[2:3], np.eye(8)[[0, 2]]
    assert direction_distance(east, east) == 0
    assert direction_distance(east, north) == pytest.approx(1)
    # of (1, 0) and (1/2, 1/2), whose mean is (3/4, 1/4): half of log2(4/3), and half of a half of log2(2/3) and log2(2)
    divergence = (np.log2(4 / 3) + (np.log2(2 / 3) + np.log2(2)) / 2) / 2
    assert direction_distance(east, both) == pytest.approx(divergence**0.5)
    standing = np.zeros((3, 8))
    assert direction_distance(np.concatenate([both, standing]), both) == 0
    assert np.isnan(direction_distance(east, standing))
