"""How well a model of the sprite world follows conditions other than text, against the world's own truth.

    python benchmarks/sprite_conditions.py sprites --clips 100 --out out/conditions

Clips are of one object, from seeds that no training step has; their captions are conditions too. Rows:

- image: the first frame is known. Its PSNR, beside that of the codec's reconstruction, and the share of clips that
  then move as the prompt says, beside the share that move as another clip's prompt says.
- prediction: the first frames are known, as many as two latents stand for (5 with 4 frames a latent). The distance of
  the object from its true place, in pixels, for motions whose future these frames decide: straight ones, bouncing and
  orbiting. Beside it that of standing still, and of moving on in a straight line.
- interpolation: the first frame and those of the last latent are known; the same, beside a straight line between them.
- in-painting: the right half is unknown. The distance of an object from its true place while all of it is hidden,
  beside that of another clip's object; and the PSNR of the left half.
- sound: clicks of a bouncing object. The share of clicks with a bounce within one frame, and of bounces with a click,
  beside the same for the clicks of another clip.
- actions: steps of an object that is steered. The distance of its steps from the actions, in pixels, beside that from
  another clip's actions, and that of a clip without actions.

A clip whose object cannot be found counts as lost and has no distance. Writes the table and a sheet for each row.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from rich.console import Console
from rich.table import Table

from kinema.data.writing import contact_sheet, from_uint8, write_image
from kinema.family import LatentFamily
from kinema.metrics.paired import psnr
from kinema.metrics.statistics import mean_interval
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load
from kinema.sampling.request import GenerateRequest
from kinema.worlds.sprite_verifier import Track, bounce_frames, motion_of, tracks
from kinema.worlds.sprites import DIRECTIONS, Scene, render, scene, sound

SEED = 2**41  # of the scenes: no training step's, nor those of benchmarks/adherence.py
DRAWN = 40  # scenes for every clip that is used, so that there are enough of each motion
DETERMINED = (*DIRECTIONS, "bounce", "orbit")
SHOWN = 10  # clips on a sheet


@dataclass(frozen=True)
class Clips:
    """Clips of one object each, and the truth behind them."""

    captions: list[str]
    motions: list[str]
    colours: list[str]
    frames: UInt8[np.ndarray, "N T H W 3"]
    audio: Float[np.ndarray, "N samples"]
    centres: Float[np.ndarray, "N T 2"]
    bounced: Bool[np.ndarray, "N T"]

    @property
    def steps(self) -> Float[np.ndarray, "N T 2"]:
        """The way to each frame, which is what the world calls actions."""
        return np.diff(self.centres, axis=1, prepend=self.centres[:, :1])


def draw_clips(motions: tuple[str, ...], clips: int, length: int) -> Clips:
    """Clips of these motions, in the shares in which the world has them."""
    rng = np.random.default_rng((SEED, len(motions)))
    truth: Scene = scene(rng, DRAWN * clips, length, 64, 64, sprites=1)
    some = [n for n, asked in enumerate(truth.asked) if asked.sprites[0].motion in motions][:clips]
    asked = [truth.asked[n].sprites[0] for n in some]
    first = np.zeros(len(truth.asked), np.int64)
    return Clips(
        [truth.captions[n] for n in some],
        [sprite.motion for sprite in asked],
        [sprite.colour for sprite in asked],
        render(truth.cut(first, length))[some].transpose(0, 1, 3, 4, 2),
        sound(truth)[some],
        truth.centres[some, :, 0],
        truth.bounced[some, :, 0],
    )


def find_tracks(frames: UInt8[np.ndarray, "N T H W 3"], colours: list[str]) -> list[Track | None]:
    """The track of the given colour in each clip."""
    return [
        next((track for track in tracks(clip) if track.colour == colour), None)
        for clip, colour in zip(frames, colours, strict=True)
    ]


def distances(seen: list[Track | None], centres: np.ndarray, where: Bool[np.ndarray, "N T"]) -> list[float]:
    """The mean distance of each object from its place in the frames of `where` in which it is seen; none if lost."""
    far = []
    for track, places, there in zip(seen, centres, where, strict=True):
        if track is not None and (there & track.visible).any():
            far.append(float(np.hypot(*(track.centres - places).T)[there & track.visible].mean()))
    return far


class Report:
    """The table's rows and the sheets."""

    def __init__(self, title: str, out: Path) -> None:
        self.table = Table("condition", "measure", "clips", "lost", "model", "95 %", "baseline", title=title)
        self.out = out

    def row(self, condition: str, measure: str, values: list[float], clips: int, baseline: str) -> None:
        """A measure of clips, of which some are lost."""
        if len(values) < 2:
            self.table.add_row(condition, measure, f"{clips}", f"{clips - len(values)}", "-", "-", baseline)
            return
        mean, low, high = mean_interval(torch.tensor(values, dtype=torch.float64))
        ends = [f"{mean:.2f}", f"{low:.2f} to {high:.2f}"]
        self.table.add_row(condition, measure, f"{clips}", f"{clips - len(values)}", *ends, baseline)

    def sheet(self, name: str, truth: np.ndarray, made: np.ndarray) -> None:
        """Each true clip, and below it the generated one."""
        pairs = np.stack([truth[:SHOWN], made[:SHOWN]], 1).reshape(-1, *made.shape[1:])
        print(write_image(self.out / f"{name}.png", contact_sheet(pairs)), flush=True)


