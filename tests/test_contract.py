"""Every family keeps the contract: one suite over tiny instances of the real classes.

In float32 and bfloat16, on each device that is present, compiled where there is a compiler, and on two ranks
(training/test_parallel.py). A new family joins by an entry in INSTANCES, and one for each variant that takes another
path through its code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTSampling
from kinema.families.token_transformer import TokenTransformerSampling
from kinema.family import Codec, Family, Turn
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.sampling.model import load, load_experiment, stream
from kinema.training import checkpoint
from kinema.training.ema import MovingAverage
from kinema.training.loop import Trainer
from kinema.types import Batch, Conditions, Seeds
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import export

STEPS = 4  # of training before sampling: an untrained network may make the same clip of any noise
CLIPS = 4


@dataclass(frozen=True)
class Instance:
    """A family at its smallest."""

    family: str
    settings: dict[str, Any] = field(default_factory=dict)
    labels: bool = False  # whether its clips are labelled
    levels: tuple[int, ...] | None = None  # of the codec that it starts from; (): Gaussian latents
    frames: int = 8  # of a training clip
    steps: int = STEPS


MOCOGAN = {"content": 4, "motion": 3, "ngf": 2, "ndf": 2, "ndf_image": 2}
SVG = {"context_frames": 3, "channels": 8, "code": 16, "hidden": 16, "latent": 4}
TGAN = {"latent": 5, "path": 4, "ngf": 2, "ngf_path": 3, "ndf": 2}
DIT = {"patch": (1, 4), "hidden": 16, "depth": 2, "heads": 2, "sampling": LatentDiTSampling(steps=3)}
GUIDED = LatentDiTSampling(steps=3, solver="ddpm", guidance=2.0, context_noise=0.1, candidates=2, stagger=0.5)
VGAN = {"latent": 5, "ngf": 2, "ndf": 2}
VAE = {"space": 4, "channels": 3, "hidden": 4}
TOKENS = {"hidden": 16, "depth": 2, "heads": 2}
MASKED = TOKENS | {"mode": "masked", "sampling": TokenTransformerSampling(steps=3)}
LEVELS = (4, 5, 3)
PENALISED = {"norm": "none", "loss": "relativistic", "penalty": 1.0, "penalty_decay_steps": 2, "augment": True}
MODERN = PENALISED | {"noise": 0.0, "coordinates": True}
FRAMES = {"codec": "transform", "codec_options": {"channels": 6}}
LATENTS = FRAMES | {"patch": (1, 2)}

INSTANCES: dict[str, Instance] = {
    "latent-dit": Instance("latent-dit", DIT | {"patch": (2, 4), "parameterisation": "data"}),
    "latent-dit-labels": Instance("latent-dit", DIT | {"attention": "factorised"}, labels=True),
    "latent-dit-cosine-labels": Instance(
        "latent-dit", DIT | {"path": "cosine", "parameterisation": "v", "sampling": GUIDED}, labels=True
    ),
    "latent-dit-codec": Instance("latent-dit", DIT | {"patch": (1, 2)}, frames=9, levels=()),
    "latent-dit-codec-patches-in-time": Instance(
        "latent-dit", DIT | {"patch": (2, 2)}, labels=True, frames=13, levels=()
    ),
    "latent-dit-transform": Instance(
        "latent-dit",
        DIT | LATENTS | {"local_conv": True},
        frames=9,
    ),
    "latent-dit-hourglass-labels": Instance(
        "latent-dit",
        DIT
        | {"codec": "transform", "codec_options": {"channels": 6}, "patch": (1, 2), "merged_hidden": 24, "depth": 3},
        labels=True,
        frames=9,
    ),
    "mocogan-paper": Instance("mocogan", MOCOGAN),
    "mocogan-paper-labels": Instance("mocogan", MOCOGAN, labels=True),
    "mocogan-paper-found-categories": Instance("mocogan", MOCOGAN | {"categories": 3}),
    "mocogan-modern": Instance("mocogan", MOCOGAN | MODERN),
    "mocogan-modern-labels": Instance("mocogan", MOCOGAN | MODERN, labels=True),
    "mocogan-latents-labels": Instance("mocogan", MOCOGAN | MODERN | FRAMES, labels=True),
    "mocogan-path-alone": Instance("mocogan", MOCOGAN | {"category": "path", "ndf_image": 0}, labels=True),
    "svg-lp": Instance("svg-lp", SVG, steps=32),  # begins with small weights
    "svg-lp-deterministic": Instance("svg-lp", SVG | {"latent": 0, "pixel": "l1", "gradient": 1.0}),
    "tgan-paper": Instance("tgan", TGAN),
    "tgan-paper-labels": Instance("tgan", TGAN, labels=True),
    "tgan-modern-labels": Instance("tgan", TGAN | PENALISED | {"clip_every": 0}, labels=True),
    "tgan-latents-labels": Instance("tgan", TGAN | PENALISED | FRAMES | {"clip_every": 0}, labels=True),
    "token-transformer": Instance("token-transformer", TOKENS, frames=9, levels=LEVELS),
    "token-transformer-labels": Instance("token-transformer", TOKENS, labels=True, frames=9, levels=LEVELS),
    "token-transformer-text": Instance("token-transformer", TOKENS | {"text": 12}, frames=9, levels=LEVELS),
    "token-transformer-masked": Instance("token-transformer", MASKED, frames=9, levels=LEVELS),
    "token-transformer-masked-labels": Instance("token-transformer", MASKED, labels=True, frames=9, levels=LEVELS),
    "vgan-paper": Instance("vgan", VGAN),
    "vgan-modern": Instance("vgan", VGAN | PENALISED),
    "vgan-latents": Instance("vgan", VGAN | PENALISED | FRAMES),
    "video-vae": Instance("video-vae", VAE | {"time": 1}),
    "video-vae-groups-critic": Instance("video-vae", VAE | {"adversarial": 0.1, "ndf": 2}, frames=9),
    "video-vae-tokens": Instance("video-vae", VAE | {"levels": (4, 5, 3)}, frames=9),
}

GPU = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PLACES = [
    *PRECISIONS,
    *(pytest.param(f"gpu-{precision}", marks=pytest.mark.gpu) for precision in PRECISIONS),
]

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
        self.spec = replace(self.spec, classes=())

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        batch = super().batch(step, size, seed=seed, rank=rank, ranks=ranks)
        return replace(batch, conditions=replace(batch.conditions, label=None))


def untrained(instance: Instance, runtime: Runtime, **train: Any) -> Trainer:
    config = FAMILIES[instance.family](**instance.settings)
    source = (ShapeMotion if instance.labels else Unlabelled)(instance.frames, height=16, width=32)
    settings = TrainConfig(**{"batch": CLIPS, "lr": 1e-3} | train)
    trainer = Trainer(Experiment(config, train=settings), source, runtime)
    trainer.begin()
    return trainer


def clip(
    family: Family, runtime: Runtime, seeds: Seeds, frames: int = 8, conditions: Conditions = Conditions()
) -> Tensor:
    """Clips of these seeds; a family that continues known frames gets the same ones for every seed."""
    if family.context_frames:
        batch = ShapeMotion(frames=8, height=16, width=32).batch(0, 1, seed=0).to(torch.device("cpu"))
        first = batch.frames[:, : family.context_frames]
        conditions = conditions.with_first_frames(first.expand(len(seeds), -1, -1, -1, -1))
    return torch.cat(list(stream(family, runtime, seeds, frames, conditions)), 1)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@pytest.fixture(scope="module", params=INSTANCES)
def instance(request: pytest.FixtureRequest, tiny_codec: Callable[..., str]) -> Instance:
    return with_codec(INSTANCES[request.param], tiny_codec)


def with_codec(instance: Instance, tiny_codec: Callable[..., str]) -> Instance:
    if instance.levels is None:
        return instance
    return replace(instance, settings=instance.settings | {"codec": tiny_codec(instance.levels)})


@pytest.fixture(scope="module", params=PLACES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    on_gpu = request.param.startswith("gpu-")
    if on_gpu and GPU is None:
        pytest.skip("no GPU here")
    precision = PRECISIONS[request.param.removeprefix("gpu-")]
    return Runtime(torch.device(GPU if on_gpu and GPU else "cpu"), precision)


@pytest.fixture(scope="module")
def trainer(instance: Instance, runtime: Runtime) -> Trainer:
    """A trainer after a few steps, to be looked at but not changed."""
    trainer = untrained(instance, runtime)
    for _ in range(instance.steps):
        trainer.advance()
    return trainer


@pytest.fixture(scope="module")
def family(trainer: Trainer) -> Family:
    return trainer.family


def test_every_family_has_an_instance() -> None:
    assert {instance.family for instance in INSTANCES.values()} == set(FAMILIES.names)


@pytest.mark.parametrize("frames", [1, 5, 8, 16, 33])
def test_any_number_of_frames_in_range(family: Family, runtime: Runtime, frames: int) -> None:
    if family.max_frames is not None and frames > family.max_frames:
        with pytest.raises(ValueError, match=f"at most {family.max_frames}: .*--data.frames {frames}"):
            clip(family, runtime, Seeds((0, 1)), frames)
        return
    clips = clip(family, runtime, Seeds((0, 1)), frames)
    assert clips.shape == (2, frames, 3, 16, 32)
    assert clips.dtype == torch.float32
    assert clips.isfinite().all()
    assert clips.abs().max() <= 1


def test_what_is_trained_can_be_sampled(trainer: Trainer) -> None:
    assert trainer.family.max_frames is None or trainer.family.max_frames >= trainer.spec.frames


def test_a_longer_clip_begins_as_a_shorter_one(family: Family, runtime: Runtime) -> None:
    long, short = clip(family, runtime, Seeds((0,)), family.max_frames or 33), clip(family, runtime, Seeds((0,)), 5)
    other = clip(family, runtime, Seeds((1,)), 5)
    assert_nearer(long[:, :5], short, other if family.streams else -short, runtime)


def test_a_seed_means_a_clip(family: Family, runtime: Runtime) -> None:
    frames = min(20, family.max_frames or 20)  # more than a window, where there are windows
    seeds = Seeds((3, 4, 5))
    clips = clip(family, runtime, seeds, frames)
    assert_same(clip(family, runtime, seeds, frames), clips, runtime)  # seeds are a value
    alone = clip(family, runtime, Seeds((4,)), frames)
    for other in (0, 2):
        if family.streams:
            assert_nearer(clips[1], alone[0], clips[other], runtime)
        else:  # it draws nothing: all seeds mean one clip
            assert_nearer(clips[other], alone[0], -alone[0], runtime)


def assert_same(actual: Any, expected: Any, runtime: Runtime) -> None:
    """Equal bit for bit on a CPU; on a GPU but for sums in another order."""
    exact = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(
        actual, expected, **(exact if runtime.device.type == "cpu" else {"rtol": 1e-2, "atol": 1e-2})
    )


def assert_nearer(clip: Tensor, same: Tensor, other: Tensor, runtime: Runtime) -> None:
    """`clip` and `same` differ by rounding, which is small beside how far another seed's clip is."""
    share = 1e-3 if runtime.precision == torch.float32 else 0.1
    assert (clip - same).abs().max().item() < share * (clip - other).abs().max().item()


