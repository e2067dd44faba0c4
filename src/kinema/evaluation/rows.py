"""Measures and features of each clip, computed once and kept in the cache.

Each batch of clips is a file whose name depends on all that decides its content, so no batch is computed twice and an
interrupted run continues. At most two batches of clips are in memory, and of the others their features and measures:
100,000 clips of 16 frames take 400 MB. While one batch is measured the next is read.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from kinema.conditions.audio import SAMPLE_RATE
from kinema.data.array_headers import HEADER_LOCK
from kinema.data.cache import cache_folder, cache_limit, code_digest, digest
from kinema.data.stored import Damaged, read_bytes, write_bytes
from kinema.data.writing import from_uint8
from kinema.evaluation.clip_sets import BATCH, ClipBatch, ClipSet
from kinema.metrics.acd import acd
from kinema.metrics.features import FeatureNetwork, sha256
from kinema.metrics.flow_field import directions, optical_flow
from kinema.metrics.image import saturation, sharpness
from kinema.metrics.memorisation import thumbnails
from kinema.metrics.paired import MS_SSIM_LEAST, ms_ssim, psnr, ssim
from kinema.metrics.synchrony import synchrony
from kinema.metrics.temporal import changes, measures
from kinema.nn.perceptual import perceptual_distance
from kinema.types import Progress, no_progress

__all__ = ["Rows", "clip_measures", "measure_clips"]

SAMPLES = 8  # clips that are kept for the report
PER_FRAME = " per frame"
OTHERS = ("features", "classes", "directions", "samples", "captions", "thumbnails")  # in a file; the rest are measures

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Rows:
    """What is known of N clips."""

    features: Float[np.ndarray, "N D"]
    groups: Int64[np.ndarray, " N"]  # equal for clips of one file
    classes: tuple[str, ...]  # of each clip, or the one it was conditioned on; "" for none
    per_clip: dict[str, Float[np.ndarray, " N"]]  # measures, by name
    per_frame: dict[str, Float[np.ndarray, "N t"]]  # measures of predicted frames, by name
    directions: Float[np.ndarray, "N 8"]  # shares of motion
    samples: UInt8[np.ndarray, "K T H W 3"]  # the first clips
    captions: tuple[str, ...]  # of the samples, if they have some
    thumbnails: UInt8[np.ndarray, "_ _ 8 8 3"]  # of every clip's measured frames; none of saved features

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> Rows:
        """Those of the first `count` clips."""

        def cut(values: Any) -> Any:
            return {name: of[:count] for name, of in values.items()} if isinstance(values, dict) else values[:count]

        return Rows(*(cut(getattr(self, field.name)) for field in fields(self)))


def clip_measures(clips: UInt8[np.ndarray, "N T H W 3"]) -> tuple[dict[str, Float[np.ndarray, " N"]], np.ndarray]:
    """All measures of single clips by name, and the shares of their motion's directions [N, 8]."""
    flow, colour = optical_flow(clips), torch.from_numpy(clips).float().mean((2, 3))  # [N, T, 3]
    found = {
        "sharpness": sharpness(clips).mean(1),
        "saturation": saturation(clips).mean(1),
        "brightness": colour.mean((1, 2)).numpy(),
        "motion": changes(clips).mean(1),
        "ACD": acd(colour).numpy(),
    }
    return {name: values.astype(np.float64) for name, values in found.items()} | measures(clips, flow), directions(flow)


def measure_clips(
    clip_set: ClipSet,
    count: int,
    network: FeatureNetwork,
    lpips: str | None = None,
    cache: str | None = None,
    progress: Progress = no_progress,
    given: int = 0,
) -> Rows:
    """The rows of the first `count` clips, or of all where there are fewer, from the cache where they are in it.

    The first `given` frames of each clip are shown in `samples` but not measured. `lpips` is a file of weights for
    `perceptual_distance` of predictions. `progress` counts batches. Where the cache cannot be written, it warns and
    goes on without it. Raises ValueError for features that are not finite.
    """
    code = code_digest("metrics", "evaluation.rows", "nn", "conditions.audio", "data.writing", "runtime")
    versions = version("scipy"), cv2.__version__
    by = (network.name, network.checksum, network.preprocessing, lpips and sha256(Path(lpips)), given)
    folder = cache_folder(cache, "measured") / digest(clip_set.key, code, versions, *by)
    sizes = [min(BATCH, count - first) for first in range(0, count, BATCH)]

    def path(index: int, size: int) -> Path:
        return folder / f"{index:05d}-{size}.npz"

    def read(index: int) -> Arrays | ClipBatch:
        kept = _load(path(index, sizes[index]))
        return clip_set.read(index, sizes[index]) if kept is None else kept

    parts, keeps = list[Arrays](), True
    with closing(_prefetched(read, len(sizes))) as prefetched:
        for index, part in enumerate(prefetched):
            if isinstance(part, ClipBatch):
                size = len(part.frames)
                if size == 0:  # there are no more
                    break
                file = path(index, size)
                known = None if size == sizes[index] else _load(file)
                part = known or _measure(index, part, network, lpips, clip_set.fps, given)
                keeps = keeps and (known is not None or _keep(file, part))
            parts.append(part)
            progress(index + 1, len(sizes))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Rows(
        features=joined["features"],
        groups=np.array([clip_set.group(clip) for clip in range(len(joined["features"]))]),
        classes=tuple(map(str, joined["classes"])),
        per_clip={name: values for name, values in joined.items() if name not in OTHERS and values.ndim == 1},
        per_frame={name.removesuffix(PER_FRAME): v for name, v in joined.items() if name.endswith(PER_FRAME)},
        directions=joined["directions"],
        samples=joined["samples"],
        captions=tuple(map(str, joined["captions"])),
        thumbnails=joined["thumbnails"],
    )


