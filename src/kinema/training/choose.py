"""The choice of a whole experiment for a folder of clips and this machine, with reasons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import cpu_count

import numpy as np

from kinema.data.clips import DataConfig
from kinema.data.folder import Folder, clip_name, labels_are_names, scan
from kinema.data.readers.base import Clip, ClipInfo, ReadError, clip_info
from kinema.experiment import Experiment
from kinema.presets import preset
from kinema.registry import WORLDS
from kinema.runtime.device import Runtime

__all__ = ["Choice", "Reason", "choose", "survey"]

SAMPLED = 64  # clips that are opened
SPAN = 1.6  # seconds that a training clip should last
FRAMES = (17, 13, 9, 5)  # of a training clip, one and whole groups of four
LONG_ENOUGH = 0.8  # share of the clips that should be as long as a training clip
MULTIPLE = 8  # of the sides
NEARLY = 0.9  # share of its frames that a clip should have: the last one is held for the rest
LEAST_FPS = 5.0  # frames a second of a video
SLOWEST = 0.2  # quantile of rates that differ: faster clips are brought to it
LOST = 0.2  # share of a frame: a crop that cuts more is said aloud


@dataclass(frozen=True, slots=True)
class Reason:
    """A choice, and why it was made."""

    what: str
    choice: str
    why: str
    settings: tuple[str, ...] = ()  # of the data that it is about


@dataclass(frozen=True, slots=True)
class Choice:
    """An experiment with the reasons for its settings."""

    experiment: Experiment
    reasons: tuple[Reason, ...]


def choose(source: str, runtime: Runtime, label: str = "label", camera: str = "", outside: bool = False) -> Choice:
    """The experiment for a folder of clips or a world on this machine; only the heads of some files are read.

    `label` is the column of labels, or "none", `camera` one of several, `outside` whether files outside of it are
    read, as those of `DataConfig`. Raises ValueError for a folder without clips that can be opened.
    """
    experiment = preset("latent-dit", "cpu")
    network = "the size for a laptop"
    if runtime.device.type != "cpu":
        large = replace(experiment.family, hidden=384, depth=12, heads=6, merged_hidden=768)  # pyright: ignore[reportCallIssue]
        experiment = replace(experiment, family=large, train=replace(experiment.train, batch=32, lr=1e-3))
        network = f"the size for {runtime.device.type}"
    reasons = [
        Reason("family", "latent-dit", f"a diffusion transformer: sharp clips in minutes, of few clips; {network}"),
        Reason("codec", "transform", "computed from the clips in a second, and sharper than one trained for minutes"),
    ]
    if source in WORLDS:
        return Choice(replace(experiment, data=replace(experiment.data, source=source)), tuple(reasons))
    folder = scan(source, label, camera, outside)
    infos = survey(folder.clips)
    if not infos:
        raise ValueError(_no_clips(folder))
    data = replace(experiment.data, source=source, label=label, camera=camera, outside=outside)
    for choice in (_time, _shape, _conditions):
        data, reason = choice(data, folder, infos)
        reasons.append(reason)
    return Choice(replace(experiment, data=data), tuple(reasons))


def survey(clips: Sequence[Clip], most: int = SAMPLED) -> list[ClipInfo]:
    """What the heads of at most `most` clips say, evenly from all of them; those that cannot be opened are left out."""
    places = np.unique(np.linspace(0, len(clips) - 1, min(most, len(clips))).round().astype(int))

    def info(place: int) -> ClipInfo | None:
        try:
            return clip_info(clips[place])
        except ReadError:
            return None

    with ThreadPoolExecutor(cpu_count()) as pool:
        return [found for found in pool.map(info, places.tolist()) if found is not None]


def _no_clips(folder: Folder) -> str:
    """Why the first of a folder's clips cannot be opened."""
    clip = folder.clips[0]
    try:
        clip_info(clip)
        reason = "it can be opened now, and could not before"
    except ReadError as error:
        reason = error.reason
    name = clip_name(clip, folder.root)
    return f"{folder.root}: none of its {len(folder.clips)} clips can be used; the first is {name}: {reason}"


