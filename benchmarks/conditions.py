"""How much sound or actions help a model predict: held-out clips with their own, with another clip's, and without.

    python benchmarks/conditions.py ../shared/data/robot_g1_pick --condition actions --minutes 4 8 --out out/robot
    python benchmarks/conditions.py ../shared/data/licence_unknown/driving_sim_actions --condition actions --last \\
        --minutes 4 8 --out out/driving
    python benchmarks/conditions.py ../shared/data/grid_talking_face --condition audio --crop 40 50 64 64 \\
        --mouth 18 42 38 54 --minutes 5 14 --out out/face

A fifth of the files is held out: of a shuffled list, or with --last those at the end, where files follow each other. A
codec is trained on the others for the first number of --minutes and latent-dit on its latents for the second. Of each
held-out clip a window's first two latents' frames are known (5 of 17), and the rest is predicted: PSNR against the
truth, beside that of the codec itself and of the last known frame repeated. Differences are of the same windows and
seeds, with bootstrap intervals over files.

Actions come from a folder's metadata, or from an `actions.npz` beside it: an array `action_N` for each clip's number N,
or one `action` [clips, T, A]. --crop cuts X Y WIDTH HEIGHT out of every frame first. --mouth X X Y Y is the box, in a
crop's pixels, around a mouth: the wider it is open, the more the brightness in there differs. How well this goes with
the logarithm of the sound's energy two frames later (correlation over a clip's new frames) is measured on longer clips,
65 frames window by window, with the clip's sound and with another clip's, and in the true frames. The two
frames are what fits true clips best: a mouth opens before it is heard.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from runs import CPU, trained
from torch import Tensor

from kinema.conditions.audio import SAMPLE_RATE as RATE
from kinema.data.clips import DataConfig, FolderSource, shuffled
from kinema.data.folder import scan
from kinema.data.readers.base import Clip, find_reader, read_audio, read_frames
from kinema.data.writing import contact_sheet, to_uint8, write_image, write_video
from kinema.families.latent_dit import LatentDiT, LatentDiTSampling
from kinema.metrics.paired import psnr
from kinema.metrics.statistics import mean_interval
from kinema.presets import preset
from kinema.sampling.model import Model, stream
from kinema.types import Conditions, Seeds

FRAMES, SIDE, GROUP = 17, 64, 4
KNOWN = 1 + GROUP
HELD_OUT = 2**42  # the seed of measured windows: no run's own
AT_ONCE = 16
SHOWN = 6  # clips on a sheet
LONG = 65  # frames of clips whose mouths are measured
LEAD = 2  # frames from a mouth's opening to its sound


def prepared(folder: Path, out: Path, last: bool, crop: list[int] | None) -> tuple[Path, Path]:
    """Folders of the clips to train on and of those held out, cropped, with their actions."""
    found = scan(folder).clips
    if len(found) < 10:
        raise SystemExit(f"{folder}: {len(found)} clips cannot be split: put 10 or more there")
    order = np.arange(len(found)) if last else np.random.default_rng(0).permutation(len(found))
    places = out / "seen", out / "held-out"
    for place, numbers in zip(places, np.split(order, [len(found) - len(found) // 5]), strict=True):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        rows = []
        for number in sorted(numbers):
            clip = found[number]
            name = f"{number:05d}.mp4"
            if crop:
                x, y, width, height = crop
                frames = np.stack([frame[y : y + height, x : x + width] for frame in read_frames(clip.path)])
                write_video(place / name, frames, find_reader(clip.path).info(clip).fps, read_audio(clip.path, RATE))
            else:
                (place / name).symlink_to(clip.path.resolve())
            row = {"file_name": name}
            if (actions := actions_of(clip, number, folder)) is not None:
                np.save(place / f"{number:05d}.npy", actions)
                row["actions"] = f"{number:05d}.npy"
            rows.append(json.dumps(row))
        (place / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return places


def actions_of(clip: Clip, number: int, folder: Path) -> np.ndarray | None:
    """The actions of a clip, from wherever they are."""
    if clip.actions is not None:
        return np.load(clip.actions)
    if not (folder / "actions.npz").exists():
        return None
    arrays = np.load(folder / "actions.npz")
    return arrays["action"][number] if "action" in arrays else arrays[f"action_{clip.path.stem.split('_')[-1]}"]


def trained_models(seen: Path, out: Path, arguments: argparse.Namespace) -> Model:
    """The trained model of the folder."""
    data = {"source": str(seen), "frames": FRAMES, "height": SIDE, "width": SIDE, "cache": str(out / "cache")}
    coding, denoising = arguments.minutes
    codec = preset("video-vae", "sprites").changed(data=data, train={"minutes": coding})
    trained(codec, out / "codec")
    data |= {"audio": arguments.condition == "audio", "cache_latents": arguments.cache_latents}
    dit = preset("latent-dit", "sprites").changed(
        data=data,
        family={
            "codec": str(out / "codec"),
            "depth": 6,
            "shift": 3.0,
            "context_rate": 1.0,
            "staggered_rate": 0.0,
            "sampling": LatentDiTSampling(),  # there is no text to guide by
        },
        train={"minutes": denoising, "ema_decay": 0.998},
    )
    return trained(dit, out / "dit")


def predicted(model: Model, frames: Tensor, conditions: Conditions) -> Float[Tensor, "N T 3 H W"]:
    """Clips as long as `frames` that continue their first frames, under `conditions`; seeds from 0 on."""
    parts: list[Tensor] = []
    for first in range(0, len(frames), AT_ONCE):
        some = slice(first, min(first + AT_ONCE, len(frames)))
        known, seeds = frames[some, :KNOWN], Seeds(tuple(range(some.start, some.stop)))
        of_some = conditions[some].with_first_frames(known)
        parts.append(torch.cat([*stream(model.family, model.runtime, seeds, frames.shape[1], of_some)], 1).cpu())
    return torch.cat(parts)


def opening(frames: Float[Tensor, "N T 3 H W"], box: list[int]) -> Float[np.ndarray, "N T"]:
    """How much the brightness differs in the mouth's box."""
    left, right, top, bottom = box
    return to_uint8(frames)[:, :, top:bottom, left:right].mean(-1, dtype=np.float32).std((2, 3))


