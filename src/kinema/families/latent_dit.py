"""Latent DiT: a transformer that denoises the latents of clips, each frame at a noise level of its own.

A diffusion transformer (Peebles and Xie 2023, arXiv 2212.09748) trained by flow matching (Lipman et al. 2022, arXiv
2210.02747) at logit-normal times (Esser et al. 2024, arXiv 2403.03206, section 3.1). It works on the latents of a
codec, or on pixels, which are then the latents: squares of them are its tokens.

What is given is told in two ways. As in diffusion forcing (Chen et al. 2024, arXiv 2407.01392) every frame has its own
time, and a frame that is given is simply one without noise; inside a frame a mask beside the latents tells which of
them are. Training gives some clips nothing, others their first frames, their last, both, or all but a box, so that one
model generates, predicts, goes backwards, interpolates and in-paints. The loss is that of what is not given.

Clips longer than those of training are drawn in windows, each of which is given the end of the one before. Such frames
may be given with a little noise (`context_noise`), which hides the errors that would else add up; training does so too.
A codec codes a clip's first frame alone, so later windows have no such latent: some of training is without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from kinema.families.video_vae import VideoVAE, VideoVAEConfig
from kinema.family import Facts, Family, FamilyConfig, Turn
from kinema.flow import (
    Parameterisation,
    Path,
    Prediction,
    Solver,
    guided,
    logit_normal_times,
    noised,
    prediction,
    shifted,
    solve,
    target,
    times,
    trailing,
    weight,
)
from kinema.nn.known import known_pixels
from kinema.nn.labels import labels
from kinema.nn.rotary import grid
from kinema.nn.transformer import AttentionKind, Transformer
from kinema.types import Batch, Conditions, Noise

__all__ = ["LatentDiT", "LatentDiTConfig", "LatentDiTSampling"]

WAVES = 128  # frequencies that a time is told in
INSIDE = 0.25  # of training steps without the latent of a clip's first frame
NOISIEST = 0.3  # time up to which given frames are noised in training, half of the clips'


@dataclass(frozen=True)
class LatentDiTSampling:
    """What may be chosen anew for every clip."""

    steps: int = 24
    """Of the solver."""
    solver: Solver = "dpm++"
    """How to go from noise to data: euler, heun, ddim, dpm++ or ddpm."""
    guidance: float = 1.0
    """How far to go beyond what the label asks for (1: no further), at twice the cost."""
    guidance_from: float = 0.0
    """The time down to which there is guidance."""
    guidance_to: float = 1.0
    """The time up to which there is guidance."""
    overlap: float = 0.5
    """Share of a window that was drawn before it, where a clip is longer than those of training."""
    context_noise: float = 0.0
    """Time, up to 0.3, to which frames that a window goes on from are noised."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guidance < 0:
            raise ValueError("latent-dit: steps must be at least 1, and guidance must not be negative")
        if not 0 <= self.guidance_from < self.guidance_to <= 1:
            raise ValueError("latent-dit: guidance is from a time of at least 0 to a later one of at most 1")
        if not 0 < self.overlap < 1 or not 0 <= self.context_noise <= NOISIEST:
            raise ValueError(f"latent-dit: overlap must be between 0 and 1, context_noise from 0 to {NOISIEST}")


