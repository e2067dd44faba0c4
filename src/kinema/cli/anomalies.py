"""kinema anomalies: score how unexpected each frame of a video is, and mark frames above a threshold."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.cli.arguments import parse
from kinema.cli.reading import frames_for, read_each
from kinema.cli.say import say
from kinema.config import check_number
from kinema.data.atomic import atomic_path
from kinema.data.readers.base import Clip, ReadError, find_reader, read_frames
from kinema.data.writing import from_uint8, write_image, write_video
from kinema.report.plot import COLOURS, MARK, plot
from kinema.runtime.device import detect_runtime
from kinema.sampling.model import Model, load, score

CHUNK = 32  # frames in memory
PERCENTILE = 95
NAMED = 8  # intervals of marked frames that are printed


@dataclass(frozen=True)
class Arguments:
    """Score how unexpected each frame of a video is to a model of normal videos; mark frames above a threshold.

    Writes scores.csv, scores.png and marked.mp4.

    Example: kinema anomalies runs/x video.mp4 --out out/video --normal clips/
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A shipped model, a run's folder, a checkpoint, or a .safetensors file, of a family that predicts frames."""
    video: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="VIDEO")]
    """The video to score, of any length."""
    out: str
    """The folder to write to."""
    normal: Annotated[str | None, tyro.conf.arg(metavar="CLIP")] = None
    """A clip or a folder of clips without anomalies, preferably not trained on, to take the threshold from."""
    threshold: float | None = None
    """Frames with a higher score are marked. Default: the 95th percentile of the scores of --normal, or without it of
    the video's own scores, which always marks one frame in twenty."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Score the video, write the files, and print which frames are marked."""
    arguments = parse(Arguments, "kinema anomalies", words)
    if arguments.threshold is not None:
        check_number("--threshold", arguments.threshold, -1e12, 1e12)
    model, video = load(arguments.model, detect_runtime(arguments.device)), Path(arguments.video)
    scores = scores_of(model, Clip(video))
    threshold, rule = _threshold(model, arguments, scores)
    fps = model.experiment.data.fps or find_reader(video).info(Clip(video)).fps
    above = scores > threshold  # False for frames without a score
    out = Path(arguments.out)
    with atomic_path(out / "scores.csv") as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "seconds", "score"])
        for k, value in enumerate(scores):
            writer.writerow([k, f"{k / fps:.4f}", "" if np.isnan(value) else f"{value:.8g}"])
    seconds = np.arange(len(scores)) / fps
    picture = plot({"score": (seconds, scores)}, title=f"Surprise, {video.name}", x="seconds", level=threshold)
    write_image(out / "scores.png", picture)
    write_video(out / "marked.mp4", _marked(model, video, scores, threshold), fps)
    intervals = [f"{a / fps:.2f} to {b / fps:.2f}" for a, b in _intervals(above)]
    listed = ", ".join(intervals[:NAMED]) + (f" and {len(intervals) - NAMED} more" if len(intervals) > NAMED else "")
    say(
        f"{above.sum()} of {len(scores)} frames are above {threshold:.6g}, {rule}" + (f": {listed} s" if listed else "")
    )
    for name in ("scores.csv", "scores.png", "marked.mp4"):
        say(f"wrote {out / name}")


def scores_of(model: Model, clip: Clip) -> Float[np.ndarray, " T"]:
    """The score of every frame of a video, NaN for frames without one; raises ReadError if no frame has one."""

    def chunks() -> Iterator[Tensor]:
        frames = frames_for(model, clip)
        while chunk := list(islice(frames, CHUNK)):
            yield from_uint8(np.stack(chunk))[None]

    found = [chunk[0].cpu().numpy() for chunk in score(model.family, model.runtime, chunks())]
    scores = np.concatenate(found).astype(float)
    if np.isnan(scores).all():
        raise ReadError(clip.path, "it is one frame, and the score of a frame needs the frames before it")
    return scores


def _threshold(model: Model, arguments: Arguments, scores: np.ndarray) -> tuple[float, str]:
    """The threshold and a description of it."""
    if arguments.threshold is not None:
        return arguments.threshold, "as given"
    if arguments.normal is None:
        return float(np.nanpercentile(scores, PERCENTILE)), f"the {PERCENTILE}th percentile of the video's own scores"
    normal = np.concatenate(read_each(arguments.normal, lambda clip: scores_of(model, clip)))
    return float(np.nanpercentile(normal, PERCENTILE)), f"the {PERCENTILE}th percentile of {arguments.normal}"


def _marked(model: Model, video: Path, scores: np.ndarray, threshold: float) -> Iterator[UInt8[np.ndarray, "1 H W 3"]]:
    """Yield the video's frames with the score as a bar at the bottom, and a border above the threshold."""
    highest = max(np.nanmax(scores), threshold, 1e-12)
    for frame, value in zip(read_frames(video, fps=model.experiment.data.fps), scores, strict=True):
        height, width = frame.shape[:2]
        picture, edge, bar = frame.copy(), max(2, min(height, width) // 40), max(4, height // 24)
        above = value > threshold
        if above:
            for side in (np.s_[:edge], np.s_[-edge:], np.s_[:, :edge], np.s_[:, -edge:]):
                picture[side] = MARK
        if not np.isnan(value):
            picture[-bar:] = 0
            picture[-bar:, : round(width * max(0.0, value) / highest)] = MARK if above else COLOURS[0]
        yield picture[None]


def _intervals(above: np.ndarray) -> list[tuple[int, int]]:
    """The first frame of each interval of marked frames, and the frame after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], above.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in pairwise(edges)][::2]
