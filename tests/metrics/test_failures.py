"""Failures of models, drawn from real clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kinema.data.writing import to_uint8
from kinema.metrics.failures import CONTRAST, FAILURES, PREFERENCE, failed
from kinema.worlds.sprites import Sprites


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    """Clips of sides that no block of the codec divides."""
    return to_uint8(Sprites(8, 32, 32).batch(0, 12, seed=5).to(torch.device("cpu")).frames)[:, :, :30, :27]


def error(clips: np.ndarray, name: str) -> float:
    return float(np.square(failed(clips, name).astype(float) - clips).mean())


def test_a_person_prefers_each_once() -> None:
    assert sorted(name for names in PREFERENCE for name in names) == sorted(FAILURES)


@pytest.mark.parametrize("name", FAILURES)
def test_there_are_as_many_clips_and_they_depend_on_the_seed_only(name, clips) -> None:
    found = failed(clips, name, seed=1)
    assert found.shape == clips.shape and found.dtype == np.uint8
    assert np.array_equal(found, failed(clips, name, seed=1)) and not np.array_equal(found, clips)


def test_a_codec_of_fewer_channels_is_worse(clips) -> None:
    errors = [error(clips, f"codec {channels}") for channels in (24, 8, 3, 1)]
    assert errors == sorted(errors) and errors[3] > 4 * errors[0]


def test_each_does_what_it_says(clips) -> None:
    copied = failed(clips, "copy")
    assert np.array_equal(copied[:, :5], clips[:, :5]) and (copied[:, 5:] == clips[:, 4:5]).all()
    assert (failed(clips, "frozen") == clips[:, :1]).all()
    one, mean = failed(clips, "one clip"), failed(clips, "mean clip")
    assert (one == one[:1]).all() and (one[0] == clips).all((1, 2, 3, 4)).any()
    assert (mean == mean[:1]).all() and np.abs(mean[0] - clips.mean(0)).max() <= 0.5
    assert len(np.unique(failed(clips, "one colour").reshape(-1, 3), axis=0)) == 1
    noise = failed(clips, "noise")
    assert (noise == noise[:, :1]).all() and not np.array_equal(noise[0], noise[1])
    assert not np.array_equal(noise, failed(clips, "noise", seed=1))
    grey = np.full((1, 2, 16, 16, 3), 100, np.uint8)
    assert set(np.unique(failed(grey, "checkers"))) == {100 - CONTRAST, 100 + CONTRAST}
    assert (failed(grey, "checkers")[0, 1, :4, :4] == 100 + CONTRAST).all()
