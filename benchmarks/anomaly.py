"""Anomaly detection: the surprise of SVG-LP, beside how much a frame differs from the one before.

    python benchmarks/anomaly.py --minutes 30 --out runs/anomaly
    python benchmarks/anomaly.py --data FOLDER --normal regular --minutes 60 --out runs/lungs

The model is trained for --minutes on normal clips only; the same command continues where an earlier one stopped, and
only measures where nothing is left to train. The AUROC is that of single frames: 0.5 is chance, 1 is perfect.

Shape Motion: normal is a shape on its way up. In test clips three frames in a row, from frame 5 on or later, are wrong:
the shape goes on sideways ("motion"), three times as fast ("speed"), or as a square that was a circle or the other way
round ("shape"). Normal frames are all but the first of the same clips with nothing wrong; frames after a wrong one do
not count. Intervals are bootstrapped over clips.

A folder: metadata.csv has `file_name` and `label_name` or `label`, and may have `patient` and `licence`. Where licences
are stated, only clips whose licence begins as --licence says are used. About a third of the normal clips are held out,
all of a patient together; clips of every other label are tested. Where no column names the patient, the part of the
name like pat1 or set2 does, or else names that differ in their numbers alone are taken for one. Intervals are
bootstrapped over patients. Where labels come from different devices or hospitals, as they do in the lung ultrasound
clips, an AUROC may tell those apart and not what the labels say: read it beside that of the baseline.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from runs import trained

from kinema.cli.anomalies import scores_of
from kinema.cli.reading import frames_for
from kinema.data.clips import Source
from kinema.data.folder import Skipped
from kinema.data.writing import from_uint8
from kinema.presets import PRESETS, preset
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, score
from kinema.types import Batch
from kinema.worlds.shape_motion import Scene, ShapeMotion, render, scene

SIDE, FRAMES = 64, 16
WRONG, FIRST = 3, 5  # frames that are wrong, and before which none is
AT_ONCE = 50  # clips in memory
KINDS = ("motion", "speed", "shape")
PATIENT = re.compile(r"pat\d+|set\d+")
METHODS = ("surprise", "frame difference")

Unit = tuple[np.ndarray, np.ndarray]  # the scores of abnormal frames, and of normal ones, of a clip or patient
Units = dict[str, tuple[list[Unit], list[Unit]]]  # by what is wrong, for each method


def auroc(high: Float[np.ndarray, " P"], low: Float[np.ndarray, " N"]) -> float:
    """The share of pairs, one of each, that are in the right order, ties counting half (Mann and Whitney 1947).

    0.5 is chance. Raises ValueError where there is none of one kind.
    """
    if not len(high) or not len(low):
        raise ValueError("an AUROC compares two kinds of frames: there are none of one kind")
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / 2 / len(low))


def auroc_interval(units: Sequence[Unit], level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """The AUROC over the frames of all units, and the ends of its bootstrap interval over units.

    Frames of one unit are alike, so an interval over frames would be too narrow. Resamples with frames of one kind only
    are left out. Raises ValueError where fewer than 2 units have frames of a kind.
    """
    if min(sum(len(unit[kind]) > 0 for unit in units) for kind in (0, 1)) < 2:
        raise ValueError("an interval needs 2 units or more of each kind")

    def of(picks: np.ndarray) -> float:
        high, low = (np.concatenate([units[k][kind] for k in picks]) for kind in (0, 1))
        return auroc(high, low) if len(high) and len(low) else np.nan

    rng = np.random.default_rng(seed)
    values = [of(rng.integers(len(units), size=len(units))) for _ in range(2000)]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return of(np.arange(len(units))), float(low), float(high)


class Upwards:
    """Shape Motion in which every shape moves up."""

    key = "shape-motion upwards"
    skipped: tuple[Skipped, ...] = ()
    spec = replace(ShapeMotion(FRAMES, SIDE, SIDE).spec, classes=())

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips of a training step, the same whenever `seed`, `step` and `rank` are."""
        frames = render(_upwards(np.random.default_rng((seed, step, rank)), size), SIDE, SIDE)
        return Batch(torch.from_numpy(frames).permute(0, 1, 4, 2, 3))


def _upwards(rng: np.random.Generator, clips: int) -> Scene:
    """Scenes of shapes that move up: those that move left are turned over their diagonal."""
    drawn = scene(rng, clips, FRAMES, SIDE, SIDE)
    left = drawn.label == 1
    centres = np.where(left[:, None, None], drawn.centres[..., ::-1], drawn.centres)
    return replace(drawn, label=np.zeros_like(drawn.label), centres=centres)


