"""The one measuring entry: sources by name, under one protocol, to results."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2

from kinema.data.clips import DataConfig, FolderClips, open_clips
from kinema.evaluation.measure import numbers
from kinema.evaluation.rows import Rows, measured
from kinema.evaluation.saved import Saved, load_saved
from kinema.evaluation.sides import Generated, Real, Side, World, names_model
from kinema.metrics.exactness import sha256
from kinema.metrics.features import NETWORKS
from kinema.metrics.protocol import Protocol, Result
from kinema.run import Run
from kinema.sample import Model, load
from kinema.worlds import WORLDS

__all__ = ["Evaluation", "Settings", "evaluate"]

RESIZE = "the largest crop of its shape about the centre, in whole pixels, then bicubic, antialiased"
NEAR = 0.01  # share by which frame rates may differ and be the same
PACKAGES = ("kinema", "torch", "numpy", "scipy", "av", "pillow")

Progress = Callable[[str, int, int], None]  # called with a source's name, how many pieces are done, and of how many


@dataclass(frozen=True)
class Settings:
    """How clips are taken and measured; what is not said is the model's that is measured, or a folder's default."""

    clips: int = 512
    """Of each side; of a folder at most as many as it has windows that do not overlap."""
    frames: int | None = None
    """Of a clip; 16 without a model."""
    height: int | None = None
    """Pixels; 64 without a model."""
    width: int | None = None
    """Pixels; 64 without a model."""
    fps: float | None = None
    """That videos are resampled to; without a model all frames are taken as they come."""
    features: str = "kinema"
    """The network whose features are compared: kinema, i3d-stylegan-v, i3d-videogpt, v-jepa or videomae."""
    weights: str | None = None
    """Its file of weights, or folder, where these do not come with kinema."""
    seed: int = 0
    """Of the first generated clip, and of the choice of real ones."""
    paired: bool = False
    """The clips of a folder are predictions of those of the same names in the folder that they are measured against."""
    lpips: str | None = None
    """A safetensors file of VGG16 and LPIPS weights (docs/metrics.md), to measure LPIPS of predictions as well."""
    audio: bool = False
    """Take the sound of real clips along, for models that listen and to measure synchrony."""
    force: bool = False
    """Measure with fewer clips than a number needs, and mark it."""
    cache: str | None = None
    """Folder for what was computed; None is $KINEMA_CACHE or ~/.cache/kinema."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A result, and the rows that it is of."""

    result: Result
    rows: Rows
    fps: float | None


def evaluate(
    names: Sequence[str],
    against: str | None,
    settings: Settings,
    place: Run,
    progress: Progress = lambda name, done, total: None,
) -> tuple[list[Evaluation], Evaluation | None]:
    """Measure sources against a reference, all under one protocol; the reference's own rows come second.

    A source is a model (a run, a checkpoint, an exported file or one that ships), a folder of clips, an embedded world
    or a file of saved features. Raises ValueError for what cannot be measured, or not in one way.
    """
    if settings.features not in NETWORKS:
        raise ValueError(f"there are no features called {settings.features!r}; there are {', '.join(NETWORKS)}")
    models = {name: load(name, place) for name in names if names_model(name)}
    if against and against not in WORLDS and names_model(against):  # a model and a world may have one name
        models[against] = load(against, place)
    network = NETWORKS[settings.features](settings.weights, place.device)
    data = _data(settings, models)
    real = None if not against else _opened(against, models if against not in WORLDS else {}, data, settings, None)
    told = None if isinstance(real, Saved) else real
    if settings.paired and not isinstance(told, Real):
        raise ValueError("paired clips are predictions of those in a folder: say --against which")
    sides = [_opened(name, models, data, settings, told) for name in names]
    every = [*([real] if real else []), *sides]
    _refuse_rates(every)
    rates = [side.fps for side in every if side.fps is not None]
    protocol = Protocol(
        clips=min([settings.clips, *(side.most for side in every if isinstance(side, Saved))]),
        frames=data.frames,
        fps=round(float(rates[0]), 6) if rates else None,
        height=data.height,
        width=data.width,
        resize=RESIZE,
        features={"name": network.name, "checksum": network.checksum, "preprocessing": network.preprocessing},
        reference=real.key if real else "",
        seed=settings.seed,
        paired=settings.paired,
        lpips=sha256(Path(settings.lpips)) if settings.lpips else "",
    )

    def rows(side: Side | Saved, count: int) -> Rows:
        if isinstance(side, Saved):
            side.refuse_other(protocol)
            return side.rows(count)
        return measured(side, count, network, settings.lpips, settings.cache, partial(progress, side.name))

    found, count = list[Rows](), protocol.clips
    for side in every:
        _refuse_few(count)
        found.append(rows(side, count))
        count = len(found[-1])
    _refuse_few(count)
    protocol = replace(protocol, clips=count)
    found = [one.first(count) for one in found]

    def of(side: Side | Saved, found: Rows, reference: Rows | None) -> Evaluation:
        result = Result(
            source=side.name,
            kind=side.kind,
            protocol=protocol,
            numbers=numbers(found, reference, network.name, settings.force),
            made=_made(side.model if isinstance(side, Generated) else None, place),
            each={key: values.tolist() for key, values in found.each.items()},
            left_out=tuple(dict.fromkeys((*(real.skipped if real else ()), *side.skipped))),
        )
        return Evaluation(result, found, side.fps)

    reference = found.pop(0) if real else None
    evaluated = [of(side, one, reference) for side, one in zip(sides, found, strict=True)]
    return evaluated, of(real, reference, None) if real and reference else None


