"""Video codecs at two compressions: quality on held-out clips, rate, and a long video coded in chunks.

    python benchmarks/codec.py --minutes 30 --out runs/codec
    python benchmarks/codec.py --data FOLDER --fps 12.5 --minutes 60 --out runs/codec-robot
    python benchmarks/codec.py --levels 8 5 5 5 --minutes 30 --out runs/codec-tokens

Each compression is trained for --minutes on clips of 17 frames at 64x64; the same command continues where an earlier
one stopped, and only measures where nothing is left to train.

Held out are clips of Shape Motion of another seed, or a fifth of a folder's files. Clips that were cut from one
recording are files of their own: keep them in one file, or they may be on both sides.

- PSNR and SSIM are those of metrics/paired.py, a mean over a clip's frames; intervals are bootstrapped over clips.
- values: latent values for each pixel of the clip, of which each has three of its own.
- bits: for each pixel. A token's is the logarithm of how many there are; Gaussian latents' is their divergence from
  the prior, which is what bits-back coding would pay (Hinton and van Camp 1993).
- chunks: the largest difference, in float32, between a video of 101 frames coded in chunks and at once, of latents
  and of pixels in [-1, 1].

The last table is the peak memory so far of a process that codes held-out clips one after another as one video, after
each row. Reconstructions are written beside the runs.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from runs import peak, real_clips, trained
from torch import Tensor

from kinema.codecs.video_vae import VideoVAE
from kinema.data.clips import DataConfig, open_source
from kinema.data.folder import scan
from kinema.data.writing import contact_sheet, to_uint8, write_image
from kinema.experiment import Experiment
from kinema.metrics.paired import psnr, ssim
from kinema.metrics.statistics import mean_interval
from kinema.presets import PRESETS, preset
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load

SIDE, FRAMES = 64, 17
COMPRESSIONS = {  # of space and time, and the channels of Gaussian latents
    "8x8x4": {"space": 8, "time": 4, "channels": 16},
    "4x4x4": {"space": 4, "time": 4, "channels": 8},
}
HELD_OUT = 1_000  # the seed of clips that are measured; training's is 0
AT_ONCE = 8  # clips in memory
LONG, LENGTHS = 101, (100, 300, 1000)  # frames of the long videos
SHOWN = 4  # clips on a sheet


@dataclass(frozen=True)
class Measured:
    """The measures of a codec on held-out clips."""

    psnr: Float[Tensor, " N"]
    ssim: Float[Tensor, " N"]
    latents: tuple[int, ...]  # L, C, h, w
    values: float  # for each pixel
    bits: float  # for each pixel


def split(folder: Path, out: Path) -> tuple[str, str]:
    """Folders of links to the files to train on and to those held out."""
    clips = scan(folder).clips
    if len(clips) < 10:
        raise SystemExit(f"{folder}: {len(clips)} clips cannot be split: put 10 or more there")
    held_out = set(np.random.default_rng(0).permutation(len(clips))[: len(clips) // 5].tolist())
    for number, clip in enumerate(clips):
        link = out / ("held-out" if number in held_out else "seen") / f"{number:05d}-{clip.path.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(clip.path.resolve())
    return str(out / "seen"), str(out / "held-out")


def experiment(name: str, data: DataConfig, arguments: argparse.Namespace) -> Experiment:
    """How a codec is trained."""
    return preset("video-vae", arguments.preset).changed(
        family={**COMPRESSIONS[name], "levels": tuple(arguments.levels)},
        data=vars(data),
        train={"minutes": arguments.minutes},
    )


def codec_of(model: Model) -> VideoVAE:
    """The model's codec, ready to be measured."""
    family = model.family.eval()
    assert isinstance(family, VideoVAE)
    return family


@torch.inference_mode()
def measure(model: Model, clips: Float[Tensor, "N T 3 H W"], sheet: Path) -> Measured:
    """Code the clips and compare; write a sheet of the first."""
    codec, device = codec_of(model), model.runtime.device
    shape, kl, quality, shown = (), 0.0, [], []
    for part in clips.split(AT_ONCE):
        with model.runtime.autocast():
            latents, _ = codec.encode(part.to(device))
            drawn = codec.decode(latents)[0].cpu()
            _, costs = codec.generator(part.to(device), torch.Generator(device).manual_seed(0))
        shape = tuple(latents.shape[1:])
        kl += float(costs.get("kl", 0.0)) * latents.numel() / len(clips)
        quality.append(torch.stack([metric(drawn, part).mean(1) for metric in (psnr, ssim)]))
        shown.append(torch.stack([part, drawn], 1)[:SHOWN].flatten(0, 1))
    rows = ["real", "coded"] * min(SHOWN, len(clips))
    write_image(sheet, contact_sheet(to_uint8(torch.cat(shown)[: len(rows)]), columns=9, labels=rows))
    pixels, values, bits = FRAMES * SIDE * SIDE, math.prod(shape), kl / math.log(2)
    if codec.config.levels:
        bits = values / codec.channels * math.log2(math.prod(codec.config.levels))
    noise, structure = torch.cat(quality, 1)
    return Measured(noise, structure, shape, values / pixels, bits / pixels)


