"""torch.compile: every trained module of every family is called compiled, and a failure falls back to eager."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.presets import PRESETS
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.training.loop import Trainer
from kinema.worlds.shape_motion import ShapeMotion

SMALL = {
    "latent-dit": {"patch": (1, 4), "hidden": 16, "depth": 1, "heads": 2},
    "mocogan": {"content": 4, "motion": 3, "ngf": 2, "ndf": 2, "ndf_image": 2},
    "svg-lp": {"context_frames": 3, "channels": 8, "code": 16, "hidden": 16, "latent": 4},
    "tgan": {"latent": 5, "path": 4, "ngf": 2, "ngf_path": 3, "ndf": 2},
    "token-transformer": {"hidden": 16, "depth": 1, "heads": 2},
    "vgan": {"latent": 5, "ngf": 2, "ndf": 2},
    "video-vae": {"space": 4, "channels": 3, "hidden": 4, "adversarial": 0.1, "ndf": 2},
}


def trainer_of(name: str, cpu: Runtime, tiny_codec: Callable[..., str]) -> Trainer:
    settings = SMALL[name] | ({"codec": tiny_codec((4, 5, 3))} if name == "token-transformer" else {})
    experiment = Experiment(
        FAMILIES[name](**settings), DataConfig(frames=9, height=16, width=32), TrainConfig(batch=4, compile=True)
    )
    return Trainer(experiment, ShapeMotion(9, 16, 32), cpu)


@pytest.fixture
def compiled_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each module is called compiled, by its id; nothing is really compiled."""
    calls: Counter[int] = Counter()

    def compile_nothing(call: Callable, *_, **__) -> Callable:
        def counted(*args, **options):
            calls[id(call.__self__)] += 1
            return call(*args, **options)

        return counted

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return calls


def test_all_families_are_tested() -> None:
    assert set(SMALL) == set(FAMILIES.names)


@pytest.mark.parametrize("name", SMALL)
def test_every_turn_calls_its_module_compiled(
    name: str, cpu: Runtime, tiny_codec: Callable[..., str], compiled_calls: Counter[int]
) -> None:
    trainer = trainer_of(name, cpu, tiny_codec)
    trainer.advance()
    assert {turn.name for turn in trainer.turns if not compiled_calls[id(turn.module)]} == set()
    trained = {id(p) for turn in trainer.turns for p in turn.parameters}
    assert all(id(p) in trained for p in trainer.family.generator.parameters() if p.requires_grad)


def test_no_preset_compiles() -> None:
    assert not any(make().train.compile for presets in PRESETS.values() for make in presets.values())


def fail(*_, **__):
    raise RuntimeError("no compiler here\nand a long trace")


def test_a_failure_falls_back_to_eager_in_one_line(
    cpu: Runtime, tiny_codec: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    failed = trainer_of("mocogan", cpu, tiny_codec)
    for _ in range(2):
        failed.advance()
    assert capfd.readouterr().err == (
        "kinema: torch.compile failed, so training continues without it: no compiler here\n"
    )
    monkeypatch.undo()
    eager = Trainer(failed.experiment.changed(train={"compile": False}), failed.source, cpu)
    for _ in range(2):
        eager.advance()
    expected = dict(eager.family.named_parameters())
    torch.testing.assert_close(dict(failed.family.named_parameters()), expected, rtol=0, atol=0)


def test_an_error_of_the_family_itself_is_not_hidden(cpu: Runtime, tiny_codec: Callable[..., str]) -> None:
    trainer = trainer_of("vgan", cpu, tiny_codec)
    for module in (trainer.family.generator, trainer.family.critic):
        assert isinstance(module, nn.Module)
        module.forward = fail
    with pytest.raises(RuntimeError, match="no compiler here"):
        trainer.advance()


def test_a_command_without_a_compiler_trains_on(words: list[str], tmp_path: Path) -> None:
    """As on a machine without a C++ compiler."""
    environment = os.environ | {"CXX": str(tmp_path / "no-such-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    words = [*words, "--train.compile", "--steps", "2", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "kinema.cli", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training continues without it") == 1 and "Traceback" not in done.stderr
    assert (tmp_path / "run" / "step-00000002").is_dir()
