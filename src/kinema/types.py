"""Data types shared by all packages: conditions, batches, clip specs and seeds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

__all__ = [
    "Batch",
    "ClipSpec",
    "Conditions",
    "Progress",
    "RandomStream",
    "Seeds",
    "TrainStep",
    "hash_seed",
    "no_progress",
]

Progress = Callable[[int, int], None]  # called with the steps done and their total; may raise to cancel


def no_progress(done: int, total: int) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a batch of clips; each field is optional and axis 0 is the batch.

    `known` and `mask` are one pair for image-to-video (frame 0), prediction (the first frames), backward prediction
    (the last), interpolation (both ends) and in-painting (a region).
    """

    text: tuple[str, ...] | None = None
    label: Int64[Tensor, " B"] | None = None
    audio: Float[Tensor, "B samples"] | None = None  # mono waveform over the clip's whole duration
    actions: Float[Tensor, "B T A"] | None = None  # actions[:, t] led to frame t
    known: Float[Tensor, "B t 3 H W"] | None = None  # known frames or regions, in [-1, 1]...
    mask: Bool[Tensor, "B t 1 H W"] | None = None  # ...where this is True; nothing is known after frame t

    @property
    def present(self) -> frozenset[str]:
        """The names of the fields that are not None."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def with_first_frames(self, frames: Float[Tensor, "B t 3 H W"]) -> Conditions:
        """The same conditions with `frames` as the known first frames."""
        return replace(self, known=frames, mask=torch.ones_like(frames[:, :, :1], dtype=torch.bool))

    def to(self, device: torch.device) -> Conditions:
        """The same conditions with every tensor on `device`."""
        tensors = {n: v for n in self.present if isinstance(v := getattr(self, n), Tensor)}
        return replace(self, **{n: v.to(device, non_blocking=device.type != "cpu") for n, v in tensors.items()})

    def __getitem__(self, index: slice) -> Conditions:
        """The conditions of the clips in `index`."""
        return replace(self, **{n: getattr(self, n)[index] for n in self.present})

    def select(self, clips: Sequence[int]) -> Conditions:
        """The conditions of the clips with these indices; a field with fewer values is cycled."""

        def cycled(values: tuple[str, ...] | Tensor) -> tuple[str, ...] | Tensor:
            index = [clip % len(values) for clip in clips]
            return values[index] if isinstance(values, Tensor) else tuple(values[i] for i in index)

        return replace(self, **{n: cycled(getattr(self, n)) for n in self.present})


@dataclass(frozen=True, slots=True)
class Batch:
    """Training clips and their conditions.

    Frames are uint8 from a source and float32 in [-1, 1] after `to`. A batch of cached latents has no frames (T is 0).
    """

    frames: UInt8[Tensor, "B T 3 H W"] | Float[Tensor, "B T 3 H W"]
    conditions: Conditions = Conditions()
    latents: Float[Tensor, "B L C h w"] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`: frames in [-1, 1] and latents, both float32."""
        frames = self.frames.to(device, non_blocking=True)
        if frames.dtype == torch.uint8:
            frames = frames.float().div_(127.5).sub_(1)
        latents = None if self.latents is None else self.latents.to(device, non_blocking=True).float()
        return Batch(frames, self.conditions.to(device), latents)


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """The properties of a source's clips, from which a family's configuration is completed."""

    frames: int  # T of a training clip
    height: int  # pixels
    width: int  # pixels
    fps: float | None = None  # frames a second; None: unknown or mixed
    classes: tuple[str, ...] = ()  # names of the labels, by number
    words: tuple[str, ...] = ()  # vocabulary of the captions, the most frequent first
    actions: int = 0  # values for each frame
    audio: bool = False  # whether there is sound


@dataclass(frozen=True, slots=True)
class TrainStep:
    """The random generators of one turn of a training step, functions of (seed, step, turn)."""

    index: int  # steps before this one
    generator: torch.Generator  # on the batch's device, different on each rank
    shared: torch.Generator  # on the CPU, the same on all ranks: for choices that decide which parameters are used

    @staticmethod
    def from_seed(seed: int, index: int = 0, device: torch.device | str = "cpu") -> TrainStep:
        """A step of a single process, with generators seeded by `seed`."""
        return TrainStep(index, torch.Generator(device).manual_seed(seed), torch.Generator().manual_seed(seed))


class RandomStream:
    """A sequence of random draws for each clip of a batch, made on the CPU so that all devices agree."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, *shape: int, device: torch.device | None = None) -> Float[Tensor, "B ..."]:
        """The next standard normal values [B, *shape]; drawing axis 1 in pieces gives the same values."""
        # torch draws blocks of 16 and the rest differently: rows are padded to blocks, so that pieces equal one draw
        row = math.prod(shape[1:])
        padded = (shape[0], -(-row // 16) * 16)
        drawn = [torch.randn(padded, generator=g)[:, :row].reshape(shape) for g in self._generators]
        return torch.stack(drawn).to(device)

    def uniform(self, *shape: int, device: torch.device | None = None) -> Float[Tensor, "B ..."]:
        """The next uniform values [B, *shape] in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self._generators]).to(device)

    def integers(self, high: int, *shape: int, device: torch.device | None = None) -> Int64[Tensor, "B ..."]:
        """The next uniform integers [B, *shape] in [0, high)."""
        return torch.stack([torch.randint(high, shape, generator=g) for g in self._generators]).to(device)


@dataclass(frozen=True, slots=True)
class Seeds:
    """The seeds of a batch of generated clips, an immutable value with one integer for each clip.

    The draws of a clip are a function of its seed, a stream's name and a key, independent of the batch, of chunks and
    of earlier draws. `streams` overrides the seeds of named streams: `Seeds((0, 0), {"motion": (1, 2)})` is one content
    with two motions, for a family that draws its motion from the stream "motion".
    """

    values: tuple[int, ...]
    streams: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, seeds in self.streams.items():
            if len(seeds) != len(self.values):
                count = len(self.values)
                raise ValueError(f"stream {name!r} has {len(seeds)} seeds for {count} clips: give one for each clip")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice) -> Seeds:
        """The seeds of the clips in `index`."""
        return Seeds(self.values[index], {name: seeds[index] for name, seeds in self.streams.items()})

    def repeat_candidates(self, count: int) -> Seeds:
        """Each clip's seed followed by `count - 1` seeds derived from it."""

        def derived(seeds: Sequence[int]) -> tuple[int, ...]:
            return tuple(hash_seed(seed, "candidate", k) if k else seed for seed in seeds for k in range(count))

        return Seeds(derived(self.values), {name: derived(seeds) for name, seeds in self.streams.items()})

    def stream(self, name: str, *key: object) -> RandomStream:
        """A new stream of draws for each clip; the same `name` and `key` give the same draws."""
        return RandomStream([hash_seed(seed, name, *key) for seed in self.streams.get(name, self.values)])


def hash_seed(*key: object) -> int:
    """A 63-bit seed that is a function of `key`."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