def _prefetched(read: Callable[[int], Arrays | ClipBatch], count: int) -> Generator[Arrays | ClipBatch]:
    """Yield `read(0)`, `read(1)` and so on, each read while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, 0) if count else None
        for index in range(1, count + 1):
            assert coming is not None
            found = coming.result()
            coming = pool.submit(read, index) if index < count else None
            yield found


def _keep(path: Path, part: Arrays) -> bool:
    """Write what was measured into the cache; warns and returns False where it cannot be written."""
    try:
        content = BytesIO()
        np.savez(content, allow_pickle=False, **part)
        write_bytes(path, content.getvalue())
    except ValueError as error:
        warnings.warn(f"what is measured is not kept: {error}", stacklevel=2)
        return False
    cache_limit(path.parent.parent.parent).written(sum(values.nbytes for values in part.values()))
    return True


def _measure(
    index: int, clips: ClipBatch, network: FeatureNetwork, lpips: str | None, fps: float | None, given: int
) -> Arrays:
    """Measure a batch."""
    frames = clips.frames[:, given:]
    features = network(torch.from_numpy(frames)).float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(features).all(1))
    if len(bad):
        raise ValueError(f"clip {index * BATCH + bad[0]} has features that are not numbers: are its frames broken?")
    found, shares = _parallel_measures(frames)
    if clips.truth is not None:
        truth = clips.truth[:, -frames.shape[1] :]
        predicted = _prediction_measures(frames[:, -truth.shape[1] :], truth, lpips)
        found |= {name: values.mean(1) for name, values in predicted.items()}
        found |= {f"{name}{PER_FRAME}": values for name, values in predicted.items()}
    if clips.matches_prompt is not None:
        found["adherence"] = clips.matches_prompt
    if clips.conditions.audio is not None and fps is not None:
        audio = clips.conditions.audio.numpy()[:, round(given / fps * SAMPLE_RATE) :]
        found["synchrony"] = np.array(
            [synchrony(sound, SAMPLE_RATE, clip, fps) for sound, clip in zip(audio, frames, strict=True)]
        )
    samples = slice(SAMPLES if index == 0 else 0)
    captions = np.array((clips.conditions.text or ())[samples], dtype=np.str_)
    classes = np.array(clips.classes or [""] * len(features), dtype=np.str_)
    others = (features, classes, shares, clips.frames[samples], captions, thumbnails(frames))
    return dict(zip(OTHERS, others, strict=True)) | found


def _prediction_measures(
    frames: UInt8[np.ndarray, "N T H W 3"], truth: UInt8[np.ndarray, "N T H W 3"], lpips: str | None
) -> dict[str, Float[np.ndarray, "N T"]]:
    """PSNR and SSIM of each frame, MS-SSIM where it is large enough, and LPIPS where there are weights for it."""
    x, y = from_uint8(frames), from_uint8(truth)
    found = {"PSNR": psnr(x, y), "SSIM": ssim(x, y)}
    if min(truth.shape[2:4]) >= MS_SSIM_LEAST:
        found["MS-SSIM"] = ms_ssim(x, y)
    if lpips is not None:
        with torch.no_grad():
            found["LPIPS"] = perceptual_distance(lpips, x, y)
    return {name: values.double().numpy() for name, values in found.items()}


def _parallel_measures(clips: np.ndarray) -> tuple[Arrays, np.ndarray]:
    """`clip_measures`, some clips on each core."""
    parts, threads = np.array_split(clips, min(len(clips), os.cpu_count() or 1)), cv2.getNumThreads()
    cv2.setNumThreads(1)  # as each core has a part
    try:
        with ThreadPoolExecutor(len(parts)) as pool:
            found = [*pool.map(lambda part: clip_measures(part), parts)]
    finally:
        cv2.setNumThreads(threads)
    by_name = {name: np.concatenate([part[name] for part, _ in found]) for name in found[0][0]}
    return by_name, np.concatenate([shares for _, shares in found])


def _load(path: Path) -> Arrays | None:
    """The content of a batch's file, now marked as used; None where it is missing or damaged."""
    try:
        with suppress(OSError):  # of a cache that may only be read, or without the file
            os.utime(path)
        content = BytesIO(read_bytes(path))
        with HEADER_LOCK, np.load(content, allow_pickle=False) as found:
            return dict(found)
    except (OSError, Damaged):
        return None