def of_another(values: np.ndarray) -> np.ndarray:
    """The values of another clip, for each."""
    return np.roll(values, 1, 0)


def generate(model: Model, clips: Clips, **conditions: np.ndarray) -> UInt8[np.ndarray, "N T H W 3"]:
    """A clip for each of the true ones, under its caption and these conditions, seeds from 0 on."""
    return model.generate(GenerateRequest(tuple(range(len(clips.frames))), text=clips.captions, **conditions))


def main() -> None:
    """Measure, print one table, write the sheets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a run on the sprite world, or the name of a model that ships")
    parser.add_argument("--clips", type=int, default=100, help="of each row (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/conditions"))
    arguments = parser.parse_args()
    keep_freed_memory()  # as `kinema generate` does

    model = load(arguments.model)
    report = Report(f"{arguments.model}: conditions beside text", arguments.out)
    measure_known_frames(model, report, arguments.clips)
    measure_sound_and_actions(model, report, arguments.clips)
    Console(width=150).print(report.table)


def measure_known_frames(model: Model, report: Report, clips: int) -> None:
    """The rows of images, prediction, interpolation and in-painting."""
    spec, codec = model.spec, model.family.codec if isinstance(model.family, LatentFamily) else None
    length, group = spec.frames, 1 if codec is None else codec.time
    of = draw_clips(tuple(m for m in (*DIRECTIONS, "bounce", "orbit", "zigzag", "grow", "spin")), clips, length)
    count = len(of.frames)
    made = generate(model, of, known=of.frames[:, :1])
    seen = find_tracks(made, of.colours)
    moves = [
        float(track is not None and motion_of(track, 64, 64) == m) for track, m in zip(seen, of.motions, strict=True)
    ]
    others = of.motions[1:] + of.motions[:1]
    chance = np.mean(
        [track is not None and motion_of(track, 64, 64) == m for track, m in zip(seen, others, strict=True)]
    )
    truth = from_uint8(of.frames[:, :1])
    reconstructed = "-"
    if codec is not None:
        with torch.inference_mode():
            drawn = codec.decode(codec.encode(truth.to(model.runtime.device))[0])[0].cpu()
            reconstructed = f"codec {psnr(drawn, truth).mean():.2f}"
    near = psnr(from_uint8(made[:, :1]), truth)[:, 0].tolist()
    report.row("image", "PSNR of frame 0, dB", near, count, reconstructed)
    report.row("image", "moves as said, share", moves, count, f"another prompt {chance:.2f}")
    report.sheet("image", of.frames, made)

    of = draw_clips(DETERMINED, clips, length)
    count, first = len(of.frames), 1 + group
    later = np.tile(np.arange(length) >= first, (count, 1))
    made = generate(model, of, known=of.frames[:, :first])
    still = np.repeat(of.centres[:, first - 1 : first], length, 1)
    last_step = (of.centres[:, first - 1] - of.centres[:, first - 2])[:, None]
    onward = still + last_step * (np.arange(length) - first + 1)[:, None]
    apart = [np.hypot(*np.moveaxis(way - of.centres, -1, 0))[later].mean() for way in (still, onward)]
    baseline = f"stands still {apart[0]:.2f}, straight on {apart[1]:.2f}"
    report.row(
        f"first {first} frames",
        "pixels off",
        distances(find_tracks(made, of.colours), of.centres, later),
        count,
        baseline,
    )
    report.sheet("prediction", of.frames, made)

    where = np.zeros((length, spec.height, spec.width), bool)
    where[:1] = where[length - group :] = True
    between = np.tile(~where[:, 0, 0], (count, 1))
    made = generate(model, of, known=of.frames, mask=where)
    share = np.linspace(0, 1, length - group + 1)[:, None]
    straight = of.centres[:, :1] * (1 - share) + of.centres[:, length - group, None] * share
    off = np.hypot(*np.moveaxis(straight - of.centres[:, : length - group + 1], -1, 0))[:, 1:-1].mean()
    far = distances(find_tracks(made, of.colours), of.centres, between)
    report.row("first and last", "pixels off", far, count, f"a straight way {off:.2f}")
    report.sheet("interpolation", of.frames, made)

    where = np.zeros_like(where)
    where[:, :, : spec.width // 2] = True
    hidden = of.centres[:, :, 0] > spec.width / 2 + 12
    made = generate(model, of, known=of.frames, mask=where)
    far = distances(find_tracks(made, of.colours), of.centres, hidden)
    off = np.hypot(*np.moveaxis(of_another(of.centres) - of.centres, -1, 0))[hidden].mean()
    report.row("the left half", "pixels off", far, int(hidden.any(1).sum()), f"another clip {off:.2f}")
    half = slice(None, spec.width // 2)
    near = psnr(from_uint8(made[:, :, :, half]), from_uint8(of.frames[:, :, :, half])).mean(1).tolist()
    report.row("the left half", "its PSNR, dB", near, count, "-")
    report.sheet("in-painting", of.frames, made)


def measure_sound_and_actions(model: Model, report: Report, clips: int) -> None:
    """The rows of sound and of actions."""
    of = draw_clips(("bounce",), clips, model.spec.frames)
    count = len(of.frames)
    made = generate(model, of, audio=of.audio)
    seen = find_tracks(made, of.colours)
    bounces = [np.array(bounce_frames(track, 64, 64)) if track else np.zeros(0) for track in seen]
    clicks = [np.flatnonzero(bounced) for bounced in of.bounced]

    def within_a_frame(clicks: list[np.ndarray], bounces: list[np.ndarray]) -> list[float]:
        return [float(np.abs(click - np.asarray(b)).min(initial=99) <= 1) for c, b in zip(clicks, bounces, strict=True)
                for click in c]  # fmt: skip

    others = clicks[1:] + clicks[:1]
    for measure, hits, chance in (
        ("clicks with a bounce, share", within_a_frame(clicks, bounces), within_a_frame(others, bounces)),
        ("bounces with a click, share", within_a_frame(bounces, clicks), within_a_frame(bounces, others)),
    ):
        report.row("sound", measure, hits, len(hits), f"another's sound {np.mean(chance):.2f}")
    report.sheet("sound", of.frames, made)

    of = draw_clips(("wander",), clips, model.spec.frames)
    count = len(of.frames)

    def off(made: np.ndarray, steps: np.ndarray) -> list[float]:
        far = []
        for track, wanted in zip(find_tracks(made, of.colours), steps, strict=True):
            if track is not None and track.visible.all():
                far.append(float(np.hypot(*(np.diff(track.centres, axis=0) - wanted[1:]).T).mean()))
        return far

    steps = of.steps.astype(np.float32)
    made = generate(model, of, actions=steps)
    without = generate(model, of)
    baseline = f"another's {np.mean(off(made, of_another(steps))):.2f}, without {np.mean(off(without, steps)):.2f}"
    report.row("actions", "pixels off a step", off(made, steps), count, baseline)
    report.sheet("actions", of.frames, made)


if __name__ == "__main__":
    main()
