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


LATENTS = """
import sys
from pathlib import Path

import torch

from kinema.data.latents import LatentSource
from kinema.families.video_vae import VideoVAEConfig
from kinema.run import start
from kinema.worlds.shape_motion import ShapeMotion

out = Path(sys.argv[1])
place = start("cpu", "float32")
world = ShapeMotion(9, 16, 32)
torch.manual_seed(0)
codec = VideoVAEConfig(space=4, channels=3, hidden=4).fitted(world.facts).build()
encode, calls = codec.encode, []
codec.encode = lambda frames: calls.append(len(frames)) or encode(frames)
cache = str(out / (f"cache-{place.rank}" if sys.argv[2] == "apart" else "cache"))
latents = LatentSource(world, codec, place, 40, cache).batch(0, 40, seed=0).latents
torch.save({"latents": latents, "windows": torch.tensor(sum(calls))}, out / f"rank-{place.rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("disks", ["shared", "apart"])
def test_one_rank_encodes_for_all_that_share_its_disk(disks: str, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(LATENTS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, str(script), str(tmp_path), disks], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["windows"] == 40 and second["windows"] == (0 if disks == "shared" else 40)
    torch.testing.assert_close(first["latents"], second["latents"], rtol=0, atol=0)
