"""How a Frechet distance falls with the number of clips, and its extrapolation to infinitely many.

    python benchmarks/bias.py --clips 64 128 256 512 1024 2048 4096

Two sets of the sprite world's clips, of which the second is blurred by a fifth of the audit's strongest blur, in the
features of kinema's encoder: the distance at each number of clips with its interval and its floor (between halves of
the first set), and the extrapolation. `kinema evaluate` gives no distance below 258 clips.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from kinema.metrics.corruptions import corrupted
from kinema.metrics.encoder import KinemaFeatures
from kinema.metrics.frechet import frechet_distance
from kinema.metrics.statistics import extrapolated_distance, half_interval, real_floor
from kinema.runtime.memory import keep_freed_memory
from kinema.worlds.sprites import Sprites

SEED = 2**41  # of the clips: no training step's
AT_ONCE = 64
BLUR = 0.2


def features(clips: int, blurred: bool) -> np.ndarray:
    """The features of `clips` clips; those of the two sets have other seeds."""
    world, network, parts = Sprites(16, 64, 64), KinemaFeatures(), []
    for step in range(-(-clips // AT_ONCE)):
        pixels = world.batch(step, AT_ONCE, seed=SEED + blurred).frames.movedim(2, -1).numpy()
        pixels = corrupted(pixels, "blur", BLUR) if blurred else pixels
        parts.append(network(torch.from_numpy(pixels)).numpy())
    return np.concatenate(parts)[:clips]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096])
    arguments = parser.parse_args()
    keep_freed_memory()
    most = max(arguments.clips)
    real, blurred = features(most, False), features(most, True)
    table = Table("clips", "distance", "95 %", "floor", "at infinity", "95 %")
    for clips in arguments.clips:
        a, b = real[:clips], blurred[:clips]
        value, low, high = half_interval(frechet_distance, (a, b))
        line = extrapolated_distance(frechet_distance, a, b)
        floor = real_floor(frechet_distance, a) / 2  # of halves: the bias is in proportion to 1 / n
        cells = [f"{value:.2f}", f"{low:.2f} to {high:.2f}", f"{floor:.2f}"]
        table.add_row(f"{clips}", *cells, f"{line.value:.2f}", f"{line.low:.2f} to {line.high:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
