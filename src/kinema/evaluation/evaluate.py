"""The entry point: sources by name, measured under one protocol."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2

from kinema.config import CLIP_RANGES, MOST_FPS, MOST_SEED, check_ranges
from kinema.data.clips import DataConfig, FolderClips, NoClips, Part, open_clips
from kinema.evaluation.clip_sets import ClipSet, CopyClipSet, FolderClipSet, GeneratedClipSet, WorldClipSet
from kinema.evaluation.measure import compute_numbers
from kinema.evaluation.nearest import NEAREST, Memorisation, NearestClips
from kinema.evaluation.rows import Rows, measure_clips
from kinema.evaluation.saved import SavedFeatures, load_features
from kinema.metrics.features import load_network, sha256
from kinema.metrics.protocol import Protocol, Result
from kinema.registry import WORLDS
from kinema.runtime.device import Runtime
from kinema.sampling.model import Model, load
from kinema.zoo import is_model

__all__ = ["Evaluation", "EvaluationConfig", "evaluate", "with_baselines"]

HELD_OUT = "held-out real clips"
RESIZE = {  # how frames of another shape are fitted
    "crop": "the largest centre crop of the target's shape, in whole pixels, then bicubic, antialiased",
    "pad": "the whole frame, bicubic, antialiased, on black",
    "stretch": "the whole frame, bicubic, antialiased, in the target's shape",
}
MOST_CLIPS = 10**6  # in a set
SAME_RATE = 0.01  # share by which frame rates may differ
PACKAGES = ("kinema", "torch", "numpy", "scipy", "av", "pillow")

SourceProgress = Callable[[str, int, int], None]  # a source's name, how many batches are done, and of how many


@dataclass(frozen=True)
class EvaluationConfig:
    """How clips are chosen and measured; open settings are those of the measured model, or the defaults of folders."""

    clips: int = 512
    """In each set; of a folder at most as many as it has windows that do not overlap."""
    frames: int | None = None
    """Of a clip; without a model 16."""
    height: int | None = None
    """Pixels; without a model 64."""
    width: int | None = None
    """Pixels; without a model 64."""
    fps: float | None = None
    """Frames a second that videos are resampled to; without a model all frames are used as they are."""
    features: str = "imagenet"
    """The network whose features are compared: imagenet, kinema, i3d-stylegan-v, i3d-videogpt, v-jepa or videomae."""
    weights: str | None = None
    """The network's file or folder of weights, where these do not ship with kinema."""
    seed: int = 0
    """Of the first generated clip, and of the choice of real ones."""
    paired: bool = False
    """The clips of a folder are predictions of the files with the same names in the reference folder."""
    lpips: str | None = None
    """A safetensors file of VGG16 and LPIPS weights (docs/metrics.md), to measure LPIPS of predictions as well."""
    audio: bool = False
    """Read the sound of real clips, for models conditioned on audio and to measure synchrony."""
    outside: bool = False
    """Read files outside of a folder that its metadata names."""
    force: bool = False
    """Measure with fewer clips than a number needs, and mark it."""
    cache: str | None = None
    """Folder for what was computed; None is $KINEMA_CACHE or ~/.cache/kinema."""

    def __post_init__(self) -> None:
        # one clip has no interval
        check_ranges(self, clips=(2, MOST_CLIPS), **CLIP_RANGES, fps=(0.001, MOST_FPS), seed=(0, MOST_SEED))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A result and the rows it was computed from."""

    result: Result
    rows: Rows
    fps: float | None
    baselines: tuple[
        Evaluation, ...
    ] = ()  # what a model is read beside: held-out clips, a copy of the last given frame
    nearest: NearestClips | None = None  # of a model that was trained on the reference


def with_baselines(found: Sequence[Evaluation]) -> list[Evaluation]:
    """Evaluations, and then their baselines, each once."""
    baselines = {baseline.result.source: baseline for one in found for baseline in one.baselines}
    return [*found, *baselines.values()]


def evaluate(
    names: Sequence[str],
    against: str | None,
    config: EvaluationConfig,
    runtime: Runtime,
    progress: SourceProgress = lambda name, done, total: None,
) -> tuple[list[Evaluation], Evaluation | None]:
    """Measure sources against a reference, all under one protocol; the reference's own evaluation comes second.

    A source is a model (a run, a checkpoint, an exported file or one that ships), a folder of clips, a procedural world
    or a file of saved features. Where models were trained on the folder that is the reference, it is the part that they
    were trained on, and held-out files are one of their `baselines`. Frames that models are given are measured in no
    set. Raises ValueError for what cannot be measured, or not by one protocol.
    """
    models = {name: load(name, runtime) for name in names if is_model(name)}
    reference_models: Mapping[str, Model] = {}
    if against and against not in WORLDS and is_model(against):  # a model and a world may have the same name
        reference_models = {against: load(against, runtime)}
    network = load_network(config.features, config.weights, runtime.device)
    trained = [model for model in models.values() if against and _trained_on(model, against)]
    data = _as_trained(_data_config(config, {**models, **reference_models}), trained, config)
    reference = _open(against, reference_models, data, config, None, "training") if against else None
    conditions = None if isinstance(reference, SavedFeatures) else reference
    if config.paired and not isinstance(conditions, FolderClipSet):
        raise ValueError("paired clips are predictions of those in a folder: name it with --against")
    others = replace(data, label=DataConfig.label)  # another folder's column of labels may have another name
    sources = [_open(name, models, others, config, conditions) for name in names]
    sets = [*([reference] if reference else []), *sources]
    rate = _common_rate(sets)
    given = max((model.family.context_frames for model in [*models.values(), *reference_models.values()]), default=0)
    if given >= data.frames:
        raise ValueError(f"clips of {data.frames} frames have none to measure after {given} given ones: give --frames")
    protocol = Protocol(
        clips=min([config.clips, *(len(one.features) for one in sets if isinstance(one, SavedFeatures))]),
        frames=data.frames,
        fps=None if rate is None else round(float(rate), 6),
        height=data.height,
        width=data.width,
        resize=RESIZE[data.fit],
        features={"name": network.name, "checksum": network.checksum, "preprocessing": network.preprocessing},
        reference=reference.content if reference else "",
        seed=config.seed,
        paired=config.paired,
        given=given,
        lpips=sha256(Path(config.lpips)) if config.lpips else "",
    )

    def measure(clip_set: ClipSet, name: str, count: int) -> Rows:
        return measure_clips(clip_set, count, network, config.lpips, config.cache, partial(progress, name), given)

    rows, count = list[Rows](), protocol.clips
    for one in sets:
        _check_count(count)
        if isinstance(one, SavedFeatures):
            one.check_protocol(protocol)
            rows.append(one.rows(count))
        else:
            rows.append(measure(one, one.name, count))
        count = len(rows[-1])
    _check_count(count)
    protocol = replace(protocol, clips=count)
    measured = rows[0]  # of the reference, as many clips as there are
    rows = [one.first(count) for one in rows]
    real = rows.pop(0) if reference else None

    def evaluation(clip_set: ClipSet | SavedFeatures, rows: Rows, real: Rows | None, baseline: str = "") -> Evaluation:
        # few files are held out: what is measured of them is marked
        numbers = compute_numbers(rows, real, network.name, config.force or baseline == HELD_OUT)
        if NEAREST in numbers:
            numbers[NEAREST] = replace(numbers[NEAREST], real=1.0)
        result = Result(
            source=baseline or clip_set.name,
            kind="baseline" if baseline else clip_set.kind,
            protocol=protocol,
            numbers=numbers,
            provenance=_provenance(clip_set.model if isinstance(clip_set, GeneratedClipSet) else None, runtime),
            per_clip={key: values.tolist() for key, values in rows.per_clip.items()},
            skipped=tuple(dict.fromkeys((*(reference.skipped if reference else ()), *clip_set.skipped))),
        )
        return Evaluation(result, rows, clip_set.fps)

    copied = held_out = memorisation = None
    if given and isinstance(reference, ClipSet):
        copies = CopyClipSet(reference, given)
        copied = evaluation(copies, measure(copies, copies.name, count), real, copies.name)
    if trained and isinstance(reference, FolderClipSet):
        held = _held_out(reference, config.seed)
        held_rows = measure(held, HELD_OUT, count) if held else None
        memorisation = Memorisation(reference, measured, held_rows, given, partial(progress, NEAREST))
        if held and held_rows:
            held_out = evaluation(held, memorisation.measured(held_rows), real, HELD_OUT)

    found = []
    for one, of in zip(sources, rows, strict=True):
        model, nearest = one.model if isinstance(one, GeneratedClipSet) else None, None
        beside = [copied] if model and model.family.context_frames else []
        if memorisation and isinstance(one, GeneratedClipSet) and any(model is other for other in trained):
            of = memorisation.measured(of)
            nearest = memorisation.nearest_clips(one, of)
            beside.insert(0, held_out)
        baselines = tuple(baseline for baseline in beside if baseline)
        found.append(replace(evaluation(one, of, real), baselines=baselines, nearest=nearest))
    return found, evaluation(reference, real, None) if reference and real else None


def _trained_on(model: Model, folder: str) -> bool:
    """Whether a model was trained on this folder; an exported model knows its name only."""
    place = Path(folder).expanduser().resolve()
    source = Path(model.experiment.data.source).expanduser()
    return place.is_dir() and folder not in WORLDS and (source.resolve() == place or source == Path(place.name))


def _as_trained(data: DataConfig, trained: Sequence[Model], config: EvaluationConfig) -> DataConfig:
    """The clips as models were trained on them, with the files that were held out.

    Nothing is held out where models differ in it and where files are paired.
    """
    shares = {model.experiment.data.holdout for model in trained}
    if len(shares) != 1 or config.paired:
        return replace(data, holdout=0.0)
    fits = {(kept.fit, kept.label, kept.camera) for kept in (model.experiment.data for model in trained)}
    if len(fits) > 1:
        raise ValueError(
            "the models were trained with other --data.fit, --data.label or --data.camera: measure each by itself"
        )
    ((fit, label, camera),) = fits
    return replace(data, holdout=shares.pop(), fit=fit, label=label, camera=camera)


def _held_out(training: FolderClipSet, seed: int) -> FolderClipSet | None:
    """The held-out files of a folder whose other files are `training`; None where no two clips of them can be used."""
    if not training.source.other_clips:
        return None
    try:
        held_out = FolderClipSet(training.name, FolderClips(training.source.config, "held out"), seed)
        return held_out if len(held_out.windows(2)) == 2 else None
    except NoClips:
        return None


def _open(
    name: str,
    models: Mapping[str, Model],
    data: DataConfig,
    config: EvaluationConfig,
    reference: ClipSet | None,
    part: Part = "all",
) -> ClipSet | SavedFeatures:
    """The set of clips that a name stands for, or the part of a folder."""
    if name in models:
        return GeneratedClipSet(name, models[name], data.frames, config.seed, reference)
    if name.endswith(".npz"):
        return load_features(Path(name))
    is_world = name in WORLDS
    data = replace(data, source=name, fps=None if is_world else data.fps, audio=data.audio and not is_world)
    source = open_clips(data, part)
    if not isinstance(source, FolderClips):
        return WorldClipSet(name, source, config.seed)
    truth = reference if config.paired and isinstance(reference, FolderClipSet) else None
    return FolderClipSet(name, source, config.seed, truth)


def _data_config(config: EvaluationConfig, models: Mapping[str, Model]) -> DataConfig:
    """The length, size and rate that all clips are measured at: as configured, or the models' own."""
    defaults = DataConfig(short="skip", audio=config.audio, outside=config.outside, cache=config.cache)
    specs = [model.spec for model in models.values()]
    sizes = {(spec.height, spec.width) for spec in specs} or {(defaults.height, defaults.width)}
    rates = {model.experiment.data.fps for model in models.values()} or {None}
    asked = (config.height, config.width)
    if len(sizes) > 1 or (specs and any(want not in (None, is_) for want, is_ in zip(asked, *sizes, strict=True))):
        listed = ", ".join(f"{name} {m.spec.width}x{m.spec.height}" for name, m in models.items())
        raise ValueError(
            f"models are measured at the size of their clips, one for all: leave --height and --width out ({listed})"
        )
    if len(rates) > 1 and config.fps is None:
        raise ValueError("the models were trained at different frame rates: choose one to measure at with --fps")
    ((height, width),) = sizes
    return replace(
        defaults,
        frames=min((spec.frames for spec in specs), default=defaults.frames)
        if config.frames is None
        else config.frames,
        height=height if config.height is None else config.height,
        width=width if config.width is None else config.width,
        fps=next(iter(rates)) if config.fps is None else config.fps,
    )


