"""Data parallelism: each rank trains on its own clips, and all ranks hold the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.training import checkpoint
from kinema.training.loop import Trainer, train
from kinema.worlds.shape_motion import ShapeMotion

MOCOGAN = {"content": 4, "motion": 3, "ngf": 2, "ndf": 2, "ndf_image": 2}
CODEC = {"name": "video-vae", "frames": 9, "height": 16, "width": 32, "space": 4, "channels": 3, "hidden": 4}
TRANSFORMER = {"hidden": 16, "depth": 1, "heads": 2}
INSTANCES: dict[str, dict[str, Any]] = {  # the smallest of each family
    # ten steps: of the first window and of later ones, whose choice decides which parameters have a gradient
    "latent-dit": TRANSFORMER | {"codec_config": CODEC, "patch": (1, 2)},
    "mocogan": MOCOGAN,
    "svg-lp": {"context_frames": 3, "channels": 8, "code": 16, "hidden": 16, "latent": 4},
    "tgan": {"latent": 5, "path": 4, "ngf": 2, "ngf_path": 3, "ndf": 2, "clip_every": 1},
    "token-transformer": TRANSFORMER | {"codec_config": CODEC | {"levels": (4, 5, 3)}},
    "vgan": {"latent": 5, "ngf": 2, "ndf": 2},
    "video-vae": {"space": 4, "channels": 3, "hidden": 4, "adversarial": 0.1, "ndf": 2},
}
STEPS = dict.fromkeys(INSTANCES, 3) | {"latent-dit": 10}
# `Uneven` is a family of which the parameter `extra` has a gradient on rank 1 only
SCRIPT = """
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.family import Family, FamilyConfig, Turn
from kinema.registry import FAMILIES
from kinema.runtime.device import detect_runtime
from kinema.training.loop import Trainer, train
from kinema.worlds.shape_motion import ShapeMotion

out, instances, steps = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
runtime = detect_runtime("cpu", "float32")
torch.set_num_threads(1)


@dataclass(frozen=True)
class UnevenConfig(FamilyConfig):
    def build(self):
        return Uneven()


class Parts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.always, self.extra = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))

    def forward(self, frames):
        mean = frames.mean((0, 1, 3, 4))
        return (self.always * mean + (self.extra if runtime.rank else 0)).square().sum()


class Uneven(Family):
    accepts = streams = frozenset()

    def __init__(self):
        super().__init__()
        self.generator = Parts()

    def turns(self):
        return (Turn("generator", self.generator, self.loss),)

    def loss(self, batch, step):
        loss = self.generator(batch.frames)
        return loss, {"error": loss}

    def generate(self, *_):
        raise NotImplementedError


def experiment(family, frames, count):
    return Experiment(family, DataConfig(frames=frames, height=16, width=32), TrainConfig(steps=count, batch=4))


def save(name, family):
    torch.save(dict(family.named_parameters()), out / f"{name}-{runtime.rank}.pt")


for name, settings in instances.items():
    settings = {n: tuple(value) if isinstance(value, list) else value for n, value in settings.items()}
    trainer = Trainer(experiment(FAMILIES[name](**settings), 9, steps[name]), ShapeMotion(9, 16, 32), runtime)
    lengths = []  # of what the generator is called with
    if name == "latent-dit":
        trainer.family.generator.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    for _ in range(steps[name]):
        trainer.advance()
    save(name, trainer.family)
    if lengths:
        torch.save(torch.tensor(lengths), out / f"lengths-{runtime.rank}.pt")
trainer = Trainer(experiment(UnevenConfig(), 9, 3), ShapeMotion(9, 16, 32), runtime)
for _ in range(3):
    trainer.advance()
save("uneven", trainer.family)
fitted = {"codec": "transform", "codec_options": {"channels": 4}, "patch": (1, 2), "hidden": 16, "depth": 1, "heads": 2}
trainer = Trainer(experiment(FAMILIES["latent-dit"](**fitted), 9, 1), ShapeMotion(9, 16, 32), runtime)
trainer.begin()
torch.save(trainer.family.codec.state_dict(), out / f"codec-{runtime.rank}.pt")
mocogan = experiment(FAMILIES["mocogan"](**instances["mocogan"]), 9, steps["mocogan"])
train(mocogan, out / "run", source=ShapeMotion(9, 16, 32), runtime=runtime)
torch.distributed.destroy_process_group()
"""


def run_on_two_ranks(script: str, folder: Path, *words: str) -> None:
    """Run a script in two processes that torchrun starts."""
    (folder / "rank.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, str(folder / "rank.py"), str(folder), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks end with: the parameters of every family by rank, and a run of MoCoGAN."""
    folder = tmp_path_factory.mktemp("ranks")
    run_on_two_ranks(SCRIPT, folder, json.dumps(INSTANCES), json.dumps(STEPS))
    return folder