def with_wrong_frames(kind: str, normal: Scene, first: np.ndarray) -> UInt8[np.ndarray, "B T H W 3"]:
    """The scene's clips in which the frames from `first` [B] on, WRONG of them, are wrong."""
    wrong = np.arange(FRAMES) - first[:, None]
    wrong = (wrong >= 0) & (wrong < WRONG)  # [B, T]
    if kind == "shape":
        other = render(replace(normal, is_square=~normal.is_square), SIDE, SIDE)
        return np.where(wrong[:, :, None, None, None], other, render(normal, SIDE, SIDE))
    moves = np.diff(normal.centres, axis=1, prepend=normal.centres[:, :1])  # [B, T, 2]
    other = moves[..., ::-1] if kind == "motion" else 3 * moves
    path = normal.centres[:, :1] + np.where(wrong[..., None], other, moves).cumsum(1)
    inset = normal.size[:, None, None] / 2 + 1
    return render(replace(normal, centres=path.clip(inset, SIDE - inset).astype(np.float32)), SIDE, SIDE)


def of_shapes(model: Model, clips: int) -> Units:
    """The scores of wrong and of normal frames, a unit a clip."""
    units: Units = {}
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng((1, number))
        normal, first = _upwards(rng, clips), rng.integers(FIRST, FRAMES - WRONG + 1, clips)
        pair = with_wrong_frames(kind, normal, first), render(normal, SIDE, SIDE)
        units[kind] = ([], [])
        for method, of in zip(units[kind], (partial(_surprise, model), _difference), strict=True):
            wrong, normal_scores = map(of, pair)  # [B, T] each
            method += [(w[k : k + WRONG], n[1:]) for w, n, k in zip(wrong, normal_scores, first, strict=True)]
    return units


def _surprise(model: Model, clips: UInt8[np.ndarray, "B T H W 3"]) -> Float[np.ndarray, "B T"]:
    parts = [score(model.family, model.runtime, [frames]) for frames in from_uint8(clips).split(AT_ONCE)]
    return np.concatenate([chunk.cpu().numpy() for part in parts for chunk in part])


def _difference(clips: UInt8[np.ndarray, "B T H W 3"]) -> Float[np.ndarray, "B T"]:
    """The mean squared change of each frame's pixels, in [0, 1]; a clip's first frame has none."""
    change = np.square(np.diff(clips.astype(np.float32) / 255, axis=1)).mean((2, 3, 4))
    return np.pad(change, ((0, 0), (1, 0)), constant_values=np.nan)


@dataclass(frozen=True)
class Clip:
    """A file, what it shows and of whom."""

    path: Path
    label: str
    patient: str


