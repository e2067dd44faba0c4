"""What flows between the rooms: batches, conditions and the noise that clips are made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["Batch", "Conditions", "Noise", "mix"]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a caller may give a model; each field is optional and axis 0 is the batch.

    `known` and `mask` together say image-to-video (frame 0 given), prediction (the first frames),
    going backwards (the last), interpolation (the ends), in-painting (a region) or nothing at all.
    """

    text: tuple[str, ...] | None = None
    label: Int64[Tensor, " B"] | None = None
    audio: Float[Tensor, "B samples"] | None = None  # mono waveform over the clip's whole duration
    actions: Float[Tensor, "B T A"] | None = None  # what was done on the way to frame t
    known: Float[Tensor, "B t 3 H W"] | None = None  # frames or regions in [-1, 1] that are given...
    mask: Bool[Tensor, "B t 1 H W"] | None = None  # ...where this is True; beyond t nothing is

    @property
    def present(self) -> frozenset[str]:
        """The names of the fields that are given."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def beginning(self, frames: Float[Tensor, "B t 3 H W"]) -> Conditions:
        """The same conditions with `frames` given as the clip's first ones."""
        return replace(self, known=frames, mask=torch.ones_like(frames[:, :, :1], dtype=torch.bool))

    def to(self, device: torch.device) -> Conditions:
        """The same conditions with every tensor on `device`."""
        return replace(self, **{n: v.to(device) for n in self.present if isinstance(v := getattr(self, n), Tensor)})

    def __getitem__(self, index: slice) -> Conditions:
        """The conditions of the clips in `index`."""
        return replace(self, **{n: getattr(self, n)[index] for n in self.present})

    def in_turn(self, clips: Sequence[int]) -> Conditions:
        """The conditions of the clips of these numbers, where of each condition those that there are come in turn."""

        def taken(values: tuple[str, ...] | Tensor) -> tuple[str, ...] | Tensor:
            turns = [clip % len(values) for clip in clips]
            return values[turns] if isinstance(values, Tensor) else tuple(values[turn] for turn in turns)

        return replace(self, **{n: taken(getattr(self, n)) for n in self.present})


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips to learn from and what is known about them."""

    frames: Float[Tensor, "B T 3 H W"]  # in [-1, 1]
    given: Conditions = Conditions()
    latents: Float[Tensor, "B L C h w"] | None = None  # of the frames, where they were kept; there are then no frames

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`, latents that were kept in half precision in float32."""
        latents = None if self.latents is None else self.latents.to(device, non_blocking=True).float()
        return Batch(self.frames.to(device, non_blocking=True), self.given.to(device), latents)


@dataclass(frozen=True, slots=True)
class Noise:
    """The randomness of a batch of generated clips: one seed a clip, any number of named streams.

    A clip's draws depend only on its own seed and on the stream's name, so a seed means the same clip
    alone or in a batch, and drawing frame by frame equals drawing at once. `streams` gives a stream seeds of
    its own: `Noise((0, 0), {"motion": (1, 2)})` is one content in two motions for a family that
    draws its motion from the stream "motion".
    """

    seeds: tuple[int, ...]
    streams: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    _generators: dict[str, list[torch.Generator]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, seeds in self.streams.items():
            if len(seeds) != len(self.seeds):
                raise ValueError(f"stream {name!r} has {len(seeds)} seeds for {len(self.seeds)} clips: give one a clip")

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: slice) -> Noise:
        """The noise of the clips in `index`, from its beginning."""
        return Noise(self.seeds[index], {name: seeds[index] for name, seeds in self.streams.items()})

    def each(self, count: int) -> Noise:
        """`count` noises of each clip, one after the other, from their beginning: its own and others that follow."""

        def following(seeds: Sequence[int]) -> tuple[int, ...]:
            return tuple(mix(seed, "candidate", k) if k else seed for seed in seeds for k in range(count))

        return Noise(following(self.seeds), {name: following(seeds) for name, seeds in self.streams.items()})

    def _of(self, stream: str) -> list[torch.Generator]:
        if stream not in self._generators:
            seeds: Sequence[int] = self.streams.get(stream, self.seeds)
            self._generators[stream] = [torch.Generator().manual_seed(mix(seed, stream)) for seed in seeds]
        return self._generators[stream]

    def normal(self, stream: str, *shape: int, device: torch.device | None = None) -> Tensor:
        """Standard normal values [B, *shape], float32, the next of `stream`; drawn on the CPU so that devices agree."""
        # torch draws in blocks of 16 and the rest in another way: whole blocks a row, so that chunks equal the whole
        wanted = math.prod(shape[1:])
        rows = (shape[0], -(-wanted // 16) * 16)
        drawn = [torch.randn(rows, generator=g)[:, :wanted].reshape(shape) for g in self._of(stream)]
        return torch.stack(drawn).to(device)

    def uniform(self, stream: str, *shape: int, device: torch.device | None = None) -> Tensor:
        """Uniform values [B, *shape] in [0, 1), float32, the next of `stream`."""
        return torch.stack([torch.rand(shape, generator=g) for g in self._of(stream)]).to(device)

    def integers(self, stream: str, high: int, *shape: int, device: torch.device | None = None) -> Tensor:
        """Uniform integers [B, *shape] in [0, high), int64, the next of `stream`."""
        return torch.stack([torch.randint(high, shape, generator=g) for g in self._of(stream)]).to(device)


def mix(*key: object) -> int:
    """A 63-bit seed that is a function of `key`."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
