"""Data parallelism: every rank sees its own clips, all hold the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kinema import checkpoint
from kinema.data.clips import DataConfig
from kinema.families import config_class
from kinema.run import Run
from kinema.train import Experiment, TrainConfig, train
from kinema.worlds.shape_motion import ShapeMotion

RANK = """
import json
import sys
from pathlib import Path

import torch

from kinema.data.clips import DataConfig
from kinema.families import config_class
from kinema.run import start
from kinema.train import Experiment, TrainConfig, Trainer, train
from kinema.worlds.shape_motion import ShapeMotion

out = Path(sys.argv[1])
place = start("cpu", "float32")
data = DataConfig(frames=8, height=16, width=32)
family = config_class(sys.argv[2])(**json.loads(sys.argv[3]))
experiment = Experiment(family, data, TrainConfig(steps=3, batch=4))
world = ShapeMotion(8, 16, 32)
train(experiment, out / "run", source=world, run=place)
trainer = Trainer(experiment, world, place)
for _ in range(3):
    trainer.advance()
torch.save(dict(trainer.family.named_parameters()), out / f"rank-{place.rank}.pt")
torch.distributed.destroy_process_group()
"""


FAMILIES = {
    "mocogan": {"content": 4, "motion": 3, "ngf": 2, "ndf": 2, "ndf_image": 2},
    "tgan": {"latent": 5, "path": 4, "ngf": 2, "ngf_path": 3, "ndf": 2, "clip_every": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "settings"), FAMILIES.items(), ids=FAMILIES)
def test_two_ranks_end_with_the_same_weights(
    family: str, settings: dict[str, Any], world: ShapeMotion, cpu: Run, tmp_path: Path
) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, str(script), str(tmp_path), family, json.dumps(settings)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    saved = checkpoint.load(tmp_path / "run")
    assert saved.step == 3
    torch.testing.assert_close({name: saved.training[name] for name in first}, first, rtol=0, atol=0)

    data = DataConfig(frames=8, height=16, width=32)
    experiment = Experiment(config_class(family)(**settings), data, TrainConfig(steps=3, batch=4))
    alone = checkpoint.load(train(experiment, tmp_path / "alone", source=world, run=cpu))
    assert any(not torch.equal(alone.training[name], first[name]) for name in first)
