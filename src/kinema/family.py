"""The interface of all models: training (`turns`), generation (`generate`), codecs and interactive sessions."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
import tyro
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.config import CLIP_RANGES, check_ranges, from_dict, shorten, to_dict
from kinema.registry import CODECS, FAMILIES
from kinema.types import Batch, ClipSpec, Conditions, Progress, Seeds, TrainStep, no_progress

__all__ = [
    "Calibrated",
    "Captioning",
    "Codec",
    "CodecConfig",
    "Family",
    "FamilyConfig",
    "LatentFamily",
    "LatentFamilyConfig",
    "Loss",
    "Playable",
    "Scoring",
    "Session",
    "Turn",
    "encode_exactly",
]

CHUNK = 16  # latents in time that are encoded at once

Config = TypeVar("Config", bound="FamilyConfig")
LatentConfig = TypeVar("LatentConfig", bound="LatentFamilyConfig")
Loss = Callable[[Batch, TrainStep], tuple[Tensor, dict[str, Tensor]]]


def _no_op(step: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Turn:
    """One optimization within a training step, such as a critic's or a generator's.

    `loss(batch, step)` returns the loss and named scalars to log. It calls the `forward` of `module`, so that
    compilation, sharding and adapters apply, and uses only the random generators of `step`. `after(index)` is called
    after the optimizer's step. `parameters` are those of the module that were trainable when the turn was created.
    """

    name: str
    module: nn.Module
    loss: Loss
    after: Callable[[int], None] = _no_op
    parameters: tuple[nn.Parameter, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        trainable = tuple(p for p in self.module.parameters() if p.requires_grad)
        object.__setattr__(self, "parameters", trainable)


@dataclass(frozen=True)
class FamilyConfig(ABC):
    """The base class of families' settings, a frozen dataclass beside each family."""

    about: ClassVar[str] = ""  # what the family is for and what it needs, for --help

    frames: int | None = None
    """Frames of a training clip; taken from the clips."""
    height: int | None = None
    """Height in pixels; taken from the clips."""
    width: int | None = None
    """Width in pixels; taken from the clips."""

    def __post_init__(self) -> None:
        check_ranges(self, **CLIP_RANGES)

    def fitted(self: Config, spec: ClipSpec) -> Config:
        """The same configuration with its unset fields (sizes, classes) taken from the clips.

        Raises ValueError, with the fix, if the family cannot be trained on such clips.
        """
        return self.completed_from(frames=spec.frames, height=spec.height, width=spec.width)

    def portable(self: Config) -> Config:
        """The same configuration without local paths, to publish with trained weights."""
        return self

    @property
    def codec_source(self) -> str | None:
        """The name of the trained codec that a new run loads; None: none."""
        return None

    def resolve_codec(self: Config, load: Callable[[str], dict[str, Any]], spec: ClipSpec) -> Config:
        """The same configuration with that of its codec, which `load` reads by name, fitted to these clips."""
        return self

    @property
    def context_frames(self) -> int:
        """Known first frames in training; above 0, sampling requires known frames."""
        return 0

    @property
    def sampling(self) -> Any:
        """A frozen dataclass of sampling settings, or None."""
        return None

    @abstractmethod
    def build(self) -> Family:
        """The untrained family; raises ValueError if the settings are inconsistent."""

    def completed_from(self: Config, **found: object) -> Config:
        """The same configuration with these fields set; raises ValueError if one is already set to another value."""
        for name, value in found.items():
            if getattr(self, name) not in (None, value):
                raise ValueError(f"{name} is {getattr(self, name)}, but the clips have {value}: leave it open")
        return replace(self, **found)

    def required(self, *names: str) -> list[int]:
        """The values of fields that `fitted` sets; raises ValueError if one is None."""
        if unset := [name for name in names if getattr(self, name) is None]:
            raise ValueError(f"{', '.join(unset)} left open: complete the configuration with fitted(spec)")
        return [getattr(self, name) for name in names]


