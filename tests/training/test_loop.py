"""The one loop: budgets, resuming, stopping, and what a run leaves behind."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit.model import LatentDiTConfig
from kinema.families.mocogan import MoCoGANConfig
from kinema.families.tgan import TGANConfig
from kinema.families.vgan import VGANConfig
from kinema.runtime.device import Runtime
from kinema.training import checkpoint
from kinema.training.loop import Trainer, train
from kinema.types import Batch
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import find_model_file, load_model

Tiny = Callable[..., Experiment]


def step(path: Path) -> int:
    return checkpoint.load(path).step


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_resumed_run_equals_an_unbroken_one(
    tiny: Tiny, world: ShapeMotion, precision: torch.dtype, tmp_path: Path
) -> None:
    runtime = Runtime(torch.device("cpu"), precision)
    unbroken = checkpoint.load(train(tiny(steps=5), tmp_path / "unbroken", source=world, runtime=runtime))
    train(tiny(steps=2), tmp_path / "resumed", source=world, runtime=runtime)
    torch.rand(7)  # other uses of the global generator do not matter
    resumed = checkpoint.load(train(tiny(steps=5), tmp_path / "resumed", source=world, runtime=runtime, resume=True))
    for part in ("generator", "training", "optimizers"):
        torch.testing.assert_close(getattr(resumed, part), getattr(unbroken, part), rtol=0, atol=0)
    assert resumed.step == 5
    assert resumed.config == unbroken.config


def test_another_seed_makes_another_run(tiny: Tiny, world: ShapeMotion, cpu: Runtime) -> None:
    first, second = (Trainer(tiny(seed=seed), world, cpu).family.state_dict() for seed in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_steps_are_counted_over_all_pieces(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    assert step(train(tiny(steps=2), tmp_path, source=world, runtime=cpu)) == 2
    assert step(train(tiny(steps=3), tmp_path, source=world, runtime=cpu, resume=True)) == 3
    assert step(train(tiny(steps=1), tmp_path, source=world, runtime=cpu, resume=True)) == 3


def test_minutes_are_counted_over_all_pieces(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    first = checkpoint.load(train(tiny(steps=3), tmp_path, source=world, runtime=cpu))
    spent = first.seconds / 60
    assert step(train(tiny(minutes=0.99 * spent), tmp_path, source=world, runtime=cpu, resume=True)) == 3
    second = checkpoint.load(train(tiny(minutes=2 * spent), tmp_path, source=world, runtime=cpu, resume=True))
    assert second.step > 3
    assert second.seconds >= 2 * first.seconds


def test_a_budget_is_needed(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no budget: give --steps or --minutes"):
        train(tiny(), tmp_path, source=world, runtime=cpu)


def test_a_run_is_not_overwritten(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path, source=world, runtime=cpu)
    with pytest.raises(ValueError, match="already holds a run: go on with --resume"):
        train(tiny(steps=2), tmp_path, source=world, runtime=cpu)


def test_resuming_needs_a_run(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model there"):
        train(tiny(steps=1), tmp_path / "nothing", source=world, runtime=cpu, resume=True)


def test_only_a_new_run_starts_from_other_weights(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    origin = train(tiny(steps=2), tmp_path / "origin", source=world, runtime=cpu)
    experiment = tiny(steps=1, init_from=str(tmp_path / "origin"))
    trainer = Trainer(experiment, world, cpu)
    trainer.begin()
    for generator in (trainer.family.generator, trainer.average.module):  # the average starts there too
        torch.testing.assert_close(dict(generator.state_dict()), load_model(origin).generator, rtol=0, atol=0)
    train(experiment, tmp_path / "run", source=world, runtime=cpu)
    shutil.rmtree(tmp_path / "origin")  # a resumed run does not need it
    resumed = train(experiment.changed(train={"steps": 2}), tmp_path / "run", source=world, runtime=cpu, resume=True)
    assert step(resumed) == 2


class Renamed(ShapeMotion):
    """Shape Motion with labels of other names."""

    def __init__(self, frames: int, height: int, width: int) -> None:
        super().__init__(frames, height, width)
        self.spec = replace(self.spec, classes=("down", "right"))


@pytest.mark.parametrize(
    ("other", "source", "message"),
    [
        ({"family": {"ngf": 3}}, ShapeMotion(8, 16, 32), "family.ngf: 3, not 2"),
        ({}, ShapeMotion(9, 16, 32), "clips' frames: 9, not 8"),
        ({}, ShapeMotion(8, 16, 64), "clips' width: 64, not 32"),
        ({}, Renamed(8, 16, 32), r"clips' classes: \('down', 'right'\), not \('up', 'left'\)"),
    ],
    ids=["setting", "frames", "width", "classes"],
)
def test_resuming_what_does_not_fit_is_one_line_and_loses_nothing(
    tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path, other: dict, source: ShapeMotion, message: str
) -> None:
    train(tiny(steps=1), tmp_path, source=world, runtime=cpu)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=rf"^the run was started with other settings or clips \({message}.*--out$"):
        train(tiny(steps=2).changed(**other), tmp_path, source=source, runtime=cpu, resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert step(train(tiny(steps=2), tmp_path, source=world, runtime=cpu, resume=True)) == 2


def test_resuming_as_another_family_is_one_line(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path, source=world, runtime=cpu)
    other = replace(tiny(steps=2), family=VGANConfig(ngf=2, ndf=2))
    with pytest.raises(ValueError, match=r"^the run was started with .* \(family: vgan, not mocogan\): .*$"):
        train(other, tmp_path, source=world, runtime=cpu, resume=True)
    assert step(tmp_path) == 1


def test_settings_can_be_changed_on_resuming(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path, source=world, runtime=cpu)
    trainer = Trainer(tiny(lr=1e-5, weight_decay=0.1), world, cpu)
    trainer.restore(checkpoint.load(tmp_path))
    for optimizer in trainer.optimizers.values():
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (1e-5, 0.1)


@pytest.fixture
def attended() -> Iterator[None]:
    """The signal handlers of a process in a terminal: one in the background may be born ignoring SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step(
    tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path, number: signal.Signals, attended: None
) -> None:
    def send(trainer: Trainer) -> None:
        if trainer.step == 2:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    assert step(train(tiny(steps=100), tmp_path, source=world, runtime=cpu, watch=send)) == 2
    assert signal.getsignal(number) is handler


