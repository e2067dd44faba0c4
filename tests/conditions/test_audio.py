"""Sound: the right band at the right moment."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kinema.conditions.audio import MELS, PARTS, SAMPLE_RATE, AudioEncoder, log_mel


def tone(hertz: float, seconds: float = 2.0) -> Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)[None]


def test_silence_is_minus_one_and_sound_is_above() -> None:
    assert torch.equal(log_mel(torch.zeros(2, SAMPLE_RATE), 8, 8.0), torch.full((2, 8, PARTS * MELS), -1.0))
    loud = log_mel(torch.rand(1, SAMPLE_RATE, generator=torch.Generator().manual_seed(0)) * 2 - 1, 8, 8.0)
    assert loud[..., MELS // 2 :].min() > -0.6 and loud.max() < 1.2


@pytest.mark.parametrize("hertz", [200.0, 523.0, 1760.0, 5000.0])
def test_a_tone_is_in_its_band(hertz: float) -> None:
    bands = log_mel(tone(hertz), 16, 8.0).unflatten(2, (PARTS, MELS))
    mel = 2595 * math.log10(1 + hertz / 700)
    expected = mel / (2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)) * (MELS + 1) - 1  # bands' middles are evenly spaced
    assert (bands.argmax(-1) - expected).abs().max() <= 1


@pytest.mark.parametrize("fps", [8.0, 25.0, 29.97])
def test_a_click_is_in_its_frame(fps: float) -> None:
    frames = round(2 * fps)
    for frame in (0, 3, frames - 1):
        audio = torch.zeros(1, round(frames / fps * SAMPLE_RATE))
        start = round((frame + 0.3) / fps * SAMPLE_RATE)
        audio[0, start : start + 160] = 0.5
        encoded = log_mel(audio, frames, fps).amax(2)[0]
        assert encoded.argmax() == frame
        assert (encoded > -0.9).sum() <= 2


def test_a_short_sound_ends_in_silence_and_a_long_one_is_cut() -> None:
    encoded = log_mel(tone(440, 0.5), 16, 8.0)
    assert torch.equal(encoded[:, 5:], torch.full_like(encoded[:, 5:], -1)) and (encoded[:, :4].amax(2) > 0).all()
    torch.testing.assert_close(log_mel(tone(440, 10.0), 16, 8.0), log_mel(tone(440, 3.0), 16, 8.0))


def test_silence_is_not_encoded_as_no_sound() -> None:
    torch.manual_seed(0)
    encode = AudioEncoder(8, 8.0)
    torch.nn.init.normal_(encode.null)
    present = torch.tensor([True, False])
    encoded = encode(tone(440).expand(2, -1), 16, present).frames
    silent = encode(torch.zeros(2, SAMPLE_RATE), 16, present).frames
    none = encode(None, 16, present).frames
    assert encoded is not None and silent is not None and none is not None and encoded.shape == (2, 16, 8)
    torch.testing.assert_close(encoded[1], none[1])
    assert not torch.allclose(silent[0], none[0]) and not torch.allclose(encoded[0], silent[0])
