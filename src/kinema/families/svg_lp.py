"""SVG-LP: each frame is predicted from those before and a latent code of what they do not tell.

Denton and Fergus, "Stochastic Video Generation with a Learned Prior", ICML 2018, arXiv 1802.07687. An encoder turns
frames into codes; a recurrent predictor goes from one frame's code and a latent code to the next frame's, which a
decoder draws, seeing the last given frame's features through skip connections. In training the latent code comes from
a posterior that has seen the next frame; a learned prior, which has not, is pulled towards it and takes its place in
sampling. Without latent codes the same network is the paper's deterministic baseline.

The network is the authors' DCGAN variant (their repository edenton/svg, models/dcgan_64.py and lstm.py) and works in
their units, pixels in [0, 1], in which the loss is taken too, so that beta weighs what it does there. What differs:

- Frames are coded once and in one go, as the predictor's inputs are all true frames in training (section 3.1). Batch
  normalisation therefore takes its statistics over the batch and over time; the authors' are those of one time step.
- The layers that see a skip connection are split in two, which are added: one for what is drawn, one for the skip.
  That is the same function, but what the skip adds is computed once for all the frames that share it.
- Past the given frames the decoder sees the last of them, as the paper has it; the authors' code holds the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from kinema.family import Facts, Family, FamilyConfig, Turn
from kinema.nn.known import first_known
from kinema.nn.perceptual import perceptual_loss
from kinema.nn.reconstruction import PixelLoss, gradient_difference, pixel_loss
from kinema.types import Batch, Conditions, Noise

__all__ = ["SVGLP", "SVGLPConfig"]

CHUNK = 16  # frames that `generate` works on at a time: memory stays the same however long the clip

Memory = tuple[Tensor, Tensor]  # of an LSTM, [layers, B, hidden] each


@dataclass(frozen=True)
class SVGLPConfig(FamilyConfig):
    """The defaults are the authors' network for Moving MNIST; `kinema.presets` has others."""

    height: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    width: int | None = None
    """Pixels, a multiple of 16; taken from the clips."""
    past: int = 5
    """First frames of a training clip that count as given; sampling may be given any number."""
    channels: int = 64
    """Of the encoder's first layer and the decoder's last: most of a step's cost."""
    code: int = 128
    """Dimensions of a frame's code."""
    hidden: int = 256
    """Dimensions of the recurrent networks."""
    latent: int = 10
    """Dimensions of the latent code, one draw a frame; 0 for the deterministic baseline."""
    beta: float = 1e-4
    """Weight of the divergence between posterior and prior."""
    pixel: PixelLoss = "mse"
    """The error of a predicted frame's pixels."""
    gradient: float = 0.0
    """Weight of the gradient difference loss, which sharpens edges."""
    perceptual: str | None = None
    """A file of VGG16's weights (`nn/perceptual.py` says which), for a loss in what that network sees of a frame."""
    perceptual_weight: float = 0.1
    """Weight of the perceptual loss."""

    def __post_init__(self) -> None:
        if min(self.past, self.channels, self.code, self.hidden) < 1:
            raise ValueError("svg-lp: past, channels, code and hidden must be at least 1")
        if min(self.latent, self.beta, self.gradient, self.perceptual_weight) < 0:
            raise ValueError("svg-lp: latent, beta, gradient and perceptual_weight must not be negative")

    def fitted(self, facts: Facts) -> SVGLPConfig:
        """The configuration for clips of these sizes, which must be longer than `past`."""
        if self.past >= facts.frames:
            raise ValueError(
                f"svg-lp: clips of {facts.frames} frames leave none to predict after the {self.past} that are given: "
                "make --data.frames more or --family.past fewer"
            )
        return self.completed(height=facts.height, width=facts.width)

    def build(self) -> SVGLP:
        """The untrained model."""
        return SVGLP(self)


