"""The one loop: budgets, resuming, stopping, and what a run leaves behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kinema import checkpoint
from kinema.families.latent_dit import LatentDiTConfig
from kinema.families.mocogan import MoCoGAN
from kinema.run import Run
from kinema.train import Experiment, TrainConfig, Trainer, train
from kinema.types import Batch
from kinema.worlds.shape_motion import ShapeMotion

Tiny = Callable[..., Experiment]


def step(path: Path) -> int:
    return checkpoint.load(path).step


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_resumed_run_equals_an_unbroken_one(
    tiny: Tiny, world: ShapeMotion, precision: torch.dtype, tmp_path: Path
) -> None:
    run = Run(torch.device("cpu"), precision)
    unbroken = checkpoint.load(train(tiny(steps=5), tmp_path / "unbroken", source=world, run=run))
    train(tiny(steps=2), tmp_path / "resumed", source=world, run=run)
    torch.rand(7)  # what else the process does with the global generator is of no account
    resumed = checkpoint.load(train(tiny(steps=5), tmp_path / "resumed", source=world, run=run, resume=True))
    for part in ("generator", "training", "optimizers"):
        torch.testing.assert_close(getattr(resumed, part), getattr(unbroken, part), rtol=0, atol=0)
    assert resumed.step == 5
    assert resumed.config == unbroken.config


def test_another_seed_makes_another_run(tiny: Tiny, world: ShapeMotion, cpu: Run) -> None:
    first, second = (Trainer(tiny(seed=seed), world, cpu).family.state_dict() for seed in (0, 1))
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_steps_are_counted_over_all_pieces(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    assert step(train(tiny(steps=2), tmp_path, source=world, run=cpu)) == 2
    assert step(train(tiny(steps=3), tmp_path, source=world, run=cpu, resume=True)) == 3
    assert step(train(tiny(steps=1), tmp_path, source=world, run=cpu, resume=True)) == 3


def test_minutes_are_counted_over_all_pieces(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    first = checkpoint.load(train(tiny(steps=3), tmp_path, source=world, run=cpu))
    spent = first.seconds / 60
    assert step(train(tiny(minutes=0.99 * spent), tmp_path, source=world, run=cpu, resume=True)) == 3
    second = checkpoint.load(train(tiny(minutes=2 * spent), tmp_path, source=world, run=cpu, resume=True))
    assert second.step > 3
    assert second.seconds >= 2 * first.seconds


def test_a_budget_is_needed(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no budget: give --steps or --minutes"):
        train(tiny(), tmp_path, source=world, run=cpu)


def test_a_run_is_not_overwritten(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path, source=world, run=cpu)
    with pytest.raises(ValueError, match="already holds a run: go on with --resume"):
        train(tiny(steps=2), tmp_path, source=world, run=cpu)


def test_resuming_needs_a_run(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint there"):
        train(tiny(steps=1), tmp_path / "nothing", source=world, run=cpu, resume=True)


def test_only_a_new_run_begins(
    tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def begin(family: MoCoGAN) -> None:
        begun.append(family)
        next(family.generator.parameters()).data.fill_(0.5)

    monkeypatch.setattr(MoCoGAN, "begin", begin)
    trainer = Trainer(tiny(), world, cpu)
    trainer.begin()
    for generator in (trainer.family.generator, trainer.average):  # the average too begins there
        assert (next(generator.parameters()) == 0.5).all()
    train(tiny(steps=1), tmp_path, source=world, run=cpu)
    train(tiny(steps=2), tmp_path, source=world, run=cpu, resume=True)
    assert len(begun) == 2


def test_resuming_another_network_is_one_line(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path, source=world, run=cpu)
    longer = ShapeMotion(frames=9, height=16, width=64)
    with pytest.raises(ValueError, match=r"^.+$"):
        train(tiny(steps=2), tmp_path, source=longer, run=cpu, resume=True)


def test_settings_can_be_changed_on_resuming(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path, source=world, run=cpu)
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
    tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path, number: signal.Signals, attended: None
) -> None:
    def send(trainer: Trainer) -> None:
        if trainer.step == 2:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    assert step(train(tiny(steps=100), tmp_path, source=world, run=cpu, watch=send)) == 2
    assert signal.getsignal(number) is handler


@pytest.mark.usefixtures("attended")
def test_a_second_signal_stops_at_once(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    def send(_: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny(steps=100), tmp_path, source=world, run=cpu, watch=send)
    assert not list(tmp_path.iterdir())


def test_an_ignored_signal_stays_ignored(
    tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path, attended: None
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch = lambda _: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    assert step(train(tiny(steps=2), tmp_path, source=world, run=cpu, watch=watch)) == 2


def test_a_terminated_command_has_saved_and_succeeded(words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words += ["--out", str(out), "--steps", "1000000", "--train.save-minutes", "0.001"]
    with subprocess.Popen([sys.executable, "-m", "kinema.cli", *words], stderr=subprocess.PIPE, text=True) as process:
        while not list(out.glob("step-*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        process.terminate()
        _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    last = checkpoint.find(out)
    assert f"saved {last}" in said
    assert step(last) < 1000000
    assert not list(out.glob(".step-*"))


def test_a_broken_run_stops_and_keeps_its_last_checkpoint(
    tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path
) -> None:
    whole = checkpoint.load(train(tiny(steps=2), tmp_path, source=world, run=cpu))
    with pytest.raises(ValueError, match=r"is not finite; .* resume with a smaller --train\.lr"):
        train(tiny(steps=10, lr=1e30), tmp_path, source=world, run=cpu, resume=True)
    assert step(tmp_path) == whole.step == 2
    assert step(train(tiny(steps=3), tmp_path, source=world, run=cpu, resume=True)) == 3


def test_broken_weights_are_not_saved(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    def poison(trainer: Trainer) -> None:  # as a gradient that is not finite does, though the loss is
        if trainer.step == 2:
            next(trainer.family.generator.parameters()).data.fill_(torch.nan)

    with pytest.raises(ValueError, match="is not finite"):
        train(tiny(steps=5, save_minutes=0), tmp_path, source=world, run=cpu, watch=poison)
    assert step(tmp_path) == 1


@pytest.mark.parametrize("average", [0.0, 0.2])
def test_the_moving_average_follows_its_formula(tiny: Tiny, world: ShapeMotion, cpu: Run, average: float) -> None:
    trainer = Trainer(tiny(average=average), world, cpu)
    expected = {name: value.clone() for name, value in trainer.average.state_dict().items()}
    for decay in (min(average, d) for d in (1 / 10, 2 / 11, 3 / 12)):
        trainer.advance()
        weights = trainer.family.generator.state_dict()
        for name, value in expected.items():
            if value.is_floating_point():
                expected[name] = decay * value + (1 - decay) * weights[name]
    floating = {
        name: trainer.average.state_dict()[name] for name, value in expected.items() if value.is_floating_point()
    }
    torch.testing.assert_close(floating, {name: expected[name] for name in floating})


def test_the_next_batch_is_made_beside_a_step(
    tiny: Tiny, world: ShapeMotion, cpu: Run, monkeypatch: pytest.MonkeyPatch
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


def test_a_run_starts_from_trained_weights(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    first = train(tiny(steps=2), tmp_path / "first", source=world, run=cpu)
    again = train(tiny(steps=1, start=str(tmp_path / "first"), lr=1e-12), tmp_path / "again", source=world, run=cpu)
    other = train(tiny(steps=1, lr=1e-12), tmp_path / "other", source=world, run=cpu)
    trained, started, fresh = (checkpoint.load_generator(path)[1] for path in (first, again, other))
    weights = [name for name, tensor in trained.items() if tensor.is_floating_point() and "running" not in name]
    assert all(torch.allclose(trained[name], started[name], atol=1e-6) for name in weights)
    assert not all(torch.allclose(trained[name], fresh[name], atol=1e-6) for name in weights)


def test_starting_from_another_network_is_refused(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    train(tiny(steps=1), tmp_path / "first", source=world, run=cpu)
    larger = tiny(steps=1, start=str(tmp_path / "first")).changed(family={"ngf": 4})
    with pytest.raises(ValueError, match=r"its weights are of another network .*: start from a model of the same"):
        train(larger, tmp_path / "again", source=world, run=cpu)
    assert not (tmp_path / "again").exists()


def test_the_rate_falls_to_nothing_over_the_last_steps(tiny: Tiny, world: ShapeMotion, cpu: Run) -> None:
    trainer = Trainer(tiny(steps=10, cooldown=4, lr=0.5), world, cpu)
    rates = []
    for trainer.step in range(10):
        rates.append(trainer.lr)
    assert rates == [0.5] * 7 + [0.375, 0.25, 0.125]


def test_a_cooldown_needs_its_end(tiny: Tiny, world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"over the last of so many steps: give --steps"):
        train(tiny(minutes=1, cooldown=4), tmp_path, source=world, run=cpu)


def test_muon_moves_matrices_alike_in_all_directions(world: ShapeMotion, cpu: Run) -> None:
    """A step is about orthogonal: all singular values near 0.2 lr sqrt(larger side)."""
    family = LatentDiTConfig(patch=(1, 4), hidden=16, depth=1, heads=2, parameterisation="data")
    trainer = Trainer(Experiment(family, train=TrainConfig(batch=2, lr=0.01, optimizer="muon")), world, cpu)
    linear = {name for name, module in trainer.family.named_modules() if isinstance(module, torch.nn.Linear)}
    for _ in range(4):  # what begins at zero lets nothing through at first
        before = {name: value.clone() for name, value in trainer.family.named_parameters()}
        trainer.advance()
    moved = {name: value.detach() - before[name] for name, value in trainer.family.named_parameters()}
    matrix = "generator.network.transformer.blocks.0.mlp.0"
    assert matrix in linear
    values = torch.linalg.svdvals(moved[f"{matrix}.weight"]) / (0.01 * 0.2 * 64**0.5)
    assert values.min() > 0.25 and values.max() < 1.4  # of AdamW they reach from 0.4 to 14
    adamw, muon = trainer.optimizers.values()
    counts = [sum(p.numel() for group in o.param_groups for p in group["params"]) for o in (adamw, muon)]
    weights = {f"{name}.weight" for name in linear}
    assert counts[1] == sum(value.numel() for name, value in before.items() if name in weights)
    assert sum(counts) == sum(value.numel() for value in before.values())


def test_a_resumed_run_with_muon_equals_an_unbroken_one(world: ShapeMotion, cpu: Run, tmp_path: Path) -> None:
    def run(steps: int) -> Experiment:
        family = LatentDiTConfig(patch=(1, 4), hidden=16, depth=1, heads=2, parameterisation="data")
        return Experiment(family, train=TrainConfig(steps=steps, batch=2, optimizer="muon"))

    unbroken = checkpoint.load(train(run(3), tmp_path / "unbroken", source=world, run=cpu))
    train(run(1), tmp_path / "resumed", source=world, run=cpu)
    resumed = checkpoint.load(train(run(3), tmp_path / "resumed", source=world, run=cpu, resume=True))
    torch.testing.assert_close(resumed.training, unbroken.training, rtol=0, atol=0)
    momenta = [run.optimizers["generator.network.matrices"]["state"] for run in (resumed, unbroken)]
    torch.testing.assert_close(*momenta, rtol=0, atol=0)
