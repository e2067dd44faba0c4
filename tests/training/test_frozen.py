"""What is frozen is written once: a codec in the run's folder, frozen layers of the generator beside the average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig, LatentDiTSampling
from kinema.families.vgan import VGAN, VGANConfig
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.sampling.model import load
from kinema.sampling.request import GenerateRequest
from kinema.training import checkpoint
from kinema.training.loop import Trainer, train
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import export, load_codec

CLIPS = ShapeMotion(9, 16, 32)


def names_in(file: Path) -> set[str]:
    with safe_open(file, framework="pt") as content:
        return set(content.keys())


@pytest.fixture
def latent(tiny_codec: Callable[..., str]) -> Callable[..., Experiment]:
    """The smallest experiment with a codec."""
    sampling = LatentDiTSampling(steps=2)
    family = LatentDiTConfig(codec=tiny_codec(), patch=(1, 2), hidden=16, depth=1, heads=2, sampling=sampling)
    return lambda **settings: Experiment(
        family, DataConfig(frames=9, height=16, width=32), TrainConfig(**{"batch": 2} | settings)
    )


@pytest.fixture
def run(latent: Callable[..., Experiment], cpu: Runtime, tmp_path: Path) -> Path:
    """Two checkpoints of it."""
    train(latent(steps=2, save_every_minutes=0), tmp_path / "run", source=CLIPS, runtime=cpu)
    return tmp_path / "run"


def test_a_run_keeps_its_codec_once(run: Path, tiny_codec: Callable[..., str]) -> None:
    codec = load_codec(tiny_codec())[1]
    assert len(list(run.glob("step-*"))) == 2
    assert [path.relative_to(run).as_posix() for path in run.rglob("codec*")] == ["codec.safetensors"]
    assert names_in(run / "codec.safetensors") == codec.keys()
    for step in run.glob("step-*"):
        for name in ("generator", "training"):
            assert not {n for n in names_in(step / f"{name}.safetensors") if "codec" in n}
        assert not any("codec" in name for name in torch.load(step / "optimizers.pt", weights_only=True))


@pytest.mark.parametrize("part", ["", "step-00000001", "step-00000002", "step-00000002/generator.safetensors"])
def test_every_part_of_a_run_loads_with_its_codec(
    run: Path, cpu: Runtime, tiny_codec: Callable[..., str], part: str
) -> None:
    model, codec = load(run / part, cpu), load_codec(tiny_codec())[1]
    torch.testing.assert_close(dict(model.family.codec.inference_state()), codec, rtol=0, atol=0)
    torch.testing.assert_close(checkpoint.load(run).codec, codec, rtol=0, atol=0)


def test_a_missing_codec_is_one_line(run: Path, cpu: Runtime) -> None:
    (run / "codec.safetensors").unlink()
    for path in (run, run / "step-00000001"):
        with pytest.raises(ValueError, match=r"^.*: its codec is missing: keep codec\.safetensors in the run's folder"):
            load(path, cpu)
    with pytest.raises(ValueError, match="its codec is missing"):
        checkpoint.load(run)


def test_a_damaged_codec_is_named(run: Path, cpu: Runtime) -> None:
    file = run / "codec.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"codec\.safetensors: damaged or not a kinema file"):
        load(run, cpu)


def test_a_run_goes_on_without_the_codecs_own_run(
    run: Path, latent: Callable[..., Experiment], cpu: Runtime, tmp_path: Path
) -> None:
    experiment = latent(steps=4).changed(family={"codec": str(tmp_path / "gone")})
    spec_of_run = checkpoint.load(run).config["family"]["codec_config"]
    resumed = experiment.changed(family={"codec_config": spec_of_run})
    train(resumed, run, source=CLIPS, runtime=cpu, resume=True)
    train(latent(steps=4), tmp_path / "unbroken", source=CLIPS, runtime=cpu)
    first, second = checkpoint.load(run), checkpoint.load(tmp_path / "unbroken")
    for part in ("generator", "training", "optimizers", "codec"):
        torch.testing.assert_close(getattr(first, part), getattr(second, part), rtol=0, atol=0)


def test_an_exported_file_holds_generator_and_codec(run: Path, cpu: Runtime, tmp_path: Path) -> None:
    model = load(run, cpu)
    file = export(run, tmp_path / "given.safetensors", model.experiment.portable().to_dict(model.spec))
    exported, request = load(file, cpu), GenerateRequest(seeds=(0, 1), frames=12)
    assert (exported.generate(request) == model.generate(request)).all()


@dataclass(frozen=True)
class PartlyFrozenConfig(VGANConfig):
    """VGAN's."""

    def build(self) -> PartlyFrozen:
        return PartlyFrozen(self)


class PartlyFrozen(VGAN):
    """VGAN with a frozen layer in the generator and one in the critic."""

    def __init__(self, config: VGANConfig) -> None:
        super().__init__(config)
        self.generator.moving[0].requires_grad_(False)
        self.critic.convolutions[0].requires_grad_(False)


def test_frozen_layers_are_written_once_and_restored(
    cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES._builtin, "partly-frozen", f"{__name__}:PartlyFrozenConfig")
    clips = ShapeMotion(8, 16, 32)

    def experiment(steps: int, seed: int = 0) -> Experiment:
        return Experiment(PartlyFrozenConfig(ngf=2, ndf=2), train=TrainConfig(steps=steps, batch=2, seed=seed))

    step = train(experiment(2), tmp_path / "run", source=clips, runtime=cpu)
    saved = names_in(step / "training.safetensors")
    assert "generator.moving.0.weight" not in saved
    assert {"generator.moving.1.weight", "critic.convolutions.0.weight"} <= saved
    assert "moving.0.weight" in names_in(step / "generator.safetensors")
    restored = Trainer(experiment(3, seed=1), clips, cpu)  # whose own first weights are others
    restored.restore(checkpoint.load(tmp_path / "run"))
    unbroken = Trainer(experiment(3), clips, cpu)
    for _ in range(2):
        unbroken.advance()
    torch.testing.assert_close(restored.family.state_dict(), unbroken.family.state_dict(), rtol=0, atol=0)
