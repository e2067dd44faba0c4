"""The complete configuration of a training run, and its strict JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from kinema.config import CLIP_RANGES, MOST_SEED, check_ranges, from_dict, shorten, to_dict
from kinema.data.clips import DataConfig
from kinema.family import FamilyConfig
from kinema.registry import FAMILIES
from kinema.runtime.device import Precision
from kinema.types import ClipSpec

__all__ = ["MOST_STEPS", "Experiment", "TrainConfig"]

MOST_STEPS = 10**12


@dataclass(frozen=True)
class TrainConfig:
    """The training settings of all families."""

    steps: int | None = None
    """Stop after this many steps in total."""
    minutes: float | None = None
    """Stop after this many minutes of training in total, over all resumed parts."""
    batch: int = 32
    """Clips of a step, on each process."""
    lr: float = 2e-4
    """Learning rate; Muon's updates are scaled to the size of AdamW's."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all weights, or Muon for the matrices of linear layers: slower steps, but fewer of them."""
    cooldown: float = 0.0
    """The last share of the budget, of `steps` or `minutes`, over which the learning rate falls to 0."""
    betas: tuple[float, float] = (0.5, 0.999)
    """Decay of AdamW's two moments."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip_norm: float | None = None
    """Clip the gradient norm of a turn to this; None: no clipping."""
    ema_decay: float = 0.999
    """Decay of the generator's moving average, which is used for sampling (0: the last weights)."""
    precision: Precision = "auto"
    """Precision of matrix work; auto: bfloat16 on hardware with instructions for it, else float32."""
    compile: bool = False
    """Use torch.compile: for long runs, as it needs a C++ compiler and takes a minute or more."""
    seed: int = 0
    """Seed of the initial weights, the data order and all noise."""
    init_from: str | None = None
    """A model with the same network to start from: a run, a file or a shipped model."""
    save_every_minutes: float = 3.0
    """Minutes between checkpoints; the first comes after one."""
    sample_every_minutes: float = 30.0
    """The most minutes between sample sheets; the first comes within a minute, and the time between them doubles."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            steps=(1, MOST_STEPS),
            minutes=(1e-6, 1e8),  # two centuries
            batch=(1, 2**20),
            lr=(1e-20, 1e4),
            cooldown=(0.0, 1.0),
            betas=(0.0, 0.999999),
            weight_decay=(0.0, 1e4),
            clip_norm=(1e-12, 1e12),
            ema_decay=(0.0, 0.999999),
            seed=(0, MOST_SEED),
            save_every_minutes=(0.0, 1e8),
            sample_every_minutes=(0.0, 1e8),
        )


@dataclass(frozen=True)
class Experiment:
    """The complete configuration of a training run."""

    family: FamilyConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def changed(self, **parts: dict[str, Any]) -> Experiment:
        """A copy with changed settings: `changed(data={"source": "clips/"}, train={"minutes": 60})`.

        Raises TypeError for an unknown setting.
        """
        return replace(self, **{part: replace(getattr(self, part), **settings) for part, settings in parts.items()})

    def to_dict(self, spec: ClipSpec) -> dict[str, Any]:
        """Plain values for a checkpoint's config.json, with the spec of the training clips."""
        return {
            "family": {"name": FAMILIES.name_of(type(self.family)), **to_dict(self.family)},
            "data": to_dict(self.data),
            "train": to_dict(self.train),
            "spec": asdict(spec),
        }

    @staticmethod
    def from_dict(values: Any, where: str) -> tuple[Experiment, ClipSpec]:
        """The experiment and the spec of `to_dict`; raises ValueError with a message that starts with `where`."""
        parts = {"family", "data", "train", "spec"}
        family = values.get("family") if isinstance(values, dict) else None
        if not isinstance(family, dict) or set(values) != parts or not isinstance(family.get("name"), str):
            raise ValueError(f"{where}: not a kinema configuration (family with a name, data, train and spec)")
        name, family = family["name"], {key: value for key, value in family.items() if key != "name"}
        if name not in FAMILIES:
            known = ", ".join(FAMILIES.names)
            raise ValueError(f"{where}: family.name: there is no family {shorten(name)!r}; there are {known}")
        experiment = Experiment(
            from_dict(FAMILIES[name], family, f"{where}: family"),
            from_dict(DataConfig, values["data"], f"{where}: data"),
            from_dict(TrainConfig, values["train"], f"{where}: train"),
        )
        spec = from_dict(ClipSpec, values["spec"], f"{where}: spec")
        try:
            check_ranges(spec, **CLIP_RANGES, fps=(1e-6, 1e6), actions=(0, 2**16))
        except ValueError as error:
            raise ValueError(f"{where}: spec: {error}") from None
        return experiment, spec

    def portable(self) -> Experiment:
        """A copy without local paths, to publish with trained weights."""
        data = replace(self.data, source=Path(self.data.source).name, cache=None)
        return Experiment(self.family.portable(), data, replace(self.train, init_from=None))

    def differences(self, other: Experiment) -> list[str]:
        """The family's settings that differ, as "family.name: own, not other"."""
        if type(self.family) is not type(other.family):
            return [f"family: {FAMILIES.name_of(type(self.family))}, not {FAMILIES.name_of(type(other.family))}"]
        pairs = [(f.name, getattr(self.family, f.name), getattr(other.family, f.name)) for f in fields(self.family)]
        return [f"family.{name}: {own}, not {another}" for name, own, another in pairs if own != another]
