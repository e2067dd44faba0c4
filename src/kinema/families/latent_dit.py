"""Latent DiT: a diffusion transformer over a clip's latents, trained by flow matching, with a noise level a frame.

A transformer whose blocks are modulated by noise level and label (DiT: Peebles and Xie 2022, arXiv 2212.09748; over
video: Latte, arXiv 2401.03048) learns the way from data to noise (flow matching: Lipman et al. 2022, arXiv 2210.02747)
in the latents of a trained codec (Rombach et al. 2021, arXiv 2112.10752), or in pixels, which are then latents of 3
channels. Each frame has a noise level of its own (diffusion forcing: Chen et al. 2024, arXiv 2407.01392), so that one
network draws clips from nothing, goes on from frames in both directions, fills in between and paints in:

- In training some of a clip is given: its first frames, its last, both, a region of all of them, or nothing. Given
  cells are clean in the input, a channel beside the latents marks them, the noise level of a frame that is given as a
  whole is 0, and the loss is over the rest. Sampling gives what `known` and `mask` say in the same way.
- Longer clips are drawn in windows as long as a training clip, each given the last frames of the one before. These may
  be noised a little, so that errors in them are not taken for truth; a part of training gives frames in this way too.
- A codec codes a clip's first frame alone. Windows further on in a video have no such latent: they are shorter by it,
  and some training steps are on clips without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
import tyro
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema import flow
from kinema.conditions.incomplete import incomplete, whole
from kinema.conditions.listener import Heard, Listener
from kinema.conditions.text import TextEncoder
from kinema.families.video_vae import VideoVAE, VideoVAEConfig
from kinema.family import Facts, Family, FamilyConfig, Turn
from kinema.nn.known import known_pixels
from kinema.nn.labels import labels
from kinema.nn.patches import Patches
from kinema.nn.rotary import grid
from kinema.nn.transformer import AttentionKind, Transformer
from kinema.types import Batch, Conditions, Noise

__all__ = ["LatentDiT", "LatentDiTConfig", "LatentDiTSampling"]

CONTEXT = 0.2  # the highest noise level of given frames that are noised
PARTLY = 0.6  # the noise level at which drawing begins of latents of which some frames are given
LAG = 1.0  # the most by which a frame of a clip is behind the one before in training, where it is `rolling`
FORCED = 0.25  # of training clips with a noise level for each frame; others have one for all
UNHEARD, ALONE = 0.75, 0.25  # of sounds and actions that are left out: beside texts, all of which they may say, and not
INSIDE = 0.25  # of training steps on clips without the latent of the first frame, where it was coded alone
GUIDED = {  # by what settings, and by which conditions together, as label and text both say what is to be seen
    "guidance": frozenset({"label", "text"}),
    "audio_guidance": frozenset({"audio"}),
    "actions_guidance": frozenset({"actions"}),
}
JUDGED = (0.6, 0.7, 0.8, 0.85)  # noise levels at which candidates are compared
WORST = 0.04  # share of a candidate's tokens that are its worst
IMPLAUSIBLE = 0.1  # how much the error of the worst tokens counts beside what words do to errors
WAVES = 128  # frequencies that tell a noise level


@dataclass(frozen=True)
class LatentDiTSampling:
    """How clips are drawn from a trained model."""

    steps: int = 24
    """Of the solver, in each window."""
    solver: flow.Solver = "dpm++"
    """How a step is made; heun calls the network twice."""
    guidance: float = 1.0
    """Scale of classifier-free guidance by text and label; 1 is none, and above it the network is called twice."""
    audio_guidance: float = 1.0
    """Of guidance by sound, added to that by others; once more a call above 1."""
    actions_guidance: float = 1.0
    """Of guidance by actions, likewise."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels that are guided, above the first and up to the second."""
    shift: float | None = None
    """How far noise levels are moved towards noise; None: as far as in training."""
    context_noise: float = 0.0
    """Noise level of the frames that a longer clip goes on from, up to 0.2; 0 leaves them as they are."""
    lag: float = 0.0
    """Of each frame behind the one before, as a share of the steps: later frames see what earlier ones became, for as
    many more steps. It is of use where `rolling` was trained."""
    candidates: int = 1
    """Drawn of each window, of which the one is kept that fits best what it is told; each takes the time of a clip."""
    overlap: float = 0.5
    """Share of a window that is given by the one before; the greater, the steadier and slower long clips are."""

    def __post_init__(self) -> None:
        low, high = self.interval
        if self.steps < 1 or not 0 <= low < high <= 1:
            raise ValueError("latent-dit: steps must be at least 1 and interval rise within 0 and 1")
        if self.candidates < 1:
            raise ValueError("latent-dit: candidates must be at least 1")
        if self.shift is not None and self.shift <= 0:
            raise ValueError("latent-dit: shift must be more than 0")
        if not 0 <= self.context_noise <= CONTEXT or not 0 < self.overlap < 1 or not 0 <= self.lag <= 1:
            raise ValueError(
                f"latent-dit: context_noise must be in 0 to {CONTEXT}, lag in 0 to 1 and overlap between 0 and 1"
            )


