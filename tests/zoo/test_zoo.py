"""The models that ship: small, trained on kinema's own worlds, and able to follow their conditions."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from safetensors import safe_open

from kinema.cli import demo
from kinema.registry import WORLDS
from kinema.sampling.model import Model, load
from kinema.sampling.request import GenerateRequest
from kinema.worlds.sprite_verifier import verify
from kinema.worlds.sprite_words import Asked, Sprite
from kinema.zoo import shipped


@pytest.fixture(scope="module")
def model() -> Model:
    return load("sprites")


def test_they_are_small_and_trained_on_kinemas_own_worlds() -> None:
    assert "sprites" in shipped()
    assert sum(path.stat().st_size for path in shipped().values()) <= 25e6
    for name in shipped():
        assert load(name).experiment.data.source in WORLDS


def test_they_hold_no_path_of_the_machine_they_were_trained_on() -> None:
    for path in shipped().values():
        with safe_open(path, "pt") as file:
            assert '"/' not in file.metadata()["kinema"]


def test_it_accepts_every_condition_and_any_length(model: Model) -> None:
    assert model.family.accepts == {"text", "audio", "actions", "known", "mask"}
    assert (model.spec.frames, model.spec.height, model.spec.width) == (17, 64, 64)
    assert model.family.max_frames is None


def test_clips_show_what_the_prompt_says(model: Model) -> None:
    colours = ("red", "green", "blue", "yellow", "white", "purple", "cyan", "orange")
    asked = [Asked((Sprite("circle", colour, "left", "large"),)) for colour in colours]
    texts = [f"a large {colour} circle moving left" for colour in colours]
    clips = model.generate(GenerateRequest(tuple(range(len(texts))), text=texts, sampling={"steps": 12}))
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


def test_sampling_takes_the_name_of_a_model_and_its_settings(kinema, tmp_path: Path) -> None:
    words = ["--steps", 2, "--count", 1, "--frames", 5, "--text", "a large red circle", "--out", tmp_path / "a.npy"]
    status, out, err = kinema("sample", "sprites", *words)
    assert (status, err) == (0, "") and out.splitlines()[0] == str(tmp_path / "a.npy")
    assert np.load(tmp_path / "a.npy").shape == (5, 64, 64, 3)
