"""Every family keeps the contract: one suite over tiny instances of the real classes, in float32 and bfloat16.

A new family joins by an entry in INSTANCES, and one for each variant that takes another path through its code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinema import checkpoint
from kinema.families import FAMILIES, config_class
from kinema.families.latent_dit import LatentDiTSampling
from kinema.families.token_transformer import TokenTransformerSampling
from kinema.family import Family, Turn
from kinema.run import Run
from kinema.sample import load, stream
from kinema.train import Experiment, TrainConfig, Trainer
from kinema.types import Batch, Conditions, Noise
from kinema.worlds.shape_motion import ShapeMotion

STEPS = 4  # of training before sampling: an untrained network may say the same whatever its noise
CLIPS = 4


@dataclass(frozen=True)
class Instance:
    """A family at its smallest."""

    family: str
    settings: dict[str, Any] = field(default_factory=dict)
    labels: bool = False  # whether its clips are labelled
    levels: tuple[int, ...] | None = None  # of the trained codec that it begins with; (): Gaussian latents
    frames: int = 8  # of a training clip
    steps: int = STEPS


MOCOGAN = {"content": 4, "motion": 3, "ngf": 2, "ndf": 2, "ndf_image": 2}
SVG = {"past": 3, "channels": 8, "code": 16, "hidden": 16, "latent": 4}
TGAN = {"latent": 5, "path": 4, "ngf": 2, "ngf_path": 3, "ndf": 2}
DIT = {"patch": (1, 4), "hidden": 16, "depth": 2, "heads": 2, "sampling": LatentDiTSampling(steps=3)}
GUIDED = LatentDiTSampling(steps=3, solver="ddpm", guidance=2.0, context_noise=0.1, candidates=2)
VGAN = {"latent": 5, "ngf": 2, "ndf": 2}
VAE = {"space": 4, "channels": 3, "hidden": 4}
TOKENS = {"hidden": 16, "depth": 2, "heads": 2}
MASKED = TOKENS | {"mode": "masked", "sampling": TokenTransformerSampling(steps=3)}
LEVELS = (4, 5, 3)
PENALISED = {"norm": "none", "loss": "relativistic", "penalty": 1.0, "penalty_falls": 2, "augment": True}
MODERN = PENALISED | {"noise": 0.0, "coordinates": True}

INSTANCES = {
    "latent-dit": Instance("latent-dit", DIT | {"patch": (2, 4), "parameterisation": "data"}),
    "latent-dit-labels": Instance("latent-dit", DIT | {"attention": "factorised"}, labels=True),
    "latent-dit-cosine-labels": Instance(
        "latent-dit", DIT | {"path": "cosine", "parameterisation": "v", "sampling": GUIDED}, labels=True
    ),
    "latent-dit-codec": Instance("latent-dit", DIT | {"patch": (1, 2)}, frames=9, levels=()),
    "mocogan-paper": Instance("mocogan", MOCOGAN),
    "mocogan-paper-labels": Instance("mocogan", MOCOGAN, labels=True),
    "mocogan-paper-found-categories": Instance("mocogan", MOCOGAN | {"categories": 3}),
    "mocogan-modern": Instance("mocogan", MOCOGAN | MODERN),
    "mocogan-modern-labels": Instance("mocogan", MOCOGAN | MODERN, labels=True),
    "mocogan-path-alone": Instance("mocogan", MOCOGAN | {"category": "path", "ndf_image": 0}, labels=True),
    "svg-lp": Instance("svg-lp", SVG, steps=32),  # begins with small weights
    "svg-lp-deterministic": Instance("svg-lp", SVG | {"latent": 0, "pixel": "l1", "gradient": 1.0}),
    "tgan-paper": Instance("tgan", TGAN),
    "tgan-paper-labels": Instance("tgan", TGAN, labels=True),
    "tgan-modern-labels": Instance("tgan", TGAN | PENALISED | {"clip_every": 0}, labels=True),
    "token-transformer": Instance("token-transformer", TOKENS, frames=9, levels=LEVELS),
    "token-transformer-labels": Instance("token-transformer", TOKENS, labels=True, frames=9, levels=LEVELS),
    "token-transformer-text": Instance("token-transformer", TOKENS | {"text": 12}, frames=9, levels=LEVELS),
    "token-transformer-masked": Instance("token-transformer", MASKED, frames=9, levels=LEVELS),
    "token-transformer-masked-labels": Instance("token-transformer", MASKED, labels=True, frames=9, levels=LEVELS),
    "vgan-paper": Instance("vgan", VGAN),
    "vgan-modern": Instance("vgan", VGAN | PENALISED),
    "video-vae": Instance("video-vae", VAE | {"time": 1}),
    "video-vae-groups-critic": Instance("video-vae", VAE | {"adversarial": 0.1, "ndf": 2}, frames=9),
    "video-vae-tokens": Instance("video-vae", VAE | {"levels": (4, 5, 3)}, frames=9),
}

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

UNUSUAL = {  # a value for every condition, of a single clip
    "text": ("a red circle",),
    "label": torch.tensor([0]),
    "audio": torch.zeros(1, 1600),
    "actions": torch.zeros(1, 8, 2),
    "known": torch.zeros(1, 8, 3, 16, 32),
    "mask": torch.ones(1, 8, 1, 16, 32, dtype=torch.bool),
}


class Unlabelled(ShapeMotion):
    """Shape Motion without its labels."""

    def __init__(self, frames: int, height: int, width: int) -> None:
        super().__init__(frames, height, width)
        self.facts = replace(self.facts, classes=())

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        batch = super().batch(step, size, seed=seed, rank=rank, ranks=ranks)
        return replace(batch, given=replace(batch.given, label=None))


def untrained(instance: Instance, run: Run) -> Trainer:
    config = config_class(instance.family)(**instance.settings)
    source = (ShapeMotion if instance.labels else Unlabelled)(instance.frames, height=16, width=32)
    trainer = Trainer(Experiment(config, train=TrainConfig(batch=CLIPS, lr=1e-3)), source, run)
    trainer.begin()
    return trainer


def clip(family: Family, run: Run, noise: Noise, frames: int = 8, given: Conditions = Conditions()) -> Tensor:
    """Clips of these seeds; a family that goes on from given frames is given the same ones for every seed."""
    if family.past:
        first = ShapeMotion(frames=8, height=16, width=32).batch(0, 1, seed=0).frames[:, : family.past]
        given = given.beginning(first.expand(len(noise), -1, -1, -1, -1))
    return torch.cat(list(stream(family, run, noise, frames, given)), 1)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@pytest.fixture(scope="module", params=INSTANCES)
def instance(request: pytest.FixtureRequest, tiny_codec: Callable[..., str]) -> Instance:
    found = INSTANCES[request.param]
    if found.levels is None:
        return found
    return replace(found, settings=found.settings | {"codec": tiny_codec(found.levels)})


@pytest.fixture(scope="module", params=PRECISIONS)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(torch.device("cpu"), PRECISIONS[request.param])


@pytest.fixture(scope="module")
def trainer(instance: Instance, run: Run) -> Trainer:
    """A trainer after a few steps, to be looked at but not changed."""
    trainer = untrained(instance, run)
    for _ in range(instance.steps):
        trainer.advance()
    return trainer


@pytest.fixture(scope="module")
def family(trainer: Trainer) -> Family:
    return trainer.family


def test_every_family_has_an_instance() -> None:
    assert {instance.family for instance in INSTANCES.values()} == set(FAMILIES)


@pytest.mark.parametrize("frames", [1, 5, 8, 16, 33])
def test_any_number_of_frames_in_range(family: Family, run: Run, frames: int) -> None:
    if family.longest is not None and frames > family.longest:
        with pytest.raises(ValueError, match=f"at most {family.longest}: .*--data.frames {frames}"):
            clip(family, run, Noise((0, 1)), frames)
        return
    clips = clip(family, run, Noise((0, 1)), frames)
    assert clips.shape == (2, frames, 3, 16, 32)
    assert clips.dtype == torch.float32
    assert clips.isfinite().all()
    assert clips.abs().max() <= 1


def test_what_is_trained_can_be_drawn(trainer: Trainer) -> None:
    assert trainer.family.longest is None or trainer.family.longest >= trainer.facts.frames


def test_a_longer_clip_begins_as_a_shorter_one(family: Family, run: Run) -> None:
    long, short = clip(family, run, Noise((0,)), family.longest or 33), clip(family, run, Noise((0,)), 5)
    other = clip(family, run, Noise((1,)), 5)
    assert_nearer(long[:, :5], short, other if family.streams else -short, run)


def test_a_seed_means_a_clip(family: Family, run: Run) -> None:
    clips = clip(family, run, Noise((3, 4, 5)))
    torch.testing.assert_close(clip(family, run, Noise((3, 4, 5))), clips, rtol=0, atol=0)
    alone = clip(family, run, Noise((4,)))
    for other in (0, 2):
        if family.streams:
            assert_nearer(clips[1], alone[0], clips[other], run)
        else:  # it draws nothing: all seeds mean one clip
            assert_nearer(clips[other], alone[0], -alone[0], run)


def assert_nearer(clip: Tensor, same: Tensor, other: Tensor, run: Run) -> None:
    """`clip` and `same` differ by rounding, which is small beside how far another seed's clip is."""
    share = 1e-3 if run.precision == torch.float32 else 0.1
    assert (clip - same).abs().max().item() < share * (clip - other).abs().max().item()


