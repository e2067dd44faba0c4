"""The plan of a run: what it says is what the run does, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig
from kinema.runtime.device import Runtime
from kinema.training import plan as module
from kinema.training.loop import Trainer, train
from kinema.training.plan import make_plan
from kinema.worlds.shape_motion import ShapeMotion

CPU = Runtime(torch.device("cpu"), torch.float32)
WORLD = ShapeMotion(9, 16, 32)


def experiment(**settings: object) -> Experiment:
    family = LatentDiTConfig(codec="transform", patch=(1, 2), hidden=16, depth=1, heads=2)
    train_config = TrainConfig(**{"steps": 5, "batch": 4} | settings)  # pyright: ignore[reportArgumentType]
    return Experiment(family, DataConfig(frames=9, height=16, width=32), train_config)


def test_a_plan_counts_weights_steps_disk_and_the_codec(tmp_path: Path) -> None:
    found = make_plan(experiment(), WORLD, CPU)
    trainer = Trainer(experiment(), WORLD, CPU)
    assert found.weights == sum(p.numel() for p in trainer.family.generator.parameters())
    assert found.steps == 5 and found.passes is None and found.seconds > 0
    assert found.codec_psnr is not None and found.codec_psnr > 20
    last = train(experiment(), tmp_path, source=WORLD, runtime=CPU)
    on_disk = 2 * sum(path.stat().st_size for path in last.iterdir())
    assert found.disk == pytest.approx(on_disk, rel=0.4)  # small weights: much of it is JSON


def test_the_steps_that_are_timed_have_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    advance = Trainer.advance

    def noted(trainer: Trainer) -> None:
        trainer.family.generator.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        advance(trainer)

    monkeypatch.setattr(Trainer, "advance", noted)
    make_plan(experiment(batch=16), WORLD, CPU)
    assert set(sizes) == {2, 4, 8, 16} and set(sizes[-3:]) == {16}


def test_steps_of_minutes_follow_the_time_of_a_step() -> None:
    found = make_plan(experiment(steps=None, minutes=1.0), WORLD, CPU)
    assert found.steps == int(60 / found.seconds)


def test_a_plan_of_cached_latents_writes_no_cache(tmp_path: Path) -> None:
    cached = experiment().changed(data={"cache_latents": 32, "cache": str(tmp_path)})
    assert make_plan(cached, WORLD, CPU).seconds > 0
    assert list(tmp_path.rglob("*.npy")) == []


def test_a_plan_does_not_change_the_run(tmp_path: Path) -> None:
    train(experiment(), tmp_path / "a", source=WORLD, runtime=CPU)
    make_plan(experiment(), WORLD, CPU)
    train(experiment(), tmp_path / "b", source=WORLD, runtime=CPU)
    first, second = ((tmp_path / run / "step-00000005" / "training.safetensors").read_bytes() for run in "ab")
    assert first == second


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([1e9, 2e9])  # of 2 and 4 clips: half a gigabyte a clip
    monkeypatch.setattr(module, "peak_memory", lambda device: next(peaks))
    monkeypatch.setattr(module, "available_memory", lambda device: 1e9)
    with pytest.raises(
        ValueError,
        match=r"16 is too large: a step of 8 clips takes about 2.0 GB more, and 0.9 GB are free: make it 5",
    ):
        make_plan(experiment(batch=16), WORLD, CPU)