@dataclass(frozen=True)
class LatentDiTConfig(FamilyConfig):
    """The defaults are for the latents of a codec on a laptop; `kinema.presets` has others."""

    frames: int | None = None
    """T of a training clip, and of a window of a longer one; taken from the clips."""
    height: int | None = None
    """Pixels; taken from the clips."""
    width: int | None = None
    """Pixels; taken from the clips."""
    categories: int | None = None
    """Classes that it is told; taken from the labels, 0 without."""
    words: Annotated[tuple[str, ...] | None, tyro.conf.Suppress] = None
    """Words that it knows; taken from the captions."""
    reader: str | None = None
    """A text encoder of the Hugging Face hub, or a folder with one, to read captions by; None: one is trained."""
    actions: int | None = None
    """Numbers that say what was done on the way to a frame; taken from the clips, 0 without."""
    hears: float | None = None
    """Frames a second of clips with sound; taken from the clips, 0 without sound."""
    codec: str | None = None
    """A run of video-vae whose latents are modelled, or a model with such a codec in it; None: pixels are."""
    coded: Annotated[VideoVAEConfig | None, tyro.conf.Suppress] = None
    """The codec's configuration; taken from its run."""
    patch: tuple[int, int] = (1, 1)
    """Latents in time, and of a side, that make a token: with noise levels a frame, the first share one."""
    hidden: int = 192
    """Dimensions of a token."""
    depth: int = 6
    """Blocks of the transformer."""
    heads: int = 4
    """Of attention."""
    attention: AttentionKind = "full"
    """Over all tokens, or "factorised" over those of a frame and those of a place in turn: for many tokens."""
    path: flow.Path = "rectified"
    """The way from data to noise."""
    parameterisation: flow.Parameterisation = "velocity"
    """What the network tells of it: "data" where tokens have more values than `hidden`, as those of pixels have."""
    shift: float = 2.0
    """How far noise levels are moved towards noise, in training and sampling (1: not): what many values share can be
    seen through much noise, so the more frames there are, the more; their root is a good beginning."""
    dropout: float = 0.1
    """Share of labels and of texts that are left out in training, which guidance needs."""
    completing: float = 1.0
    """How often some of a training clip is given, as a share of the usual half: the less, the more words matter."""
    rolling: float = 0.0
    """Share of training clips that are the noisier the later the frame, as they are where they are drawn with a lag."""
    sampling: LatentDiTSampling = LatentDiTSampling()
    """How clips are drawn, where a caller does not say."""

    def __post_init__(self) -> None:
        if min(*self.patch, self.hidden, self.depth, self.heads) < 1:
            raise ValueError("latent-dit: patch, hidden, depth and heads must be at least 1")
        if self.shift <= 0 or not 0 <= self.dropout < 1:
            raise ValueError("latent-dit: shift must be more than 0 and dropout in [0, 1)")
        if not 0 <= self.completing <= 1 or not 0 <= self.rolling <= 1:
            raise ValueError("latent-dit: completing and rolling must be in [0, 1]")

    def fitted(self, facts: Facts) -> LatentDiTConfig:
        """The configuration for clips of these sizes and classes, whose latents must be whole tokens."""
        coded = self.coded
        if coded is None and self.codec is not None:
            coded = replace(VideoVAEConfig.of(self.codec, facts), adversarial=0.0)  # its critic has done its work
        if coded is not None and coded.levels:
            raise ValueError(f"latent-dit: the codec {self.codec} makes tokens: train one without --family.levels")
        config = replace(self, coded=coded and coded.fitted(facts)).completed(
            frames=facts.frames,
            height=facts.height,
            width=facts.width,
            categories=len(facts.classes),
            words=facts.words,
            actions=facts.actions,
            hears=float(facts.fps or 0) if facts.audio else 0.0,
        )
        (time, side), (length, _, height, width) = self.patch, config.latents
        if length % time:
            raise ValueError(
                f"latent-dit: clips of {facts.frames} frames are {length} latents in time, which make no tokens of "
                f"{time}: make --family.patch 1 {side}, or choose another --data.frames"
            )
        if height % side or width % side:
            multiple = side * facts.height // height
            raise ValueError(
                f"latent-dit: height and width must be multiples of {multiple}, not {facts.height} and {facts.width}: "
                f"choose others with --data.height and --data.width, or make --family.patch {time} 1"
            )
        return config

    def build(self) -> LatentDiT:
        """The untrained model."""
        return LatentDiT(self)

    @property
    def latents(self) -> tuple[int, int, int, int]:
        """L, C, h and w of a training clip's latents."""
        frames, height, width = self.filled("frames", "height", "width")
        if self.coded is None:
            return frames, 3, height, width
        space, time = self.coded.space, self.coded.time
        return 1 + (frames - 1) // time, self.coded.channels, height // space, width // space