class Family(nn.Module, ABC):
    """A video generation model with all networks that its training needs, such as critics."""

    accepts: frozenset[str]  # the fields of Conditions that it supports
    streams: frozenset[str]  # the names of the streams that it draws from
    context_frames: int = 0  # known first frames in training; above 0, sampling requires known frames
    reconstructs: bool = False  # whether it is measured and shown by its known frames, decoded, as a codec is
    generator: nn.Module  # the trained network for sampling, which is averaged and exported
    max_frames: int | None = None  # the most frames that `generate` supports; None: unlimited
    sampling: Any = None  # a frozen dataclass of sampling settings, or None
    codec: Codec | None  # a frozen codec, which is no part of `generator`

    def __init__(self) -> None:
        super().__init__()
        self.codec = None

    def own_state(self) -> dict[str, Tensor]:
        """The state without that of a frozen codec."""
        return {n: v for n, v in self.state_dict().items() if self.codec is None or not n.startswith("codec.")}

    @abstractmethod
    def turns(self) -> Sequence[Turn]:
        """The turns of one training step, in order; each trains the family or one of its modules."""

    @abstractmethod
    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Tensor]:
        """Yield chunks [B, t, 3, H, W] in [-1, 1] as they are ready, `frames` in all; B is len(seeds).

        `progress` is called between solver steps; an exception that it raises cancels the generation.
        """

    def conditions_from(self, batch: Batch) -> Conditions:
        """The conditions of real clips that the family accepts, with `context_frames` known first frames."""
        real = batch.conditions
        conditions = Conditions(**{name: getattr(real, name) for name in real.present & self.accepts})
        first = self.context_frames
        return conditions.with_first_frames(batch.frames[:, :first]) if first else conditions

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not in the family's vocabulary."""
        return ()

    def unread_text(self, text: str) -> str:
        """The end of a text that exceeds the family's maximum length."""
        return ""

    def check_conditions(self, conditions: Conditions) -> None:
        """Raise ValueError if a condition is not supported, or only one of `known` and `mask` is given."""
        if foreign := sorted(conditions.present - self.accepts):
            usable = ", ".join(sorted(self.accepts)) or "no condition"
            raise ValueError(f"{type(self).__name__} cannot use {', '.join(foreign)}; it accepts {usable}")
        if (conditions.known is None) != (conditions.mask is None):
            raise ValueError("known and mask are one pair: give both, the known pixels and where they are known")


@runtime_checkable
class CodecConfig(Protocol):
    """The interface of a codec's configuration, a frozen dataclass."""

    @property
    def space(self) -> int:
        """Spatial compression: h = H / space."""
        ...

    @property
    def time(self) -> int:
        """Temporal compression: frames of a group, which is coded as one latent in time."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of the latents, C."""
        ...

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of each channel if latents are the codes of tokens; empty if they are continuous."""
        ...

    def fitted(self, spec: ClipSpec) -> CodecConfig:
        """The same configuration for these clips; raises ValueError if they cannot be coded."""
        ...

    def for_inference(self) -> CodecConfig:
        """The same configuration without training-only settings, for clips of any size."""
        ...

    def build(self) -> Codec:
        """The codec, without trained weights."""
        ...


class Codec(nn.Module, ABC):
    """Encodes clips to latents [B, L, C, h, w] and decodes them.

    Causal in groups: the first frame is one latent in time and every `time` frames after it another, so that an image
    is a video of one frame and a long video is coded in chunks of bounded memory. `state` carries the past from chunk
    to chunk; None starts a video.
    """

    config: Any  # the CodecConfig that it was built from
    space: int  # spatial compression: h = H / space
    time: int  # temporal compression: frames of a group
    channels: int  # of the latents, C
    levels: tuple[int, ...] = ()  # of each channel if latents are the codes of tokens

    @abstractmethod
    def encode(
        self, frames: Float[Tensor, "B T 3 H W"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B L C h w"], tuple[Tensor, ...]]:
        """The latents of the next frames, in [-1, 1], and the state after them; deterministic.

        A video's first chunk has 1 + k * time frames, later chunks k * time. Raises ValueError for other lengths and
        for sides that are not multiples of `space`.
        """

    @abstractmethod
    def decode(
        self, latents: Float[Tensor, "B L C h w"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B T 3 H W"], tuple[Tensor, ...]]:
        """The frames of the next latents, in [-1, 1], and the state after them."""

    @abstractmethod
    def inference_state(self) -> dict[str, Tensor]:
        """The weights that a codec of `config.for_inference()` loads with `load_inference_state`."""

    @abstractmethod
    def load_inference_state(self, weights: dict[str, Tensor]) -> None:
        """Load the weights of an `inference_state`; raises RuntimeError if they do not fit."""

    def check_chunk(self, frames: Float[Tensor, "B T 3 H W"], state: tuple[Tensor, ...] | None) -> None:
        """Raise ValueError for frames that `encode` cannot take."""
        single = 1 if state is None else 0
        if frames.shape[1] < 1 or (frames.shape[1] - single) % self.time:
            raise ValueError(
                f"a video's first chunk has 1 frame and then groups of {self.time}, later chunks only groups: "
                f"{frames.shape[1]} frames are neither; `encode_chunks` takes chunks of any lengths"
            )
        if frames.shape[3] % self.space or frames.shape[4] % self.space:
            height, width = frames.shape[3:]
            raise ValueError(f"frames of {width}x{height} cannot be coded: make the sides multiples of {self.space}")

    def length(self, frames: int) -> int:
        """L: the number of latents in time of `frames` frames, the last group padded."""
        return 1 + -(-(frames - 1) // self.time)  # rounded up

    def encode_chunks(self, chunks: Iterable[Tensor]) -> Iterator[Float[Tensor, "B L C h w"]]:
        """Yield the latents of videos in chunks [B, t, 3, H, W], t at least 1; the last frame pads the last group."""
        state = pending = None
        for chunk in chunks:
            pending = chunk if pending is None else torch.cat([pending, chunk], 1)
            single = 1 if state is None else 0
            complete = (pending.shape[1] - single) // self.time * self.time + single
            if complete:
                latents, state = self.encode(pending[:, :complete], state)
                yield latents
            pending = pending[:, complete:].clone()  # a view would hold the chunk in memory
        if pending is not None and pending.shape[1]:
            copies = [pending[:, -1:]] * (self.time - pending.shape[1])
            yield self.encode(torch.cat([pending, *copies], 1), state)[0]

    def encode_known(
        self, known: Float[Tensor, "B t 3 H W"], mask: Bool[Tensor, "B t 1 H W"]
    ) -> tuple[Float[Tensor, "B L C h w"], Float[Tensor, "B L h w"]]:
        """The latents of videos that are known where `mask` is true, t at least 1, and the known share of each latent.

        That is the share of known pixels in the frames and the region of a latent; at 1 the latent is exact. As latents
        depend on their surroundings, unknown pixels are filled in from the nearest frame in which they are known.
        """
        latents = torch.cat(list(self.encode_chunks(_fill_in_time(known, mask).split(CHUNK * self.time, 1))), 1)
        groups = mask.new_zeros(len(mask), latents.shape[1] * self.time, *mask.shape[2:])
        groups[:, : self.time] = mask[:, :1]  # the first frame is its own group
        groups[:, self.time : self.time + mask.shape[1] - 1] = mask[:, 1:]
        sizes = {"t": self.time, "p": self.space, "q": self.space}
        return latents, rearrange(groups, "b (l t) 1 (h p) (w q) -> b l h w (t p q)", **sizes).float().mean(-1)

    def decode_chunks(self, latents: Iterable[Tensor], frames: int) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the `frames` frames of videos from chunks of latents [B, l, C, h, w], without the padding."""
        state = None
        for chunk in latents:
            decoded, state = self.decode(chunk, state)
            yield decoded[:, :frames]
            frames -= min(frames, decoded.shape[1])


