"""Names of models: one resolver for all commands; exported files hold nothing of the machine they come from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig, LatentDiTSampling
from kinema.runtime.device import Runtime
from kinema.sampling.model import load, load_experiment
from kinema.training.loop import train
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import FORMAT, export, files, find_model_file, is_model, load_codec, shipped

CPU = Runtime(torch.device("cpu"), torch.float32)
SMALL = {"patch": (1, 4), "hidden": 16, "depth": 1, "heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of latent-dit in pixels, whose sampling settings are its own; not to be changed."""
    family = LatentDiTConfig(**SMALL, sampling=LatentDiTSampling(steps=7))
    experiment = Experiment(family, DataConfig(frames=8, height=16, width=32), TrainConfig(steps=1, batch=2))
    return train(experiment, tmp_path_factory.mktemp("run"), source=ShapeMotion(8, 16, 32), runtime=CPU).parent


@pytest.fixture
def zoo(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models that ship: the run, called "little"."""
    experiment, spec = load_experiment(run)
    export(run, tmp_path / "zoo" / "little.safetensors", experiment.portable().to_dict(spec))
    monkeypatch.setattr(files, "FOLDER", tmp_path / "zoo")
    return tmp_path / "zoo"


def test_one_resolver_takes_every_kind_of_name(run: Path, zoo: Path, tmp_path: Path) -> None:
    step = run / "step-00000001"
    exported = shutil.copy(zoo / "little.safetensors", tmp_path / "any name.safetensors")
    names = {
        "little": zoo / "little.safetensors",
        run: step / "generator.safetensors",
        step: step / "generator.safetensors",
        step / "generator.safetensors": step / "generator.safetensors",
        exported: exported,
    }
    for name, file in names.items():
        assert is_model(name) and is_model(str(name)) and find_model_file(name) == file
        assert load_experiment(name)[1].frames == load(name, CPU).spec.frames == 8


def test_a_shipped_name_wins_over_a_folder(zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "little").mkdir()
    assert is_model("little") and find_model_file("little") == zoo / "little.safetensors"


def test_clips_called_like_steps_are_no_model(make_clip: Callable[..., Path], tmp_path: Path) -> None:
    make_clip("clips/step-001.mp4")
    (tmp_path / "clips" / "step-two").mkdir()
    assert not is_model(tmp_path / "clips") and not is_model(tmp_path / "clips" / "step-001.mp4")
    with pytest.raises(ValueError, match=r"clips: no model there: name a run's folder with step-N folders in it"):
        find_model_file(tmp_path / "clips")


def test_what_is_no_model_is_named_with_the_models_there_are(zoo: Path, tmp_path: Path) -> None:
    for name in (tmp_path / "nowhere", tmp_path, "litle"):
        assert not is_model(name)
        with pytest.raises(ValueError, match=r"no model there: .* the models that ship are little$"):
            load(name, CPU)


def test_the_commands_take_the_name_of_a_shipped_model(zoo: Path, kinema, tmp_path: Path) -> None:
    sample = kinema("sample", "little", "--steps", 2, "--count", 1, "--label", "up", "--out", tmp_path / "a.npy")
    assert sample[0] == 0, sample
    generate = kinema(
        "generate", "--label", "up", "--model", "little", "--steps", 2, "--device", "cpu", "-o", tmp_path / "b.npy"
    )
    assert generate[0] == 0, generate
    assert np.load(tmp_path / "a.npy").shape == np.load(tmp_path / "b.npy").shape == (8, 16, 32, 3)
    assert "(default: 7)" in kinema("sample", "little", "--help")[1]
    assert "little" in kinema("models")[1]
    assert kinema("export", "little", "--out", tmp_path / "again.safetensors")[0] == 0
    assert load(tmp_path / "again.safetensors", CPU).spec == load("little", CPU).spec


def test_training_starts_from_a_shipped_model(zoo: Path, tmp_path: Path) -> None:
    experiment = Experiment(LatentDiTConfig(**SMALL), train=TrainConfig(steps=1, batch=2, lr=1e-12, init_from="little"))
    step = train(experiment, tmp_path / "run", source=ShapeMotion(8, 16, 32), runtime=CPU)
    weights, expected = (dict(load(name, CPU).family.generator.state_dict()) for name in (step, "little"))
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)


def configuration(file: Path) -> dict:
    with safe_open(file, framework="pt") as content:
        return json.loads(content.metadata()["kinema"])


def test_an_export_has_no_path_of_this_machine(
    kinema, make_clip: Callable[..., Path], tiny_codec: Callable[..., str], vgg16: Path, tmp_path: Path
) -> None:
    for k in range(2):
        make_clip(f"private/my clips/{k}.mp4", frames=10)
    clips, cache = tmp_path / "private" / "my clips", tmp_path / "private" / "cache"
    data = DataConfig(str(clips), frames=9, height=16, width=32, cache=str(cache))
    codec_family = VideoVAEConfig(space=4, channels=3, hidden=4, perceptual=str(vgg16))
    codec = train(Experiment(codec_family, data, TrainConfig(steps=1, batch=2)), tmp_path / "codec", runtime=CPU)
    family = LatentDiTConfig(codec=str(tmp_path / "codec"), patch=(1, 2), hidden=16, depth=1, heads=2)
    first = Experiment(family, data, TrainConfig(steps=1, batch=2))
    train(first, tmp_path / "first", runtime=CPU)
    train(first.changed(train={"init_from": str(tmp_path / "first")}), tmp_path / "second", runtime=CPU)
    for name in (codec, tmp_path / "second"):
        assert str(tmp_path) in json.dumps(load_experiment(name)[0].to_dict(load_experiment(name)[1]))  # the run's own
        out = tmp_path / f"{Path(name).name}.safetensors"
        status, said, err = kinema("export", name, "--out", out)
        assert (status, err) == (0, "") and said.startswith(f"{out}: ")
        values = configuration(out)
        assert str(tmp_path) not in json.dumps(values) and str(vgg16.parent) not in json.dumps(values)
        assert values["format"] == FORMAT
        assert values["data"]["source"] == "my clips" and values["data"]["cache"] is None
        assert values["train"]["init_from"] is None and values["family"].get("codec") is None
        assert load(out, CPU).spec.frames == 9
    assert load_codec(tmp_path / "second.safetensors")[0]["name"] == "video-vae"


def test_an_export_that_cannot_be_written_is_one_line(run: Path, refused, tmp_path: Path) -> None:
    (tmp_path / "wall").touch()
    says = refused("export", run, "--out", tmp_path / "wall" / "x.safetensors")
    assert f"{tmp_path / 'wall' / 'x.safetensors'} could not be written: " in says


def test_no_models_can_have_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    assert shipped() == {}
    with pytest.raises(ValueError, match=r"or train one with kinema train$"):
        find_model_file("sprites")


def test_a_path_is_a_place_though_a_model_that_ships_has_its_name(zoo: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "little")
    assert find_model_file("little") == zoo / "little.safetensors"
    assert find_model_file(tmp_path / "little").parent.parent == tmp_path / "little"


def test_steps_are_ordered_by_number_and_empty_ones_are_none(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "step-00000001", tmp_path / "step-00000012")
    shutil.copytree(run / "step-00000001", tmp_path / "step-3")
    (tmp_path / "step-00000099").mkdir()
    assert [path.name for path in files.list_checkpoints(tmp_path)] == ["step-3", "step-00000012"]


def test_a_home_folder_is_expanded_for_all(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(run, tmp_path / "mine")
    assert is_model("~/mine") and find_model_file("~/mine").is_relative_to(tmp_path)