class Encoder(nn.Module):
    """Frames [N, 3, H, W] in [0, 1] to their codes [N, G] and the features that the decoder sees, largest first."""

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
    """Codes [N, G] and what the features of given frames add to each layer, to frames [N, 3, H, W] in [0, 1]."""

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

    def look(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What an encoder's features add to each layer."""
        return [skip(x) for skip, x in zip(self.skip, reversed(features), strict=True)]

    def forward(self, codes: Tensor, seen: Sequence[Tensor]) -> Tensor:
        x = self.first(codes[:, :, None, None])
        for up, add, after in zip(self.up, seen, self.after, strict=True):
            x = up(x) + add
            x = after(x.float() if isinstance(after, nn.Sigmoid) else x)
        return x


class Recurrence(nn.Module):
    """A linear layer, an LSTM and a linear layer, from [T, B, I] and a memory to [T, B, O] and the memory after."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers)
        self.out = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        x, after = self.lstm(self.embed(x), memory)
        return self.out(x), after


class State(NamedTuple):
    """What is carried from frame to frame: the last one's code and features, and the memories."""

    code: Tensor  # [1, B, G]
    features: list[Tensor]  # of the last given frame, [B, C, h, w] each
    predictor: Memory | None = None
    prior: Memory | None = None
    posterior: Memory | None = None


class Generator(nn.Module):
    """The whole network, as sampling from it needs the posterior too; inside it, time is axis 0."""

    def __init__(self, config: SVGLPConfig, height: int, width: int) -> None:
        super().__init__()
        self.latent = config.latent
        self.encoder, self.decoder = Encoder(config, height, width), Decoder(config, height, width)
        self.predictor = Recurrence(config.code + config.latent, config.hidden, config.code, layers=2)
        if config.latent:
            self.prior = Recurrence(config.code, config.hidden, 2 * config.latent, layers=1)
            self.posterior = Recurrence(config.code, config.hidden, 2 * config.latent, layers=1)

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
        """From codes, the predicted codes of the frames after them, and KL(posterior || prior) (section 3, eq. 2).

        The posterior knows `targets`, the codes of the frames after; without them the latent codes are the prior's.
        """
        with torch.autocast(codes.device.type, enabled=False):  # a long path would gather bf16's rounding
            codes = inputs = codes.float()
            divergence = codes.new_zeros(codes.shape[:2])
            if self.latent:
                prior, memory = self.prior(codes, state.prior)
                state, latent = state._replace(prior=memory), prior
                if targets is not None:
                    latent, memory = self.posterior(targets.float(), state.posterior)
                    state, divergence = state._replace(posterior=memory), _divergence(latent, prior)
                mean, log_variance = latent.chunk(2, -1)
                inputs = torch.cat([codes, mean + (log_variance / 2).exp() * noise.transpose(0, 1)], -1)
            predicted, memory = self.predictor(inputs, state.predictor)
            return predicted.tanh(), divergence, state._replace(predictor=memory)

    def begin(self, frame: Float[Tensor, "B 1 3 H W"]) -> State:
        """The state after a clip's first frame."""
        return State(*self.read(frame))

    def watch(
        self, frames: Float[Tensor, "B T 3 H W"], noise: Float[Tensor, "B T Z"], state: State
    ) -> tuple[Float[Tensor, "T B G"], Float[Tensor, "T B"], list[Tensor], State]:
        """`follow` over given frames that come after `state`, and the features of the frame before each."""
        clips = len(frames)
        codes, features = self.read(frames)
        before = torch.cat([state.code, codes[:-1]])
        seen = [torch.cat([last, x[:-clips]]) for last, x in zip(state.features, features, strict=True)]
        predicted, divergence, state = self.follow(before, codes, noise, state)
        return predicted, divergence, seen, state._replace(code=codes[-1:], features=[x[-clips:] for x in features])


class SVGLP(Family):
    """Stochastic video prediction with a learned prior; it goes on from the first frames, which must be given."""

    accepts = frozenset({"known", "mask"})

    generator: Generator

    def __init__(self, config: SVGLPConfig) -> None:
        super().__init__()
        height, width = config.filled("height", "width")
        if min(height, width) < 16 or height % 16 or width % 16:
            raise ValueError(f"svg-lp: height and width must be multiples of 16, not {height} and {width}")
        self.config, self.past = config, config.past
        self.streams = frozenset({"motion"}) if config.latent else frozenset()
        self.generator = Generator(config, height, width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)  # as the authors begin

    def turns(self) -> Sequence[Turn]:
        """One: the evidence lower bound (equation 3)."""
        return (Turn("generator", self.generator, self._loss),)

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The error of each predicted frame, a mean over pixels, and the divergence, summed over a clip's frames."""
        frames, network = batch.frames, self.generator
        clips, steps = len(frames), frames.shape[1] - 1
        codes, features = network.read(frames)
        noise = torch.randn(clips, steps, self.config.latent, generator=generator, device=frames.device)
        predicted, divergence, _ = network.follow(codes[:-1], codes[1:], noise, State(codes[:1], features))
        seen = network.decoder.look([x[: self.past * clips] for x in features])
        seen = [torch.cat([x, *[x[-clips:]] * (steps - self.past)]) for x in seen]  # past those given, the last one's
        drawn = self._draw(predicted, seen)
        pixel, gradient = self._errors(drawn, frames[:, 1:])
        divergence = divergence.mean(1).sum()
        scalars = {self.config.pixel: pixel.mean(0).sum()}
        total = scalars[self.config.pixel] + self.config.beta * divergence
        if self.config.gradient:
            scalars["gradient"] = gradient.mean(0).sum()
            total = total + self.config.gradient * scalars["gradient"]
        if self.config.perceptual:
            one = perceptual_loss(self.config.perceptual, drawn * 2 - 1, frames[:, 1:], generator)
            scalars["perceptual"] = steps * one  # as the others: summed over a clip's frames
            total = total + self.config.perceptual_weight * scalars["perceptual"]
        if self.config.latent:
            scalars["divergence"] = divergence
        return total, scalars

    def _draw(self, predicted: Float[Tensor, "T B G"], seen: list[Tensor]) -> Float[Tensor, "B T 3 H W"]:
        """The predicted frames, in [0, 1]."""
        drawn = self.generator.decoder(predicted.flatten(0, 1), seen)
        return rearrange(drawn, "(t b) c h w -> b t c h w", b=predicted.shape[1])

    def _errors(
        self, drawn: Float[Tensor, "B T 3 H W"], truth: Float[Tensor, "B T 3 H W"]
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
        """The pixel error of each frame drawn in [0, 1], and its gradient difference if that counts."""
        truth = truth / 2 + 0.5
        pixel = pixel_loss(self.config.pixel, drawn, truth)
        return pixel, gradient_difference(
            self.config.pixel, drawn, truth
        ) if self.config.gradient else torch.zeros_like(pixel)

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the given frames as they are, then what the model expects after them.

        Over given frames the latent codes are the posterior's, which knows the next given frame, and after them the
        prior's, each drawn from "motion" (the authors' generate_svg_lp.py). Raises ValueError unless `mask` is true in
        the first frames, whole, and nowhere else.
        """
        self.refuse_unusable(given)
        known = self._first(given, len(noise))[:, :frames].to(next(self.generator.parameters()).device)
        network, latent, device = self.generator, self.config.latent, known.device
        state = network.begin(known[:, :1])
        yield known[:, :1]
        for chunk in known[:, 1:].split(CHUNK, 1) if known.shape[1] > 1 else ():
            *_, state = network.watch(chunk, noise.normal("motion", chunk.shape[1], latent, device=device), state)
            yield chunk
        seen = network.decoder.look(state.features)
        for first in range(known.shape[1], frames, CHUNK):
            drawn = []
            for draw in noise.normal("motion", min(CHUNK, frames - first), latent, device=device).split(1, 1):
                predicted, _, state = network.follow(state.code, None, draw, state)
                image = network.decoder(predicted[0], seen)
                state = state._replace(code=network.encoder(image)[0][None])
                drawn.append(image * 2 - 1)
            yield torch.stack(drawn, 1)

    def _first(self, given: Conditions, clips: int) -> Float[Tensor, "B t 3 H W"]:
        """The frames that are given; raises ValueError where they are not the whole first ones of every clip."""
        if given.mask is None or not given.mask.any():
            raise ValueError(
                "SVGLP goes on from frames that it is given: give the first ones (kinema sample MODEL --known CLIP; "
                "in Python known and mask, or Model.clips(known=...))"
            )
        return first_known("SVGLP", given, clips, *self.config.filled("height", "width"))

    def surprise(self, chunks: Iterable[Tensor]) -> Iterator[Float[Tensor, "B t"]]:
        """Yield the negative evidence lower bound of each frame given all before it, in the units of the loss.

        The error of the frame's prediction, through the skips of the frame before, plus beta times the divergence,
        with the latent code at its posterior's mean: nothing is random, and no perceptual loss counts. A video's first
        frame has none: NaN. The chunks [B, t, 3, H, W] are successive parts of the same videos.
        """
        config, state = self.config, None
        for frames in chunks:
            scores = []
            if state is None:
                state = self.generator.begin(frames[:, :1])
                scores.append(frames.new_full((len(frames), 1), torch.nan))
                frames = frames[:, 1:]
            if frames.shape[1]:
                still = frames.new_zeros(*frames.shape[:2], config.latent)
                predicted, divergence, features, state = self.generator.watch(frames, still, state)
                drawn = self._draw(predicted, self.generator.decoder.look(features))
                pixel, gradient = self._errors(drawn, frames)
                scores.append(pixel + config.gradient * gradient + config.beta * divergence.T)
            yield torch.cat(scores, 1)


def _divergence(posterior: Float[Tensor, "*N Z2"], prior: Float[Tensor, "*N Z2"]) -> Float[Tensor, "*N"]:
    """KL(posterior || prior) of Gaussians, means and logarithms of variances each, summed over their dimensions."""
    (mean, log_variance), (prior_mean, prior_log_variance) = posterior.chunk(2, -1), prior.chunk(2, -1)
    ratio = ((mean - prior_mean).square() + log_variance.exp()) / prior_log_variance.exp()
    return (prior_log_variance - log_variance + ratio - 1).sum(-1) / 2