class Network(nn.Module):
    """What tells data from noise: the transformer, and what makes tokens of latents and latents of tokens."""

    def __init__(self, config: LatentDiTConfig) -> None:
        super().__init__()
        (self.time, self.side), (_, channels, height, width) = config.patch, config.latents
        (categories,), hidden = config.filled("categories"), config.hidden
        time, places = 1 if config.coded is None else config.coded.time, height * width // self.side**2
        self.patches = Patches(channels, self.time, self.side, hidden, pixels=config.coded is None)
        self.places = nn.Parameter(0.02 * torch.randn(places, hidden))  # rotary positions only tell how far apart
        self.level = nn.Sequential(nn.Linear(2 * WAVES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.alone = nn.Parameter(torch.zeros(hidden))
        words, actions, fps = config.words or (), config.actions or 0, config.hears or None
        self.listener = Listener(
            hidden, config.heads, time * self.time, time > 1, categories, words, actions, fps, config.reader
        )
        self.transformer = Transformer(
            hidden, config.depth, config.heads, config.attention, conditioned=True, crossed=bool(words)
        )

    def forward(
        self,
        x: Float[Tensor, "B L C h w"],
        given: Bool[Tensor, "B L 1 h w"],
        levels: Float[Tensor, "B L"],
        heard: Heard,
        alone: bool,
    ) -> Float[Tensor, "B L C h w"]:
        """What `x`, clean where `given`, is of, in the model's parameterisation; float32.

        The `levels` of a token's latents are one; `alone` says whether the first latent is of a frame coded alone.
        """
        tokens = self.patches.read(x, given)
        frames, height, width = tokens.shape[1], x.shape[3] // self.side, x.shape[4] // self.side
        condition = self.level(_waves(levels[:, :: self.time])) + heard.moments  # [B, frames, D]
        if alone:
            condition = torch.cat([condition[:, :1] + self.alone, condition[:, 1:]], 1)
        tokens, places = (tokens + self.places).flatten(1, 2), grid(frames, height, width, device=x.device)
        tokens = self.transformer(tokens, places, condition, frames, heard.context)
        return self.patches.write(tokens, frames, height)


class Generator(nn.Module):
    """The network and the codec, which stays as it was trained."""

    def __init__(self, config: LatentDiTConfig) -> None:
        super().__init__()
        self.codec: VideoVAE | None = config.coded.build() if config.coded else None
        self.network = Network(config)

    def train(self, mode: bool = True) -> Generator:
        """Turn training on or off in the network."""
        super().train(mode)
        if self.codec is not None:
            self.codec.eval()
        return self


class LatentDiT(Family):
    """A latent diffusion transformer; told what its training clips came with, given frames and regions."""

    streams = frozenset({"latents"})

    generator: Generator
    sampling: LatentDiTSampling

    def __init__(self, config: LatentDiTConfig) -> None:
        super().__init__()
        self.config, self.sampling = config, config.sampling
        self.generator = Generator(config)
        self.accepts = self.generator.network.listener.hears | {"known", "mask"}
        (self.categories,), self.length = config.filled("categories"), config.latents[0]
        self.grouped = config.coded is not None and config.coded.time > 1  # so the first frame was coded alone
        self.inside = self.length - config.patch[0] * self.grouped  # latents of a window further on
        if self.inside < 2 * config.patch[0]:
            self.longest = config.frames  # there is none to go on from and one to draw

    @property
    def codec(self) -> VideoVAE | None:
        """The trained codec; None in pixels."""
        return self.generator.codec

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """Those that no caption had in training, where it learned to read by itself."""
        reader = self.generator.network.listener.text
        return reader.words.unknown(text) if isinstance(reader, TextEncoder) else ()

    def begin(self) -> None:
        """Take the weights of the trained codec."""
        if self.codec is not None and self.config.codec is not None:
            self.codec.load_weights(self.config.codec)

    def turns(self) -> Sequence[Turn]:
        """One: the network learns to denoise, and the codec stays as it is."""
        return (Turn("generator", self.generator.network, self._loss),)

    def _loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error of what the network tells of the cells that are not given."""
        config, x0 = self.config, self._latents(batch)
        draw = partial(torch.rand, generator=generator, device=x0.device)
        chance = torch.Generator().manual_seed(generator.initial_seed())  # on the CPU: nothing waits for a GPU to draw
        inside = self.grouped and self.longest is None and bool(torch.rand((), generator=chance) < INSIDE)
        if inside:
            x0 = x0[:, self.length - self.inside :]
        given, levels, asked = self._task(x0, generator)
        eps = torch.randn(x0.shape, generator=generator, device=x0.device)
        x = torch.where(given, x0, flow.noised(config.path, x0, eps, levels))
        unheard = UNHEARD if config.words else ALONE
        shares = {"label": config.dropout, "text": config.dropout, "audio": unheard, "actions": unheard}
        left_out = {name: draw(len(x0)) < share for name, share in shares.items()}
        heard = self.generator.network.listener(batch.given, config.frames, len(x0), left_out)
        if inside:
            heard = heard.cut(1, self.inside // config.patch[0])
        told = self.generator.network(x, given, levels, heard, alone=self.grouped and not inside)
        error = (told - flow.target(config.parameterisation, config.path, x0, eps, levels)).square().mean(2, True)
        error = error * flow.trailing(flow.weight(config.parameterisation, config.path, levels), error)
        loss = error.masked_fill(~asked, 0).sum() / asked.sum().clamp(min=1)
        return loss, {"error": loss}

    @torch.no_grad()
    def _latents(self, batch: Batch) -> Float[Tensor, "B L C h w"]:
        """The latents of the clips, which may be at hand."""
        if batch.latents is not None:
            return batch.latents
        return batch.frames if self.codec is None else self.codec.encode(batch.frames)[0]

    def _task(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What each clip is to learn from: its given cells, noise levels [B, L], and the cells that are asked for.

        Cells are [B, L, 1, h, w]. A given frame that is noised counts as neither: what is told of it is of no use.
        """
        (clips, length, _, height, width), time = x0.shape, self.config.patch[0]
        draw = partial(torch.rand, generator=generator, device=x0.device)
        given, context = incomplete(clips, length, height, width, time, generator)
        if self.config.completing < 1:  # runs that complete as usual go on with the numbers they have drawn before
            completed = draw(clips, 1) < self.config.completing
            given, context = given & completed[..., None, None, None], context & completed
        drawn = flow.logit_normal_times((clips, length // time), generator)
        one_each = draw(clips, 1) < FORCED
        drawn = torch.where(one_each, drawn, drawn[:, :1])
        if self.config.rolling:
            turn, lag = torch.arange(length // time, device=x0.device), LAG * draw(clips, 1)
            done = -lag * turn[-1]  # where the first frame would be when the last begins to have no noise
            first = done + (1 - done) * draw(clips, 1)
            drawn = torch.where(draw(clips, 1) < self.config.rolling, (first + lag * turn).clamp(0, 1), drawn)
        levels = flow.shifted(drawn, self.config.shift)
        levels = torch.where(context, CONTEXT * draw(clips, 1), levels.repeat_interleave(time, 1))
        asked = ~(given | (context | (levels == 0))[:, :, None, None, None])
        return given, levels.masked_fill(whole(given, time), 0), asked

    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the clips window by window, with what is given where it is.

        In pixels the known ones come back as they are. A codec's latents are given where all the pixels that they are
        of are known, and these come back as the codec codes them. Where only some frames of a group are known, drawing
        begins at the group in which they stand still, under noise (SDEdit: Meng et al. 2021, arXiv 2108.01073); where
        only some of the pixels are, they do not count. A window knows only what is given in it: to go towards what is
        given later, ask for no more frames than a window has.

        Of several candidates of a window the one is kept that the network finds the most fitting, by its errors under
        the same noises for all and their opposites. They should fall by a great share when it is told what a clip is
        to show, as so a diffusion model judges how words and pictures fit (Li et al. 2023, arXiv 2303.16203; beside its
        error without words: Krojer et al. 2023, arXiv 2305.16397). They should rise nowhere, as where one is told of a
        circle and sees a square, and be great nowhere: a clip is wrong that is wrong in one place. A clip that is told
        nothing has one candidate.
        """
        self.refuse_unusable(given)
        device = next(self.generator.parameters()).device
        known, share = self._known(given, len(noise), device)
        heard, unheard = self._heard(given, frames, noise, device)
        length = frames if self.codec is None else self.codec.length(frames)
        windows = self._windows(length, known, share, heard, unheard, noise)
        yield from windows if self.codec is None else self.codec.decoded(windows, frames)

    @torch.no_grad()
    def _heard(
        self, given: Conditions, frames: int, noise: Noise, device: torch.device
    ) -> tuple[list[tuple[float, Heard]], Heard | None]:
        """What clips are told, of scale 1, and after it with a condition left out, of that guidance's scale.

        Beside it with all left out, if there are candidates to be compared and anything is told.
        """
        listener = self.generator.network.listener
        told = listener.hears & (given.present | {"label"})
        given = replace(given.to(device), label=labels(given, self.categories, noise, "latents", device))

        def without(names: frozenset[str], setting: str) -> Heard:
            if not names & listener.hears or not (self.config.dropout or names.isdisjoint(GUIDED["guidance"])):
                raise ValueError(
                    f"this model was not trained with {' or '.join(sorted(names))} left out, which {setting} needs: "
                    f"make {setting} 1"
                )
            return listener(replace(given, **dict.fromkeys(names)), frames, len(noise))

        heard = [(1.0, listener(given, frames, len(noise)))]
        for setting, names in GUIDED.items():
            if (scale := getattr(self.sampling, setting)) != 1:
                heard.append((scale, without(names, setting)))
        return heard, without(told, "candidates") if told and self.sampling.candidates > 1 else None

    def _known(self, given: Conditions, clips: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The latents of the given frames [B, l, C, h, w], and how much of each is given [B, l, 1, h, w]."""
        known, mask = known_pixels("LatentDiT", given, clips, *self.config.filled("height", "width"))
        known, mask, codec = known.to(device), mask.to(device), self.codec
        if codec is None:
            return torch.where(mask, known, 0), mask.float()
        if not known.shape[1]:
            empty = torch.empty(clips, 0, *self.config.latents[1:], device=device)
            return empty, empty[:, :, :1]
        latents, share = codec.given(known, mask)
        return latents, share[:, :, None]

    def _windows(
        self,
        length: int,
        known: Tensor,
        share: Tensor,
        heard: list[tuple[float, Heard]],
        unheard: Heard | None,
        noise: Noise,
    ) -> Iterator[Tensor]:
        """Yield the latents of videos, `length` in time, of which `known` is given as far as `share` says.

        Each window begins with the last latents of the one before; all are drawn whole, however many are asked for.
        """
        time, tokens = self.config.patch[0], self.inside // self.config.patch[0]
        overlap = time * min(max(1, round(self.sampling.overlap * tokens)), tokens - 1)
        context, done, many = known[:, :0], 0, noise.each(self.sampling.candidates)
        judge = Noise(noise.streams.get("latents", noise.seeds))
        while done < length:
            begin, size = (done - overlap, self.inside) if done else (0, self.length)
            now = [(scale, every.cut(begin // time, size // time)) for scale, every in heard]
            parts = context, _cut(known, begin, size), _cut(share, begin, size)
            if unheard is None:
                window = self._draw(*parts, now, noise)
            else:
                window = self._best(*parts, now, unheard.cut(begin // time, size // time), many, judge)
            yield window[:, done - begin :][:, : length - done]
            context, done = window[:, -overlap:], begin + size

    def _best(
        self,
        context: Tensor,
        known: Tensor,
        share: Tensor,
        heard: list[tuple[float, Heard]],
        unheard: Heard,
        many: Noise,
        judge: Noise,
    ) -> Tensor:
        """Of the windows that are drawn of `many` noises, several a clip, the one that fits best what it is told."""
        count, alone = self.sampling.candidates, self.grouped and not context.shape[1]
        context, known, share = (x.repeat_interleave(count, 0) for x in (context, known, share))
        heard, unheard = [(scale, every.repeated(count)) for scale, every in heard], unheard.repeated(count)
        windows, given = self._draw(context, known, share, heard, many), share == 1
        given[:, : context.shape[1]] = True
        best = self._fits(windows, given, [heard[0][1], unheard], alone, judge).view(-1, count).argmax(1)
        return windows.unflatten(0, (-1, count))[torch.arange(len(best), device=best.device), best]

    def _fits(
        self, windows: Tensor, given: Tensor, heard: Sequence[Heard], alone: bool, judge: Noise
    ) -> Float[Tensor, " B"]:
        """How well `windows` [B, L, C, h, w], several of each clip, fit what clips are told; see `generate`.

        `heard` is all that they are told, and nothing; `judge` draws the noises, those of a clip for all its windows.
        """
        still, count, fall, errors = whole(given, self.config.patch[0]), self.sampling.candidates, [], []
        for level in JUDGED:
            drawn = judge.normal("judged", *windows.shape[1:], device=windows.device).repeat_interleave(count, 0)
            levels = windows.new_full(windows.shape[:2], level).masked_fill(still, 0)
            for eps in (drawn, -drawn):
                x = torch.where(given, windows, flow.noised(self.config.path, windows, eps, levels))
                target = flow.target(self.config.parameterisation, self.config.path, windows, eps, levels)
                made = torch.stack(self._told(x, given, levels, heard, alone))
                error = self.generator.network.patches.means((made - target).square().masked_fill(given, 0))
                told, untold = error.mean(2).clamp(min=1e-12)
                fall.append(1 - told / untold)
                errors.append(error / untold.view(-1, count).mean(1).repeat_interleave(count)[:, None])
        told, untold = torch.stack(errors).mean(0)  # [B, tokens] each, in shares of the clip's mean error

        def worst(x: Tensor) -> Tensor:
            return x.topk(max(1, round(WORST * x.shape[1]))).values.mean(1)

        return torch.stack(fall).mean(0) - worst(told - untold) - IMPLAUSIBLE * worst(told)

    def _told(
        self, x: Tensor, given: Tensor, levels: Tensor, heard: Sequence[Heard], alone: bool
    ) -> tuple[Tensor, ...]:
        """What the network makes of the same clips when it hears one thing or another, in one call."""
        x, given, levels = (part.repeat(len(heard), *[1] * (part.ndim - 1)) for part in (x, given, levels))
        return self.generator.network(x, given, levels, Heard.joined(heard), alone=alone).chunk(len(heard))

    def _draw(
        self, context: Tensor, known: Tensor, share: Tensor, heard: list[tuple[float, Heard]], noise: Noise
    ) -> Tensor:
        """A window [B, L, C, h, w] that begins with the latents of `context` and has the `known` ones, by `share`."""
        config, sampling, overlap = self.config, self.sampling, context.shape[1]
        cells, least = share == 1, share.flatten(2).amin(2)
        partly = whole(((least > 0) & (least < 1))[:, :, None, None, None], config.patch[0])  # [B, L]
        partly[:, :overlap] = False
        alone = self.grouped and not overlap
        clean = torch.cat([context, known[:, overlap:]], 1)
        if not sampling.context_noise:
            cells = torch.cat([torch.ones_like(cells[:, :overlap]), cells[:, overlap:]], 1)
        there = whole(cells, config.patch[0])  # [B, L]
        drawn = ~there
        drawn[:, :overlap] = False
        turn = drawn[:, :: config.patch[0]].cumsum(1).sub(1).clamp(min=0).repeat_interleave(config.patch[0], 1)
        wait = (sampling.lag * sampling.steps * turn).round().long()
        shift = config.shift if sampling.shift is None else sampling.shift
        levels = flow.waiting(sampling.steps, shift, wait)  # [steps + 1, B, L]
        levels = torch.where(partly, levels.clamp(max=PARTLY), levels)
        levels[:, :, :overlap] = sampling.context_noise
        levels = levels.masked_fill(there, 0)

        def denoise(x: Tensor, levels: Tensor) -> flow.Prediction:
            x = torch.where(cells, clean, x)
            asked = heard if flow.within(levels, sampling.interval).any() else heard[:1]
            told, *without = self._told(x, cells, levels, [every for _, every in asked], alone)
            scaled = [(scale, other) for (scale, _), other in zip(asked[1:], without, strict=True)]
            told = flow.guided(told, scaled, levels, sampling.interval)
            return flow.prediction(config.parameterisation, config.path, x, told, levels)

        fresh = partial(noise.normal, "latents", *clean.shape[1:], device=clean.device)
        x = fresh()
        noised = flow.noised(config.path, context, x[:, :overlap], levels.new_full((), sampling.context_noise))
        x = torch.cat([noised, x[:, overlap:]], 1)
        x = torch.where(partly[:, :, None, None, None], flow.noised(config.path, clean, x, levels[0]), x)
        x = flow.solve(sampling.solver, denoise, x, levels, config.path, fresh)
        x = torch.where(cells, clean, torch.cat([context, x[:, overlap:]], 1))
        return x.clamp(-1, 1) if self.codec is None else x


def _waves(levels: Float[Tensor, "B T"]) -> Float[Tensor, "B T waves"]:
    """Cosines and sines of noise levels at many frequencies, as DiT tells its 1,000 steps."""
    frequencies = 1000 * 10_000.0 ** (-torch.arange(WAVES, device=levels.device) / WAVES)
    angles = levels[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def _cut(x: Tensor, first: int, length: int) -> Tensor:
    """`length` places in time of `x` from `first` on, zeros where it has none."""
    x = x[:, first : first + length]
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], 1)