def _fill_in_time(known: Float[Tensor, "B t 3 H W"], mask: Bool[Tensor, "B t 1 H W"]) -> Float[Tensor, "B t 3 H W"]:
    """`known` with each unknown pixel from the nearest frame in which it is known, the earlier of two; else grey."""
    length = mask.shape[1]
    time = torch.arange(length, device=mask.device)[:, None, None, None]
    before = torch.where(mask, time, -2 * length).cummax(1).values  # [B, t, 1, H, W]
    after = torch.where(mask, time, 2 * length).flip(1).cummin(1).values.flip(1)
    source = torch.where(time - before <= after - time, before, after).clamp(0, length - 1).expand_as(known)
    return known.gather(1, source).where(mask.any(1, keepdim=True), 0)


@dataclass(frozen=True)
class LatentFamilyConfig(FamilyConfig):
    """The settings of a family that models the latents of a codec, or pixels without one."""

    codec: str | None = None
    """A trained codec: a run, a file, or a model that contains one; transform: one that is fitted to the clips in a
    second; None: the family models pixels."""
    codec_options: dict[str, int] = field(default_factory=dict)
    """Settings of the codec transform: space (pixels of a block's side), time (frames of a block), channels."""
    codec_config: Annotated[dict[str, Any] | None, tyro.conf.Suppress] = None
    """The codec's configuration with its name; taken from `codec`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.codec_settings  # which raises for one that is none

    def portable(self: Config) -> Config:
        """The same configuration without local paths."""
        return replace(self, codec=None)

    @property
    def codec_settings(self) -> CodecConfig | None:
        """The codec's configuration; raises ValueError if its name is not a registered codec's."""
        if self.codec_config is None:
            return None
        values = dict(self.codec_config)
        name = values.pop("name", "")
        if not isinstance(name, str) or name not in CODECS:
            trained = ", ".join(codec for codec in CODECS.names if codec in FAMILIES)
            raise ValueError(
                f"{self.codec or 'codec_config'} holds a model of {shorten(str(name))}: train a codec, one of {trained}"
            )
        return from_dict(CODECS[name], values, f"codec {name}")

    @property
    def codec_source(self) -> str | None:
        """The name of the trained codec."""
        return self.codec

    def resolve_codec(self: LatentConfig, load: Callable[[str], dict[str, Any]], spec: ClipSpec) -> LatentConfig:
        """The same configuration with that of its codec, unless it has it already."""
        if self.codec is None or self.codec_config is not None:
            return self
        if self.codec in CODECS:
            settings = from_dict(CODECS[self.codec], self.codec_options, f"--family.codec-options of {self.codec}")
            return self.with_codec({"name": self.codec, **to_dict(settings)}, spec)
        if self.codec_options:
            raise ValueError(f"--family.codec-options are of a codec that is fitted, and {self.codec} is trained")
        return self.with_codec(load(self.codec), spec)

    def with_codec(self: LatentConfig, values: dict[str, Any], spec: ClipSpec) -> LatentConfig:
        """The same configuration with the codec configuration `values`, its name included, fitted to these clips."""
        settings = replace(self, codec_config=values).codec_settings
        assert settings is not None
        fitted = to_dict(settings.for_inference().fitted(spec))
        return replace(self, codec_config=json.loads(json.dumps({"name": values["name"], **fitted})))

    @property
    def latents(self) -> tuple[int, int, int, int]:
        """The sizes L, C, h and w of a training clip's latents, or of its pixels without a codec."""
        frames, height, width = self.required("frames", "height", "width")
        codec = self.codec_settings
        if codec is None:
            return frames, 3, height, width
        if not codec.space:
            raise ValueError("the codec's space is left open: complete it with fitted(spec)")
        return 1 + (frames - 1) // codec.time, codec.latent_channels, height // codec.space, width // codec.space


