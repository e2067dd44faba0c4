"""The models that ship: small, trained on what may be shipped, and able to do what they are told."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from safetensors import safe_open

from kinema.commands import demo
from kinema.sample import Model, load
from kinema.types import Noise
from kinema.weights import shipped
from kinema.worlds import WORLDS
from kinema.worlds.sprite_verifier import verify
from kinema.worlds.sprite_words import Asked, Sprite


@pytest.fixture(scope="module")
def model() -> Model:
    return load("sprites")


def test_all_together_are_small_and_made_of_kinemas_own_worlds() -> None:
    assert "sprites" in shipped()
    assert sum(path.stat().st_size for path in shipped().values()) <= 25e6
    for name in shipped():
        assert load(name).experiment.data.source in WORLDS


def test_they_say_nothing_of_the_machine_they_were_trained_on() -> None:
    for path in shipped().values():
        with safe_open(path, "pt") as file:
            assert '"/' not in file.metadata()["kinema"]


def test_it_can_be_given_everything_and_go_on(model: Model) -> None:
    assert model.family.accepts == {"text", "audio", "actions", "known", "mask"}
    assert (model.facts.frames, model.facts.height, model.facts.width) == (17, 64, 64)
    assert model.family.longest is None


def test_what_is_said_is_seen(model: Model) -> None:
    colours = ("red", "green", "blue", "yellow", "white", "purple", "cyan", "orange")
    asked = [Asked((Sprite("circle", colour, "left", "large"),)) for colour in colours]
    texts = [f"a large {colour} circle moving left" for colour in colours]
    clips = model.choosing(steps=12).clips(Noise(tuple(range(len(texts)))), text=texts)
    found = [verify(clip, one).sprites[0] for clip, one in zip(clips, asked, strict=True)]
    assert np.mean([one.found for one in found]) >= 0.75
    assert np.mean([one.motion for one in found]) >= 0.5
    assert clips.shape == (8, 17, 64, 64, 3)


def test_the_demo_writes_clips_and_a_sheet(kinema, tmp_path: Path) -> None:
    status, out, err = kinema("demo", "--out", tmp_path / "out")
    assert status == 0, err
    assert all(f"wrote {tmp_path / 'out' / name}" in out for name in ("demo.mp4", "demo.gif", "demo.png"))
    with av.open(str(tmp_path / "out" / "demo.mp4")) as container:
        video = container.streams.video[0]
        assert sum(1 for _ in container.decode(video)) == 17
        assert (video.width, video.height) == (4 * 128 + 3 * 4, 2 * 128 + 4)
    assert len(demo.PROMPTS) == 8


def test_the_demo_needs_its_model(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "shipped", dict)
    assert "no model called sprites came with this installation" in refused("demo", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
