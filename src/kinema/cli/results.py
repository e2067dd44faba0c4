"""What a run of kinema's own choice ends with: a sheet beside real clips, clips, a long one, and a short evaluation."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from kinema.cli.evaluate import measure_with_progress, print_numbers, write_report
from kinema.cli.writing import NOMINAL_FPS, write_clips
from kinema.data.cache import cache_folder
from kinema.data.clips import DataConfig, open_source
from kinema.data.writing import to_uint8, write_image, write_video
from kinema.evaluation.evaluate import EvaluationConfig, with_baselines
from kinema.runtime.device import detect_runtime
from kinema.sampling.model import load, stream
from kinema.sampling.request import GenerateRequest
from kinema.training.watch import draw_sheet
from kinema.types import Seeds

__all__ = ["write_results"]

CLIPS = 6  # on the sheet
LONGER = 4  # training clips that the long clip lasts
MEASURED = 64  # clips


def write_results(run: Path, data: DataConfig, device: str) -> None:
    """Write `results/` in the run's folder: sheet.png, clips, rollout.mp4 and the report of an evaluation.

    Clips that are measured and were not trained on are not cached yet: a cache that may only be read is left out.
    """
    with _writable_cache(data.cache) as cache:
        _write_results(run, replace(data, cache=cache), device)


@contextmanager
def _writable_cache(chosen: str | None) -> Iterator[str | None]:
    """Yield the chosen cache, or a temporary one where that may only be read."""
    root = cache_folder(chosen, "clips").parent
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if os.access(existing, os.W_OK):
        yield chosen
        return
    print(f"{root} may only be read: clips are decoded again for the results", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="kinema-") as folder:
        yield folder


def _write_results(run: Path, data: DataConfig, device: str) -> None:
    model, folder = load(run, detect_runtime(device)), run / "results"
    folder.mkdir(exist_ok=True)
    fps = model.spec.fps or NOMINAL_FPS
    batch = open_source(data).batch(0, CLIPS, seed=1).to(model.runtime.device)
    conditions = model.family.conditions_from(batch)
    seeds = Seeds(tuple(range(CLIPS)))
    made = torch.cat(list(stream(model.family, model.runtime, seeds, model.spec.frames, conditions)), 1)
    print(write_image(folder / "sheet.png", draw_sheet(batch.frames, made)))
    for seed, clip in enumerate(to_uint8(made)):
        write_video(folder / f"clip-{seed}.mp4", clip, fps)
    if model.family.max_frames is None and not model.family.context_frames and not model.family.reconstructs:
        request = GenerateRequest(seeds=(0,), frames=LONGER * model.spec.frames)
        print(*write_clips(model, request, [folder / "rollout.mp4"], fps))
    print(f"measuring {MEASURED} clips, which takes some minutes (Ctrl-C leaves it out)", file=sys.stderr, flush=True)
    config = EvaluationConfig(clips=MEASURED, force=True, audio=data.audio, outside=data.outside, cache=data.cache)
    found, reference = measure_with_progress([str(run)], data.source, config, device)
    print_numbers([one.result for one in with_baselines(found)], data.source)
    write_report(folder, found, reference, data.source)