def _check_count(clips: int) -> None:
    if clips < 2:
        raise ValueError(f"{clips} clip cannot be measured, as it has no interval: give 2 or more")


def _common_rate(sets: Sequence[ClipSet | SavedFeatures]) -> float | None:
    """The frame rate of all sets, None where it is unknown; raises ValueError where they differ."""
    if mixed := [one.name for one in sets if one.kind == "folder" and one.fps is None]:
        raise ValueError(f"the clips of {mixed[0]} differ in frames a second: give --fps to resample them to one rate")
    rates = {one.name: one.fps for one in sets if one.fps is not None}
    if rates and max(rates.values()) > (1 + SAME_RATE) * min(rates.values()):
        listed = ", ".join(f"{name} at {rate:.4g}" for name, rate in rates.items())
        raise ValueError(f"frames a second differ ({listed}): give --fps to resample folders to one rate")
    return next(iter(rates.values()), None)


def _provenance(model: Model | None, runtime: Runtime) -> dict[str, str]:
    """Versions and settings that may differ between results that compare."""
    found = {name: version(name) for name in PACKAGES}
    found |= {"opencv": cv2.__version__, "python": platform.python_version(), "device": str(runtime.device)}
    if model is not None:
        if context := model.family.context_frames:
            found["context"] = f"the first {context} frames are given; they are not measured"
        sampling = model.family.sampling
        found |= {"sampling": json.dumps(asdict(sampling)) if sampling else "", "precision": str(runtime.precision)}
    return found
