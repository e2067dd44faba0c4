"""LatentDiT: what is given stays, windows go on from each other, and what is chosen when sampling counts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from kinema.checkpoint import load_generator
from kinema.config import from_dict, to_dict
from kinema.families.latent_dit import LatentDiT, LatentDiTConfig, LatentDiTSampling
from kinema.families.video_vae import VideoVAEConfig
from kinema.family import Facts
from kinema.flow import Parameterisation, Solver
from kinema.run import Run
from kinema.sample import load, stream
from kinema.train import Experiment, TrainConfig, Trainer, train
from kinema.types import Batch, Conditions, Noise
from kinema.worlds.shape_motion import ShapeMotion

CPU = Run(torch.device("cpu"), torch.float32)
FRAMES, HEIGHT, WIDTH = 8, 16, 32
TINY = {"patch": 4, "channels": 24, "depth": 2, "heads": 2, "sampling": LatentDiTSampling(steps=4)}


def model(classes: tuple[str, ...] = (), **settings: Any) -> LatentDiT:
    """An untrained model whose last layer says something."""
    facts = Facts(FRAMES, HEIGHT, WIDTH, classes=classes)
    torch.manual_seed(0)
    family = cast(LatentDiT, LatentDiTConfig(**(TINY | settings)).fitted(facts).build()).eval()
    for weights in family.generator.denoiser.parameters():
        torch.nn.init.normal_(weights, std=0.05)
    return family


def drawn(family: LatentDiT, frames: int = FRAMES, given: Conditions = Conditions(), seed: int = 0) -> Tensor:
    return torch.cat(list(stream(family, CPU, Noise((seed,)), frames, given)), 1)


def given(mask: Tensor) -> tuple[Tensor, Conditions]:
    """A real clip of which what `mask` [T, H, W] is true for is given."""
    clip = ShapeMotion(len(mask), HEIGHT, WIDTH).batch(0, 1, seed=0).frames
    return clip, Conditions(known=clip, mask=mask[None, :, None])


def masks() -> dict[str, Tensor]:
    nothing = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    parts = {name: nothing.clone() for name in ("first", "last", "both", "box", "dots")}
    parts["first"][:3] = True
    parts["last"][-2:] = True
    parts["both"][0] = parts["both"][-1] = True
    parts["box"][:, 4:] = True
    parts["dots"][::2, ::3, ::5] = True
    return parts


@pytest.mark.parametrize("part", masks())
@pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "dpm++", "ddpm"])
def test_what_is_known_stays_and_the_rest_is_drawn(part: str, solver: Solver) -> None:
    family, mask = model(sampling=LatentDiTSampling(steps=4, solver=solver)), masks()[part]
    clip, conditions = given(mask)
    made, free = drawn(family, given=conditions), drawn(family)
    where = mask[None, :, None].expand_as(made)
    assert torch.equal(made[where], clip[where])
    assert not torch.equal(made[~where], clip[~where])
    assert not torch.equal(made[~where], free[~where]), "what is given has no say in the rest"


def test_a_longer_clip_keeps_its_windows_and_what_is_given_late() -> None:
    family = model()
    mask = torch.zeros(20, HEIGHT, WIDTH, dtype=torch.bool)
    mask[17] = True
    clip, conditions = given(mask)
    long = drawn(family, 20, conditions)
    assert torch.equal(long[:, 17], clip[:, 17])
    torch.testing.assert_close(long[:, :8], drawn(family, 8))
    assert not torch.equal(long[:, 16], drawn(family, 20)[:, 16])


def test_a_window_goes_on_from_the_one_before() -> None:
    """What comes after the first window changes with it, and with the noise that hides it."""
    family = model()
    other = drawn(family, 12, given(torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool))[1])
    clip = drawn(family, 12)
    assert not torch.equal(clip[:, 8:], other[:, 8:])
    family.sampling = replace(family.sampling, context_noise=0.2)
    noised = drawn(family, 12)
    assert torch.equal(noised[:, :8], clip[:, :8])
    assert not torch.equal(noised[:, 8:], clip[:, 8:])


@pytest.mark.parametrize("overlap", [0.01, 0.3, 0.99])
def test_any_overlap(overlap: float) -> None:
    family = model(sampling=LatentDiTSampling(steps=1, overlap=overlap))
    assert drawn(family, 19).shape[1] == 19


def test_guidance() -> None:
    family = model(("up", "left"))
    label = Conditions(label=torch.tensor([1]))
    plain = drawn(family, given=label)
    family.sampling = replace(family.sampling, guidance=1.0, guidance_from=0.2, guidance_to=0.7)
    assert torch.equal(drawn(family, given=label), plain)
    family.sampling = replace(family.sampling, guidance=3.0)
    within = drawn(family, given=label)
    family.sampling = replace(family.sampling, guidance_from=0.0, guidance_to=1.0)
    assert not torch.equal(within, plain)
    assert not torch.equal(drawn(family, given=label), within)


def test_the_loss_is_of_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network errs counts only if it was not told; and it sees what it was told without noise."""
    family, mask = model(), masks()["box"][None, :, None]
    monkeypatch.setattr(family, "_something_given", lambda x, generator: mask.expand(len(x), -1, -1, -1, -1))
    batch = ShapeMotion(FRAMES, HEIGHT, WIDTH).batch(0, 2, seed=0)
    seen: list[Tensor] = []

    def loss(error: Tensor) -> float:
        def network(x: Tensor, *_: Tensor) -> Tensor:
            seen.append(x)
            return error.expand_as(x)

        monkeypatch.setattr(family.generator.denoiser, "forward", network)
        return family._loss(batch, CPU.generator(0))[0].item()

    right = loss(torch.zeros(1))
    assert loss(torch.where(mask, 9.0, 0.0)) == right
    assert loss(torch.where(mask, 0.0, 9.0)) > right + 10
    where = mask.expand_as(batch.frames)
    assert torch.equal(seen[0][where], batch.frames[where])
    assert not torch.equal(seen[0][~where], batch.frames[~where])