class LatentFamily(Family):
    """A family that models the latents of a frozen codec, or pixels without one.

    The codec is not part of `generator`: it is not trained, copied, averaged or saved with the family's weights.
    """

    def __init__(self, config: LatentFamilyConfig) -> None:
        super().__init__()
        codec = config.codec_settings
        self.codec = None if codec is None else codec.build().requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LatentFamily:
        """Set training mode; the codec stays in eval mode."""
        super().train(mode)
        if self.codec is not None:
            self.codec.eval()
        return self

    @torch.no_grad()
    def latents_of(self, batch: Batch) -> Float[Tensor, "B L C h w"]:
        """The latents of a batch: cached ones, those of its frames, or without a codec the frames themselves.

        Codes of tokens are computed in float32, as rounding would change tokens.
        """
        if batch.latents is not None:
            return batch.latents
        return batch.frames if self.codec is None else encode_exactly(self.codec, batch.frames)


def encode_exactly(codec: Codec, frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B L C h w"]:
    """The latents of complete clips, computed in float32 if they are the codes of tokens."""
    if not codec.levels:
        return codec.encode(frames)[0]
    with torch.autocast(frames.device.type, enabled=False):
        return codec.encode(frames)[0]


@runtime_checkable
class Calibrated(Protocol):
    """A codec that is computed from clips before the first step, and not trained."""

    def calibrate(self, clips: Iterable[Tensor]) -> None:
        """Compute it from clips [B, T, 3, H, W] in [-1, 1]; the same clips give the same codec."""
        ...


@runtime_checkable
class Scoring(Protocol):
    """A family with an anomaly score: how unlikely each frame of a video is, given those before."""

    def surprise(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield scores [B, t] of each chunk [B, t, 3, H, W] of the same videos; NaN for frames without one."""
        ...


@runtime_checkable
class Captioning(Protocol):
    """A family that can caption videos."""

    def caption(self, frames: Tensor) -> tuple[str, ...]:
        """A caption of each clip [B, T, 3, H, W] in [-1, 1]; raises ValueError if it was trained without captions."""
        ...


class Session(ABC):
    """Interactive generation of a batch of videos: each step takes actions and returns the next frames.

    The same seeds and actions give the same frames.
    """

    @abstractmethod
    def start(self, conditions: Conditions, seeds: Seeds) -> Float[Tensor, "B t 3 H W"]:
        """Start new videos; return the first frames, in [-1, 1]. B is len(seeds)."""

    @abstractmethod
    def step(self, actions: Float[Tensor, "B A"] | None) -> Float[Tensor, "B t 3 H W"]:
        """Apply one action; return the next frames. Raises ValueError for actions of a wrong size."""

    @abstractmethod
    def save(self) -> dict[str, Tensor]:
        """The state of the session, as tensors."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state; raises ValueError if it does not fit."""

    @abstractmethod
    def branch(self) -> Session:
        """An independent session in the same state."""


@runtime_checkable
class Playable(Protocol):
    """A family with interactive sessions."""

    def session(self) -> Session:
        """A session that has not started."""
        ...