def test_each_stream_changes_the_clip(family: Family, runtime: Runtime) -> None:
    clips = clip(family, runtime, Seeds((0,)))
    named = {name: (0,) for name in family.streams}
    assert_same(clip(family, runtime, Seeds((7,), named)), clips, runtime)
    for name in family.streams:
        assert not torch.equal(clip(family, runtime, Seeds((0,), {name: (1,)})), clips), name


def test_a_label_that_is_given_is_the_clip_of_the_same_label_drawn(
    instance: Instance, family: Family, runtime: Runtime
) -> None:
    if not instance.labels:
        pytest.skip("its clips have no labels")
    stream_of = next(iter(family.streams & {"motion", "clip", "latents", "tokens"}))
    drawn = Seeds((0,)).stream(stream_of, "label").integers(2)
    chosen = clip(family, runtime, Seeds((0,)), conditions=Conditions(label=drawn))
    assert_same(clip(family, runtime, Seeds((0,))), chosen, runtime)


def test_progress_is_told_and_can_cancel(family: Family, runtime: Runtime) -> None:
    if not family.streams or family.max_frames:
        pytest.skip("it makes its frames at once")
    seen: list[tuple[int, int]] = []

    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 2:
            raise Cancelled

    conditions = Conditions()
    if family.context_frames:
        conditions = conditions.with_first_frames(torch.zeros(1, family.context_frames, 3, 16, 32))
    if isinstance(family, Codec):
        pytest.skip("a codec decodes its prior in chunks and has no solver")
    with pytest.raises(Cancelled):
        list(stream(family, runtime, Seeds((0,)), 40, conditions, cancel))
    assert all(0 <= done <= total for done, total in seen)


