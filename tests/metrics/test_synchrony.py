"""Sound and motion together: clicks and jumps whose frames are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from kinema.metrics.synchrony import loudness, motion, synchrony

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


def test_clicks_correlate_with_jumps_at_the_same_time() -> None:
    assert synchrony(clicks(AT), RATE, jumps(AT), FPS) > 0.95
    assert synchrony(clicks(AT), RATE, jumps(tuple(frame + 2 for frame in AT)), FPS) < 0.5


def test_shuffled_clicks_do_not_correlate_with_jumps() -> None:
    rng = np.random.default_rng(0)
    values = []
    for _ in range(40):
        audio = clicks(tuple(rng.choice(np.arange(2, FRAMES), len(AT), replace=False)))
        values.append(synchrony(audio, RATE, jumps(AT), FPS))
    assert abs(np.mean(values)) < 0.15


def test_what_does_not_change_has_no_correlation() -> None:
    still = jumps(())[:1].repeat(FRAMES, 0)
    silence = np.zeros(FRAMES * 2000, np.float32)
    tone = (0.3 * np.sin(np.arange(FRAMES * 2000) * 0.2)).astype(np.float32)
    for audio, frames in ((silence, jumps(AT)), (tone, jumps(AT)), (clicks(AT), still)):
        assert np.isnan(synchrony(audio, RATE, frames, FPS))


def test_short_clips_raise() -> None:
    with pytest.raises(ValueError, match="4 frames or more, not 3"):
        synchrony(clicks((2,), 3), RATE, jumps((2,), 3), FPS)
