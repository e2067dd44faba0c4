"""The contract that every family keeps: how it is trained (`turns`) and how it makes clips (`generate`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.nn.known import filled
from kinema.types import Batch, Conditions, Noise

__all__ = ["Captioning", "Codec", "Facts", "Family", "FamilyConfig", "Scoring", "Turn"]

CHUNK = 16  # latents in time that given frames are coded in

Config = TypeVar("Config", bound="FamilyConfig")


def _nothing() -> None:
    """What most turns do after their step."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One player's move: whose weights change, the loss they follow, what happens after the step.

    `loss(batch, generator)` gives the scalar to descend and named scalars to show; all its randomness comes
    from `generator`, which lives on the batch's device.
    """

    name: str
    player: nn.Module
    loss: Callable[[Batch, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
    after: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Facts:
    """What a source of clips says of itself; a family's configuration is completed from it."""

    frames: int  # T of a training clip
    height: int
    width: int
    fps: float | None = None  # frames a second of a training clip; None: unknown or mixed
    classes: tuple[str, ...] = ()  # the names of the labels, in the order of their numbers
    words: tuple[str, ...] = ()  # of the captions, the most frequent first
    actions: int = 0  # numbers a frame
    audio: bool = False


@dataclass(frozen=True)
class FamilyConfig(ABC):
    """The base of the frozen dataclass beside each family; its fields are the family's settings."""

    @abstractmethod
    def fitted(self, facts: Facts) -> FamilyConfig:
        """The same configuration with what it leaves open (sizes, classes) taken from the clips.

        Raises ValueError, with the mend, where the family cannot be trained on such clips.
        """

    @abstractmethod
    def build(self) -> Family:
        """The untrained family; raises ValueError where the settings do not fit together."""

    def completed(self: Config, **found: object) -> Config:
        """The same configuration with open fields as they were found; raises ValueError if one is set otherwise."""
        for name, value in found.items():
            if getattr(self, name) not in (None, value):
                raise ValueError(f"{name} is {getattr(self, name)}, but the clips have {value}: leave it open")
        return replace(self, **found)

    def filled(self, *names: str) -> list[int]:
        """The values of sizes that `fitted` fills in; raises ValueError if one is still open."""
        if still_open := [name for name in names if getattr(self, name) is None]:
            raise ValueError(f"{', '.join(still_open)} left open: complete the configuration with fitted(facts)")
        return [getattr(self, name) for name in names]


class Family(nn.Module, ABC):
    """A video generation model with all the players that train it."""

    accepts: frozenset[str]  # the fields of Conditions that it can use
    streams: frozenset[str]  # the streams of Noise that it draws from
    past: int = 0  # the first frames that training gives it; above 0, sampling must give some
    generator: nn.Module  # all that sampling needs: what the moving average follows and what export holds
    longest: int | None = None  # how many frames `generate` can draw at most; None: any number
    sampling: Any = None  # a frozen dataclass of what may be chosen anew for every clip; None: there is nothing

    @property
    def codec(self) -> Codec | None:
        """What turns clips into the latents that the family models, part of its generator; None: it models pixels."""
        return None

    def begin(self) -> None:
        """Take what a new run begins from, such as the weights of a trained codec; not where a run goes on.

        Raises ValueError where that cannot be had.
        """

    @abstractmethod
    def turns(self) -> Sequence[Turn]:
        """The moves of one training step, in order; a player is a module of the family, or the family."""

    @abstractmethod
    def generate(self, given: Conditions, frames: int, noise: Noise) -> Iterator[Tensor]:
        """Yield chunks [B, t, 3, H, W] in [-1, 1] as they are ready, `frames` in all; B is len(noise)."""

    def conditions_of(self, batch: Batch) -> Conditions:
        """What real clips say to it: the conditions that it accepts and, if it needs them, their first frames."""
        real = batch.given
        given = Conditions(**{name: getattr(real, name) for name in real.present & self.accepts})
        return given.beginning(batch.frames[:, : self.past]) if self.past else given

    def unknown_words(self, text: str) -> tuple[str, ...]:
        """The words of a text that it cannot read."""
        return ()

    def refuse_unusable(self, given: Conditions) -> None:
        """Raise ValueError if `given` holds a condition that this family cannot use, or half of a pair."""
        if foreign := sorted(given.present - self.accepts):
            usable = ", ".join(sorted(self.accepts)) or "no condition"
            raise ValueError(f"{type(self).__name__} cannot use {', '.join(foreign)}; it accepts {usable}")
        if (given.known is None) != (given.mask is None):
            raise ValueError("known and mask are one pair: give the known pixels and where they are known")