def test_each_stream_of_noise_has_its_say(family: Family, run: Run) -> None:
    clips = clip(family, run, Noise((0,)))
    named = {name: (0,) for name in family.streams}
    torch.testing.assert_close(clip(family, run, Noise((7,), named)), clips, rtol=0, atol=0)
    for name in family.streams:
        assert not torch.equal(clip(family, run, Noise((0,), {name: (1,)})), clips), name


def test_unknown_stream_is_refused(family: Family, run: Run) -> None:
    with pytest.raises(ValueError, match="no noise called wind"):
        clip(family, run, Noise((0,), {"wind": (1,)}))


def test_unusable_conditions_are_refused(family: Family, run: Run) -> None:
    assert set(UNUSUAL) == set(Conditions.__dataclass_fields__)
    for name in set(UNUSUAL) - family.accepts:
        with pytest.raises(ValueError, match=f"cannot use {name}"):
            clip(family, run, Noise((0,)), given=Conditions(**{name: UNUSUAL[name]}))


def test_labels_decide_where_there_are_any(instance: Instance, family: Family, run: Run) -> None:
    def of(*labels: int) -> Tensor:
        return clip(family, run, Noise((0,) * len(labels)), given=Conditions(label=torch.tensor(labels)))

    with pytest.raises(ValueError, match="label"):
        of(99)
    if instance.labels:
        first, second = of(0, 1)
        assert not torch.equal(first, second)