def _opened(
    name: str, models: dict[str, Model], data: DataConfig, settings: Settings, told: Side | None
) -> Side | Saved:
    """What a name stands for."""
    if name in models:
        return Generated(name, models[name], data.frames, settings.seed, told)
    if name.endswith(".npz"):
        return load_saved(Path(name))
    world = name in WORLDS
    chosen = replace(data, source=name, fps=None if world else data.fps, audio=data.audio and not world)
    source = open_clips(chosen)
    if not isinstance(source, FolderClips):
        return World(name, source, settings.seed)
    return Real(name, source, settings.seed, told if settings.paired and isinstance(told, Real) else None)


def _data(settings: Settings, models: dict[str, Model]) -> DataConfig:
    """The size and the rate that all clips are measured at: as was asked, or as the models have them."""
    plain = DataConfig(audio=settings.audio, cache=settings.cache)
    facts = [model.facts for model in models.values()]
    sizes = {(one.height, one.width) for one in facts} or {(plain.height, plain.width)}
    rates = {model.experiment.data.fps for model in models.values()} or {None}
    asked = (settings.height, settings.width)
    if len(sizes) > 1 or (facts and any(want not in (None, is_) for want, is_ in zip(asked, *sizes, strict=True))):
        listed = ", ".join(f"{name} {m.facts.width}x{m.facts.height}" for name, m in models.items())
        raise ValueError(
            f"models are measured at the size of their clips, one for all: leave --height and --width out ({listed})"
        )
    if len(rates) > 1 and settings.fps is None:
        raise ValueError("the models were trained at different frame rates: say at which to measure with --fps")
    ((height, width),) = sizes
    return replace(
        plain,
        frames=min((one.frames for one in facts), default=plain.frames) if settings.frames is None else settings.frames,
        height=height if settings.height is None else settings.height,
        width=width if settings.width is None else settings.width,
        fps=next(iter(rates)) if settings.fps is None else settings.fps,
    )


def _refuse_few(clips: int) -> None:
    if clips < 2:
        raise ValueError(f"{clips} clip cannot be measured, as there is no interval to state: give 2 or more")


def _refuse_rates(sides: Sequence[Side | Saved]) -> None:
    """Refuse to compare clips whose frames are of different times."""
    mixed = [side.name for side in sides if side.kind == "real" and side.fps is None]
    if mixed:
        raise ValueError(f"the clips of {mixed[0]} differ in frames a second: give --fps to take all at one rate")
    rates = {side.name: side.fps for side in sides if side.fps is not None}
    if rates and max(rates.values()) > (1 + NEAR) * min(rates.values()):
        listed = ", ".join(f"{name} at {rate:.4g}" for name, rate in rates.items())
        raise ValueError(f"frames a second differ ({listed}): give --fps to take folders at one rate")


def _made(model: Model | None, place: Run) -> dict[str, str]:
    """How a result came about, where that need not be the same for all."""
    found = {name: version(name) for name in PACKAGES}
    found |= {"opencv": cv2.__version__, "python": platform.python_version(), "device": str(place.device)}
    if model is not None and model.family.past:
        found["given"] = f"the first {model.family.past} frames are real ones, which count in all but PSNR and its like"
    if model is not None:
        found |= {
            "sampling": json.dumps(asdict(model.family.sampling)) if model.family.sampling else "",
            "precision": str(place.precision),
        }
    return found