def test_unknown_stream_is_refused(family: Family, runtime: Runtime) -> None:
    with pytest.raises(ValueError, match="no stream of noise called wind"):
        clip(family, runtime, Seeds((0,), {"wind": (1,)}))


def test_unusable_conditions_are_refused(family: Family, runtime: Runtime) -> None:
    assert set(UNUSUAL) == set(Conditions.__dataclass_fields__)
    for name in set(UNUSUAL) - family.accepts:
        with pytest.raises(ValueError, match=f"cannot use {name}"):
            clip(family, runtime, Seeds((0,)), conditions=Conditions(**{name: UNUSUAL[name]}))


@pytest.mark.parametrize("size", [(8, 24), (16, 24)])
def test_known_frames_of_another_size_are_refused(family: Family, runtime: Runtime, size: tuple[int, int]) -> None:
    if "known" not in family.accepts:
        pytest.skip("it takes no known frames")
    conditions = Conditions().with_first_frames(torch.zeros(1, 5, 3, *size))
    with pytest.raises(ValueError, match="resize the frames"):
        list(stream(family, runtime, Seeds((0,)), 8, conditions))


def test_labels_decide_where_there_are_any(instance: Instance, family: Family, runtime: Runtime) -> None:
    def of(*labels: int) -> Tensor:
        conditions = Conditions(label=torch.tensor(labels))
        return clip(family, runtime, Seeds((0,) * len(labels)), conditions=conditions)

    with pytest.raises(ValueError, match="label"):
        of(99)
    if instance.labels:
        first, second = of(0, 1)
        assert not torch.equal(first, second)


