"""The sampling settings of a family: flags of `kinema sample`, `Model.with_sampling`, and those of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from kinema import presets
from kinema.cli.main import main
from kinema.data.clips import DataConfig
from kinema.data.writing import to_uint8
from kinema.experiment import Experiment, TrainConfig
from kinema.families.vgan import VGAN, VGANConfig
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.sampling.model import Model, load
from kinema.sampling.request import GenerateRequest
from kinema.training import watch
from kinema.training.loop import Trainer
from kinema.types import Conditions, Progress, Seeds, no_progress
from kinema.worlds.shape_motion import ShapeMotion


@dataclass(frozen=True)
class Sampling:
    """Of `Grey`."""

    grey_level: float = 0.25
    """How light."""
    solver: Literal["euler", "heun"] = "euler"
    """By what."""

    def __post_init__(self) -> None:
        if not 0 <= self.grey_level <= 1:
            raise ValueError(f"grey_level is {self.grey_level:g}: it must be in [0, 1]")


@dataclass(frozen=True)
class GreyConfig(VGANConfig):
    """VGAN's, with sampling settings."""

    sampling: Sampling = Sampling()

    def build(self) -> Grey:
        return Grey(self)


class Grey(VGAN):
    """Makes clips of one grey level, a setting; with heun of its negative."""

    def __init__(self, config: GreyConfig) -> None:
        super().__init__(config)
        self.sampling = config.sampling

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        sign = 1 if self.sampling.solver == "euler" else -1
        for chunk in super().generate(conditions, frames, seeds, progress):
            yield torch.full_like(chunk, sign * self.sampling.grey_level)


def grey() -> Experiment:
    """The smallest."""
    data = DataConfig(frames=8, height=16, width=16)
    return Experiment(GreyConfig(ngf=2, ndf=2), data, TrainConfig(batch=2))


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES._builtin, "grey", f"{__name__}:GreyConfig")
        patch.setitem(presets.PRESETS, "grey", {"cpu": grey})
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, _registered) -> Path:
    """A run whose own grey level is 0.5; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "x"
    words = ["--steps", "1", "--family.sampling.grey-level", "0.5", "--device", "cpu"]
    assert main(["train", "grey", "--out", str(out), *words]) == 0
    return out


@pytest.fixture
def level(kinema, tmp_path):
    """Sample with these words; return the one level of the clip, in [-1, 1]."""

    def sample(*words: object) -> float:
        status, _, err = kinema("sample", *words, "--count", 1, "--out", tmp_path / "clip.npy")
        assert (status, err) == (0, "")
        (pixel,) = np.unique(np.load(tmp_path / "clip.npy"))
        return pixel / 127.5 - 1

    return sample


def test_flags_change_the_models_own_settings(trained, level) -> None:
    assert level(trained) == pytest.approx(0.5, abs=0.01)
    assert level(trained, "--grey-level", 0.75) == pytest.approx(0.75, abs=0.01)
    assert level(trained, "--solver", "heun") == pytest.approx(-0.5, abs=0.01)
    assert level(next(trained.glob("step-*")), "--grey-level=0") == pytest.approx(0, abs=0.01)
    weights = next(trained.rglob("generator.safetensors"))
    assert level(weights, "--solver", "heun", "--grey-level", 1) == pytest.approx(-1, abs=0.01)


def test_the_model_comes_first(trained, refused, tmp_path) -> None:
    says = refused("sample", "--grey-level", 0.75, trained, "--out", tmp_path / "out")
    assert "MODEL comes first: kinema sample MODEL --out OUT" in says
    assert not (tmp_path / "out").exists()


def test_help_lists_them_with_the_models_own_defaults(trained, kinema) -> None:
    status, out, err = kinema("sample", trained, "--help")
    assert (status, err) == (0, "")
    assert re.search(r"--grey-level FLOAT\W+How light\. \(default: 0\.5\)", out)
    assert "--solver {euler,heun}" in out and "--frames" in out and "\nExample: kinema sample" in out
    assert "--grey-level" not in kinema("sample", "--help")[1]


def test_a_setting_that_cannot_be_is_one_line(trained, refused, tmp_path) -> None:
    def says(*words: object) -> str:
        return refused("sample", trained, "--out", tmp_path / "out", *words)

    assert "--steps is no flag here" in says("--steps", 20)
    says_more = says("--gray-level", 1)
    assert f"kinema sample {trained} --help lists all" in says_more and "did you mean --grey-level?" in says_more
    assert "grey_level is 2: it must be in [0, 1]" in says("--grey-level", 2)
    assert "dark" in says("--grey-level", "dark")
    assert "rk4" in says("--solver", "rk4")
    assert not (tmp_path / "out").exists()


def level_of(model: Model, **request: Any) -> float:
    (pixel,) = np.unique(model.generate(GenerateRequest(**request)))
    return pixel / 127.5 - 1


def test_other_settings_leave_the_model_as_it_is(trained) -> None:
    model = load(trained, Runtime(torch.device("cpu"), torch.float32))
    dark = model.with_sampling(grey_level=0.0)
    assert level_of(dark) == pytest.approx(0, abs=0.01) and level_of(model) == pytest.approx(0.5, abs=0.01)
    assert level_of(dark.with_sampling(solver="heun", grey_level=0.25)) == pytest.approx(-0.25, abs=0.01)
    assert dark.family.generator is model.family.generator
    with pytest.raises(ValueError, match="Grey has no sampling settings steps; it has grey_level, solver"):
        model.with_sampling(steps=20)
    with pytest.raises(ValueError, match=r"it must be in \[0, 1\]"):
        model.with_sampling(grey_level=-1.0)


def test_a_request_can_have_settings_of_its_own(trained) -> None:
    model = load(trained, Runtime(torch.device("cpu"), torch.float32))
    assert level_of(model, sampling={"grey_level": 0.25}) == pytest.approx(0.25, abs=0.01)
    assert level_of(model) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="Grey has no sampling settings steps"):
        level_of(model, sampling={"steps": 3})


def test_families_without_sampling_settings(cpu, tiny, world) -> None:
    trainer = Trainer(tiny(), world, cpu)
    model = Model(trainer.family, trainer.experiment, trainer.spec, cpu)
    with pytest.raises(ValueError, match="MoCoGAN has no sampling settings steps; it has none"):
        model.with_sampling(steps=20)


def test_sheets_are_made_with_the_default_settings(cpu) -> None:
    trainer = Trainer(grey(), ShapeMotion(8, 16, 16), cpu)
    _, made = watch.sample_clips(trainer)
    assert (to_uint8(made) == 159).all()  # 0.25 as a byte
