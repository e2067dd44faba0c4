"""SVG-LP: each frame is predicted from the frames before it and a latent code.

Denton and Fergus, "Stochastic Video Generation with a Learned Prior", ICML 2018, arXiv 1802.07687. An encoder turns
frames into codes; a recurrent predictor maps one frame's code and a latent code to the next frame's code, which a
decoder turns into pixels, with skip connections from the last known frame. In training the latent code comes from a
posterior that depends on the next frame; sampling uses a learned prior, which does not and is trained to match it.
Without latent codes the same network is the paper's deterministic baseline.

The network is the authors' DCGAN variant (their repository edenton/svg, models/dcgan_64.py and lstm.py). Pixels are in
[0, 1] inside it and in its loss, as theirs, so that beta has the same meaning. What differs:

- All frames are encoded at once, as the predictor's inputs are true frames in training (section 3.1). Batch
  normalisation therefore takes its statistics over batch and time; the authors' are over the batch of one time step.
- A decoder layer with a skip connection is the sum of two layers, one for each input. That is the same function, but
  the skip's part is computed once for all the frames that share it.
- After the known frames the skip connections come from the last of them, as in the paper; in the authors' code they
  come from the frame before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.conditions.known import first_known
from kinema.config import CLIP_RANGES, MOST_CHANNELS, check_ranges
from kinema.family import Family, FamilyConfig, Turn
from kinema.nn.perceptual import perceptual_loss
from kinema.nn.reconstruction import PixelLoss, gradient_difference, pixel_loss
from kinema.types import Batch, ClipSpec, Conditions, Progress, Seeds, TrainStep, no_progress

__all__ = ["SVGLP", "SVGLPConfig"]

CHUNK = 16  # frames that `generate` makes at a time: memory does not grow with the clip

LSTMState = tuple[Tensor, Tensor]  # hidden and cell state, [layers, B, hidden] each


@dataclass(frozen=True)
class SVGLPConfig(FamilyConfig):
    """The defaults are the authors' network for Moving MNIST; `kinema.presets` has others."""

    about: ClassVar[str] = (
        "What comes after given frames, and how unexpected frames are: clips of one kind, half an hour or more."
    )

    context_frames: int = 5
    """Known first frames of a training clip; sampling takes any number from 1."""
    channels: int = 64
    """Channels of the encoder's first layer and before the decoder's last; decides most of a step's cost."""
    code: int = 128
    """Dimensions of a frame's code."""
    hidden: int = 256
    """Dimensions of the recurrent networks."""
    latent: int = 10
    """Dimensions of the latent code, drawn for each frame; 0 for the deterministic baseline."""
    beta: float = 1e-4
    """Weight of the KL divergence between posterior and prior."""
    pixel: PixelLoss = "mse"
    """The pixel loss of predicted frames."""
    gradient: float = 0.0
    """Weight of the gradient difference loss, which sharpens edges."""
    perceptual: str | None = None
    """A file of VGG16's weights for a perceptual loss (LPIPS); `nn/perceptual.py` describes it."""
    perceptual_weight: float = 0.1
    """Weight of the perceptual loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        channels, weight = (1, MOST_CHANNELS), (0.0, 1e6)
        check_ranges(
            self,
            context_frames=CLIP_RANGES["frames"],
            channels=channels,
            code=channels,
            hidden=channels,
            latent=(0, MOST_CHANNELS),
            beta=weight,
            gradient=weight,
            perceptual_weight=weight,
        )

    def fitted(self, spec: ClipSpec) -> SVGLPConfig:
        """The configuration for these clips; raises ValueError unless they are longer than `context_frames`."""
        if self.context_frames >= spec.frames:
            raise ValueError(
                f"svg-lp: clips of {spec.frames} frames leave none to predict after {self.context_frames} context "
                "frames: make --data.frames more or --family.context-frames fewer"
            )
        if spec.height % 16 or spec.width % 16:
            raise ValueError(
                f"svg-lp: height and width must be multiples of 16, not {spec.height} and {spec.width}: choose others "
                "with --data.height and --data.width"
            )
        return super().fitted(spec)

    def portable(self) -> SVGLPConfig:
        """The same configuration without paths of this machine."""
        return replace(self, perceptual=None)

    def build(self) -> SVGLP:
        """The untrained model."""
        return SVGLP(self)


class Encoder(nn.Module):
    """Frames [N, 3, H, W] in [0, 1] to their codes [N, G] and the features for the skip connections, largest first."""

    def __init__(self, config: SVGLPConfig, height: int, width: int) -> None:
        super().__init__()
        widths = [3, *(config.channels * m for m in (1, 2, 4, 8))]
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2, inplace=True))
            for i, o in pairwise(widths)
        )
        last = nn.Conv2d(widths[-1], config.code, (height // 16, width // 16), bias=False)
        self.code = nn.Sequential(last, nn.BatchNorm2d(config.code), nn.Tanh(), nn.Flatten())

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.down:
            x = layer(x)
            features.append(x)
        return self.code(x), features


class Decoder(nn.Module):
    """Codes [N, G] and the skip connections' part of each layer, to frames [N, 3, H, W] in [0, 1]."""

    def __init__(self, config: SVGLPConfig, height: int, width: int) -> None:
        super().__init__()
        widths = [config.channels * m for m in (8, 4, 2, 1)]
        first = nn.ConvTranspose2d(config.code, widths[0], (height // 16, width // 16), bias=False)
        self.first = nn.Sequential(first, nn.BatchNorm2d(widths[0]), nn.LeakyReLU(0.2, inplace=True))
        steps = list(pairwise([*widths, 3]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=o == 3) for i, o in steps)
        self.skip = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False) for i, o in steps)
        self.after = nn.ModuleList(
            [*(nn.Sequential(nn.BatchNorm2d(o), nn.LeakyReLU(0.2, inplace=True)) for o in widths[1:]), nn.Sigmoid()]
        )

    def skips(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The skip connections' part of each layer, from the encoder's features."""
        return [skip(x) for skip, x in zip(self.skip, reversed(features), strict=True)]

    def forward(self, codes: Tensor, skips: Sequence[Tensor]) -> Tensor:
        x = self.first(codes[:, :, None, None])
        for up, skip, after in zip(self.up, skips, self.after, strict=True):
            x = up(x) + skip
            x = after(x.float() if isinstance(after, nn.Sigmoid) else x)
        return x


class Recurrence(nn.Module):
    """A linear layer, an LSTM and a linear layer, from [T, B, I] and a state to [T, B, O] and the next state."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, state: LSTMState | None) -> tuple[Tensor, LSTMState]:
        x, next_state = self.lstm(self.embed(x), state)
        return self.out(x), next_state


class State(NamedTuple):
    """The recurrent state after a frame."""

    code: Tensor  # of the frame, [1, B, G]
    features: list[Tensor]  # of the last known frame, [B, C, h, w] each
    predictor: LSTMState | None = None
    prior: LSTMState | None = None
    posterior: LSTMState | None = None


class Generator(nn.Module):
    """Encoder, decoder, predictor, prior and posterior; sampling needs the posterior too. Time is axis 0 inside."""

    def __init__(self, config: SVGLPConfig, height: int, width: int) -> None:
        super().__init__()
        self.latent = config.latent
        self.encoder, self.decoder = Encoder(config, height, width), Decoder(config, height, width)
        self.predictor = Recurrence(config.code + config.latent, config.hidden, config.code, layers=2)
        if config.latent:
            self.prior = Recurrence(config.code, config.hidden, 2 * config.latent, layers=1)
            self.posterior = Recurrence(config.code, config.hidden, 2 * config.latent, layers=1)

    def forward(
        self, frames: Float[Tensor, "B T 3 H W"], noise: Float[Tensor, "B T-1 Z"], context: int
    ) -> tuple[Float[Tensor, "B T-1 3 H W"], Float[Tensor, "T-1 B"]]:
        """Each frame after the first, predicted from the true frames before it, in [0, 1], and its KL divergence.

        Skip connections come from the frame before, but at most from the last of the `context` frames.
        """
        clips, steps = len(frames), frames.shape[1] - 1
        codes, features = self.read(frames)
        predicted, divergence, _ = self.follow(codes[:-1], codes[1:], noise, State(codes[:1], features))
        skips = self.decoder.skips([x[: context * clips] for x in features])
        skips = [torch.cat([x, *[x[-clips:]] * (steps - context)]) for x in skips]
        return self.decode(predicted, skips), divergence

    def decode(self, codes: Float[Tensor, "T B G"], skips: list[Tensor]) -> Float[Tensor, "B T 3 H W"]:
        """The frames of these codes, in [0, 1]."""
        return rearrange(self.decoder(codes.flatten(0, 1), skips), "(t b) c h w -> b t c h w", b=codes.shape[1])

    def read(self, frames: Float[Tensor, "B T 3 H W"]) -> tuple[Float[Tensor, "T B G"], list[Tensor]]:
        """The codes of frames in [-1, 1] and their features, [(T B), C, h, w] each."""
        codes, features = self.encoder(rearrange(frames, "b t c h w -> (t b) c h w") / 2 + 0.5)
        return codes.unflatten(0, (-1, len(frames))), features

    def follow(
        self,
        codes: Float[Tensor, "T B G"],
        targets: Float[Tensor, "T B G"] | None,
        noise: Float[Tensor, "B T Z"],
        state: State,
    ) -> tuple[Float[Tensor, "T B G"], Float[Tensor, "T B"], State]:
        """The predicted codes of the next frames, KL(posterior || prior) (section 3, eq. 2) and the next state.

        `codes` are those of the frames before. The posterior depends on `targets`, the codes of the next frames;
        without them the latent codes are drawn from the prior and the divergence is 0.
        """
        with torch.autocast(codes.device.type, enabled=False):  # bf16 errors would accumulate over a long clip
            codes = inputs = codes.float()
            divergence = codes.new_zeros(codes.shape[:2])
            if self.latent:
                prior, lstm = self.prior(codes, state.prior)
                state, latent = state._replace(prior=lstm), prior
                if targets is not None:
                    latent, lstm = self.posterior(targets.float(), state.posterior)
                    state, divergence = state._replace(posterior=lstm), _divergence(latent, prior)
                mean, log_variance = latent.chunk(2, -1)
                inputs = torch.cat([codes, mean + (log_variance / 2).exp() * noise.transpose(0, 1)], -1)
            predicted, lstm = self.predictor(inputs, state.predictor)
            return predicted.tanh(), divergence, state._replace(predictor=lstm)

    def begin(self, frame: Float[Tensor, "B 1 3 H W"]) -> State:
        """The state after a clip's first frame."""
        return State(*self.read(frame))

    def watch(
        self, frames: Float[Tensor, "B T 3 H W"], noise: Float[Tensor, "B T Z"], state: State
    ) -> tuple[Float[Tensor, "T B G"], Float[Tensor, "T B"], list[Tensor], State]:
        """`follow` over known frames after `state`, with the features of the frame before each."""
        clips = len(frames)
        codes, features = self.read(frames)
        before = torch.cat([state.code, codes[:-1]])
        previous = [torch.cat([last, x[:-clips]]) for last, x in zip(state.features, features, strict=True)]
        predicted, divergence, state = self.follow(before, codes, noise, state)
        return predicted, divergence, previous, state._replace(code=codes[-1:], features=[x[-clips:] for x in features])


class SVGLP(Family):
    """Stochastic video prediction with a learned prior; sampling requires known first frames."""

    accepts = frozenset({"known", "mask"})

    generator: Generator

    def __init__(self, config: SVGLPConfig) -> None:
        super().__init__()
        height, width = config.required("height", "width")
        if min(height, width) < 16 or height % 16 or width % 16:
            raise ValueError(f"svg-lp: height and width must be multiples of 16, not {height} and {width}")
        self.config, self.context_frames = config, config.context_frames
        self.streams = frozenset({"motion"}) if config.latent else frozenset()
        self.generator = Generator(config, height, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)  # as the authors initialise them

    def turns(self) -> Sequence[Turn]:
        """One turn, which minimises the negative evidence lower bound (equation 3)."""
        return (Turn("generator", self.generator, self._loss),)

    def _loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction losses, means over pixels, and the KL divergence, all summed over a clip's frames."""
        frames, generator = batch.frames, step.generator
        clips, steps = len(frames), frames.shape[1] - 1
        noise = torch.randn(clips, steps, self.config.latent, generator=generator, device=frames.device)
        predicted, divergence = self.generator(frames, noise, self.context_frames)
        pixel, gradient = self._errors(predicted, frames[:, 1:])
        divergence = divergence.mean(1).sum()
        scalars = {self.config.pixel: pixel.mean(0).sum()}
        total = scalars[self.config.pixel] + self.config.beta * divergence
        if self.config.gradient:
            scalars["gradient"] = gradient.mean(0).sum()
            total = total + self.config.gradient * scalars["gradient"]
        if self.config.perceptual:
            loss = perceptual_loss(self.config.perceptual, predicted * 2 - 1, frames[:, 1:], generator)
            scalars["perceptual"] = steps * loss  # like the others, summed over a clip's frames
            total = total + self.config.perceptual_weight * scalars["perceptual"]
        if self.config.latent:
            scalars["divergence"] = divergence
        return total, scalars

    def _errors(
        self, predicted: Float[Tensor, "B T 3 H W"], truth: Float[Tensor, "B T 3 H W"]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """The pixel loss of each predicted frame in [0, 1], and its gradient difference loss, 0 if unused."""
        truth = truth / 2 + 0.5
        pixel = pixel_loss(self.config.pixel, predicted, truth)
        return pixel, gradient_difference(
            self.config.pixel, predicted, truth
        ) if self.config.gradient else torch.zeros_like(pixel)

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the known frames unchanged, then predicted ones.

        Latent codes of known frames come from the posterior, later ones from the prior, as in the authors'
        generate_svg_lp.py; both use the stream "motion". Raises ValueError unless `mask` is true in all of the first
        frames and nowhere else.
        """
        self.check_conditions(conditions)
        known = self._first(conditions, len(seeds))[:, :frames].to(next(self.generator.parameters()).device)
        network, latent, device, noise = self.generator, self.config.latent, known.device, seeds.stream("motion")
        state = network.begin(known[:, :1])
        yield known[:, :1]
        for chunk in known[:, 1:].split(CHUNK, 1) if known.shape[1] > 1 else ():
            *_, state = network.watch(chunk, noise.normal(chunk.shape[1], latent, device=device), state)
            yield chunk
        skips = network.decoder.skips(state.features)
        for first in range(known.shape[1], frames, CHUNK):
            predicted = []
            for draw in noise.normal(min(CHUNK, frames - first), latent, device=device).split(1, 1):
                code, _, state = network.follow(state.code, None, draw, state)
                image = network.decoder(code[0], skips)
                state = state._replace(code=network.encoder(image)[0][None])
                predicted.append(image * 2 - 1)
            yield torch.stack(predicted, 1)
            progress(first + len(predicted), frames)

    def _first(self, conditions: Conditions, clips: int) -> Float[Tensor, "B t 3 H W"]:
        """The known first frames; raises ValueError unless every clip has complete ones."""
        if conditions.mask is None or not conditions.mask.any():
            raise ValueError(
                "SVGLP continues known frames: give the first ones (kinema sample MODEL --known CLIP; in Python known "
                "and mask, or GenerateRequest(known=...))"
            )
        return first_known("SVGLP", conditions, clips, *self.config.required("height", "width"))

    def surprise(self, chunks: Iterable[Tensor]) -> Iterator[Float[Tensor, "B t"]]:
        """Yield the negative evidence lower bound of each frame given all before it, in the units of the loss.

        That is the reconstruction loss of the predicted frame, with skip connections from the frame before, plus beta
        times the KL divergence, without a perceptual loss. The latent code is the posterior's mean, so scores are
        deterministic. A video's first frame scores NaN. The chunks [B, t, 3, H, W] are successive parts of the same
        videos.
        """
        config, state = self.config, None
        for frames in chunks:
            scores = []
            if state is None:
                state = self.generator.begin(frames[:, :1])
                scores.append(frames.new_full((len(frames), 1), torch.nan))
                frames = frames[:, 1:]
            if frames.shape[1]:
                no_noise = frames.new_zeros(*frames.shape[:2], config.latent)
                predicted, divergence, features, state = self.generator.watch(frames, no_noise, state)
                decoded = self.generator.decode(predicted, self.generator.decoder.skips(features))
                pixel, gradient = self._errors(decoded, frames)
                scores.append(pixel + config.gradient * gradient + config.beta * divergence.T)
            yield torch.cat(scores, 1)


def _divergence(posterior: Float[Tensor, "*N Z2"], prior: Float[Tensor, "*N Z2"]) -> Float[Tensor, "*N"]:
    """KL(posterior || prior), summed over dimensions, of Gaussians given by their means and log-variances."""
    (mean, log_variance), (prior_mean, prior_log_variance) = posterior.chunk(2, -1), prior.chunk(2, -1)
    ratio = ((mean - prior_mean).square() + log_variance.exp()) / prior_log_variance.exp()
    return (prior_log_variance - log_variance + ratio - 1).sum(-1) / 2