@dataclass(frozen=True)
class LatentDiTConfig(FamilyConfig):
    """The defaults are for clips of 64x64 on a laptop, without a codec."""

    frames: int | None = None
    """T of a training clip; taken from the clips."""
    height: int | None = None
    """Pixels; taken from the clips."""
    width: int | None = None
    """Pixels; taken from the clips."""
    categories: int | None = None
    """Classes that it is told; taken from the labels, 0 without."""
    codec: str | None = None
    """A trained video-vae, its run or a checkpoint; none: the model draws pixels."""
    coded: VideoVAEConfig | None = None
    """The codec's configuration; taken from the codec."""
    patch: int = 8
    """Latents, or pixels, of a token's side."""
    channels: int = 192
    """Of a token inside the transformer."""
    depth: int = 6
    """Blocks of the transformer."""
    heads: int = 4
    """Of each attention."""
    attention: AttentionKind = "factorised"
    """Between all tokens, or by turns inside each frame and along time."""
    path: Path = "rectified"
    """From data to noise: rectified, cosine or linear."""
    parameterisation: Parameterisation = "data"
    """What the network predicts: velocity, epsilon, v or data, for tokens of more values than `channels` can tell."""
    shift: float = 3.0
    """Of times towards noise, in training and sampling, as large clips of much the same need: `flow.shifted`."""
    forcing: float = 0.3
    """Share of the clips that have another time in every frame; in the others all frames have one."""
    given: float = 0.5
    """Share of the clips of which something is given: first frames, last ones, both, or all but a box."""
    drop: float = 0.1
    """Share of the clips whose label is not told, so that guidance can tell what a label changes."""
    sampling: LatentDiTSampling = LatentDiTSampling()
    """How clips are drawn if nothing else is asked for."""

    def __post_init__(self) -> None:
        if min(self.patch, self.channels, self.depth, self.heads) < 1 or self.shift <= 0:
            raise ValueError("latent-dit: patch, channels, depth and heads must be at least 1, shift above 0")
        if not all(0 <= share <= 1 for share in (self.forcing, self.given, self.drop)):
            raise ValueError("latent-dit: forcing, given and drop are shares, from 0 to 1")

    def fitted(self, facts: Facts) -> LatentDiTConfig:
        """The configuration for clips of these sizes and classes, and for the codec."""
        coded = self.coded
        if coded is not None:
            coded = coded.fitted(facts)
        elif self.codec is not None:
            coded = replace(VideoVAEConfig.of(self.codec, facts), adversarial=0.0)  # its critic has done its work
        if coded is not None and coded.levels:
            raise ValueError(
                f"latent-dit: the codec {self.codec} makes tokens: train one without --family.levels, whose latents "
                "are continuous, or train token-transformer with this one"
            )
        side = self.patch * (1 if coded is None else coded.space)
        if facts.height % side or facts.width % side:
            raise ValueError(
                f"latent-dit: height and width must be multiples of {side}, a token's side, not {facts.height} and "
                f"{facts.width}: choose others with --data.height and --data.width, or another --family.patch"
            )
        return replace(self, coded=coded).completed(
            frames=facts.frames, height=facts.height, width=facts.width, categories=len(facts.classes)
        )

    def build(self) -> LatentDiT:
        """The untrained model, with an untrained codec."""
        return LatentDiT(self)