def test_a_checkpoint_makes_the_same_clips(trainer: Trainer, run: Run, tmp_path: Path) -> None:
    checkpoint.save_step(tmp_path, trainer.state())
    with trainer.averaged() as family:
        clips = clip(family, run, Noise((0, 1)))
    model = load(tmp_path, run)
    assert model.facts == trainer.facts
    torch.testing.assert_close(clip(model.family, run, Noise((0, 1))), clips, rtol=0, atol=0)


def test_a_resumed_run_equals_an_unbroken_one(trainer: Trainer, instance: Instance, run: Run, tmp_path: Path) -> None:
    checkpoint.save_step(tmp_path, trainer.state())
    resumed = untrained(instance, run)
    resumed.restore(checkpoint.load(tmp_path))
    resumed.advance()
    unbroken = untrained(instance, run)
    for _ in range(trainer.step + 1):
        unbroken.advance()
    torch.testing.assert_close(resumed.family.state_dict(), unbroken.family.state_dict(), rtol=0, atol=0)


def test_a_turn_changes_its_player_and_nobody_else(instance: Instance, run: Run) -> None:
    trainer = untrained(instance, run)
    for turn in trainer.turns:
        trainer.turns = [replace(turn, after=lambda: None)]
        before = parameters(trainer.family)
        trainer.advance()
        changed = {name for name, value in parameters(trainer.family).items() if not torch.equal(value, before[name])}
        own = {id(parameter) for parameter in turn.player.parameters()}
        others = {name for name, parameter in trainer.family.named_parameters() if id(parameter) not in own}
        assert changed, turn.name
        assert not changed & others, turn.name


def test_each_player_can_learn_a_batch_by_heart(instance: Instance, run: Run) -> None:
    trainer = untrained(instance, run)
    batch = trainer.source.batch(0, CLIPS, seed=0)

    def loss(turn: Turn) -> Tensor:
        with run.autocast():
            return turn.loss(batch, run.generator("the same noise every time"))[0]

    for turn in trainer.turns:
        optimizer = torch.optim.Adam(turn.player.parameters(), 5e-3)
        first = loss(turn).item()
        for _ in range(12):
            optimizer.zero_grad()
            loss(turn).backward()
            optimizer.step()
        assert loss(turn).item() < 0.97 * first, turn.name