@pytest.mark.usefixtures("attended")
def test_a_second_signal_stops_at_once(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    def send(_: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny(steps=100), tmp_path, source=world, runtime=cpu, watch=send)
    assert not list(tmp_path.iterdir())


def test_an_ignored_signal_stays_ignored(
    tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path, attended: None
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = lambda _: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    assert step(train(tiny(steps=2), tmp_path, source=world, runtime=cpu, watch=watch)) == 2


def test_a_terminated_command_has_saved_and_succeeded(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words += ["--out", str(out), "--steps", "1000000", "--train.save-every-minutes", "0.001"]
    with subprocess.Popen([sys.executable, "-m", "kinema.cli", *words], stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob("step-*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    last = find_model_file(out).parent
    assert f"saved {last}" in said
    assert step(last) < 1000000
    assert not list(out.glob(".step-*"))


def test_a_broken_run_stops_and_keeps_its_last_checkpoint(
    tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path
) -> None:
    def break_weights(trainer: Trainer) -> None:
        with torch.no_grad():
            next(trainer.family.parameters()).fill_(torch.inf)

    before = checkpoint.load(train(tiny(steps=2), tmp_path, source=world, runtime=cpu))
    with pytest.raises(ValueError, match=r"is not finite; resume, .*step 2, with a smaller --train\.lr"):
        train(tiny(steps=3), tmp_path, source=world, runtime=cpu, resume=True, watch=break_weights)
    assert step(tmp_path) == before.step == 2
    assert step(train(tiny(steps=3), tmp_path, source=world, runtime=cpu, resume=True)) == 3


@pytest.mark.parametrize("save_every_minutes", [0, 3])
def test_divergence_names_a_checkpoint_only_where_there_is_one(
    tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path, save_every_minutes: float
) -> None:
    def poison(trainer: Trainer) -> None:
        if trainer.step == 2:
            next(trainer.family.generator.parameters()).data.fill_(torch.nan)

    step_after = 3 if save_every_minutes else 2  # weights are checked before they are saved
    with pytest.raises(ValueError, match=f"training diverged before step {step_after}") as error:
        train(tiny(steps=3, save_every_minutes=save_every_minutes), tmp_path, source=world, runtime=cpu, watch=poison)
    text = str(error.value)
    if save_every_minutes:
        assert "checkpoint" not in text and "resume" not in text and "start again with a smaller --train.lr" in text
        assert not list(tmp_path.glob("step-*"))
    else:
        assert "resume, from the checkpoint of step 1, with a smaller --train.lr" in text


def test_broken_weights_are_not_saved(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    def poison(trainer: Trainer) -> None:  # as a gradient does that is not finite though the loss is
        if trainer.step == 2:
            next(trainer.family.generator.parameters()).data.fill_(torch.nan)

    with pytest.raises(ValueError, match="is not finite"):
        train(tiny(steps=5, save_every_minutes=0), tmp_path, source=world, runtime=cpu, watch=poison)
    assert step(tmp_path) == 1


def test_the_next_batch_is_made_beside_a_step(
    tiny: Tiny, world: ShapeMotion, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batch = queue.Queue[tuple[int, str]](), world.batch

    def noted(step: int, size: int, **place: int) -> Batch:
        made.put((step, threading.current_thread().name))
        return batch(step, size, **place)

    monkeypatch.setattr(world, "batch", noted)
    trainer = Trainer(tiny(), world, cpu)
    trainer.advance()
    for expected in (0, 1):
        step, thread = made.get(timeout=60)  # the second one without another step
        assert step == expected and thread.startswith("batches")
    trainer.advance()
    assert made.get(timeout=60)[0] == 2 and made.empty()  # none is made twice


def test_a_run_starts_from_trained_weights(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    first = train(tiny(steps=2), tmp_path / "first", source=world, runtime=cpu)
    again = train(
        tiny(steps=1, init_from=str(tmp_path / "first"), lr=1e-12), tmp_path / "again", source=world, runtime=cpu
    )
    other = train(tiny(steps=1, lr=1e-12), tmp_path / "other", source=world, runtime=cpu)
    trained, started, fresh = (load_model(path).generator for path in (first, again, other))
    weights = [name for name, tensor in trained.items() if tensor.is_floating_point() and "running" not in name]
    assert all(torch.allclose(trained[name], started[name], atol=1e-6) for name in weights)
    assert not all(torch.allclose(trained[name], fresh[name], atol=1e-6) for name in weights)


def test_starting_from_another_network_is_refused(tiny: Tiny, world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path / "first", source=world, runtime=cpu)
    larger = tiny(steps=1, init_from=str(tmp_path / "first")).changed(family={"ngf": 4})
    with pytest.raises(ValueError, match=r"its weights are of another network: .*: start from a model of the same"):
        train(larger, tmp_path / "again", source=world, runtime=cpu)
    assert not (tmp_path / "again").exists()


def test_the_learning_rate_falls_to_zero_over_the_cooldown(tiny: Tiny, world: ShapeMotion, cpu: Runtime) -> None:
    trainer = Trainer(tiny(steps=10, cooldown=0.4, lr=0.5), world, cpu)
    rates = []
    for trainer.step in range(10):
        rates.append(trainer.lr)
    assert rates == pytest.approx([0.5] * 7 + [0.375, 0.25, 0.125])


def test_a_cooldown_of_minutes_follows_the_clock(tiny: Tiny, world: ShapeMotion, cpu: Runtime) -> None:
    trainer = Trainer(tiny(minutes=1, cooldown=0.5, lr=0.5), world, cpu)
    rates = []
    for trainer.seconds in (0.0, 30.0, 45.0, 60.0):
        rates.append(trainer.lr)
    assert rates == pytest.approx([0.5, 0.5, 0.25, 0.0])


def test_muon_moves_matrices_alike_in_all_directions(world: ShapeMotion, cpu: Runtime) -> None:
    """A step is about orthogonal: most singular values are near 0.2 lr sqrt(larger side).

    The smallest are less: Newton and Schulz's iteration is cut short, on a gradient of few clips.
    """
    family = LatentDiTConfig(patch=(1, 4), hidden=16, depth=1, heads=2, parameterisation="data")
    trainer = Trainer(Experiment(family, train=TrainConfig(batch=2, lr=0.01, optimizer="muon")), world, cpu)
    linear = {name for name, module in trainer.family.named_modules() if isinstance(module, torch.nn.Linear)}
    for _ in range(4):  # layers that start at zero pass no gradient at first
        before = {name: value.clone() for name, value in trainer.family.named_parameters()}
        trainer.advance()
    moved = {name: value.detach() - before[name] for name, value in trainer.family.named_parameters()}
    matrix = "generator.transformer.blocks.0.mlp.0"
    assert matrix in linear
    values = torch.linalg.svdvals(moved[f"{matrix}.weight"]) / (0.01 * 0.2 * 64**0.5)
    assert values.median() > 0.7 and values[0] < 1.4  # AdamW's largest is 12 and more
    adamw, muon = trainer.optimizers.values()
    counts = [sum(p.numel() for group in o.param_groups for p in group["params"]) for o in (adamw, muon)]
    weights = {f"{name}.weight" for name in linear}
    assert counts[1] == sum(value.numel() for name, value in before.items() if name in weights)
    assert sum(counts) == sum(value.numel() for value in before.values())


def test_a_resumed_run_with_muon_equals_an_unbroken_one(world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> None:
    def experiment(steps: int) -> Experiment:
        family = LatentDiTConfig(patch=(1, 4), hidden=16, depth=1, heads=2, parameterisation="data")
        return Experiment(family, train=TrainConfig(steps=steps, batch=2, optimizer="muon"))

    unbroken = checkpoint.load(train(experiment(3), tmp_path / "unbroken", source=world, runtime=cpu))
    train(experiment(1), tmp_path / "resumed", source=world, runtime=cpu)
    resumed = checkpoint.load(train(experiment(3), tmp_path / "resumed", source=world, runtime=cpu, resume=True))
    torch.testing.assert_close(resumed.training, unbroken.training, rtol=0, atol=0)
    momenta = [saved.optimizers["generator.matrices"]["state"] for saved in (resumed, unbroken)]
    torch.testing.assert_close(*momenta, rtol=0, atol=0)


def test_gradients_are_clipped_in_a_way_that_every_device_can(
    tiny: Tiny, world: ShapeMotion, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`foreach=True` is an error on MPS; torch chooses by itself where nothing is said."""
    calls, clip = [], torch.nn.utils.clip_grad_norm_

    def noted(*args, **options):
        calls.append(options)
        return clip(*args, **options)

    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", noted)
    trainer = Trainer(tiny(clip_norm=0.1), world, cpu)
    trainer.advance()
    assert len(calls) == len(trainer.turns) and not any(options.get("foreach") for options in calls)


def test_a_step_reads_no_value_from_the_device(
    world: ShapeMotion, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a tensor's value waits for a GPU; of families whose losses are on a schedule too."""
    families = [
        MoCoGANConfig(
            content=4, motion=3, ngf=2, ndf=2, ndf_image=2, norm="none", noise=0.0, penalty=1.0, penalty_decay_steps=2
        ),
        TGANConfig(latent=5, path=4, ngf=2, ngf_path=3, ndf=2),
    ]
    for family in families:
        trainer = Trainer(Experiment(family, train=TrainConfig(batch=4)), world, cpu)
        trainer.advance()  # optimizers make their state
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__"):
                patch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"Tensor.{name} in a step"))
            trainer.advance()