def _time(data: DataConfig, folder: Folder, infos: Sequence[ClipInfo]) -> tuple[DataConfig, Reason]:
    """Frames a second and frames of a training clip."""
    rates = np.array([info.fps for info in infos])
    rates = rates[rates >= LEAST_FPS] if (rates >= LEAST_FPS).any() else rates  # slide shows do not set the rate of all
    median, mixed = float(np.median(rates)), rates.max() > 1.01 * rates.min()
    seconds = np.array([info.seconds for info in infos if info.seconds is not None])
    reach = float(np.quantile(seconds, 1 - LONG_ENOUGH)) if len(seconds) else np.inf  # what most clips last
    every = max(1, round(SPAN * median / (FRAMES[0] - 1)))
    if any(clip.actions for clip in folder.clips):
        every = 1  # each frame has its action
    elif reach < np.inf:  # not so slow that most clips would be too short
        every = max(1, min(every, int(reach * median / FRAMES[0])))
    fps = min(median / every, float(np.quantile(rates, SLOWEST, method="lower"))) if mixed else median / every
    frames = next((count for count in FRAMES if NEARLY * count <= reach * fps), FRAMES[-1])
    why = f"clips have {median:.4g} frames a second"
    if mixed:
        why = f"clips have {rates.min():.4g} to {rates.max():.4g} frames a second, which one rate makes alike"
    elif every > 1:
        why += f", of which one in {every} is taken"
    chosen = replace(data, frames=frames, fps=round(fps, 4) if mixed or every > 1 else None)
    said = f"{frames} frames at {fps:.4g} a second: {frames / fps:.1f} s"
    return chosen, Reason("time", said, why, ("frames", "fps"))


def _shape(data: DataConfig, folder: Folder, infos: Sequence[ClipInfo]) -> tuple[DataConfig, Reason]:
    """The height and width of frames, of the clips' shape."""
    aspects = np.array([info.width / info.height for info in infos])
    aspect, area = float(np.median(aspects)), data.height * data.width
    height = max(MULTIPLE, MULTIPLE * round(math.sqrt(area / aspect) / MULTIPLE))
    width = max(MULTIPLE, MULTIPLE * round(math.sqrt(area * aspect) / MULTIPLE))
    kept = np.minimum(aspects, width / height) / np.maximum(aspects, width / height)
    lost = float(1 - kept.min())
    why = f"the shape of most clips; a crop loses up to {lost:.0%} of a frame"
    if lost > LOST:
        why += " (--data.fit pad or stretch keeps all)"
    reason = Reason("frames", f"{width}x{height} pixels", why, ("height", "width", "fit"))
    return replace(data, height=height, width=width), reason


def _conditions(data: DataConfig, folder: Folder, infos: Sequence[ClipInfo]) -> tuple[DataConfig, Reason]:
    """Which conditions are learned."""
    used, unused = [], []
    classes, clips = len(folder.classes), len(folder.clips)
    if labels_are_names(folder.classes, clips):
        data = replace(data, label="none")
        unused.append(f"{classes} labels for {clips} clips are names, not classes")
    elif classes > 1:
        used.append(f"{classes} labels")
    captions = {clip.caption for clip in folder.clips if clip.caption is not None}
    if len(captions) > 1:
        used.append(f"captions ({len(captions - {''})} different)")
    elif captions:
        unused.append("one caption for all clips")
    if any(clip.actions for clip in folder.clips):
        used.append("actions")
    if any(info.sample_rate for info in infos):
        unused.append("sound (--data.audio learns it)")
    used.append("known frames and regions")
    why = f"not used: {'; '.join(unused)}" if unused else "all there are"
    return data, Reason("conditions", ", ".join(used), why, ("label", "audio"))
