"""The closed-form codec at several rates: quality on held-out files, its exactness in chunks, and memory.

    python benchmarks/transform.py --data FOLDER --out runs/transform

It is computed from four fifths of a folder's files and measured on the others, on clips of 17 frames of 64x64.

- PSNR and SSIM are those of metrics/paired.py, a mean over a clip's frames; intervals are bootstrapped over clips.
- features: the root mean square difference of a clip and its reconstruction in the features `imagenet` (per clip: the
  mean over time and the changes), as a share of that between the clip and another one.
- values: latent values for each pixel of the clip, of which each has three of its own.
- chunks: the largest difference between a video of 101 frames coded in chunks and at once, of pixels in [-1, 1].
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from codec import FRAMES, HELD_OUT, LONG, SIDE, split, video
from jaxtyping import Float
from runs import real_clips
from torch import Tensor

from kinema.codecs.transform import Transform, TransformConfig
from kinema.data.clips import DataConfig, open_source
from kinema.data.writing import contact_sheet, to_uint8, write_image
from kinema.metrics.imagenet import ImageNetFeatures
from kinema.metrics.paired import psnr, ssim
from kinema.metrics.statistics import mean_interval

RATES = (
    (8, 4, 16),
    (8, 4, 32),
    (8, 4, 64),
    (4, 4, 8),
    (4, 4, 16),
    (4, 4, 32),
    (8, 2, 32),
    (4, 2, 16),
    (8, 1, 24),
    (8, 1, 48),
    (4, 1, 16),
)  # space, time, channels
BATCHES, SIZE = 12, 16  # that the codec is computed from
SHOWN = 4  # clips on a sheet
CPU = torch.device("cpu")


def largest_difference(codec: Transform, clips: Float[Tensor, "N T 3 H W"]) -> float:
    """How far frames coded in chunks are from those of the video coded at once."""
    chunks = list(video(clips, LONG))
    whole = codec.decode(codec.encode(torch.cat(chunks, 1))[0])[0]
    latents = torch.cat(list(codec.encode_chunks(chunks)), 1)
    return (torch.cat(list(codec.decode_chunks(latents.split(1, 1), LONG)), 1) - whole).abs().max().item()


@torch.inference_mode()
def main() -> None:
    """Compute the codec at each rate, measure it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of clips")
    parser.add_argument("--out", type=Path, required=True, help="for links to the files, and the sheets")
    arguments = parser.parse_args()
    seen, unseen = split(arguments.data, arguments.out)
    size = {"frames": FRAMES, "height": SIDE, "width": SIDE, "holdout": 0.0}
    source = open_source(DataConfig(source=seen, **size))
    training = [source.batch(step, SIZE, seed=0).to(CPU).frames for step in range(BATCHES)]
    clips = real_clips(open_source(DataConfig(source=unseen, **size)), 100, HELD_OUT).frames
    network = ImageNetFeatures()
    features = network(torch.from_numpy(to_uint8(clips))).numpy()
    apart = float(np.sqrt(np.square(features - np.roll(features, 1, 0)).mean()))
    print(f"{len(clips)} held-out clips of {arguments.data}\n")
    headers = ("block, channels", "s", "values", "PSNR, dB", "95 %", "SSIM", "features", "chunks")
    print(f"| {' | '.join(headers)} |\n|{'---|' * len(headers)}")
    for space, times, channels in RATES:
        codec = TransformConfig(space, times, channels).build()
        begun = time.perf_counter()
        codec.calibrate(training)
        seconds = time.perf_counter() - begun
        latents, _ = codec.encode(clips)
        drawn, _ = codec.decode(latents)
        quality, low, high = mean_interval(psnr(drawn, clips).mean(1))
        difference = np.square(network(torch.from_numpy(to_uint8(drawn))).numpy() - features).mean()
        row = [f"{space}x{space} pixels, {times} frames, {channels}", f"{seconds:.2f}"]
        row += [
            f"{math.prod(latents.shape[1:]) / (FRAMES * SIDE**2):.3f}",
            f"{quality:.2f}",
            f"{low:.2f} to {high:.2f}",
        ]
        row += [f"{ssim(drawn, clips).mean():.3f}", f"{math.sqrt(difference) / apart:.3f}"]
        print(f"| {' | '.join(row)} | {largest_difference(codec, clips):.0e} |", flush=True)
        shown = torch.stack([clips, drawn], 1)[:SHOWN].flatten(0, 1)
        sheet = contact_sheet(to_uint8(shown), columns=9, labels=["real", "coded"] * min(SHOWN, len(clips)))
        write_image(arguments.out / f"{space}x{space}x{times}-{channels}.png", sheet)


if __name__ == "__main__":
    main()
