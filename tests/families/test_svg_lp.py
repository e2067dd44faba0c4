"""SVG-LP against the paper written as a loop over time, and its use of known frames."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from kinema.families.svg_lp import CHUNK, SVGLP, Decoder, Recurrence, SVGLPConfig
from kinema.nn.perceptual import perceptual_loss
from kinema.runtime.device import Runtime
from kinema.sampling.model import score, stream
from kinema.types import Batch, ClipSpec, Conditions, Seeds, TrainStep
from kinema.worlds.shape_motion import ShapeMotion

STEP = TrainStep.from_seed(5)
TINY = SVGLPConfig(height=16, width=32, context_frames=3, channels=4, code=8, hidden=12, latent=5)


def trained(**settings: Any) -> SVGLP:
    """A network in evaluation mode whose batch normalisation has seen clips, with weights that all have an effect."""
    torch.manual_seed(0)
    family = replace(TINY, **settings).build()
    for module in family.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data *= 10  # training begins with small ones
    for _ in range(10):
        family._loss(Batch(clips(4, 8)), STEP)
    return family.eval()


def clips(count: int, frames: int) -> Tensor:
    return ShapeMotion(frames=frames, height=16, width=32).batch(0, count, seed=1).to(torch.device("cpu")).frames


def with_cells(recurrence: Recurrence, x: Tensor, states: list[Any]) -> Tensor:
    """One step, by LSTM cells as the authors have them."""
    x = recurrence.embed(x)
    for layer in range(recurrence.lstm.num_layers):
        cell = nn.LSTMCell(x.shape[1], recurrence.lstm.hidden_size)
        cell.load_state_dict(
            {n: getattr(recurrence.lstm, f"{n}_l{layer}") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        )
        states[layer] = cell(x, states[layer])
        x = states[layer][0]
    return recurrence.out(x)


def with_joined_layers(decoder: Decoder, code: Tensor, features: list[Tensor]) -> Tensor:
    """One frame, by layers over the decoder's and the encoder's features side by side, as the authors have them."""
    x = decoder.first(code[:, :, None, None])
    for up, skip, after, skipped in zip(decoder.up, decoder.skip, decoder.after, features[::-1], strict=True):
        weight = torch.cat([up.weight, skip.weight])
        x = after(F.conv_transpose2d(torch.cat([x, skipped], 1), weight, up.bias, 2, 1))
    return x


@torch.no_grad()
def test_the_loss_is_that_of_a_loop_over_time() -> None:
    family, frames = trained(beta=0.3), clips(2, 6)
    network = family.generator
    loss, scalars = family._loss(Batch(frames), TrainStep.from_seed(5))
    noise = torch.randn(2, 5, TINY.latent, generator=torch.Generator().manual_seed(5))

    x = frames / 2 + 0.5
    states: dict[str, list[Any]] = {"prior": [None], "posterior": [None], "predictor": [None, None]}
    skip: list[Tensor] = []
    error, divergence = torch.zeros(()), torch.zeros(())
    for t in range(1, 6):
        code, features = network.encoder(x[:, t - 1])
        if t <= TINY.context_frames:  # the frame before is known
            skip = features
        gaussians = []
        for name, of in (("prior", code), ("posterior", network.encoder(x[:, t])[0])):
            mean, log_variance = with_cells(getattr(network, name), of, states[name]).chunk(2, -1)
            gaussians.append(Normal(mean, (log_variance / 2).exp()))
        prior, posterior = gaussians
        latent = posterior.mean + posterior.stddev * noise[:, t - 1]
        predicted = with_cells(network.predictor, torch.cat([code, latent], 1), states["predictor"]).tanh()
        error += F.mse_loss(with_joined_layers(network.decoder, predicted, skip), x[:, t])
        divergence += kl_divergence(posterior, prior).sum() / len(x)
    torch.testing.assert_close(scalars["mse"], error)
    torch.testing.assert_close(scalars["divergence"], divergence)
    torch.testing.assert_close(loss, error + 0.3 * divergence)


def test_other_errors_join_the_loss() -> None:
    loss, scalars = trained(pixel="l1", gradient=0.5)._loss(Batch(clips(2, 6)), TrainStep.from_seed(5))
    assert set(scalars) == {"l1", "gradient", "divergence"}
    torch.testing.assert_close(loss, scalars["l1"] + 0.5 * scalars["gradient"] + 1e-4 * scalars["divergence"])


def test_a_perceptual_loss_joins(vgg16: Path) -> None:
    family, frames = trained(perceptual=str(vgg16), perceptual_weight=0.5), clips(2, 6)
    total, scalars = family._loss(Batch(frames), TrainStep.from_seed(5))
    plain, _ = trained()._loss(Batch(frames), TrainStep.from_seed(5))
    torch.testing.assert_close(total, plain + 0.5 * scalars["perceptual"])
    assert family.state_dict().keys() == trained().state_dict().keys()

    drawn = []
    family.generator.decoder.register_forward_hook(lambda _, __, frames: drawn.append(frames))
    generator = torch.Generator().manual_seed(5)
    family._loss(Batch(frames), TrainStep(0, generator, generator))
    predicted = drawn[0].unflatten(0, (5, 2)).transpose(0, 1) * 2 - 1
    generator.manual_seed(5)
    torch.randn(2, 5, TINY.latent, generator=generator)
    one = perceptual_loss(str(vgg16), predicted, frames[:, 1:], generator)
    torch.testing.assert_close(scalars["perceptual"], 5 * one)  # for the 5 frames that are predicted


def test_the_baseline_has_no_latent_codes() -> None:
    family = trained(latent=0)
    assert not any("prior" in name or "posterior" in name for name, _ in family.named_parameters())
    assert set(family._loss(Batch(clips(2, 6)), TrainStep.from_seed(5))[1]) == {"mse"}
    assert family.streams == frozenset()


@pytest.mark.parametrize("count", [1, 4, CHUNK + 1, CHUNK + 2])
def test_known_frames_are_kept_and_predictions_follow(count: int, cpu: Runtime) -> None:
    family, frames = trained(), clips(2, 20)
    first = Conditions().with_first_frames(frames[:, :count])
    made = torch.cat(list(stream(family, cpu, Seeds((0, 1)), 24, first)), 1)
    assert made.shape == (2, 24, 3, 16, 32)
    torch.testing.assert_close(made[:, :count], frames[:, :count], rtol=0, atol=0)
    few = torch.cat(list(stream(family, cpu, Seeds((0, 1)), 1, first)), 1)
    torch.testing.assert_close(few, frames[:, :1], rtol=0, atol=0)

    # a mask longer than what is known, as for a clip of 20 frames
    mask = torch.arange(20).expand(2, -1)[..., None, None, None].expand(-1, -1, 1, 16, 32) < count
    long = Conditions(known=torch.where(mask, frames, 0.7), mask=mask)
    again = torch.cat(list(stream(family, cpu, Seeds((0, 1)), 24, long)), 1)
    torch.testing.assert_close(again, made, rtol=0, atol=0)


def test_a_prediction_depends_on_every_known_frame(cpu: Runtime) -> None:
    family, frames = trained(), clips(1, 4)

    def following(known: Tensor) -> Tensor:
        return torch.cat(list(stream(family, cpu, Seeds((0,)), 5, Conditions().with_first_frames(known))), 1)[:, 4]

    made = following(frames)
    for t in range(4):
        assert not torch.equal(following(frames.index_fill(1, torch.tensor(t), 0.5)), made), t


def mask(*frames: int, of: int = 4) -> Tensor:
    """A mask that is true in these frames."""
    found = torch.zeros(1, of, 1, 16, 32, dtype=torch.bool)
    found[:, list(frames)] = True
    return found


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "give the first ones .kinema sample MODEL --known CLIP"),
        ({"known": torch.zeros(1, 4, 3, 16, 32)}, "one pair"),
        ({"known": torch.zeros(1, 4, 3, 16, 32), "mask": mask()}, "give the first ones"),
        (
            {"known": torch.zeros(1, 4, 3, 16, 32), "mask": mask(1, 2)},
            "make the mask true in all pixels of the first frame",
        ),
        ({"known": torch.zeros(1, 4, 3, 16, 32), "mask": mask(0, 3)}, "make the mask true"),
        ({"known": torch.zeros(1, 4, 3, 16, 32), "mask": mask(0, 1).tril()}, "make the mask true"),
        ({"known": torch.zeros(1, 4, 3, 32, 32), "mask": mask(0).repeat(1, 1, 1, 2, 1)}, "resize the frames"),
        ({"known": torch.zeros(2, 4, 3, 16, 32), "mask": mask(0).expand(2, -1, -1, -1, -1)}, "one clip"),
    ],
)
def test_other_than_complete_first_frames_are_errors(settings: dict[str, Tensor], says: str, cpu: Runtime) -> None:
    with pytest.raises(ValueError, match=says) as error:
        next(stream(trained(), cpu, Seeds((0,)), 8, Conditions(**settings)))
    assert "\n" not in str(error.value)


def test_clips_with_nothing_to_predict_are_errors() -> None:
    with pytest.raises(ValueError, match=r"make --data\.frames more or --family.context-frames fewer"):
        SVGLPConfig().fitted(ClipSpec(5, 64, 64))
    assert SVGLPConfig().fitted(ClipSpec(6, 64, 64)).height == 64


@pytest.mark.parametrize("settings", [{}, {"latent": 0, "pixel": "l1", "gradient": 0.5}])
def test_surprise_is_the_same_in_chunks(settings: dict[str, Any], cpu: Runtime) -> None:
    family, frames = trained(**settings), clips(2, 12)
    at_once = torch.cat(list(score(family, cpu, [frames])), 1)
    parts = [chunk.shape for chunk in score(family, cpu, frames.split((1, 4, 1, 6), 1))]
    assert parts == [(2, 1), (2, 4), (2, 1), (2, 6)]
    assert at_once[:, 0].isnan().all() and at_once[:, 1:].isfinite().all()
    torch.testing.assert_close(
        torch.cat(list(score(family, cpu, frames.split((1, 4, 1, 6), 1))), 1), at_once, equal_nan=True
    )


def test_surprise_is_the_bound_of_the_loss(cpu: Runtime) -> None:
    # all frames before are known, so that the skips are the same
    family, frames = trained(context_frames=5, beta=0.3), clips(2, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *shape, generator, device: torch.zeros(shape, device=device))
        loss, _ = family._loss(Batch(frames), STEP)
    (scores,) = score(family, cpu, [frames])
    torch.testing.assert_close(scores[:, 1:].mean(0).sum(), loss.detach())


def test_the_baselines_own_predictions_have_no_surprise(cpu: Runtime) -> None:
    family, frames = trained(latent=0), clips(2, 4)
    made = torch.cat(list(stream(family, cpu, Seeds((0, 1)), 5, Conditions().with_first_frames(frames))), 1)
    (expected,) = score(family, cpu, [made])
    (real,) = score(family, cpu, [clips(2, 8)])
    assert (expected[:, 4] < 1e-10).all() and (real[:, 4] > 1e-4).all()