def energy(audio: Float[Tensor, "N samples"], frames: int) -> Float[np.ndarray, "N T"]:
    """The logarithm of the sound's energy in the time of each frame."""
    edges = np.linspace(0, audio.shape[1], frames + 1).round().astype(int)
    parts = [audio[:, a:b].square().mean(1) for a, b in pairwise(edges)]
    return np.log10(torch.stack(parts, 1).numpy() + 1e-5)


def correlation(mouth: Float[np.ndarray, "N T"], sound: Float[np.ndarray, "N T"]) -> Float[Tensor, " N"]:
    """The correlation over the new frames of each clip, NaN where one of the two hardly changes."""
    pairs = zip(mouth[:, KNOWN:-LEAD], sound[:, KNOWN + LEAD :], strict=True)
    return torch.tensor([np.corrcoef(a, b)[0, 1] if a.std() > 1e-4 and b.std() > 0.2 else np.nan for a, b in pairs])


def mouths(model: Model, data: DataConfig, clips: int, box: list[int]) -> Table:
    """How well mouths and sounds agree, over longer clips."""
    source = FolderSource(replace(data, frames=LONG))
    real = source.batch(0, clips, seed=HELD_OUT).to(CPU)
    files = np.array(shuffled(len(source.clips), 0, clips, HELD_OUT))
    assert real.conditions.audio is not None
    own = real.conditions.audio
    other = own.roll(1, 0)
    frames = {
        "true frames": real.frames,
        "made with its own": predicted(model, real.frames, Conditions(audio=own)),
        "made with another's": predicted(model, real.frames, Conditions(audio=other)),
        "made without": predicted(model, real.frames, Conditions()),
    }
    sounds = {"its own": energy(own, LONG), "another clip's": energy(other, LONG)}
    table = Table("mouth of", "and sound", "clips", "correlation", "95 %", title=f"Mouth and sound, {LONG} frames")
    for which, clip in frames.items():
        found = {name: correlation(opening(clip, box), sound) for name, sound in sounds.items()}
        found["its own less another's"] = found["its own"] - found["another clip's"]
        for name, values in found.items():
            there, cells = values.isfinite(), ["-", "-"]
            if there.sum() > 1:
                mean, low, high = mean_interval(values[there], groups=files[there.numpy()])
                cells = [f"{mean:.3f}", f"{low:.3f} to {high:.3f}"]
            table.add_row(which, name, f"{there.sum()}", *cells)
    return table