class Denoiser(nn.Module):
    """Noisy latents, which of them are given, and each frame's time, to what the parameterisation asks for."""

    def __init__(self, config: LatentDiTConfig, channels: int, categories: int) -> None:
        super().__init__()
        self.patch, width, values = config.patch, config.channels, config.patch**2
        self.embed = nn.Linear((channels + 1) * values, width)
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(categories + 1, width)  # the last: not told
        self.transformer = Transformer(width, config.depth, config.heads, config.attention, conditioned=True)
        self.read = nn.Linear(width, channels * values)
        nn.init.zeros_(self.read.weight)
        nn.init.normal_(self.label.weight, std=0.02)

    def forward(
        self,
        x: Float[Tensor, "B L C h w"],
        known: Bool[Tensor, "B L 1 h w"],
        t: Float[Tensor, "B L"],
        label: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B L C h w"]:
        """What the network makes of `x`, float32."""
        length, rows, columns = x.shape[1], x.shape[3] // self.patch, x.shape[4] // self.patch
        told = torch.cat([x, known.to(x) * 2 - 1], 2)
        tokens = rearrange(told, "b l c (h p) (w q) -> b (l h w) (p q c)", p=self.patch, q=self.patch)
        condition = self.time(_waves(t)) + self.label(label)[:, None]  # [B, L, D]
        y = self.transformer(self.embed(tokens), grid(length, rows, columns), condition, length)
        return rearrange(
            self.read(y).float(), "b (l h w) (p q c) -> b l c (h p) (w q)",
            l=length, h=rows, p=self.patch, q=self.patch,
        )  # fmt: skip


def _waves(t: Float[Tensor, "B L"]) -> Float[Tensor, "B L waves"]:
    """Times as cosines and sines, of a thousand steps as in DiT's code and DDPM's before it."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(WAVES, device=t.device) / WAVES)
    angles = 1_000 * t[..., None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


class Generator(nn.Module):
    """The denoiser, and the codec of its latents if there is one."""

    def __init__(self, config: LatentDiTConfig, categories: int) -> None:
        super().__init__()
        self.codec = None if config.coded is None else config.coded.build()
        self.denoiser = Denoiser(config, 3 if self.codec is None else self.codec.channels, categories)


class LatentDiT(Family):
    """A diffusion transformer over latents or pixels; told the label where it was trained with labels.

    Pixels that are known stay exactly as they are; through a codec they come back as it gives them, and count where all
    pixels of a latent, in all frames that share it, are known.
    """

    accepts = frozenset({"label", "known", "mask"})
    streams = frozenset({"latents"})

    generator: Generator
    sampling: LatentDiTSampling

    def __init__(self, config: LatentDiTConfig) -> None:
        super().__init__()
        frames, self.height, self.width, self.categories = config.filled("frames", "height", "width", "categories")
        self.config, self.sampling = config, config.sampling
        self.generator = Generator(config, self.categories)
        self.window = frames if self.codec is None else self.codec.length(frames)  # L of training

    @property
    def codec(self) -> VideoVAE | None:
        """What turns clips into latents; None: the model draws pixels."""
        return self.generator.codec

    def begin(self) -> None:
        """Take the codec's weights; raises ValueError where they cannot be had."""
        if self.codec is not None and self.config.codec is not None:
            self.codec.load_weights(self.config.codec)

    def turns(self) -> Sequence[Turn]:
        """The denoiser's; the codec stays as it is."""
        return (Turn("denoiser", self.generator.denoiser, self._loss),)

    # Training

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of what the network should predict (arXiv 2210.02747, eq. 9), where nothing is given."""
        config = self.config
        x0 = batch.latents.float() if batch.latents is not None else self._encoded(batch.frames)
        clips, device = len(x0), x0.device
        if self.codec is not None and torch.rand((), generator=generator, device=device) < INSIDE:
            x0 = x0[:, min(1, self.window - 1) :]
        known = self._something_given(x0, generator)
        whole = known.flatten(2).all(2)  # [B, L] frames without anything to draw

        noisy = torch.rand(2, clips, 1, generator=generator, device=device)
        t = torch.where(whole, NOISIEST * noisy[0] * (noisy[1] < 0.5), self._times(clips, x0.shape[1], generator))
        eps = torch.randn(x0.shape, generator=generator, device=device)
        x = torch.where(_parts(known, whole), x0, noised(config.path, x0, eps, t))

        dropped = torch.rand(clips, generator=generator, device=device) < config.drop
        label = torch.where(dropped, self.categories, self._label(batch, clips, device))
        output = self.generator.denoiser(x, known, t, label)
        error = (output - target(config.parameterisation, config.path, x0, eps, t)).square().mean(2, keepdim=True)
        error = error * trailing(weight(config.parameterisation, config.path, t), error)
        loss = (error * ~known).sum() / (~known).sum().clamp(min=1)
        return loss, {"error": loss}

    @torch.no_grad()
    def _encoded(self, frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B L C h w"]:
        """The latents of whole clips."""
        return frames if self.codec is None else self.codec.encode(frames)[0]

    def _label(self, batch: Batch, clips: int, device: torch.device) -> Int64[Tensor, " B"]:
        """The label of each clip, or that there is none."""
        if batch.given.label is None or not self.categories:
            return torch.full((clips,), self.categories, device=device)
        return batch.given.label

    def _times(self, clips: int, length: int, generator: torch.Generator) -> Float[Tensor, "B L"]:
        """Times of frames: the same in a clip, or in a share of the clips each its own."""
        each = logit_normal_times((clips, length), generator)
        apart = torch.rand(clips, 1, generator=generator, device=generator.device) < self.config.forcing
        return shifted(torch.where(apart, each, each[:, :1]), self.config.shift)

    def _something_given(self, x: Float[Tensor, "B L C h w"], generator: torch.Generator) -> Bool[Tensor, "B L 1 h w"]:
        """What is given of each clip: nothing, or one of four parts that are as probable."""
        clips, length, _, height, width = x.shape

        def between(low: int, high: int) -> Int64[Tensor, "B 1 1 1 1"]:
            """An integer for each clip, from `low` to `high`."""
            size = (clips, 1, 1, 1, 1)
            return torch.randint(low, max(low, high) + 1, size, generator=generator, device=x.device)

        time = torch.arange(length, device=x.device)[:, None, None, None]
        row = torch.arange(height, device=x.device)[:, None]
        column = torch.arange(width, device=x.device)
        beginning, end = time < between(1, length - 1), time >= length - between(1, length - 1)
        ends = (time < between(1, length // 2)) | (time >= length - between(1, (length - 1) // 2))
        top, left = between(0, height - 1), between(0, width - 1)
        box = (top <= row) & (row <= top + between(height // 4, height // 2))
        box = box & (left <= column) & (column <= left + between(width // 4, width // 2))
        parts = torch.stack([part.expand(clips, length, 1, height, width) for part in (beginning, end, ends, ~box)])
        known = parts[between(0, 3).flatten(), torch.arange(clips, device=x.device)]
        return known & (torch.rand(clips, 1, 1, 1, 1, generator=generator, device=x.device) < self.config.given)

    # Sampling

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield a window's new frames at a time.

        Raises ValueError for labels, sizes and masks that are not this model's.
        """
        self.refuse_unusable(given)
        device = self.generator.denoiser.read.weight.device
        label = labels(given, self.categories, noise, "latents", device)
        length = frames if self.codec is None else self.codec.length(frames)
        latents = self._windows(*self._given(given, len(noise), length, device), label, noise)
        if self.codec is not None:
            yield from self.codec.decoded(latents, frames)
            return
        for drawn in latents:
            yield drawn.clamp(-1, 1)

    def _given(self, given: Conditions, clips: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The latents of what is given [B, length, C, h, w], and where it is [B, length, 1, h, w]."""
        known, mask = known_pixels("LatentDiT", given, clips, self.height, self.width)
        known, mask = known.to(device), mask.to(device)
        if self.codec is None:
            x0, cells = torch.where(mask, known, 0), mask
        elif mask.shape[1]:
            x0, cells = self.codec.given(known, mask)
            cells = cells[:, :, None]
        else:
            height, width = self.height // self.codec.space, self.width // self.codec.space
            x0, cells = known.new_zeros(clips, 0, self.codec.channels, height, width), mask.new_zeros(clips, 0)
            cells = cells[..., None, None, None].expand(-1, -1, 1, height, width)
        return _lengthened(x0[:, :length].float(), length), _lengthened(cells[:, :length], length)

    def _windows(self, given: Tensor, known: Tensor, label: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the latents of a clip, a window's new ones at a time; all but the first go on from the one before."""
        length, window, later = given.shape[1], self.window, max(1, self.window - (self.codec is not None))
        carried = min(later - 1, max(1, round(self.sampling.overlap * later)))
        past, done = given[:, :0], 0
        while done < length:
            before = past.shape[1]
            new = slice(done, done + window - before)
            x0 = _lengthened(torch.cat([past, given[:, new]], 1), window)
            where = torch.cat([torch.ones_like(past[:, :, :1], dtype=torch.bool), known[:, new]], 1)
            drawn = self._draw(x0, _lengthened(where, window), before, label, noise)
            yield drawn[:, before : before + length - done]
            done, past, window = new.stop, drawn[:, window - carried :], later

    def _draw(self, x0: Tensor, known: Tensor, before: int, label: Tensor, noise: Noise) -> Tensor:
        """The latents of a window of which `x0` holds what is known; `before` frames are from the window before."""
        config, chosen = self.config, self.sampling
        whole = known.flatten(2).all(2)  # [B, L]
        parts = _parts(known, whole)
        still = torch.zeros(whole.shape, device=x0.device)  # the time at which frames are given
        still[:, :before] = chosen.context_noise
        at = torch.where(
            whole, still, times(chosen.steps, config.shift).to(x0.device)[:, None, None]
        )  # [steps+1, B, L]

        def fresh() -> Tensor:
            return noise.normal("latents", *x0.shape[1:], device=x0.device)

        def denoise(x: Tensor, t: Tensor) -> Prediction:
            seen = torch.where(parts, x0, x)

            def network(told: Tensor) -> Tensor:
                return self.generator.denoiser(seen, known, t, told)

            untold = torch.full_like(label, self.categories)
            interval = chosen.guidance_from, chosen.guidance_to
            output = guided(network(label), lambda: network(untold), t, chosen.guidance, interval)
            found = prediction(config.parameterisation, config.path, x, output, t)
            return Prediction(torch.where(known, x0, found.x0), torch.where(known, eps, found.eps))

        eps = fresh()
        x = torch.where(whole[..., None, None, None], noised(config.path, x0, eps, still), eps)
        return torch.where(known, x0, solve(chosen.solver, denoise, x, at, config.path, fresh))


def _parts(known: Bool[Tensor, "B L 1 h w"], whole: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L 1 h w"]:
    """What is known of frames that are not known as a whole."""
    return known & ~whole[..., None, None, None]


def _lengthened(x: Tensor, length: int) -> Tensor:
    """`x` with zeros, or False, after its last frame, up to `length` frames."""
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1)