@torch.inference_mode()
def largest_difference(model: Model, clips: Float[Tensor, "N T 3 H W"]) -> tuple[float, float]:
    """How far latents and frames coded in chunks are from those of the video coded at once, in float32."""
    codec = codec_of(model)
    chunks = [chunk.to(model.runtime.device) for chunk in video(clips, LONG)]
    whole, _ = codec.encode(torch.cat(chunks, 1))
    frames, _ = codec.decode(whole)
    parts = torch.cat(list(codec.encode_chunks(chunks)), 1)
    drawn = torch.cat(list(codec.decode_chunks(parts.split(1, 1), LONG)), 1)
    return (parts - whole).abs().max().item(), (drawn - frames).abs().max().item()


def video(clips: Float[Tensor, "N T 3 H W"], frames: int) -> Iterator[Float[Tensor, "1 t 3 H W"]]:
    """Yield the clips one after another, over and over, as one video of `frames` frames."""
    for clip in cycle(clips):
        yield clip[None, :frames]
        frames -= len(clip)
        if frames <= 0:
            return


def memory(folder: Path, clips: np.ndarray) -> list[tuple[str, int, float, float]]:
    """How a video was coded, its frames, frames a second, and the peak of this process so far, in MB.

    To be called in a fresh process, as a peak never falls.
    """
    model, found = load(folder, detect_runtime()), []
    codec, held = codec_of(model), torch.from_numpy(clips)
    with torch.inference_mode(), model.runtime.autocast():
        for how in ("in chunks", "at once"):
            for frames in LENGTHS:
                begun = time.monotonic()
                chunks = (chunk.to(model.runtime.device) for chunk in video(held, frames))
                if how == "at once":
                    chunks = [torch.cat(list(chunks), 1)]
                for drawn in codec.decode_chunks(codec.encode_chunks(chunks), frames):
                    assert drawn.isfinite().all()
                found.append((how, frames, frames / (time.monotonic() - begun), peak(model.runtime.device)))
    return found


def main() -> None:
    """Train both codecs, measure them, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="for the runs and the sheets")
    parser.add_argument("--minutes", type=float, required=True, help="of training for each codec, in all")
    parser.add_argument("--preset", choices=PRESETS["video-vae"], default="cpu", help="%(default)s if not given")
    parser.add_argument(
        "--levels", type=int, nargs="+", default=[], help="of a token's channels; Gaussian if not given"
    )
    parser.add_argument("--clips", type=int, default=100, help="held-out clips measured, at most (%(default)s)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of real clips, in place of Shape Motion")
    parser.add_argument("--fps", type=float, help="that real clips are resampled to; as they are if not given")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or arguments.clips < 2:
        parser.error("--minutes must be more than 0 and --clips at least 2")
    if arguments.fps is not None and arguments.data is None:
        parser.error("--fps is for --data")

    keep_freed_memory()
    seen, unseen = ("shape-motion", "shape-motion") if arguments.data is None else split(arguments.data, arguments.out)
    size = {"frames": FRAMES, "height": SIDE, "width": SIDE, "fps": arguments.fps}
    source = open_source(DataConfig(source=unseen, holdout=0, **size))
    clips = real_clips(source, arguments.clips, HELD_OUT).frames

    name = "Shape Motion" if arguments.data is None else arguments.data.name
    table = Table(
        title=f"{name}, {len(clips)} held-out clips; preset {arguments.preset}, {arguments.minutes:g} minutes each"
    )
    for header in ("compression", "latents", "values", "bits", "PSNR, dB", "95 %", "SSIM", "95 %", "chunks"):
        table.add_column(header, justify="left" if header == "compression" else "right")
    peaks = Table(title="one video, coded and decoded: frames a second, and the process's peak so far")
    for header in ("compression", "coded", "frames", "frames/s", "MB"):
        peaks.add_column(header, justify="left" if header in ("compression", "coded") else "right")
    for name in COMPRESSIONS:
        model = trained(experiment(name, DataConfig(source=seen, holdout=0, **size), arguments), arguments.out / name)
        chunks = "{:.0e}, {:.0e}".format(*largest_difference(model, clips))
        table.add_row(name, *_cells(measure(model, clips, arguments.out / f"{name}.png")), chunks)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows = pool.apply(memory, (arguments.out / name, clips[:SHOWN].numpy()))
        for how, frames, rate, megabytes in rows:
            peaks.add_row(name, how, f"{frames:,}", f"{rate:.0f}", f"{megabytes:.0f}")
    console = Console(width=120)
    console.print(table)
    console.print(peaks)


def _cells(found: Measured) -> list[str]:
    cells = ["x".join(map(str, found.latents)), f"{found.values:.3f}", f"{found.bits:.3f}"]
    for values, digits in ((found.psnr, 2), (found.ssim, 3)):
        mean, low, high = (f"{value:.{digits}f}" for value in mean_interval(values))
        cells += [mean, f"{low} to {high}"]
    return cells


if __name__ == "__main__":
    main()
