"""MoCoGAN's Table 1 on Shape Motion, at equal wall-clock: whether clips keep their content and move as they should.

    python benchmarks/shape_motion.py --minutes 20 --seeds 0 1 2 --out runs/shape-motion

Every family is trained for --minutes from each seed, on clips of 16 frames at 32x32, with the same losses; the same
command continues where an earlier one stopped, and only measures where nothing is left to train. Processes with
other --families or --seeds may train at the same time, each on cores of its own (taskset and OMP_NUM_THREADS on Linux).

Measured are 256 clips of 16 frames a seed:

- ACD: the Average Content Distance of metrics/acd.py, 0 to 255: how much the colour of a shape changes in a clip.
- between: the mean distance of the mean colours of two clips. A model that draws nothing, or always the same grey spot,
  has a low ACD as well; only an ACD that is low beside this means that content is kept.
- spots: the share of frames with one compact bright object: the brightest pixel is at least 50 of 255 and all that are
  at least half as bright lie in a box whose sides are the largest shape's and 2 pixels.
- of spots: the ACD over those frames only, of the clips that have two: a frame without a spot has no content to keep.
- control: the share of clips whose motion, classified by shape_measures.py, is that of the label, for families that
  accept labels: 256 clips, half of each.

"real" is another 256 clips of the world. Intervals are bootstrapped over clips; the last rows of a family are the mean
and the deviation over seeds. A sheet of 8 clips of each run is written beside it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from runs import CPU, trained
from shape_measures import MotionClassifier, motion_control, shape_colour, train_classifier
from torch import Tensor

from kinema.data.clips import DataConfig
from kinema.data.writing import contact_sheet, from_uint8, write_image
from kinema.experiment import Experiment, TrainConfig
from kinema.families.mocogan import MoCoGANConfig
from kinema.families.tgan import TGANConfig
from kinema.families.vgan import VGANConfig
from kinema.family import FamilyConfig
from kinema.metrics.acd import acd
from kinema.metrics.statistics import mean_interval
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model
from kinema.sampling.request import GenerateRequest
from kinema.worlds.shape_motion import SIZES, ShapeMotion
from kinema.zoo.files import find_model_file

FRAMES, SIDE = 16, 32
LABELS = (0, 1)
FIRST = 1_000  # seed of the first clip that is measured
BRIGHT = 50  # of 255
PAPER = {"vgan": 5.02, "tgan": 2.08, "mocogan": 1.79}
SHOWN = 8  # clips on a sheet
HEADERS = "family", "seed", "steps", "ACD", "95 %", "paper", "between", "spots", "of spots", "control", "95 %"

RECIPE: Any = {"loss": "relativistic", "penalty": 2.0, "penalty_decay_steps": 1_000}
MOCOGAN = MoCoGANConfig(ngf=32, coordinates=True, ndf=16, ndf_image=32, norm="none", noise=0.0, **RECIPE)
FAMILIES: dict[str, FamilyConfig] = {
    "vgan": VGANConfig(ngf=32, ndf=32, norm="none", **RECIPE),
    "tgan": TGANConfig(ngf=16, ndf=32, norm="none", clip_every=0, **RECIPE),
    "mocogan": MOCOGAN,
    "mocogan-no-image-critic": replace(MOCOGAN, ndf_image=0),
    "mocogan-path": replace(MOCOGAN, category="path"),
    "mocogan-path-no-image-critic": replace(MOCOGAN, category="path", ndf_image=0),
}


@dataclass(frozen=True)
class Measured:
    """One run's measures: a value a clip, but for the distance between clips."""

    acd: Float[Tensor, " N"]
    between: float
    spots: Float[Tensor, " N"]
    of_spots: Float[Tensor, " N"]  # NaN where there are fewer than two
    control: Float[Tensor, " N"] | None = None


def experiment(name: str, seed: int, minutes: float) -> Experiment:
    """How a family is trained."""
    return Experiment(
        FAMILIES[name],
        DataConfig(source="shape-motion", frames=FRAMES, height=SIDE, width=SIDE),
        TrainConfig(minutes=minutes, batch=8, lr=1e-3, clip_norm=1.0, ema_decay=0.995, seed=seed),
    )


def measure(frames: Float[Tensor, "N T 3 H W"]) -> tuple[Tensor, float, Tensor, Tensor]:
    """The fields of `Measured` that need no labels."""
    within, colours, spots = [], [], []
    for part in frames.split(32):
        colours.append(shape_colour(part))
        within.append(acd(colours[-1]))
        spots.append(one_spot(part))
    colour, spot = torch.cat(colours), torch.cat(spots).float()  # [N, T, 3] and [N, T]
    count = len(colour)
    between = torch.cdist(colour.mean(1), colour.mean(1)).sum() / (count * (count - 1))
    pairs = spot[:, :, None] * spot[:, None] * (1 - torch.eye(spot.shape[1]))  # [N, T, T] both frames have a spot
    of_spots = (torch.cdist(colour, colour) * pairs).sum((1, 2)) / pairs.sum((1, 2))
    return torch.cat(within), float(between), spot.mean(1), of_spots