def test_a_checkpoint_makes_the_same_clips(trainer: Trainer, runtime: Runtime, tmp_path: Path) -> None:
    checkpoint.save_step(tmp_path, trainer.state())
    with trainer.averaged() as family:
        clips = clip(family, runtime, Seeds((0, 1)))
    model = load(tmp_path, runtime)
    assert model.spec == trainer.spec
    assert_same(clip(model.family, runtime, Seeds((0, 1))), clips, runtime)


def test_an_exported_file_makes_the_same_clips(trainer: Trainer, runtime: Runtime, tmp_path: Path) -> None:
    checkpoint.save_step(tmp_path / "run", trainer.state())
    experiment, spec = load_experiment(tmp_path / "run")
    file = export(tmp_path / "run", tmp_path / "x.safetensors", experiment.portable().to_dict(spec))
    family = load_experiment(file)[0].family
    assert family.codec_source is None and getattr(family, "perceptual", None) is None
    clips = clip(load(tmp_path / "run", runtime).family, runtime, Seeds((0,)))
    assert_same(clip(load(file, runtime).family, runtime, Seeds((0,))), clips, runtime)


def test_a_resumed_run_equals_an_unbroken_one(
    trainer: Trainer, instance: Instance, runtime: Runtime, tmp_path: Path
) -> None:
    checkpoint.save_step(tmp_path, trainer.state())
    resumed = untrained(instance, runtime)
    resumed.restore(checkpoint.load(tmp_path))
    resumed.advance()
    unbroken = untrained(instance, runtime)
    for _ in range(trainer.step + 1):
        unbroken.advance()
    assert_same(resumed.family.state_dict(), unbroken.family.state_dict(), runtime)


