"""How a Frechet distance falls with the number of clips, and what its extrapolation makes of it.

    python benchmarks/bias.py --clips 64 128 256 512 1024 2048 4096

Two sets of the sprite world's clips, of which the second is blurred by a fifth of the audit's strongest blur, in the
features of kinema's encoder: the distance at each number of clips with its interval and its floor (the first set's own
halves), and freed from the bias. Below 258 clips `kinema evaluate` refuses to state it.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from kinema import run
from kinema.data.write import to_uint8
from kinema.evaluation.measure import frechet_distance
from kinema.metrics.corruptions import corrupted
from kinema.metrics.encoder import KinemaFeatures
from kinema.metrics.resampling import extrapolated, floor, half_interval
from kinema.worlds.sprites import Sprites

SEED = 2**41  # of the clips: no training step's
AT_ONCE = 64
BLUR = 0.2


def features(clips: int, blurred: bool) -> np.ndarray:
    """The features of so many clips, which differ between the two sets."""
    world, network, parts = Sprites(16, 64, 64), KinemaFeatures(), []
    for step in range(-(-clips // AT_ONCE)):
        pixels = to_uint8(world.batch(step, AT_ONCE, seed=SEED + blurred).frames)
        pixels = corrupted(pixels, "blur", BLUR) if blurred else pixels
        parts.append(network(torch.from_numpy(pixels)).numpy())
    return np.concatenate(parts)[:clips]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096])
    arguments = parser.parse_args()
    run.keep_freed_memory()
    most = max(arguments.clips)
    real, blurred = features(most, False), features(most, True)
    table = Table("clips", "distance", "95 %", "floor", "at infinity", "95 %")
    for clips in arguments.clips:
        a, b = real[:clips], blurred[:clips]
        value, low, high = half_interval(frechet_distance, a, b)
        line = extrapolated(frechet_distance, a, b)
        beneath = floor(frechet_distance, a).at(clips).value
        cells = [f"{value:.2f}", f"{low:.2f} to {high:.2f}", f"{beneath:.2f}"]
        table.add_row(f"{clips}", *cells, f"{line.value:.2f}", f"{line.low:.2f} to {line.high:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
