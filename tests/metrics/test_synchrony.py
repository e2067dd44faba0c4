"""Sound and motion together: clicks and jumps whose frames are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kinema.metrics.synchrony import loudness, motion, onset_agreement, synchrony

RATE, FPS, FRAMES = 16_000, 8.0, 32
AT = (4, 9, 11, 17, 20, 26)


def clicks(at: tuple[int, ...], frames: int = FRAMES) -> np.ndarray:
    """A waveform with a click at the beginning of the time of each of these frames."""
    time = np.arange(RATE // 20) / RATE
    audio = np.zeros(round(frames / FPS * RATE), np.float32)
    for frame in at:
        first = round(frame / FPS * RATE)
        audio[first : first + len(time)] = 0.5 * np.sin(2 * np.pi * 800 * time) * np.exp(-80 * time)
    return audio


def jumps(at: tuple[int, ...], frames: int = FRAMES) -> np.ndarray:
    """A clip that drifts by a pixel a frame, and jumps by 12 on the way to each of these."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((32, 32 + 12 * frames, 3)), (2, 2, 0))
    whole = (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    places = np.cumsum([12 if t in at else 1 for t in range(frames)]) - 1
    return np.stack([whole[:, x : x + 32] for x in places])


def test_loudness_by_hand() -> None:
    audio = np.zeros(round(4 / FPS * RATE), np.float32)
    audio[2000:4000] = 0.25
    audio[4000:5000] = 1  # half of the third frame: its mean square is a half
    np.testing.assert_allclose(loudness(audio, RATE, 5, FPS), np.log2([10**-2.5, 0.25, 0.5**0.5, 10**-2.5, 10**-2.5]))
    uneven = loudness(np.full(RATE, 0.5, np.float32), RATE, 29, 29.97)
    np.testing.assert_allclose(uneven, -1)


def test_motion_by_hand() -> None:
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    frames[1:] = 8
    frames[3, 0, 0] = 9
    np.testing.assert_allclose(motion(frames), np.log2([8, 0.1, 0.1]))


def test_clicks_with_jumps_correlate_at_no_lag() -> None:
    found = synchrony(clicks(AT), RATE, jumps(AT), FPS, within=3)
    assert found.correlation > 0.95
    assert found.lag == 0 and found.best == found.correlation


@pytest.mark.parametrize("late", [-3, -1, 2, 3])
def test_the_lag_is_how_late_the_motion_is(late: int) -> None:
    found = synchrony(clicks(AT), RATE, jumps(tuple(frame + late for frame in AT)), FPS, within=3)
    assert found.lag == late
    assert found.best > 0.95 and found.correlation < 0.5


def test_shuffled_clicks_do_not_go_with_jumps() -> None:
    rng = np.random.default_rng(0)
    right = onset_agreement(clicks(AT), RATE, jumps(AT), FPS)
    values, shares = [], []
    for _ in range(40):
        audio = clicks(tuple(rng.choice(np.arange(2, FRAMES), len(AT), replace=False)))
        values.append(synchrony(audio, RATE, jumps(AT), FPS, within=0).correlation)
        shares.append(onset_agreement(audio, RATE, jumps(AT), FPS).share)
    assert abs(np.mean(values)) < 0.15
    assert right.share == 1
    assert np.mean(shares) == pytest.approx(right.chance, abs=0.1)


def test_onsets_by_hand() -> None:
    found = onset_agreement(clicks((4, 9, 20)), RATE, jumps((5, 9, 14, 26)), FPS)
    assert (found.sounds, found.motions) == (3, 4)
    assert found.share == pytest.approx(2 / 3)  # 4 beside 5, 9, and 20 beside none
    # onsets are of the 30 frames from 2 on: shifted all the way around, each of 4 jumps is within one frame of each of
    # 3 clicks 3 times, 36 in all; 2 of these are at no shift, which is not chance
    assert found.chance == pytest.approx((36 - 2) / 3 / 29)


@pytest.mark.parametrize("between", [0.06, 0.15])
def test_a_rise_over_two_frames_is_one_onset(between: float) -> None:
    levels = np.repeat([0.02, 0.02, 0.02, 0.02, between, 0.4, 0.4, 0.5, 0.5, 0.02, 0.02, 0.02], 2000)
    sign = np.where(np.arange(len(levels)) % 2, 1, -1)
    audio = (levels * sign).astype(np.float32)
    assert onset_agreement(audio, RATE, jumps((5,), 12), FPS).sounds == 1


def test_what_does_not_change_has_no_correlation() -> None:
    still = jumps(())[:1].repeat(FRAMES, 0)
    silence = np.zeros(FRAMES * 2000, np.float32)
    tone = (0.3 * np.sin(np.arange(FRAMES * 2000) * 0.2)).astype(np.float32)
    for audio, frames in ((silence, jumps(AT)), (tone, jumps(AT)), (clicks(AT), still)):
        found = synchrony(audio, RATE, frames, FPS, within=2)
        assert np.isnan([found.correlation, found.lag, found.best]).all()
    quiet = onset_agreement(silence, RATE, jumps(AT), FPS)
    assert np.isnan([quiet.share, quiet.chance]).all() and (quiet.sounds, quiet.motions) == (0, len(AT))
    stiff = onset_agreement(clicks(AT), RATE, still, FPS)
    assert (stiff.share, stiff.chance, stiff.sounds, stiff.motions) == (0, 0, len(AT), 0)


def test_short_clips_are_refused() -> None:
    synchrony(clicks((2,), 6), RATE, jumps((2,), 6), FPS, within=2)
    with pytest.raises(ValueError, match="7 frames or more, not 6"):
        synchrony(clicks((2,), 6), RATE, jumps((2,), 6), FPS, within=3)
    with pytest.raises(ValueError, match="4 frames or more, not 3"):
        onset_agreement(clicks((2,), 3), RATE, jumps((2,), 3), FPS)
