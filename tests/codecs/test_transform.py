"""The transform codec: the best linear codec of blocks, exact in chunks, the same for the same clips."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from kinema.codecs.transform import Transform, TransformConfig, rate_distortion
from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig
from kinema.runtime.device import Runtime
from kinema.sampling.model import load
from kinema.training.loop import Trainer, train
from kinema.types import ClipSpec
from kinema.worlds.shape_motion import ShapeMotion

CPU = Runtime(torch.device("cpu"), torch.float32)


def clips(count: int = 8, frames: int = 9, batches: int = 3) -> list[Tensor]:
    world = ShapeMotion(frames, height=16, width=32)
    return [world.batch(step, count, seed=1).to(torch.device("cpu")).frames for step in range(batches)]


def fitted(space: int = 4, time: int = 4, channels: int = 8) -> Transform:
    codec = TransformConfig(space, time, channels).build()
    codec.calibrate(clips())
    return codec


def psnr(x: Tensor, y: Tensor) -> float:
    return float(-10 * ((x - y) / 2).square().mean().log10())


@pytest.mark.parametrize(("space", "time"), [(4, 4), (2, 2), (8, 1)])
def test_latents_have_a_mean_square_of_1_and_the_contract_s_shape(space: int, time: int) -> None:
    codec, frames = fitted(space, time), torch.cat(clips())
    latents, _ = codec.encode(frames)
    assert latents.shape == (24, 1 + 8 // time, 8, 16 // space, 32 // space)
    assert latents[:, 0].square().mean() == pytest.approx(1, abs=0.2)
    assert latents[:, 1:].square().mean() == pytest.approx(1, abs=0.2)
    assert codec.decode(latents)[0].shape == frames.shape


def test_it_is_the_best_linear_codec_of_its_size() -> None:
    codec, frames = fitted(4, 4, 8), torch.cat(clips())
    own = psnr(codec.decode(codec.encode(frames)[0])[0][:, 1:], frames[:, 1:])
    blocks = rearrange(frames[:, 1:], "b (l t) c (h p) (w q) -> (b l h w) (t c p q)", t=4, p=4, q=4)
    mean = blocks.mean(0)
    best = torch.linalg.svd(blocks - mean, full_matrices=False)
    rebuilt = best.U[:, :8] * best.S[:8] @ best.Vh[:8] + mean
    assert own == pytest.approx(psnr(rebuilt.clamp(-1, 1), blocks), abs=0.3)
    generator = torch.Generator().manual_seed(0)
    random = torch.linalg.qr(torch.randn(192, 8, generator=generator)).Q
    assert own > psnr((blocks - mean) @ random @ random.T + mean, blocks) + 3


def test_a_first_frame_s_channels_mean_what_those_of_groups_mean() -> None:
    codec = TransformConfig(4, 4, 8).build()
    codec.calibrate([frames[:, :1].expand(-1, 9, -1, -1, -1) for frames in clips()])  # that do not move
    still = codec.groups.vectors.unflatten(0, (4, -1)).sum(0)
    alike = torch.nn.functional.cosine_similarity(codec.first.vectors, still, dim=0)
    assert alike.median() > 0.9


def test_chunks_equal_the_whole_and_an_image_is_a_video_of_one_frame() -> None:
    codec, frames = fitted(), clips(2, 17)[0]
    whole = codec.encode(frames)[0]
    chunked = torch.cat(list(codec.encode_chunks(frames.split([3, 5, 1, 8], 1))), 1)
    assert torch.equal(whole, chunked)
    decoded = torch.cat(list(codec.decode_chunks(whole.split(2, 1), 17)), 1)
    assert torch.allclose(decoded, codec.decode(whole)[0], atol=1e-6)
    assert torch.equal(codec.encode(frames[:, :1])[0], whole[:, :1])


def test_the_same_clips_give_the_same_codec() -> None:
    first, second = fitted().state_dict(), fitted().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_clips_of_one_colour_are_coded_exactly() -> None:
    codec = TransformConfig(4, 4, 8).build()
    still = torch.full((4, 9, 3, 16, 16), 0.25)
    codec.calibrate([still])
    latents, _ = codec.encode(still)
    assert latents.isfinite().all() and torch.allclose(codec.decode(latents)[0], still, atol=1e-3)


def test_autocast_changes_nothing() -> None:
    codec, frames = fitted(), clips()[0]
    with torch.autocast("cpu", torch.bfloat16):
        latents, _ = codec.encode(frames)
    assert torch.equal(latents, codec.encode(frames)[0])


def test_the_rate_distortion_table_is_what_codecs_reach() -> None:
    batches = clips(batches=4)
    table = rate_distortion(batches, [(4, 4), (8, 4)], [4, 8, 16])
    assert [(row.space, row.channels) for row in table] == [(s, c) for s in (4, 8) for c in (4, 8, 16)]
    for row in table[:3]:
        codec = TransformConfig(row.space, row.time, row.channels).build()
        codec.calibrate(batches)
        frames = torch.cat(batches)
        decoded = codec.decode(codec.encode(frames)[0])[0]
        assert row.psnr == pytest.approx(psnr(decoded[:, 1:], frames[:, 1:]), abs=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": 2, "channels": 13}, "channels must be at most 12, not 13"),
        ({"time": 0}, "time is 0: it must be 1 to"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformConfig(**settings)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ClipSpec(16, 64, 64), r"--data.frames 13 or 17"),
        (ClipSpec(17, 66, 64), r"multiples of 4, not 66 and 64"),
    ],
)
def test_clips_that_are_no_whole_blocks_are_refused(spec: ClipSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformConfig().fitted(spec)


@pytest.mark.parametrize(
    ("height", "width", "space", "channels"),
    [
        (16, 32, 4, 16),
        (64, 64, 4, 16),
        (56, 72, 4, 16),
        (88, 88, 4, 16),  # no pairs of blocks of 8x8
        (96, 96, 8, 32),
        (128, 128, 8, 32),
        (144, 256, 8, 32),
        (256, 256, 16, 64),
    ],
)
def test_blocks_grow_with_the_frames(height: int, width: int, space: int, channels: int) -> None:
    fitted = TransformConfig().fitted(ClipSpec(17, height, width))
    assert fitted == TransformConfig(space, 4, channels)
    assert TransformConfig(1).fitted(ClipSpec(17, 16, 16)).channels == 3
    assert TransformConfig(16, channels=5).fitted(ClipSpec(17, 64, 64)) == TransformConfig(16, 4, 5)


def test_sizes_left_open_are_refused() -> None:
    with pytest.raises(ValueError, match="left open"):
        TransformConfig(space=4).build()


def test_frames_that_are_no_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="1 frame and then groups of 4"):
        fitted().encode(torch.zeros(1, 3, 3, 16, 16))


def experiment(**family: Any) -> Experiment:
    settings = {"codec": "transform", "codec_options": {"channels": 8}, "patch": (1, 2), "hidden": 16, "depth": 1}
    config = LatentDiTConfig(**settings | {"heads": 2} | family)
    return Experiment(config, DataConfig(frames=9, height=16, width=32), TrainConfig(steps=2, batch=2))


def test_a_run_fits_its_codec_keeps_it_and_loads_it(tmp_path: Path) -> None:
    train(experiment(), tmp_path, source=ShapeMotion(9, 16, 32), runtime=CPU)
    model = load(tmp_path, CPU)
    codec = model.family.codec
    assert isinstance(codec, Transform) and codec.config == TransformConfig(4, channels=8)
    trainer = Trainer(experiment(), ShapeMotion(9, 16, 32), CPU)
    trainer.begin()
    assert trainer.family.codec is not None
    fitted_again = trainer.family.codec.state_dict()
    assert all(torch.equal(value, fitted_again[name]) for name, value in codec.state_dict().items())
    frames = torch.cat(clips())
    assert psnr(codec.decode(codec.encode(frames)[0])[0], frames) > 20
    more = experiment().changed(train={"steps": 3})
    train(more, tmp_path, source=ShapeMotion(9, 16, 32), runtime=CPU, resume=True)


def test_a_start_from_another_run_keeps_its_codec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(experiment(), tmp_path, source=ShapeMotion(9, 16, 32), runtime=CPU)
    first = load(tmp_path, CPU).family.codec
    assert first is not None
    monkeypatch.setattr(Trainer, "_calibration_clips", lambda trainer: [clip / 2 for clip in clips()])
    trainer = Trainer(experiment().changed(train={"init_from": str(tmp_path)}), ShapeMotion(9, 16, 32), CPU)
    trainer.begin()
    assert trainer.family.codec is not None
    assert torch.equal(trainer.family.codec.state_dict()["groups.vectors"], first.state_dict()["groups.vectors"])
    more = experiment(codec_options={"channels": 6}).changed(train={"init_from": str(tmp_path)})
    with pytest.raises(ValueError, match="has another codec than transform with these settings"):
        Trainer(more, ShapeMotion(9, 16, 32), CPU).begin()


def test_codecs_that_are_trained_need_a_run() -> None:
    with pytest.raises(ValueError, match="video-vae has to be trained: kinema train video-vae"):
        Trainer(experiment(codec="video-vae", codec_options={}), ShapeMotion(9, 16, 32), CPU).begin()


def test_unknown_options_of_a_codec_are_named() -> None:
    with pytest.raises(ValueError, match=r"codec-options of transform.*depth"):
        Trainer(experiment(codec_options={"depth": 3}), ShapeMotion(9, 16, 32), CPU)


def test_options_for_a_trained_codec_are_refused(tiny_codec: Any) -> None:
    with pytest.raises(ValueError, match="of a codec that is fitted"):
        Trainer(experiment(codec=tiny_codec()), ShapeMotion(9, 16, 32), CPU)


def test_psnr_of_a_perfect_table_is_finite() -> None:
    still = torch.full((4, 9, 3, 16, 16), 0.25)
    (row,) = rate_distortion([still], [(4, 4)], [8])
    assert math.isfinite(row.psnr) and row.psnr > 60