def weights(ranks: Path, name: str, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(ranks / f"{name}-{rank}.pt", weights_only=True)


def single_process(family: str, runtime: Runtime) -> Trainer:
    """The same training without other ranks."""
    data, train_config = DataConfig(frames=9, height=16, width=32), TrainConfig(steps=STEPS[family], batch=4)
    return Trainer(
        Experiment(FAMILIES[family](**INSTANCES[family]), data, train_config), ShapeMotion(9, 16, 32), runtime
    )


def test_every_family_has_an_instance() -> None:
    assert set(INSTANCES) == set(FAMILIES.names)


@pytest.mark.parametrize("family", INSTANCES)
def test_two_ranks_end_with_the_same_weights(ranks: Path, family: str, cpu: Runtime) -> None:
    first, second = (weights(ranks, family, rank) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    trainer = single_process(family, cpu)
    begun = {name: value.detach().clone() for name, value in trainer.family.named_parameters()}
    for _ in range(STEPS[family]):
        trainer.advance()
    alone = dict(trainer.family.named_parameters())
    assert any(not torch.equal(first[name], begun[name]) for name in first)
    assert any(not torch.equal(first[name], alone[name]) for name in first)  # other clips take part


def test_choices_that_shape_the_graph_are_those_of_all_ranks(ranks: Path) -> None:
    first, second = (torch.load(ranks / f"lengths-{rank}.pt", weights_only=True).tolist() for rank in (0, 1))
    assert first == second and set(first) == {2, 3}  # later windows lack the first frame's latent


def test_all_ranks_have_the_codec_of_rank_0(ranks: Path) -> None:
    first, second = (weights(ranks, "codec", rank) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first["groups.vectors"].abs().sum() > 0


def test_a_gradient_that_one_rank_lacks_counts_as_zero(ranks: Path) -> None:
    first, second = (weights(ranks, "uneven", rank) for rank in (0, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (first["generator.extra"] < 1).all()


def test_the_checkpoint_of_two_ranks_holds_their_weights(ranks: Path, cpu: Runtime, tmp_path: Path) -> None:
    first, saved = weights(ranks, "mocogan", 0), checkpoint.load(ranks / "run")
    assert saved.step == STEPS["mocogan"]
    torch.testing.assert_close({name: saved.training[name] for name in first}, first, rtol=0, atol=0)
    trainer = single_process("mocogan", cpu)
    alone = checkpoint.load(train(trainer.experiment, tmp_path / "alone", source=trainer.source, runtime=cpu))
    assert any(not torch.equal(alone.training[name], first[name]) for name in first)


LATENTS = """
import sys
from pathlib import Path

import torch

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.runtime.device import detect_runtime
from kinema.training.latents import LatentSource
from kinema.worlds.shape_motion import ShapeMotion

out = Path(sys.argv[1])
runtime = detect_runtime("cpu", "float32")
world = ShapeMotion(9, 16, 32)
torch.manual_seed(0)
codec = VideoVAEConfig(space=4, channels=3, hidden=4).fitted(world.spec).build()
encode, calls = codec.encode, []
codec.encode = lambda frames: calls.append(len(frames)) or encode(frames)
cache = str(out / (f"cache-{runtime.rank}" if sys.argv[2] == "apart" else "cache"))
latents = LatentSource(world, codec, runtime, 40, cache).batch(0, 40, seed=0).latents
torch.save({"latents": latents, "windows": torch.tensor(sum(calls))}, out / f"rank-{runtime.rank}.pt")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("disks", ["shared", "apart"])
def test_one_rank_encodes_for_all_that_share_its_disk(disks: str, tmp_path: Path) -> None:
    run_on_two_ranks(LATENTS, tmp_path, disks)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["windows"] == 40 and second["windows"] == (0 if disks == "shared" else 40)
    torch.testing.assert_close(first["latents"], second["latents"], rtol=0, atol=0)
