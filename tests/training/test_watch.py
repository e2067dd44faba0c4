"""What a person sees of a run, and what must not end it."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kinema.experiment import Experiment
from kinema.families.mocogan import MoCoGAN
from kinema.runtime.device import Runtime
from kinema.training import watch
from kinema.training.loop import Trainer, train
from kinema.training.watch import Watcher
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import find_model_file


@pytest.fixture(autouse=True)
def _every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show all there is to see after every step."""
    monkeypatch.setattr(watch, "SCALARS", 0.0)
    monkeypatch.setattr(watch, "LINES", 0.0)


@pytest.fixture
def watched(tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime, tmp_path: Path):
    """Train for some steps with a sheet after each; return the folder."""

    def go(steps: int) -> Path:
        experiment = tiny(steps=steps, sample_every_minutes=0)
        with Watcher(tmp_path / "run", experiment.train) as watcher:
            train(experiment, tmp_path / "run", source=world, runtime=cpu, watch=watcher)
        return tmp_path / "run"

    return go


def events(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def test_a_run_is_shown(watched, capfd: pytest.CaptureFixture[str]) -> None:
    found = events(watched(2))
    assert [event.step for event in found.Images("samples")] == [1, 2]
    assert [event.step for event in found.Scalars("loss/generator_video")] == [1, 2]
    err = capfd.readouterr().err
    assert "MoCoGAN with 0.0" in err and "4 clips a step of 8 frames at 32x16, cpu in float32" in err
    assert re.search(r"^step 2 · .* it/s · 0:00:\d\d left · \d+\.\d GB · .*generator_video -?\d", err, re.MULTILINE)


def test_a_sheet_that_cannot_be_made_does_not_end_training(
    watched, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    generate = MoCoGAN.generate

    def broken(self, *args, **options):
        for chunk in generate(self, *args, **options):
            yield torch.full_like(chunk, torch.nan)

    monkeypatch.setattr(MoCoGAN, "generate", broken)
    run = watched(2)
    assert find_model_file(run).parent.name == "step-00000002"
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("no sample sheet at step ")]
    assert len(lines) == 2 and "MoCoGAN made frames that are not finite" in lines[0]
    assert events(run).Tags()["images"] == []


def test_a_system_that_knows_no_peak_memory_is_watched(
    watched, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As Windows, which has no module `resource`."""
    monkeypatch.setitem(sys.modules, "resource", None)
    watched(1)
    err = capfd.readouterr().err
    assert "step 1 · " in err and " GB" not in err


def test_a_sheet_shows_the_average_and_leaves_the_family_as_it_was(
    tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime
) -> None:
    trainer = Trainer(tiny(), world, cpu)
    trainer.advance()
    own = trainer.family.generator
    first = watch.draw_sheet(*watch.sample_clips(trainer))
    with torch.no_grad():
        for p in own.parameters():
            p.zero_()
    assert (watch.draw_sheet(*watch.sample_clips(trainer)) == first).all() and trainer.family.generator is own


def test_a_log_that_cannot_be_written_does_not_end_training(
    watched, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").write_text("in the way")
    assert find_model_file(watched(3)).parent.name == "step-00000003"
    lines = [line for line in capfd.readouterr().err.splitlines() if "TensorBoard" in line]
    assert lines == ["TensorBoard's log cannot be written, and training goes on: File exists"]


def test_a_log_goes_on_in_another_file_after_a_failure(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is full for a while."""
    write, calls = watch.Board._write, []

    def full_once(self, event) -> None:
        calls.append(event.step)
        if calls.count(2) == 1 and event.step == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, event)

    monkeypatch.setattr(watch.Board, "_write", full_once)
    steps = {event.step for event in events(watched(4)).Scalars("loss/generator_video")}
    assert {1, 3, 4} <= steps


def test_a_closed_terminal_does_not_end_training(watched, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(sys, "stderr", Closed())
    assert find_model_file(watched(2)).parent.name == "step-00000002"
