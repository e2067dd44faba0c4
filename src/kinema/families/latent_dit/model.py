"""Latent DiT: a diffusion transformer over a clip's latents, trained by flow matching, with a noise level a frame.

A transformer whose blocks are modulated by noise level and conditions (DiT: Peebles and Xie 2022, arXiv 2212.09748;
over video: Latte, arXiv 2401.03048) learns the way from data to noise (flow matching: Lipman et al. 2022, arXiv
2210.02747) in the latents of a trained codec (Rombach et al. 2021, arXiv 2112.10752), or in pixels, which are then
latents of 3 channels. Each frame has a noise level of its own (diffusion forcing: Chen et al. 2024, arXiv 2407.01392),
so that one network generates clips, extends them in both directions, interpolates and in-paints:

- In training some of a clip is known: its first frames, its last, both, a region of all of them, or nothing. Known
  cells are clean in the input, a channel beside the latents marks them, the noise level of a fully known frame is 0,
  and the loss is over the rest. Sampling gives what `known` and `mask` say in the same way.
- Longer clips are sampled in windows as long as a training clip, each with the last frames of the one before as its
  context. These may be noised a little, so that their errors are not taken for truth; a part of training does so too.
- A codec codes a clip's first frame alone. Later windows of a video have no such latent: they are shorter by it, and
  some training steps are on clips without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, ClassVar

import torch
import tyro
from jaxtyping import Float
from torch import Tensor, nn

from kinema.conditions.actions import ActionEncoder
from kinema.conditions.audio import AudioEncoder
from kinema.conditions.encoder import FRAME_WIDTH, ConditionEncoder, EncodedConditions, RawConditions
from kinema.conditions.known import known_pixels
from kinema.conditions.labels import LabelEncoder, choose_labels
from kinema.conditions.pretrained import PretrainedTextEncoder
from kinema.conditions.text import TextEncoder, Vocabulary
from kinema.config import MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES, MOST_FPS, check_ranges
from kinema.diffusion.paths import Parameterisation, Path, expand_like, noised, target, weight
from kinema.diffusion.tasks import fully_known, sample_known_cells
from kinema.diffusion.times import logit_normal_times, shifted
from kinema.families.latent_dit.hourglass import Hourglass
from kinema.families.latent_dit.network import Network
from kinema.families.latent_dit.patches import Patches
from kinema.families.latent_dit.sampling import MAX_CONTEXT_NOISE, LatentDiTSampling, WindowSampler
from kinema.family import LatentFamily, LatentFamilyConfig, Turn
from kinema.nn.transformer import AttentionKind, Transformer
from kinema.types import Batch, ClipSpec, Conditions, Progress, Seeds, TrainStep, no_progress

__all__ = ["LatentDiT", "LatentDiTConfig"]

STAGGER = 1.0  # the most by which a frame is behind the one before, in training with `staggered_rate`
FORCED = 0.25  # share of training clips with a noise level for each frame; others have one for all
# shares of sounds and actions that are dropped in training: beside texts, which may say the same, and without texts
DROPPED_BESIDE_TEXT, DROPPED = 0.75, 0.25
LATER_WINDOW = 0.25  # share of training steps on clips without the latent of the first frame, where it is coded alone
GUIDED = {  # which conditions a setting of sampling guides: label and text together, as both say what is to be seen
    "guidance": frozenset({"label", "text"}),
    "audio_guidance": frozenset({"audio"}),
    "actions_guidance": frozenset({"actions"}),
}


@dataclass(frozen=True)
class LatentDiTConfig(LatentFamilyConfig):
    """The defaults are for the latents of a codec on a laptop; `kinema.presets` has others."""

    about: ClassVar[str] = (
        "Start here: sharp clips of tens to thousands of clips, in minutes on a laptop, under every condition."
    )

    categories: int | None = None
    """Classes; taken from the labels, 0 without."""
    words: Annotated[tuple[str, ...] | None, tyro.conf.Suppress] = None
    """The vocabulary; taken from the captions."""
    text_encoder: str | None = None
    """A text encoder of the Hugging Face hub, or a folder with one; None: one is trained."""
    actions: int | None = None
    """Numbers that lead to a frame; taken from the clips, 0 without."""
    audio_fps: float | None = None
    """Frames a second of clips with sound; taken from the clips, 0 without sound."""
    patch: tuple[int, int] = (1, 1)
    """Latents in time, and of a side, that make a token."""
    hidden: int = 192
    """Dimensions of a token."""
    depth: int = 6
    """Blocks of the transformer."""
    merged_hidden: int = 0
    """Dimensions of merged tokens: all blocks but the first and the last see 2x2 tokens as one (0: none are merged)."""
    heads: int = 4
    """Heads of attention."""
    attention: AttentionKind = "full"
    """Over all tokens, or "factorised" over those of a frame and those of a place by turns: for many tokens."""
    local_conv: bool = False
    """A small convolution over the tokens around each one, before each block: sharp clips after fewer steps."""
    path: Path = "rectified"
    """The path from data to noise."""
    parameterisation: Parameterisation = "velocity"
    """What the network predicts: "data" where tokens have more values than `hidden`, as those of pixels have."""
    shift: float = 2.0
    """How far noise levels are moved towards noise, in training and sampling (1: not): the more frames there are, the
    more noise it takes to hide what they share; the root of their number is a good start."""
    dropout: float = 0.1
    """Share of labels and of texts that are dropped in training, which guidance needs."""
    context_rate: float = 1.0
    """How often some of a training clip is known, as a share of the usual half: the less, the more words matter."""
    staggered_rate: float = 0.0
    """Share of training clips whose noise rises from frame to frame, as in sampling with `stagger`."""
    sampling: LatentDiTSampling = LatentDiTSampling()
    """How clips are sampled by default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = (1, MOST_CHANNELS)
        check_ranges(
            self,
            categories=(0, MOST_CLASSES),
            actions=(0, MOST_CHANNELS),
            audio_fps=(0.0, MOST_FPS),
            patch=(1, 1024),
            hidden=channels,
            depth=(1, MOST_BLOCKS),
            merged_hidden=(0, MOST_CHANNELS),
            heads=channels,
            shift=(1e-3, 1e4),
            dropout=(0.0, 0.999999),
            context_rate=(0.0, 1.0),
            staggered_rate=(0.0, 1.0),
        )
        if self.audio_fps:
            check_ranges(self, audio_fps=(0.01, MOST_FPS))  # a frame of minutes of sound would take all memory
        if self.merged_hidden and (self.attention != "full" or self.depth < 3):
            raise ValueError(
                "latent-dit: tokens are merged with full attention and 3 blocks or more: make "
                "--family.merged-hidden 0, or --family.attention full and --family.depth 3"
            )
        if self.merged_hidden % max(1, self.hidden // self.heads):
            raise ValueError(
                f"latent-dit: heads have {self.hidden // self.heads} dimensions: make --family.merged-hidden a "
                "multiple of that, or 0"
            )

    def fitted(self, spec: ClipSpec) -> LatentDiTConfig:
        """The configuration for clips of these sizes and conditions, whose latents must be whole tokens."""
        codec = self.codec_settings
        if codec is not None and codec.levels:
            raise ValueError(f"latent-dit: the codec {self.codec} makes tokens: train one without --family.levels")
        config = self.completed_from(
            frames=spec.frames,
            height=spec.height,
            width=spec.width,
            categories=len(spec.classes),
            words=spec.words,
            actions=spec.actions,
            audio_fps=float(spec.fps or 0) if spec.audio else 0.0,
        )
        (time, side), (length, _, height, width) = self.patch, config.latents
        if length % time:
            raise ValueError(
                f"latent-dit: clips of {spec.frames} frames are {length} latents in time, which make no tokens of "
                f"{time}: make --family.patch 1 {side}, or choose another --data.frames"
            )
        if height % side or width % side:
            multiple = side * spec.height // height
            raise ValueError(
                f"latent-dit: height and width must be multiples of {multiple}, not {spec.height} and {spec.width}: "
                f"choose others with --data.height and --data.width, or make --family.patch {time} 1"
            )
        return config

    def portable(self) -> LatentDiTConfig:
        """The same configuration without paths of this machine."""
        encoder = self.text_encoder
        local = encoder is not None and FilePath(encoder).expanduser().exists()
        if encoder and local:
            name = FilePath(encoder).name
            warnings.warn(f"the model needs its text encoder: keep the folder {name} where it is loaded", stacklevel=2)
        return replace(self, codec=None, text_encoder=FilePath(encoder).name if encoder and local else encoder)

    def build(self) -> LatentDiT:
        """The untrained model."""
        return LatentDiT(self)


def build_network(config: LatentDiTConfig) -> Network:
    """The untrained network of a fitted configuration."""
    (time, side), (_, channels, height, width) = config.patch, config.latents
    (categories,), hidden, codec = config.required("categories"), config.hidden, config.codec_settings
    group = 1 if codec is None else codec.time
    encoders: dict[str, nn.Module] = {}
    if categories:
        encoders["label"] = LabelEncoder(categories, hidden)
    if config.words and config.text_encoder:
        encoders["text"] = PretrainedTextEncoder(config.text_encoder, hidden)
    elif config.words:
        encoders["text"] = TextEncoder(Vocabulary(config.words), hidden, config.heads)
    if config.audio_fps:
        encoders["audio"] = AudioEncoder(FRAME_WIDTH, config.audio_fps)
    if config.actions:
        encoders["actions"] = ActionEncoder(config.actions, FRAME_WIDTH)
    return Network(
        Patches(channels, time, side, hidden, pixels=codec is None),
        height * width // side**2,
        hidden,
        ConditionEncoder(hidden, group * time, group - 1, encoders),
        _build_transformer(config),
    )


def _build_transformer(config: LatentDiTConfig) -> Transformer | Hourglass:
    sizes, text = (config.depth, config.heads), bool(config.words)
    if config.merged_hidden:
        return Hourglass(config.hidden, config.merged_hidden, *sizes, text, config.local_conv)
    return Transformer(
        config.hidden,
        *sizes,
        config.attention,
        conditioned=True,
        cross_attention=text,
        local_conv=config.local_conv,
    )


class LatentDiT(LatentFamily):
    """A latent diffusion transformer, conditioned on all that its training clips came with, and on known pixels."""

    streams = frozenset({"latents"})

    generator: Network
    sampling: LatentDiTSampling

    def __init__(self, config: LatentDiTConfig) -> None:
        super().__init__(config)
        self.config, self.sampling = config, config.sampling
        self.generator = build_network(config)
        self.accepts = self.generator.conditions.accepts | {"known", "mask"}
        (self.categories,), self.length = config.required("categories"), config.latents[0]
        self.first_latent_is_single_frame = self.codec is not None and self.codec.time > 1
        self.later_length = self.length - config.patch[0] * self.first_latent_is_single_frame
        if self.later_length < 2 * config.patch[0]:
            self.max_frames = config.frames  # a later window has no room for both context and new latents

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words that no training caption had, where the text encoder was trained with the model."""
        encoder = self._text_encoder
        return encoder.words.unknown(text) if isinstance(encoder, TextEncoder) else ()

    def unread_text(self, text: str) -> str:
        """The end of a text that is beyond the length that the encoder reads."""
        encoder = self._text_encoder
        return encoder.unread(text) if isinstance(encoder, TextEncoder | PretrainedTextEncoder) else ""

    @property
    def _text_encoder(self) -> nn.Module | None:
        return dict(self.generator.conditions.encoders).get("text")

    def turns(self) -> Sequence[Turn]:
        """One: the network learns to denoise."""
        return (Turn("generator", self.generator, self._loss),)

    def _loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean squared error of the network's output at cells that are not known."""
        config, x0, generator = self.config, self.latents_of(batch), step.generator
        draw = partial(torch.rand, generator=generator, device=x0.device)
        shared = torch.rand((), generator=step.shared)  # it decides whether `first_frame` has a gradient
        later = self.first_latent_is_single_frame and self.max_frames is None and bool(shared < LATER_WINDOW)
        if later:
            x0 = x0[:, self.length - self.later_length :]
        clean, levels, asked = self._task(x0, generator)
        eps = torch.randn(x0.shape, generator=generator, device=x0.device)
        x = torch.where(clean, x0, noised(config.path, x0, eps, levels))
        rate = DROPPED_BESIDE_TEXT if config.words else DROPPED
        rates = {"label": config.dropout, "text": config.dropout, "audio": rate, "actions": rate}
        dropped = {name: draw(len(x0)) < share for name, share in rates.items()}
        (frames,) = config.required("frames")
        conditions = RawConditions(batch.conditions, frames, dropped, first=int(later))
        output = self.generator(x, clean, levels, conditions, self.first_latent_is_single_frame and not later)
        error = (output - target(config.parameterisation, config.path, x0, eps, levels)).square().mean(2, True)
        error = error * expand_like(weight(config.parameterisation, config.path, levels), error)
        loss = error.masked_fill(~asked, 0).sum() / asked.sum().clamp(min=1)
        return loss, {"error": loss}

    def _task(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A task for each clip: its clean cells, noise levels [B, L], and the cells that the loss is over.

        Cells are [B, L, 1, h, w]. Context frames that are noised are neither: predicting them is of no use.
        """
        (clips, length, _, height, width), time = x0.shape, self.config.patch[0]
        draw = partial(torch.rand, generator=generator, device=x0.device)
        clean, context = sample_known_cells(clips, length, height, width, time, generator)
        known = draw(clips, 1) < self.config.context_rate
        clean, context = clean & known[..., None, None, None], context & known
        times = logit_normal_times((clips, length // time), generator)
        times = torch.where(draw(clips, 1) < FORCED, times, times[:, :1])
        if self.config.staggered_rate:
            turn, stagger = torch.arange(length // time, device=x0.device), STAGGER * draw(clips, 1)
            done = -stagger * turn[-1]  # where the first frame would be when the last begins to have no noise
            first = done + (1 - done) * draw(clips, 1)
            staggered = (first + stagger * turn).clamp(0, 1)
            times = torch.where(draw(clips, 1) < self.config.staggered_rate, staggered, times)
        levels = shifted(times, self.config.shift)
        levels = torch.where(context, MAX_CONTEXT_NOISE * draw(clips, 1), levels.repeat_interleave(time, 1))
        asked = ~(clean | (context | (levels == 0))[:, :, None, None, None])
        return clean, levels.masked_fill(fully_known(clean, time), 0), asked

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the clips window by window, with the known pixels where they are.

        In pixels the known ones are exact. A codec's latents are known where all of their pixels are, and these come
        back as the codec decodes them. Where only some frames of a group are known, sampling begins at the group in
        which they stand still, under noise (SDEdit: Meng et al. 2021, arXiv 2108.01073); where only some of the pixels
        are, they are ignored. A window knows only what is known in it: to interpolate, ask for no more frames than a
        window has. With `candidates`, `WindowSampler.score` chooses among several of each window; a clip without
        conditions has one.
        """
        self.check_conditions(conditions)
        device = next(self.generator.parameters()).device
        known, share = self._known(conditions, len(seeds), device)
        encoded, unconditional = self._encode_conditions(conditions, frames, seeds, device)
        length = frames if self.codec is None else self.codec.length(frames)
        windows = self.sampler.windows(length, known, share, encoded, unconditional, seeds, progress)
        yield from windows if self.codec is None else self.codec.decode_chunks(windows, frames)

    @property
    def sampler(self) -> WindowSampler:
        """The sampler with the present settings."""
        return WindowSampler(
            network=self.generator,
            sampling=self.sampling,
            path=self.config.path,
            parameterisation=self.config.parameterisation,
            shift=self.config.shift,
            time=self.config.patch[0],
            length=self.length,
            later_length=self.later_length,
            single_first=self.first_latent_is_single_frame,
            bounded=self.codec is None,
        )

    @torch.no_grad()
    def _encode_conditions(
        self, conditions: Conditions, frames: int, seeds: Seeds, device: torch.device
    ) -> tuple[list[tuple[float, EncodedConditions]], EncodedConditions | None]:
        """The conditions, of scale 1, and after them those with one dropped, of that guidance's scale.

        Beside them those with all dropped, if there are candidates to be compared and any conditions.
        """
        encoder = self.generator.conditions
        given = encoder.accepts & (conditions.present | {"label"})
        labels = choose_labels(conditions, self.categories, seeds, "latents", device)
        conditions = replace(conditions.to(device), label=labels)

        def without(names: frozenset[str], setting: str) -> EncodedConditions:
            if not names & encoder.accepts or not (self.config.dropout or names.isdisjoint(GUIDED["guidance"])):
                raise ValueError(
                    f"this model was not trained with {' or '.join(sorted(names))} dropped, which {setting} needs: "
                    f"make {setting} 1"
                )
            return encoder(replace(conditions, **dict.fromkeys(names)), frames, len(seeds))

        encoded = [(1.0, encoder(conditions, frames, len(seeds)))]
        for setting, names in GUIDED.items():
            if (scale := getattr(self.sampling, setting)) != 1:
                encoded.append((scale, without(names, setting)))
        return encoded, without(given, "candidates") if given and self.sampling.candidates > 1 else None

    def _known(self, conditions: Conditions, clips: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The latents of the known frames [B, l, C, h, w], and the known share of each [B, l, 1, h, w]."""
        known, mask = known_pixels("LatentDiT", conditions, clips, *self.config.required("height", "width"))
        known, mask, codec = known.to(device), mask.to(device), self.codec
        if codec is None:
            return torch.where(mask, known, 0), mask.float()
        if not known.shape[1]:
            empty = torch.empty(clips, 0, *self.config.latents[1:], device=device)
            return empty, empty[:, :, :1]
        latents, share = codec.encode_known(known, mask)
        return latents, share[:, :, None]
