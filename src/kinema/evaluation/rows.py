"""What is computed of each clip, once, and kept: features and measures, piece by piece.

Pieces are files in the cache, named by all that decides what is in them, so that no piece is computed twice and a run
that was interrupted goes on. No more than two pieces of clips are in memory, and of the others their features and
measures: 100,000 clips take 60 MB. While one piece is measured the next is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from kinema.conditions.audio import RATE
from kinema.data.cache import cache_folder, digest, whole
from kinema.data.write import from_uint8
from kinema.evaluation.sides import PIECE, Pixels, Side
from kinema.metrics.acd import acd, mean_colour
from kinema.metrics.drift import drift
from kinema.metrics.exactness import sha256
from kinema.metrics.features import FeatureNetwork
from kinema.metrics.flow_field import directions, optical_flow
from kinema.metrics.paired import LEAST_OF_SCALES, ms_ssim, psnr, ssim
from kinema.metrics.protocol import VERSION
from kinema.metrics.synchrony import synchrony
from kinema.metrics.temporal import measures
from kinema.nn.perceptual import perceptual_distance

__all__ = ["SHOWN", "Rows", "measured", "of_each", "of_predictions"]

SHOWN = 8  # clips that are kept to be looked at
BY_FRAME = " by frame"
PARTS = ("features", "classes", "directions", "shown", "said")  # of a file; the rest are measures of single clips

Part = dict[str, np.ndarray]  # what is in a piece's file


@dataclass(frozen=True, slots=True)
class Rows:
    """Of N clips."""

    features: Float[np.ndarray, "N D"]
    groups: Int64[np.ndarray, " N"]  # the same for clips of one file
    classes: tuple[str, ...]  # of each clip, or that it was told, empty where there is none
    each: dict[str, Float[np.ndarray, " N"]]  # measures of single clips, by name
    by_frame: dict[str, Float[np.ndarray, "N t"]]  # measures of predicted frames, by name
    directions: Float[np.ndarray, "N 8"]  # shares of motion
    shown: UInt8[np.ndarray, "K T H W 3"]  # the first
    said: tuple[str, ...]  # the captions of these, if they have some

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> Rows:
        """Those of the first `count` clips."""
        some = slice(count)
        return Rows(
            self.features[some],
            self.groups[some],
            self.classes[some],
            {name: values[some] for name, values in self.each.items()},
            {name: values[some] for name, values in self.by_frame.items()},
            self.directions[some],
            self.shown[some],
            self.said[some],
        )


def of_each(clips: UInt8[np.ndarray, "N T H W 3"]) -> tuple[dict[str, Float[np.ndarray, " N"]], np.ndarray]:
    """All measures of single clips by name, and the shares of their motion's directions [N, 8]."""
    curves, flow = drift([clips]), optical_flow(clips)
    found = {
        "sharpness": curves.sharpness.mean(1),
        "saturation": curves.saturation.mean(1),
        "brightness": curves.colour.mean((1, 2)),
        "motion": curves.motion.nanmean(1),
        "ACD": acd(from_uint8(clips), mean_colour),
    }
    each = {name: values.double().numpy() for name, values in found.items()} | measures(clips, flow)
    return each, directions(flow)


def of_predictions(
    frames: UInt8[np.ndarray, "N T H W 3"], truth: UInt8[np.ndarray, "N T H W 3"], lpips: str | None = None
) -> dict[str, Float[np.ndarray, "N T"]]:
    """PSNR and SSIM of each frame, MS-SSIM where it is large enough, and LPIPS where there are weights for it."""
    x, y = from_uint8(frames), from_uint8(truth)
    found = {"PSNR": psnr(x, y), "SSIM": ssim(x, y)}
    if min(truth.shape[2:4]) >= LEAST_OF_SCALES:
        found["MS-SSIM"] = ms_ssim(x, y)
    if lpips is not None:
        with torch.no_grad():
            found["LPIPS"] = perceptual_distance(lpips, x, y)
    return {name: values.double().numpy() for name, values in found.items()}


