"""The video codec: causal, the same in chunks as at once, with two bottlenecks and a critic."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from kinema.codecs.video_vae import CHUNK, NARROW, Gaussian, Quantized, VideoVAE, VideoVAEConfig
from kinema.config import to_dict
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig
from kinema.families.tgan import TGANConfig
from kinema.family import CodecConfig, FamilyConfig
from kinema.nn.reconstruction import gradient_difference
from kinema.runtime.device import Runtime
from kinema.sampling.model import load, stream
from kinema.training import checkpoint
from kinema.training.loop import Trainer
from kinema.types import Batch, ClipSpec, Conditions, Seeds, TrainStep
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import load_codec

TINY = VideoVAEConfig(space=4, time=2, channels=3, hidden=4, ndf=2)
TOKENS = {"levels": (4, 5, 3)}
STEP = TrainStep.from_seed(5)
CODECS = [{}, {"time": 1, "space": 8}, {"time": 4, **TOKENS}, {"time": 4, "space": 8, "fold": 4}]


def codec(**settings: Any) -> VideoVAE:
    """A codec in evaluation mode whose normalisation has seen latents, neither centred nor of unit deviation."""
    torch.manual_seed(0)
    family = replace(TINY, **settings).fitted(ClipSpec(9, 16, 32)).build()
    for parameter in family.generator.parameters():
        if parameter.ndim > 1:
            parameter.data *= 2  # so that every latent has an effect
    for _ in range(3):
        family._loss(Batch(clips(4, 9)), STEP)
    return family.eval()


def clips(count: int, frames: int) -> Tensor:
    return ShapeMotion(frames, 16, 32).batch(0, count, seed=1).to(torch.device("cpu")).frames


@torch.no_grad()
@pytest.mark.parametrize(("space", "time"), [(4, 1), (4, 4), (8, 2)])
def test_the_first_frame_has_latents_of_its_own_and_then_groups(space: int, time: int) -> None:
    family = codec(space=space, time=time)
    latents, _ = family.encode(clips(2, 9))
    assert latents.shape == (2, 1 + 8 // time, 3, 16 // space, 32 // space)
    assert latents.shape[1:3] == (family.length(9), family.channels)
    frames, _ = family.decode(latents)
    assert frames.shape == (2, 9, 3, 16, 32)
    image, _ = family.encode(clips(2, 9)[:, :1])  # a video of one frame
    torch.testing.assert_close(image, latents[:, :1])
    torch.testing.assert_close(family.decode(image)[0], frames[:, :1])


@torch.no_grad()
@pytest.mark.parametrize("settings", CODECS)
@pytest.mark.parametrize("groups", [(0, 1, 1, 1, 1, 1, 1), (1, 5), (2, 3, 1), (6,)])
def test_chunks_give_the_output_of_the_complete_video(settings: dict[str, Any], groups: tuple[int, ...]) -> None:
    family = codec(**settings)
    frames = clips(2, 1 + 6 * family.time)
    whole, _ = family.encode(frames)
    drawn, _ = family.decode(whole)
    assert drawn.std() > 0.01

    ends = [1 + count * family.time for count in accumulate(groups)]
    state, sizes, parts = None, [], []
    for chunk in frames.tensor_split(ends[:-1], 1):
        latents, state = family.encode(chunk, state)
        parts.append(latents)
        sizes.append([kept.shape for kept in state])
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-4)
    assert all(size == sizes[0] for size in sizes)  # memory does not grow

    state, sizes, parts = None, [], []
    for chunk in whole.split([1 + groups[0], *groups[1:]], 1):
        made, state = family.decode(chunk, state)
        parts.append(made)
        sizes.append([kept.shape for kept in state])
    torch.testing.assert_close(torch.cat(parts, 1), drawn, atol=1e-5, rtol=1e-4)
    assert all(size == sizes[0] for size in sizes)


@torch.no_grad()
def test_no_output_depends_on_later_groups() -> None:
    family, frames = codec(), clips(1, 9)
    changed = frames.index_fill(1, torch.tensor(5), 0.3)  # of the third group after the first frame
    latents, other = family.encode(frames)[0], family.encode(changed)[0]
    torch.testing.assert_close(other[:, :3], latents[:, :3], rtol=0, atol=0)
    assert not torch.equal(other[:, 3], latents[:, 3])
    changed = latents.index_fill(1, torch.tensor(3), 0.3)
    made, other = family.decode(latents)[0], family.decode(changed)[0]
    torch.testing.assert_close(other[:, :5], made[:, :5], rtol=0, atol=0)
    assert not torch.equal(other[:, 5:7], made[:, 5:7])


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(11,), (1,) * 11, (3, 7, 1), (2, 9)])
def test_videos_of_any_length_are_filled_up_and_cut(sizes: tuple[int, ...]) -> None:
    family, frames = codec(time=4), clips(2, 11)
    filled = torch.cat([frames, frames[:, -1:], frames[:, -1:]], 1)
    whole, _ = family.encode(filled)
    latents = torch.cat(list(family.encode_chunks(frames.split(sizes, 1))), 1)
    assert latents.shape[1] == family.length(11) == 4
    torch.testing.assert_close(latents, whole, atol=1e-5, rtol=1e-4)
    drawn = torch.cat(list(family.decode_chunks(latents.split((1, 2, 1), 1), 11)), 1)
    torch.testing.assert_close(drawn, family.decode(whole)[0][:, :11], atol=1e-5, rtol=1e-4)


def test_lengths() -> None:
    assert [codec(time=4).length(frames) for frames in (1, 2, 5, 6, 9)] == [1, 2, 2, 3, 3]


@torch.no_grad()
def test_other_lengths_and_sizes_are_errors() -> None:
    family = codec()
    with pytest.raises(ValueError, match=r"then groups of 2.*4 frames are neither; `encode_chunks`"):
        family.encode(clips(1, 4))
    with pytest.raises(ValueError, match="3 frames are neither"):
        family.encode(clips(1, 3), family.encode(clips(1, 1))[1])
    with pytest.raises(ValueError, match="32x18 cannot be coded: make the sides multiples of 4"):
        family.encode(torch.zeros(1, 1, 3, 18, 32))


@torch.no_grad()
@pytest.mark.parametrize("levels", [(), (8, 5, 5)])
def test_the_input_of_the_bottleneck_is_standardised(levels: tuple[int, ...]) -> None:
    """In training by the batch, else by the statistics of training."""
    bottleneck = (Quantized(levels) if levels else Gaussian(3)).train()
    read = 0.1 * torch.randn(2, 2, bottleneck.reads, 8, 8, generator=torch.Generator().manual_seed(0)) + 2

    def off(x: Tensor) -> tuple[float, float]:
        return x.mean((0, 1, 3, 4)).abs().max().item(), (x.std((0, 1, 3, 4), correction=0) - 1).abs().max().item()

    assert off(bottleneck.norm(read[:, :, :3])) == pytest.approx((0, 0), abs=1e-2)
    for _ in range(200):
        bottleneck(read, torch.Generator().manual_seed(0))
    bottleneck.eval()
    seen = bottleneck.norm(read[:, :, :3])
    assert off(seen) == pytest.approx((0, 0), abs=1e-2)
    torch.testing.assert_close(bottleneck.encode(read), bottleneck.fsq(seen) if levels else seen)  # pyright: ignore[reportCallIssue]
    torch.testing.assert_close(bottleneck.encode(read[:1, :1]), bottleneck.encode(read)[:1, :1])


@torch.no_grad()
def test_the_posterior_and_its_divergence() -> None:
    bottleneck, read = Gaussian(3).eval(), torch.randn(2, 2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    posterior = Normal(bottleneck.encode(read), ((read[:, :, 3:] - NARROW) / 2).exp())
    latents, costs = bottleneck(read, torch.Generator().manual_seed(5))
    noise = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(latents, posterior.mean + posterior.stddev * noise)
    torch.testing.assert_close(costs["kl"], kl_divergence(posterior, Normal(0.0, 1.0)).mean())
    assert bottleneck(read.bfloat16(), torch.Generator())[1]["kl"].dtype == torch.float32


@torch.no_grad()
def test_latents_of_tokens_are_their_codes() -> None:
    family = codec(**TOKENS)
    latents, _ = family.encode(clips(2, 5))
    bottleneck = family.generator.bottleneck
    assert isinstance(bottleneck, Quantized)
    fsq = bottleneck.fsq
    tokens = fsq.tokens(latents)
    assert tokens.shape == (2, 3, 4, 8) and len(tokens.unique()) > 1
    torch.testing.assert_close(fsq.codes(tokens), latents)


@pytest.mark.parametrize("settings", [{}, TOKENS])
@pytest.mark.parametrize("pixel", ["l1", "mse"])
def test_the_loss_is_the_sum_of_its_parts(settings: dict[str, Any], pixel: str) -> None:
    family, frames = codec(pixel=pixel, gradient=0.5, kl=0.3, adversarial=0.2, **settings), clips(2, 9)
    total, scalars = family._loss(Batch(frames), TrainStep.from_seed(5))
    drawn, _ = family.generator(frames, torch.Generator().manual_seed(5))
    assert set(scalars) == {"pixel", "gradient", "generator"} | (set() if settings else {"kl"})
    torch.testing.assert_close(scalars["pixel"], {"l1": F.l1_loss, "mse": F.mse_loss}[pixel](drawn, frames))
    torch.testing.assert_close(scalars["gradient"], gradient_difference(pixel, drawn, frames).mean())
    weights = {"pixel": 1.0, "gradient": 0.5, "kl": 0.3, "generator": 0.2}
    torch.testing.assert_close(total, torch.stack([weights[name] * value for name, value in scalars.items()]).sum())


def test_a_perceptual_loss_joins(vgg16: Path, tmp_path: Path, cpu: Runtime) -> None:
    settings = {"perceptual": str(vgg16), "perceptual_weight": 0.5}
    family, frames = codec(**settings), clips(2, 9)
    total, scalars = family._loss(Batch(frames), TrainStep.from_seed(5))
    plain, _ = codec()._loss(Batch(frames), TrainStep.from_seed(5))
    assert scalars["perceptual"] > 0
    torch.testing.assert_close(total, plain + 0.5 * scalars["perceptual"])
    assert family.state_dict().keys() == codec().state_dict().keys()  # what a checkpoint holds and what is trained
    assert dict(family.named_parameters()).keys() == dict(codec().named_parameters()).keys()

    def trainer() -> Trainer:
        family = replace(TINY, **settings)
        return Trainer(Experiment(family, train=TrainConfig(batch=2, lr=1e-3)), ShapeMotion(9, 16, 32), cpu)

    unbroken, resumed = trainer(), trainer()
    unbroken.begin()
    unbroken.advance()
    checkpoint.save_step(tmp_path, unbroken.state())
    unbroken.advance()
    resumed.restore(checkpoint.load(tmp_path))
    resumed.advance()
    torch.testing.assert_close(resumed.family.state_dict(), unbroken.family.state_dict(), rtol=0, atol=0)
    assert unbroken.losses()["perceptual"] > 0
    values, _ = load_codec(tmp_path)
    used = LatentDiTConfig().with_codec(values, ClipSpec(9, 16, 32)).codec_settings
    assert isinstance(used, VideoVAEConfig) and used.perceptual is None  # a family that uses the codec needs no file
    load(tmp_path, cpu)


def test_a_missing_file_of_weights_is_named() -> None:
    family = codec()
    family.config = replace(family.config, perceptual="nowhere.safetensors")
    with pytest.raises(ValueError, match=r"^nowhere\.safetensors: not the weights of a perceptual loss"):
        family._loss(Batch(clips(2, 9)), STEP)


def test_the_critic_gets_clips_without_the_first_frame_or_the_last() -> None:
    family, frames = codec(adversarial=1.0), clips(2, 9)
    inputs = [family._critic_inputs(frames, -frames, TrainStep.from_seed(seed)) for seed in range(8)]
    for real, fake in inputs:
        assert torch.equal(fake, -real)
        assert any(torch.equal(real, frames[:, k : k + 8].transpose(1, 2)) for k in (0, 1))
    assert not all(torch.equal(real, inputs[0][0]) for real, _ in inputs)
    image = TINY.fitted(ClipSpec(1, 16, 16))
    family = replace(image, adversarial=1.0).build()
    for turn in family.turns():
        assert turn.loss(Batch(torch.zeros(2, 1, 3, 16, 16)), STEP)[0].isfinite()


def test_there_is_a_critic_only_where_its_loss_counts() -> None:
    assert [turn.name for turn in codec().turns()] == ["generator"]
    assert [turn.name for turn in codec(adversarial=1.0).turns()] == ["generator", "critic"]


@pytest.mark.parametrize("settings", [{"time": 4}, TOKENS])
@pytest.mark.parametrize("count", [1, 6, 2 * CHUNK * 4 + 3])
def test_known_frames_are_reconstructed_and_the_prior_continues(
    settings: dict[str, Any], count: int, cpu: Runtime
) -> None:
    family, frames = codec(**settings), clips(2, count)
    first = Conditions().with_first_frames(frames)
    made = torch.cat(list(stream(family, cpu, Seeds((0, 1)), count + 9, first)), 1)
    assert made.shape == (2, count + 9, 3, 16, 32)
    with torch.no_grad():
        latents = list(family.encode_chunks([frames]))
        own = torch.cat(list(family.decode_chunks(latents, count)), 1)
    torch.testing.assert_close(made[:, :count], own, atol=1e-5, rtol=1e-4)
    other = torch.cat(list(stream(family, cpu, Seeds((2, 3)), count + 9, first)), 1)
    torch.testing.assert_close(other[:, :count], made[:, :count], rtol=0, atol=0)
    assert not torch.equal(other[:, -1], made[:, -1])
    few = torch.cat(list(stream(family, cpu, Seeds((0, 1)), 1, first)), 1)
    torch.testing.assert_close(few, own[:, :1], atol=1e-5, rtol=1e-4)


def test_an_empty_mask_is_no_condition_and_a_region_is_an_error(cpu: Runtime) -> None:
    family = codec()

    def masked(mask: Tensor) -> Tensor:
        return torch.cat(list(stream(family, cpu, Seeds((0,)), 5, Conditions(known=clips(1, 2), mask=mask))), 1)

    mask = torch.zeros(1, 2, 1, 16, 32, dtype=torch.bool)
    unconditional = torch.cat(list(stream(family, cpu, Seeds((0,)), 5)), 1)
    torch.testing.assert_close(masked(mask), unconditional, rtol=0, atol=0)
    with pytest.raises(ValueError, match="VideoVAE can only go on from the first frames"):
        masked(mask.index_fill(1, torch.tensor(1), True))


def test_clips_that_are_no_complete_groups_are_errors() -> None:
    with pytest.raises(
        ValueError, match=r"groups of 4, so 16 frames cannot be trained on: make --data\.frames 13 or 17"
    ):
        VideoVAEConfig().fitted(ClipSpec(16, 64, 64))
    with pytest.raises(ValueError, match="multiples of 8, not 64 and 60: choose others"):
        VideoVAEConfig().fitted(ClipSpec(17, 64, 60))
    with pytest.raises(ValueError, match="multiples of 16, not 24 and 64"):
        VideoVAEConfig(adversarial=1.0).fitted(ClipSpec(17, 24, 64))
    assert VideoVAEConfig().fitted(ClipSpec(17, 64, 64)).frames == 17


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"space": 6}, "space must be 4, 8 or 16 and time 1, 2 or 4, not 6 and 4"),
        ({"time": 3}, "not 8 and 3"),
        ({"levels": (8, 2)}, "levels is 2: it must be 3 to"),
        ({"kl": -1.0}, "kl is -1: it must be 0 to"),
        ({"noise": -0.1}, "noise is -0.1: it must be 0 to"),
        ({"space": 4, "fold": 4}, "less than space, not 4"),
    ],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VideoVAEConfig(**settings)


def saved(config: FamilyConfig, folder: Path) -> dict[str, Tensor]:
    """The weights of a run that was just begun on clips of 9 frames, 16x32."""
    trainer = Trainer(Experiment(config), ShapeMotion(9, 16, 32), Runtime(torch.device("cpu"), torch.float32))
    checkpoint.save_step(folder, trainer.state())
    return trainer.average.module.state_dict()


def chosen(name: Path, spec: ClipSpec) -> CodecConfig:
    """The configuration with which a latent family builds the codec that `name` stands for."""
    settings = LatentDiTConfig(codec=str(name)).with_codec(load_codec(name)[0], spec).codec_settings
    assert settings is not None
    return settings


def test_a_trained_codec_encodes_clips_of_other_sizes(tmp_path: Path) -> None:
    weights = saved(replace(TINY, adversarial=0.1), tmp_path)
    assert chosen(tmp_path, ClipSpec(9, 16, 32)) == replace(TINY, frames=9, height=16, width=32)
    config = chosen(tmp_path, ClipSpec(5, 24, 16))
    assert config == replace(TINY, frames=5, height=24, width=16)
    torch.manual_seed(7)
    family = config.build()
    assert any(not torch.equal(value, weights[name]) for name, value in family.inference_state().items())
    family.load_inference_state(load_codec(tmp_path)[1])
    torch.testing.assert_close(family.inference_state(), weights, rtol=0, atol=0)


def test_models_that_are_no_fitting_codec_are_errors(tmp_path: Path) -> None:
    saved(TINY, tmp_path / "codec")
    saved(TGANConfig(ngf=1, ngf_path=1, ndf=1), tmp_path / "gan")
    with pytest.raises(ValueError, match="gan holds a model of tgan: train a codec, one of video-vae"):
        chosen(tmp_path / "gan", ClipSpec(9, 16, 32))
    with pytest.raises(ValueError, match="no model there"):
        chosen(tmp_path / "nothing", ClipSpec(9, 16, 32))
    with pytest.raises(ValueError, match=r"groups of 2, so 8 frames cannot be trained on: make --data\.frames 7 or 9"):
        chosen(tmp_path / "codec", ClipSpec(8, 16, 32))


def test_another_codec_in_the_place_of_the_first_is_an_error(tmp_path: Path, cpu: Runtime) -> None:
    saved(TINY, tmp_path)
    spec = ClipSpec(9, 16, 32)
    other = to_dict(replace(TINY, hidden=8).fitted(spec))
    config = LatentDiTConfig(codec=str(tmp_path), hidden=16, depth=2, heads=2)
    config = config.with_codec({"name": "video-vae", **other}, spec)
    trainer = Trainer(Experiment(config), ShapeMotion(9, 16, 32), cpu)
    with pytest.raises(ValueError, match="its weights are not those of the codec here"):
        trainer.begin()


def test_each_clips_latents_are_noised_by_a_part_of_the_most() -> None:
    plain, noisy = Gaussian(3), Gaussian(3, noise=0.5)
    read = torch.cat([torch.randn(64, 2, 3, 4, 8), torch.full((64, 2, 3, 4, 8), -14.0)], 2)  # of small variance
    (latents, costs), (noised, same) = (x(read, torch.Generator().manual_seed(0)) for x in (plain, noisy))
    assert torch.equal(costs["kl"], same["kl"])
    added = (noised - latents).flatten(1).std(1)
    assert 0 < added.min() < 0.1 and 0.4 < added.max() < 0.6
    torch.testing.assert_close(noisy.eval().encode(read), plain.eval().encode(read))
