"""A run that is killed at random moments and resumed ends as an unbroken one."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from kinema.cli.main import main
from kinema.training import checkpoint


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_runs_end_as_an_unbroken_one(words: list[str], tmp_path: Path, kills: int) -> None:
    steps = 12 * kills
    words += ["--steps", str(steps), "--train.save-every-minutes", "0"]
    chance = random.Random(0)
    out = tmp_path / "killed"
    for kill in range(kills):
        target = newest(out) + chance.randint(1, 4)
        process = start([*words, "--out", str(out), *["--resume"] * bool(kill)])
        while newest(out) < target:
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.06))  # somewhere in a step, a save or the dropping of an old checkpoint
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert target <= checkpoint.load(out).step < steps

    ends = []
    for name, resume in (("killed", ["--resume"]), ("unbroken", [])):
        process = start([*words, "--out", str(tmp_path / name), *resume])
        process.join()
        assert process.exitcode == 0
        assert not list((tmp_path / name).glob(".step-*"))
        ends.append(checkpoint.load(tmp_path / name))
    killed, unbroken = ends
    assert killed.step == unbroken.step == steps
    for part in ("generator", "training", "optimizers"):
        torch.testing.assert_close(getattr(killed, part), getattr(unbroken, part), rtol=0, atol=0)


def start(words: list[str]) -> BaseProcess:
    """The command in a process of its own, forked from one that has imported all it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kinema.cli.train", "torch._dynamo"])  # an optimizer's first step imports it
    process = context.Process(target=main, args=(words,))
    process.start()
    return process


def newest(run: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in run.glob("step-*")), default=0)