def measured(
    side: Side,
    count: int,
    network: FeatureNetwork,
    lpips: str | None = None,
    cache: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rows:
    """The rows of the first `count` clips of a side, or of all where it has fewer, from the cache where they are there.

    `lpips` is a file of weights for `perceptual_distance`, where clips are predictions. Raises ValueError for features
    that are not finite, and where the cache cannot be written.
    """
    of = (network.name, network.checksum, network.preprocessing, lpips and sha256(Path(lpips)))
    folder = cache_folder(cache, "measured") / digest(VERSION, side.key, *of)
    sizes = [min(PIECE, count - first) for first in range(0, count, PIECE)]

    def path(piece: int, size: int) -> Path:
        return folder / f"{piece:05d}-{size}.npz"

    def coming(piece: int) -> Part | Pixels:
        kept = _kept(path(piece, sizes[piece]))
        return side.read(piece, sizes[piece]) if kept is None else kept

    parts: list[Part] = []
    for piece, part in enumerate(_ahead(coming, len(sizes))):
        if isinstance(part, Pixels):
            size = len(part.frames)
            if size == 0:  # the side has no more
                break
            place = path(piece, size)
            if size == sizes[piece] or _kept(place) is None:
                _measure(place, piece, part, network, lpips, side.fps)
            part = _kept(place)
            assert part is not None, place
        parts.append(part)
        progress(piece + 1, len(sizes))
    together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Rows(
        features=together["features"],
        groups=np.array([side.group(clip) for clip in range(len(together["features"]))]),
        classes=tuple(map(str, together["classes"])),
        each={name: values for name, values in together.items() if name not in PARTS and values.ndim == 1},
        by_frame={name.removesuffix(BY_FRAME): v for name, v in together.items() if name.endswith(BY_FRAME)},
        directions=together["directions"],
        shown=together["shown"],
        said=tuple(map(str, together["said"])),
    )


def _ahead(read: Callable[[int], Part | Pixels], pieces: int) -> Iterator[Part | Pixels]:
    """Yield the pieces, the next of which is read meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(read, piece) for piece in range(min(pieces, 1))]
        for piece in range(pieces):
            found = coming.pop().result()
            coming += [pool.submit(read, later) for later in range(piece + 1, min(piece + 2, pieces))]
            yield found


def _measure(
    path: Path, piece: int, pixels: Pixels, network: FeatureNetwork, lpips: str | None, fps: float | None
) -> None:
    """Write a piece's file."""
    features = network(torch.from_numpy(pixels.frames)).float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"clip {piece * PIECE + bad[0]} has features that are not numbers: are its frames broken?")
    each, ways = _side_by_side(pixels.frames)
    if pixels.truth is not None:
        predicted = of_predictions(pixels.frames[:, -pixels.truth.shape[1] :], pixels.truth, lpips)
        each |= {name: values.mean(1) for name, values in predicted.items()}
        each |= {f"{name}{BY_FRAME}": values for name, values in predicted.items()}
    if pixels.right is not None:
        each["adherence"] = pixels.right
    if pixels.given.audio is not None and fps is not None:
        pairs = zip(pixels.frames, pixels.given.audio.numpy(), strict=True)
        each["synchrony"] = np.array([_synchrony(frames, audio, fps) for frames, audio in pairs])
    few = slice(SHOWN if piece == 0 else 0)
    said = np.array((pixels.given.text or ())[few], dtype=np.str_)
    classes = np.array(pixels.classes or [""] * len(features), dtype=np.str_)
    values = {"features": features, "classes": classes, "directions": ways, "shown": pixels.frames[few], "said": said}
    with whole(path) as file:
        np.savez(file, allow_pickle=False, **values, **each)


def _side_by_side(clips: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The measures of single clips, some on each core."""
    parts, threads = np.array_split(clips, min(len(clips), os.cpu_count() or 1)), cv2.getNumThreads()
    cv2.setNumThreads(1)  # as each core has a part
    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            found = [*pool.map(lambda part: of_each(part), parts)]
    finally:
        cv2.setNumThreads(threads)
    each = {name: np.concatenate([part[name] for part, _ in found]) for name in found[0][0]}
    return each, np.concatenate([ways for _, ways in found])


def _synchrony(frames: np.ndarray, audio: np.ndarray, fps: float) -> float:
    """The correlation of a clip's loudness and motion."""
    return synchrony(audio, RATE, frames, fps, within=0).correlation


def _kept(path: Path) -> Part | None:
    """What is in a piece's file; None where there is nothing or not all of it."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found) if found.keys() >= set(PARTS) else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