def test_a_turn_changes_its_parameters_and_no_others(instance: Instance, runtime: Runtime) -> None:
    trainer = untrained(instance, runtime)
    for turn in trainer.turns:
        trainer.turns = [turn]
        before = parameters(trainer.family)
        object.__setattr__(turn, "after", lambda step: None)
        trainer.advance()
        changed = {name for name, value in parameters(trainer.family).items() if not torch.equal(value, before[name])}
        own = {id(parameter) for parameter in turn.parameters}
        others = {name for name, parameter in trainer.family.named_parameters() if id(parameter) not in own}
        assert changed, turn.name
        assert not changed & others, turn.name


def test_losses_go_through_forward(instance: Instance, runtime: Runtime) -> None:
    trainer = untrained(instance, runtime)
    batch = trainer.source.batch(0, CLIPS, seed=0).to(runtime.device)
    trainer.family.train()
    for turn in trainer.turns:
        inside, calls, outside = [0], [0], set[str]()

        def enter(*_: Any, inside: list[int] = inside, calls: list[int] = calls) -> None:
            inside[0], calls[0] = inside[0] + 1, calls[0] + 1

        def leave(*_: Any, inside: list[int] = inside) -> None:
            inside[0] -= 1

        hooks = [turn.module.register_forward_pre_hook(enter), turn.module.register_forward_hook(leave)]
        for name, part in turn.module.named_modules():
            if name and any(True for _ in part.parameters(recurse=False)):

                def called(*_: Any, name: str = name, inside: list[int] = inside, outside: set[str] = outside) -> None:
                    if not inside[0]:
                        outside.add(name)

                hooks.append(part.register_forward_pre_hook(called))
        with runtime.autocast():
            turn.loss(batch, runtime.train_step(0, 0, turn.name))
        for hook in hooks:
            hook.remove()
        assert calls[0] and not outside, f"{turn.name}: compilation, sharding and adapters would not see {outside}"


def test_what_is_frozen_stays_frozen(instance: Instance, runtime: Runtime) -> None:
    """Parameters that are frozen when a family is built are neither trained nor averaged."""
    trainer = untrained(instance, runtime)
    module = trainer.family.generator
    name = next(name for name, p in module.named_parameters() if p.ndim > 1)
    frozen = module.get_parameter(name).requires_grad_(False)
    trainer.turns = trainer.family.turns()
    assert all(frozen is not p for turn in trainer.turns for p in turn.parameters)
    average = MovingAverage(module, [p for turn in trainer.turns for p in turn.parameters], 0.9)
    assert average.module.get_parameter(name) is frozen
    before = frozen.clone()
    for _ in range(2):
        trainer.advance()
        average.update(trainer.step)
    assert torch.equal(frozen, before)


def test_each_module_can_learn_a_batch_by_heart(instance: Instance, runtime: Runtime) -> None:
    trainer = untrained(instance, runtime)
    batch = trainer.source.batch(0, CLIPS, seed=0).to(runtime.device)

    def loss(turn: Turn) -> Tensor:
        with runtime.autocast():
            return turn.loss(batch, runtime.train_step(0, 0, "the same noise every time"))[0]

    for turn in trainer.turns:
        optimizer = torch.optim.Adam(turn.parameters, 5e-3)
        first = loss(turn).item()
        for _ in range(12):
            optimizer.zero_grad()
            loss(turn).backward()
            optimizer.step()
        assert loss(turn).item() < 0.97 * first, turn.name


COMPILED = {instance.family: name for name, instance in reversed(INSTANCES.items())}  # the first of each family


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("family", COMPILED)
def test_compiled_training_is_the_same(family: str, device: str, tiny_codec: Callable[..., str]) -> None:
    if not any(map(which, ("g++", "clang++", "cl"))):
        pytest.skip("there is no C++ compiler here")
    if device == "gpu" and GPU is None:
        pytest.skip("no GPU here")
    name = COMPILED[family]
    levels = INSTANCES[name].levels
    codec = "" if levels is None else tiny_codec(levels)
    script = Path(__file__).with_name("compiled.py")
    words = [sys.executable, script, name, device if device == "cpu" else GPU, codec]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    losses = json.loads(done.stdout)
    assert losses["compiled"] == pytest.approx(losses["eager"], rel=1e-2, abs=1e-3)