class Codec(Family):
    """A family that turns clips into latents [B, L, C, h, w] and back, for latent families to be trained on.

    It is causal in groups: the first frame has latents of its own and every `time` frames after it theirs, so that an
    image is a video of one frame and a long video is coded chunk by chunk, in as much memory as a chunk takes. A state
    is what chunks leave to the next one; None begins a video.
    """

    config: FamilyConfig  # that it was built from
    space: int  # pixels of a latent's side: h = H / space
    time: int  # frames of a group
    channels: int  # C

    @abstractmethod
    def encode(
        self, frames: Float[Tensor, "B T 3 H W"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B L C h w"], tuple[Tensor, ...]]:
        """The latents of the next frames, in [-1, 1], and the state after them; no randomness.

        A video's first chunk has 1 + k * time frames, each later one k * time. Raises ValueError for other lengths and
        for sides that are no multiples of `space`.
        """

    @abstractmethod
    def decode(
        self, latents: Float[Tensor, "B L C h w"], state: tuple[Tensor, ...] | None = None
    ) -> tuple[Float[Tensor, "B T 3 H W"], tuple[Tensor, ...]]:
        """The frames of the next latents, in [-1, 1], and the state after them."""

    def length(self, frames: int) -> int:
        """L: how many latents in time `frames` frames have, the last group filled up."""
        return 1 - (1 - frames) // self.time

    def encoded(self, chunks: Iterable[Tensor]) -> Iterator[Float[Tensor, "B L C h w"]]:
        """Yield the latents of videos in chunks [B, t, 3, H, W], t at least 1; copies of the last frame fill up."""
        state = waiting = None
        for chunk in chunks:
            waiting = chunk if waiting is None else torch.cat([waiting, chunk], 1)
            alone = 1 if state is None else 0
            whole = (waiting.shape[1] - alone) // self.time * self.time + alone
            if whole:
                latents, state = self.encode(waiting[:, :whole], state)
                yield latents
            waiting = waiting[:, whole:].clone()  # a view would keep the chunk
        if waiting is not None and waiting.shape[1]:
            copies = [waiting[:, -1:]] * (self.time - waiting.shape[1])
            yield self.encode(torch.cat([waiting, *copies], 1), state)[0]

    def given(
        self, known: Float[Tensor, "B t 3 H W"], mask: Bool[Tensor, "B t 1 H W"]
    ) -> tuple[Float[Tensor, "B L C h w"], Float[Tensor, "B L h w"]]:
        """The latents of videos of which `known` is given where `mask` is true, t at least 1, and how much of each is.

        That is the share of given pixels in all the frames that a latent stands for: at 1 it is what it would be. What
        is not given is filled in with what is known of its place at the nearest time, as a latent knows its
        surroundings too.
        """
        latents = torch.cat(list(self.encoded(filled(known, mask).split(CHUNK * self.time, 1))), 1)
        whole = mask.new_zeros(len(mask), latents.shape[1] * self.time, *mask.shape[2:])
        whole[:, : self.time] = mask[:, :1]  # the first frame is a group of its own
        whole[:, self.time : self.time + mask.shape[1] - 1] = mask[:, 1:]
        sizes = {"t": self.time, "p": self.space, "q": self.space}
        return latents, rearrange(whole, "b (l t) 1 (h p) (w q) -> b l h w (t p q)", **sizes).float().mean(-1)

    def decoded(self, latents: Iterable[Tensor], frames: int) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        """Yield the `frames` frames of videos whose latents come in chunks [B, l, C, h, w]; what fills up is cut."""
        state = None
        for chunk in latents:
            drawn, state = self.decode(chunk, state)
            yield drawn[:, :frames]
            frames -= min(frames, drawn.shape[1])


@runtime_checkable
class Scoring(Protocol):
    """A family that can say how little it expected each frame of a video, given those before: an anomaly score."""

    def surprise(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield scores [B, t] of each chunk [B, t, 3, H, W] of the same videos; NaN where a frame has none."""
        ...


@runtime_checkable
class Captioning(Protocol):
    """A family that can say what videos show."""

    def caption(self, frames: Tensor) -> tuple[str, ...]:
        """A caption for each of the clips [B, T, 3, H, W] in [-1, 1]; raises ValueError where it learned none."""
        ...
