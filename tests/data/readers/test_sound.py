"""Sound beside frames: a window has the sound of its own time."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.readers.base import ReadError, read_audio


@pytest.fixture
def sounding(make_clip, tmp_path):
    """A clip of 25 frames at 25 a second whose tone of 440 Hz ends after 0.6 s."""
    make_clip("set/a.mp4", 25, tone=0.6)
    return lambda **more: DataConfig(
        **({"source": str(tmp_path / "set"), "frames": 5, "height": 32, "width": 32, "audio": True} | more)
    )


def test_a_window_has_the_sound_of_its_own_time(sounding) -> None:
    source = FolderSource(sounding())
    assert source.spec.audio
    batch = source.batch(0, 40, seed=0)
    assert batch.conditions.audio is not None and batch.conditions.audio.shape == (40, SAMPLE_RATE // 5)
    begin = (batch.frames[:, 0, 0, 16, 16] / 10).round()  # the first frame's number
    loud = batch.conditions.audio.abs().unflatten(1, (5, -1)).amax(2) > 0.3  # [B, frames]
    ends = torch.where(loud.any(1), begin + loud.sum(1), 0)
    assert (ends[(begin > 10) & (begin < 14)] - 15).abs().max() <= 1  # 0.6 s are 15 frames
    assert loud[begin < 9].all() and not loud[begin > 16].any()
    crossings = (batch.conditions.audio[begin < 9].sign().diff(dim=1) != 0).sum(1).float().mean() / 2 * 5
    assert crossings.item() == pytest.approx(440, rel=0.05)


def test_sound_is_read_only_if_asked_for(sounding) -> None:
    source = FolderSource(sounding(audio=False))
    assert not source.spec.audio and source.batch(0, 2, seed=0).conditions.audio is None


def test_silent_clips_are_skipped_and_named(sounding, make_clip) -> None:
    make_clip("set/b.mp4", 25)
    source = FolderSource(sounding())
    (skipped,) = source.skipped
    assert skipped.name == "b.mp4" and "no audio track" in skipped.reason


def test_sound_needs_one_frame_rate(sounding, make_clip) -> None:
    make_clip("set/b.mp4", 25, tone=0.5, rate=10)
    with pytest.raises(ValueError, match=r"differ in frames a second: give --data\.fps"):
        FolderSource(sounding())
    batch = FolderSource(sounding(fps=10.0)).batch(0, 4, seed=0)
    assert batch.conditions.audio is not None and batch.conditions.audio.shape == (4, SAMPLE_RATE // 2)


def test_real_speech(shared_data) -> None:
    data = DataConfig(str(shared_data / "grid_talking_face"), frames=16, height=32, width=32, audio=True)
    source = FolderSource(data)
    batch = source.batch(0, 8, seed=0)
    assert batch.conditions.audio is not None and batch.conditions.audio.shape == (8, round(16 / 25 * SAMPLE_RATE))
    assert 0.01 < batch.conditions.audio.abs().amax(1).median() <= 1 and len(source.spec.words) > 20
    assert not np.isnan(batch.conditions.audio.numpy()).any()


def test_sound_with_a_hole_stays_on_time(tmp_path: Path) -> None:
    path, rate = tmp_path / "a.mkv", 48000
    with av.open(str(path), "w") as container:
        picture = container.add_stream("ffv1", rate=25)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for k in range(75):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(picture.encode(frame))
        for start in (0, 2):  # the second second is missing
            samples = np.zeros((1, rate), np.int16)
            samples[:, rate // 2] = 30000
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start * rate, Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux([*picture.encode(None), *sound.encode(None)])
    heard = read_audio(path, 16000)
    loud = np.flatnonzero(np.abs(heard) > 0.2 * np.abs(heard).max()) / 16000
    assert {round(float(time), 2) for time in loud} == {0.5, 2.5}
    assert len(heard) == pytest.approx(3 * 16000, abs=100)


def test_sound_of_many_channels_is_read(tmp_path: Path) -> None:
    path, samples = tmp_path / "a.wav", np.full((1, 24 * 48000), 6000, np.int16)
    samples[:, ::24] = -6000
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="22.2")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="22.2")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    sound = read_audio(path, 16000)
    assert len(sound) == pytest.approx(16000, abs=100)
    assert np.median(sound) == pytest.approx(6000 / 32768 * 22 / 24, rel=1e-3)


@pytest.mark.parametrize("rate", [1, 2**30])
def test_an_impossible_sample_rate(tmp_path: Path, rate: int) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(bytes(20000))
    with pytest.raises(ReadError, match=f"{rate} samples a second cannot be right"):
        read_audio(tmp_path / "a.wav", 16000)


def test_sound_that_begins_too_late_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("ffv1", rate=25)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        image = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        image.pts, image.time_base = 0, Fraction(1, 25)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 48000), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 10**6, Fraction(1)
        container.mux([*picture.encode(image), *picture.encode(None), *sound.encode(frame), *sound.encode(None)])
    with pytest.raises(ReadError, match="it begins 1000000 s after its first frame"):
        read_audio(path, 16000)


def test_sound_whose_layout_changes_is_read(tmp_path: Path) -> None:
    rate, parts = 48000, []
    for name, layout in (("a", "stereo"), ("b", "5.1")):
        path = tmp_path / f"{name}.ac3"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ac3", rate=rate, layout=layout)
            channels = {"stereo": 2, "5.1": 6}[layout]
            samples = np.full((channels, rate), 0.25, np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate = rate
            container.mux([*stream.encode(frame), *stream.encode(None)])
        parts.append(path.read_bytes())
    (tmp_path / "both.ac3").write_bytes(b"".join(parts))
    assert len(read_audio(tmp_path / "both.ac3", 16000)) == pytest.approx(2 * 16000, rel=0.1)