def test_what_training_gives() -> None:
    family = model(given=1.0)
    x = torch.zeros(200, FRAMES, 3, HEIGHT, WIDTH)
    known = family._something_given(x, CPU.generator(0))
    frames = known.flatten(2)
    whole, some = frames.all(2), frames.any(2)
    kinds = {
        "first": whole[:, 0] & ~some[:, -1],
        "last": whole[:, -1] & ~some[:, 0],
        "both": whole[:, 0] & whole[:, -1],
        "box": ~whole.any(1) & some.all(1),
    }
    counts = {kind: int(found.sum()) for kind, found in kinds.items()}
    assert sum(counts.values()) == 200
    assert min(counts.values()) > 25, counts
    assert not known.flatten(1).all(1).any(), "something is left to draw"
    assert not model(given=0.0)._something_given(x, CPU.generator(0)).any()


def test_times_are_one_a_clip_or_one_a_frame() -> None:
    family = model(forcing=0.25)
    t = family._times(400, FRAMES, CPU.generator(0))
    apart = (t != t[:, :1]).any(1)
    assert 0.15 < apart.float().mean() < 0.35
    assert (t > 0).all() and (t < 1).all()


@pytest.mark.parametrize("parameterisation", ["data", "velocity"])
def test_it_learns(parameterisation: Parameterisation) -> None:
    """Of still grey clips whose label says how bright, it learns to do as told and to go on with what is given."""

    class Grey(ShapeMotion):
        def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
            label = torch.randint(2, (size,), generator=torch.Generator().manual_seed(step))
            return Batch((label - 0.5)[:, None, None, None, None].repeat(1, 4, 3, 16, 16), Conditions(label=label))

    source = Grey(4, 16, 16)
    config = LatentDiTConfig(
        patch=4, channels=96, depth=2, heads=2, parameterisation=parameterisation, shift=10.0,
        sampling=LatentDiTSampling(steps=8),
    )  # fmt: skip
    trainer = Trainer(Experiment(config, train=TrainConfig(batch=16, lr=2e-3, average=0.95)), source, CPU)
    for _ in range(250):
        trainer.advance()
    with trainer.averaged() as family:
        label, noise = torch.arange(8) % 2, Noise(tuple(range(8)))
        clips = torch.cat(list(stream(family, CPU, noise, 4, Conditions(label=label))), 1)
        expected = (label - 0.5)[:, None, None, None, None]
        assert (clips - expected).abs().mean() < 0.1
        opposite = -expected.expand(-1, 1, 3, 16, 16)
        later = torch.cat(list(stream(family, CPU, noise, 4, Conditions(label=1 - label).beginning(opposite))), 1)
        assert (later - opposite).abs().mean() < 0.1


def codec(folder: Path, **settings: Any) -> Path:
    """A video-vae of few steps."""
    config = VideoVAEConfig(space=4, channels=3, hidden=4, **settings)
    source = ShapeMotion(9, HEIGHT, WIDTH)
    return train(Experiment(config, train=TrainConfig(steps=2, batch=2, lr=1e-2)), folder, source=source, run=CPU)