def read_clips(folder: Path, licences: Sequence[str]) -> list[Clip]:
    """The clips of a folder that may be used."""

    def rows() -> Iterator[Clip]:
        with (folder / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if any(row.get("licence", "").startswith(one) for one in licences) or "licence" not in row:
                    stem = Path(row["file_name"]).stem
                    named = PATIENT.search(stem)
                    patient = row.get("patient") or (named.group() if named else re.sub(r"\d+", "#", stem))
                    yield Clip(folder / row["file_name"], row.get("label_name") or row["label"], patient)

    try:
        return list(rows())
    except (OSError, KeyError) as error:
        sys.exit(f"{folder}/metadata.csv cannot be used ({error}): it needs the columns file_name and label")


def split(clips: list[Clip], normal: str) -> tuple[list[Clip], list[Clip]]:
    """Normal clips to train on, and held-out normal ones with all others."""
    patients: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.label == normal:
            patients[clip.patient].append(clip)
    if len(patients) < 2:
        sys.exit(f"{len(patients)} patients have clips labelled {normal!r}: two are needed, to train and to hold out")
    names = sorted(patients)
    held_out: list[Clip] = []
    for name in np.random.default_rng(0).permutation(names)[:-1].tolist():
        if len(held_out) < sum(map(len, patients.values())) / 3:
            held_out += patients[name]
    seen = [clip for name in names for clip in patients[name] if clip not in held_out]
    return seen, held_out + [clip for clip in clips if clip.label != normal]


def of_clips(model: Model, clips: list[Clip], normal: str) -> Units:
    """The scores of the frames of other labels and of normal frames, a unit a patient and label."""
    by_patient: dict[tuple[str, str], tuple[list[np.ndarray], list[np.ndarray]]] = defaultdict(lambda: ([], []))
    for clip in clips:
        found = by_patient[clip.label, clip.patient]
        found[0].append(scores_of(model, clip)[1:])
        found[1].append(_difference(np.stack(list(frames_for(model, clip)))[None])[0, 1:])
    none = np.empty(0)
    labels = sorted({label for label, _ in by_patient} - {normal})
    units: Units = {label: ([], []) for label in ["any other", *labels]}
    for (label, _), found in by_patient.items():
        for method in range(len(METHODS)):
            scores = np.concatenate(found[method])
            for name, of in units.items():
                if label == normal:
                    of[method].append((none, scores))
                elif name in (label, "any other"):
                    of[method].append((scores, none))
    return units


def svg_lp(arguments: argparse.Namespace, clips: Source | None, **data: object) -> Model:
    """A model that has been trained for --minutes."""
    experiment = preset("svg-lp", arguments.preset).changed(
        data={"frames": FRAMES, "height": SIDE, "width": SIDE, **data}, train={"minutes": arguments.minutes}
    )
    return trained(experiment, arguments.out / "svg-lp", clips)


def main() -> None:
    """Train, score, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="for the run")
    parser.add_argument("--minutes", type=float, required=True, help="of training, in all")
    parser.add_argument("--preset", choices=PRESETS["svg-lp"], default="cpu", help="%(default)s if not given")
    parser.add_argument("--clips", type=int, default=200, help="test clips of Shape Motion for each kind (%(default)s)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of real clips, in place of Shape Motion")
    parser.add_argument("--normal", metavar="LABEL", help="of the real clips to train on")
    parser.add_argument("--fps", type=float, default=12.5, help="that real clips are resampled to (%(default)s)")
    parser.add_argument("--licence", nargs="+", default=["CC BY 4.0", "CC BY 2.0"], help="%(default)s if not given")
    arguments = parser.parse_args()
    if (arguments.data is None) != (arguments.normal is None):
        parser.error("--data and --normal belong together")
    if arguments.minutes <= 0 or arguments.clips < 2:
        parser.error("--minutes must be more than 0 and --clips at least 2")

    keep_freed_memory()
    if arguments.data is None:
        units = of_shapes(svg_lp(arguments, Upwards(), source="shape-motion, upwards"), arguments.clips)
        title = f"Shape Motion, {arguments.clips} clips of each kind, {WRONG} of {FRAMES} frames wrong"
    else:
        seen, tested = split(read_clips(arguments.data, arguments.licence), arguments.normal)
        folder = arguments.out / "normal"
        folder.mkdir(parents=True, exist_ok=True)
        for number, clip in enumerate(seen):
            link = folder / f"{number:04d}-{clip.path.name}"
            link.unlink(missing_ok=True)
            link.symlink_to(clip.path.resolve())
        model = svg_lp(arguments, None, source=str(folder), fps=arguments.fps)
        units = of_clips(model, tested, arguments.normal)
        held_out = sum(clip.label == arguments.normal for clip in tested)
        title = f"{arguments.data.name}: trained on {len(seen)} clips labelled {arguments.normal}, {held_out} held out"
    title += f"; preset {arguments.preset}, {arguments.minutes:g} minutes"
    Console(width=120).print(_table(units, title, "clips" if arguments.data is None else "patients"))


def _table(units: Units, title: str, unit: str) -> Table:
    table = Table(title=title, caption=f"AUROC of single frames, 95 % intervals over {unit}")
    for header in ("what is wrong", unit, "frames", "normal frames", *METHODS):
        table.add_column(header, justify="left" if header == "what is wrong" else "right")
    for kind, methods in units.items():
        count = sum(len(unit[0]) > 0 for unit in methods[0])
        wrong, normal = (sum(len(unit[k]) for unit in methods[0]) for k in (0, 1))
        table.add_row(kind, str(count), str(wrong), str(normal), *(_cell(method, count) for method in methods))
    return table


def _cell(method: list[Unit], count: int) -> str:
    if count < 2:
        return f"{auroc(*(np.concatenate(scores) for scores in zip(*method, strict=True))):.3f} (of a single one)"
    return "{:.3f} ({:.3f} to {:.3f})".format(*auroc_interval(method))


if __name__ == "__main__":
    main()
