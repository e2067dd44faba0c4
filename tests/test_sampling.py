"""What a family lets be chosen for every clip: flags of `kinema sample`, and `Model.choosing`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from kinema import presets, watch
from kinema.cli import main
from kinema.data.clips import DataConfig
from kinema.families import FAMILIES
from kinema.families.vgan import VGAN, VGANConfig
from kinema.run import Run
from kinema.sample import Model, load
from kinema.train import Experiment, TrainConfig, Trainer
from kinema.types import Conditions, Noise
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
    """VGAN's, with a beginning for what may be chosen."""

    sampling: Sampling = Sampling()

    def build(self) -> Grey:
        return Grey(self)


class Grey(VGAN):
    """Makes clips of one grey level, which is chosen; with heun of its negative."""

    def __init__(self, config: GreyConfig) -> None:
        super().__init__(config)
        self.sampling = config.sampling

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        sign = 1 if self.sampling.solver == "euler" else -1
        for chunk in super().generate(given, frames, noise):
            yield torch.full_like(chunk, sign * self.sampling.grey_level)


def grey() -> Experiment:
    """The smallest."""
    data = DataConfig(frames=8, height=16, width=16)
    return Experiment(GreyConfig(ngf=2, ndf=2), data, TrainConfig(batch=2))


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "grey", f"{__name__}:GreyConfig")
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


def test_flags_choose_and_the_model_has_defaults(trained, level) -> None:
    assert level(trained) == pytest.approx(0.5, abs=0.01)
    assert level(trained, "--grey-level", 0.75) == pytest.approx(0.75, abs=0.01)
    assert level(trained, "--solver", "heun") == pytest.approx(-0.5, abs=0.01)
    assert level(next(trained.glob("step-*")), "--grey-level=0") == pytest.approx(0, abs=0.01)
    weights = next(trained.rglob("generator.safetensors"))
    assert level(weights, "--solver", "heun", "--grey-level", 1) == pytest.approx(-1, abs=0.01)


def test_the_model_may_come_after_flags(trained, level, tmp_path) -> None:
    assert level("--grey-level", 0.75, "--seed", 3, trained) == pytest.approx(0.75, abs=0.01)
    words = [
        "--family.ngf",
        "2",
        "--family.ndf",
        "2",
        "--data.frames",
        "8",
        "--data.height",
        "16",
        "--data.width",
        "16",
    ]
    other = tmp_path / "other"
    assert main(["train", "vgan", "--out", str(other), "--steps", "1", "--train.batch", "2", *words]) == 0
    for before in (["--out", other], [f"--out={other}"]):
        assert main(["sample", *map(str, [*before, trained, "--grey-level", 0.75, "--count", 1])]) == 0
    assert (other / "clip-000.mp4").exists()


def test_help_lists_them_with_the_models_own_defaults(trained, kinema) -> None:
    status, out, err = kinema("sample", trained, "--help")
    assert (status, err) == (0, "")
    assert re.search(r"--grey-level FLOAT\W+How light\. \(default: 0\.5\)", out)
    assert "--solver {euler,heun}" in out and "--frames" in out and "\nExample: kinema sample" in out
    assert "--grey-level" not in kinema("sample", "--help")[1]


def test_what_cannot_be_chosen_is_one_line(trained, refused, tmp_path) -> None:
    def says(*words: object) -> str:
        return refused("sample", trained, "--out", tmp_path / "out", *words)

    assert "Unrecognized options: --steps" in says("--steps", 20)
    assert f"kinema sample {trained} --help lists all" in says("--gray-level", 1)
    assert "grey_level is 2: it must be in [0, 1]" in says("--grey-level", 2)
    assert "dark" in says("--grey-level", "dark")
    assert "rk4" in says("--solver", "rk4")
    assert not (tmp_path / "out").exists()


def made(model: Model) -> float:
    (pixel,) = np.unique(model.clips(Noise((0,))))
    return pixel / 127.5 - 1


def test_choosing_leaves_the_model_as_it_is(trained) -> None:
    model = load(trained, Run(torch.device("cpu"), torch.float32))
    dark = model.choosing(grey_level=0.0)
    assert made(dark) == pytest.approx(0, abs=0.01) and made(model) == pytest.approx(0.5, abs=0.01)
    assert made(dark.choosing(solver="heun", grey_level=0.25)) == pytest.approx(-0.25, abs=0.01)
    assert dark.family.generator is model.family.generator
    with pytest.raises(ValueError, match="Grey lets grey_level, solver be chosen, not steps"):
        model.choosing(steps=20)
    with pytest.raises(ValueError, match=r"it must be in \[0, 1\]"):
        model.choosing(grey_level=-1.0)


def test_families_that_let_nothing_be_chosen(cpu, tiny, world) -> None:
    trainer = Trainer(tiny(), world, cpu)
    model = Model(trainer.family, trainer.experiment, trainer.facts, cpu)
    with pytest.raises(ValueError, match="MoCoGAN lets nothing be chosen, not steps"):
        model.choosing(steps=20)


def test_sheets_show_the_default(cpu) -> None:
    trainer = Trainer(grey(), ShapeMotion(8, 16, 16), cpu)
    sheet = watch._sheet(trainer)
    assert np.isin(sheet, [255, 159]).mean() > 0.9 and (sheet == 159).any()  # 0.25 as a byte