def test_a_codec_is_taken_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "codec"
    trained = load(codec(folder), CPU).family
    config = LatentDiTConfig(**(TINY | {"patch": 2, "codec": str(folder)}))
    source = ShapeMotion(9, HEIGHT, WIDTH)
    experiment = Experiment(config, train=TrainConfig(steps=1, batch=2))
    run = tmp_path / "run"
    train(experiment, run, source=source, run=CPU)
    shutil.rmtree(folder)  # a checkpoint is complete by itself
    begun = Experiment.from_dict(load_generator(run)[0], "")[0]
    train(begun.changed(train={"steps": 2}), run, source=source, run=CPU, resume=True)
    family = load(run, CPU).family
    assert isinstance(family, LatentDiT) and family.codec is not None
    torch.testing.assert_close(family.codec.generator.state_dict(), trained.generator.state_dict(), rtol=0, atol=0)
    assert drawn(family, 12).shape == (1, 12, 3, HEIGHT, WIDTH)


def test_kept_latents_are_learned_from_as_frames_are() -> None:
    facts = Facts(9, HEIGHT, WIDTH)
    config = LatentDiTConfig(**(TINY | {"patch": 2, "coded": VideoVAEConfig(space=4, channels=3, hidden=4)}))
    family = cast(LatentDiT, config.fitted(facts).build())
    batch = ShapeMotion(9, HEIGHT, WIDTH).batch(0, 2, seed=0)
    latents = family._encoded(batch.frames)
    kept = Batch(batch.frames[:, :0], batch.given, latents)
    assert torch.equal(family._loss(kept, CPU.generator(0))[0], family._loss(batch, CPU.generator(0))[0])


def test_known_frames_through_a_codec() -> None:
    """They come back as the codec gives them, and a latent counts where all of its pixels are known."""
    config = LatentDiTConfig(**(TINY | {"patch": 2, "coded": VideoVAEConfig(space=4, channels=3, hidden=4)}))
    family = cast(LatentDiT, config.fitted(Facts(9, HEIGHT, WIDTH)).build()).eval()
    assert family.codec is not None
    clip = ShapeMotion(9, HEIGHT, WIDTH).batch(0, 1, seed=0).frames
    made = drawn(family, 9, Conditions().beginning(clip[:, :5]))
    back = family.codec.decode(family.codec.encode(clip[:, :5])[0])[0]
    torch.testing.assert_close(made[:, :5], back)
    mask = torch.zeros(1, 9, 1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, 1:, :, :6, :8] = True  # the first frame is not; 4 of 6 rows and all of 8 columns fill latents
    _, cells = family._given(Conditions(known=clip, mask=mask), 1, 3, torch.device("cpu"))
    expected = torch.zeros(1, 3, 1, HEIGHT // 4, WIDTH // 4, dtype=torch.bool)
    expected[:, 1:, :, :1, :2] = True
    assert torch.equal(cells, expected)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_windows_through_a_codec(frames: int) -> None:
    """The first has the latent of a first frame, later ones do not; and training sees both."""
    config = LatentDiTConfig(**(TINY | {"patch": 2, "coded": VideoVAEConfig(space=4, channels=3, hidden=4)}))
    family = cast(LatentDiT, config.fitted(Facts(frames, HEIGHT, WIDTH)).build()).eval()
    lengths: list[int] = []
    family.generator.denoiser.register_forward_pre_hook(lambda _, told: lengths.append(told[0].shape[1]))
    clip = drawn(family, 21)
    assert clip.shape[1] == 21
    window = 1 + (frames - 1) // 4
    assert lengths[0] == window and set(lengths) == {window, max(1, window - 1)}
    lengths.clear()
    batch = ShapeMotion(frames, HEIGHT, WIDTH).batch(0, 1, seed=0)
    for step in range(20):
        family._loss(batch, CPU.generator(step))
    assert set(lengths) == {window, max(1, window - 1)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 5}, "multiples of 5, a token's side"),
        ({"coded": VideoVAEConfig(space=4, levels=(5, 5))}, "makes tokens: train one without --family.levels"),
        ({"codec": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_trained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentDiTConfig(**(TINY | settings)).fitted(Facts(9, HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"guidance": -1.0}, {"guidance_from": 0.7, "guidance_to": 0.7}, {"overlap": 1.0},
     {"context_noise": 0.5}],
)  # fmt: skip
def test_what_cannot_be_chosen(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="latent-dit: "):
        LatentDiTSampling(**settings)


def test_the_configuration_comes_back_whole() -> None:
    config = LatentDiTConfig(coded=VideoVAEConfig(space=4), sampling=LatentDiTSampling(solver="heun"))
    assert from_dict(LatentDiTConfig, to_dict(config), "here") == config


def test_masks_of_other_sizes_are_refused() -> None:
    known, mask = torch.zeros(1, 2, 3, 4, 4), torch.ones(1, 2, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="LatentDiT makes 1 clips of 32x16 here"):
        drawn(model(), given=Conditions(known=known, mask=mask))