def waveforms(audio: Float[Tensor, "N samples"], width: int, height: int = 40) -> np.ndarray:
    """A picture of each sound, as wide as its frames."""
    images = []
    for sound in audio.numpy():
        image = Image.new("RGB", (width, height), (20, 20, 20))
        peaks = [np.abs(part).max() for part in np.array_split(sound, width)]
        for x, peak in enumerate(peaks):
            tall = min(1.0, 2 * float(peak)) * height / 2
            ImageDraw.Draw(image).line((x, height / 2 - tall, x, height / 2 + tall), fill=(120, 200, 120))
        images.append(np.asarray(image))
    return np.stack(images)


def main() -> None:
    """Prepare, train, measure, print the tables, write the sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--condition", choices=("audio", "actions"), required=True, help="of the model")
    parser.add_argument("--minutes", type=float, nargs=2, default=(4.0, 8.0), help="of the codec, and of latent-dit")
    parser.add_argument("--cache-latents", type=int, default=3000, help="windows that are encoded once (%(default)s)")
    parser.add_argument("--windows", type=int, default=96, help="of held-out clips (%(default)s)")
    parser.add_argument("--last", action="store_true", help="hold out the last files, not any")
    parser.add_argument("--crop", type=int, nargs=4, metavar=("X", "Y", "WIDTH", "HEIGHT"))
    parser.add_argument("--mouth", type=int, nargs=4, metavar=("LEFT", "RIGHT", "TOP", "BOTTOM"))
    parser.add_argument("--out", type=Path, default=Path("out/conditions"))
    arguments = parser.parse_args()

    seen, held_out = prepared(arguments.folder, arguments.out, arguments.last, arguments.crop)
    model = trained_models(seen, arguments.out, arguments)
    data = replace(model.experiment.data, source=str(held_out), holdout=0, cache_latents=0)
    source = FolderSource(data)
    real = source.batch(0, arguments.windows, seed=HELD_OUT).to(CPU)
    files = np.array(shuffled(len(source.clips), 0, arguments.windows, HELD_OUT))  # whose windows are alike
    name = arguments.condition
    own = getattr(real.conditions, name)
    conditions = {
        "its own": Conditions(**{name: own}),
        "another clip's": Conditions(**{name: own.roll(1, 0)}),
        "none": Conditions(),
    }
    made = {which: predicted(model, real.frames, those) for which, those in conditions.items()}
    assert isinstance(model.family, LatentDiT)
    codec = model.family.codec
    assert codec is not None
    with torch.inference_mode(), model.runtime.autocast():
        parts = (part.to(model.runtime.device) for part in real.frames.split(AT_ONCE))
        coded = torch.cat([codec.decode(codec.encode(part)[0])[0].cpu() for part in parts])
    made["the codec itself"] = coded
    made["the last known frame"] = real.frames[:, [KNOWN - 1] * FRAMES]
    near = {which: psnr(frames, real.frames)[:, KNOWN:].mean(1) for which, frames in made.items()}
    table = Table(name, "PSNR", "95 %", "own less this", "95 %", title=f"{arguments.folder.name}: held-out prediction")
    for which, values in near.items():
        mean, low, high = mean_interval(values, groups=files)
        better, least, most = mean_interval(near["its own"] - values, groups=files)
        cells = ["-", "-"] if which == "its own" else [f"{better:.2f}", f"{least:.2f} to {most:.2f}"]
        table.add_row(which, f"{mean:.2f}", f"{low:.2f} to {high:.2f}", *cells)
    console = Console(width=110)
    console.print(table)
    if arguments.mouth:
        console.print(mouths(model, data, min(arguments.windows, 32), arguments.mouth))
    shown = {"true": real.frames, "its own": made["its own"], "another's": made["another clip's"]}
    rows, labels = torch.stack([frames[:SHOWN] for frames in shown.values()], 1).flatten(0, 1), [*shown]
    sheet = contact_sheet(to_uint8(rows), columns=FRAMES if arguments.mouth else 9, labels=labels * SHOWN)
    if name == "audio":  # a waveform under each clip's rows
        parts = np.array_split(sheet, SHOWN)
        waves = waveforms(own[:SHOWN], sheet.shape[1] - 70)
        waves = np.pad(waves, ((0, 0), (0, 0), (70, 0), (0, 0)))
        sheet = np.concatenate([x for pair in zip(parts, waves, strict=True) for x in pair])
    print(write_image(arguments.out / "sheet.png", sheet))


if __name__ == "__main__":
    main()