def one_spot(frames: Float[Tensor, "B T 3 H W"]) -> Tensor:
    """Whether each frame has one compact bright object [B, T]."""
    brightness = ((frames + 1) * 127.5).amax(2)
    brightest = brightness.amax((2, 3))
    shape = brightness >= brightest[..., None, None] / 2
    largest = max(SIZES) * min(frames.shape[-2:]) / 64 + 2

    def extent(axis: int) -> Tensor:
        lit = shape.any(axis).float()  # [B, T, n]
        places = torch.arange(lit.shape[-1], device=lit.device)
        return (lit * places).amax(-1) - torch.where(lit > 0, places, lit.shape[-1]).amin(-1) + 1

    return (brightest >= BRIGHT) & (extent(2) <= largest) & (extent(3) <= largest)


def of_model(model: Model, classifier: MotionClassifier, clips: int) -> Measured:
    """The measures of a trained model's clips."""
    labels = LABELS if "label" in model.family.accepts else None
    request = GenerateRequest(tuple(range(FIRST, FIRST + clips)), FRAMES, labels=labels)
    frames = from_uint8(model.generate(request))
    control = None
    if labels:
        wanted = torch.tensor([LABELS[i % len(LABELS)] for i in range(clips)])
        control = motion_control(classifier, frames, wanted, model.runtime)
    return Measured(*measure(frames), control)


def main() -> None:
    """Train, measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="for the runs and their sheets")
    parser.add_argument("--minutes", type=float, required=True, help="of training for each run, in all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="%(default)s if not given")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(PAPER), help="%(default)s if not given")
    parser.add_argument("--clips", type=int, default=256, help="measured of each run (%(default)s)")
    arguments = parser.parse_args()
    if arguments.clips < 2 or arguments.minutes <= 0:
        parser.error("--clips must be at least 2 and --minutes more than 0")

    keep_freed_memory()
    models = {
        name: {
            seed: trained(experiment(name, seed, arguments.minutes), arguments.out / f"{name}-{seed}")
            for seed in arguments.seeds
        }
        for name in arguments.families
    }
    world, runtime = ShapeMotion(FRAMES, SIDE, SIDE), detect_runtime()
    classifier = train_classifier(world, runtime)
    real = world.batch(0, arguments.clips, seed=FIRST).to(CPU)
    assert real.conditions.label is not None
    truth = Measured(*measure(real.frames), motion_control(classifier, real.frames, real.conditions.label, runtime))

    shown = f"{arguments.clips} clips of {FRAMES} frames, {arguments.minutes:g} minutes a run"
    table = Table(title=f"Shape Motion {SIDE}x{SIDE}, {shown}")
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "family" else "right")
    _row(table, ("real", "", ""), truth, "0.00")
    for name, runs in models.items():
        table.add_section()
        found = []
        for seed, model in runs.items():
            found.append(of_model(model, classifier, arguments.clips))
            steps = find_model_file(arguments.out / f"{name}-{seed}").parent.name.removeprefix("step-")
            _row(table, (name, str(seed), f"{int(steps):,}"), found[-1], f"{PAPER.get(name, '')}")
            labels = None if found[-1].control is None else LABELS
            clips = model.generate(GenerateRequest(tuple(range(SHOWN)), FRAMES, labels=labels))
            write_image(arguments.out / f"{name}-{seed}.png", contact_sheet(clips, columns=8))
        if len(found) > 1:
            _summary(table, name, found)
    Console(width=130).print(table)


def _row(table: Table, which: tuple[str, str, str], found: Measured, paper: str) -> None:
    value, low, high = mean_interval(found.acd)
    control = ("-", "-")
    if found.control is not None:
        share, least, most = mean_interval(found.control)
        control = f"{share:.3f}", f"{least:.3f} to {most:.3f}"
    table.add_row(
        *which, f"{value:.2f}", f"{low:.2f} to {high:.2f}", paper, f"{found.between:.1f}",
        f"{found.spots.mean():.2f}", f"{found.of_spots.nanmean():.2f}", *control,
    )  # fmt: skip


def _summary(table: Table, name: str, found: list[Measured]) -> None:
    distances = [float(one.acd.mean()) for one in found]
    shares = [float(one.control.mean()) for one in found if one.control is not None]
    table.add_row(
        name, "mean, sd", "", f"{mean(distances):.2f}", f"{stdev(distances):.2f}", "",
        f"{mean(one.between for one in found):.1f}", f"{mean(float(one.spots.mean()) for one in found):.2f}",
        f"{mean(float(one.of_spots.nanmean()) for one in found):.2f}",
        *((f"{mean(shares):.3f}", f"{stdev(shares):.3f}") if shares else ("-", "-")),
    )  # fmt: skip


if __name__ == "__main__":
    main()
