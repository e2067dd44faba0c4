"""Checkpoints: a run's folder holds `step-N/` folders, which are written atomically.

codec.safetensors          the frozen codec of a latent family, once for all steps
step-00001200/
  generator.safetensors    the moving average of the generator, with config.json in its metadata
  config.json              the experiment: family, data, train, the spec of the clips, and the format version
  training.safetensors     the trained weights and buffers of the family, to resume from
  optimizers.pt            optimizer state, loaded with `weights_only=True`
  progress.json            step and seconds trained
  manifest.json            checksums of these files and of the codec
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinema.experiment import MOST_STEPS, TrainConfig
from kinema.zoo.files import (
    CODEC,
    CONFIG,
    FORMAT,
    GENERATOR,
    MANIFEST,
    check_files,
    damaged_message,
    encode_model,
    find_model_file,
    list_checkpoints,
    read_model,
    read_tensors,
    write_file,
    write_manifest,
)

__all__ = ["Checkpoint", "is_complete", "load", "remove_old", "save_step"]

TRAINING, OPTIMIZERS, PROGRESS = "training.safetensors", "optimizers.pt", "progress.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state that a run resumes from."""

    config: dict[str, Any]
    generator: dict[str, Tensor]  # the moving average
    training: dict[str, Tensor]
    optimizers: dict[str, Any]
    step: int
    seconds: float
    codec: dict[str, Tensor] | None = None


def save_step(run: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `run/step-N` and delete all but the newest `keep` checkpoints; return its path.

    It is written under a temporary name, flushed to disk and renamed, so a kill or a full disk leaves the run as it
    was. Raises ValueError if it cannot be written.
    """
    final = run / f"step-{checkpoint.step:08d}"
    temporary = run / f".{final.name}.{os.getpid()}"
    try:
        _remove_unfinished(run)
        temporary.mkdir(parents=True)
        if checkpoint.codec is not None and not (run / CODEC).exists():
            write_file(temporary / CODEC, encode_model(checkpoint.codec, {}))
            (temporary / CODEC).replace(run / CODEC)
        write_file(temporary / GENERATOR, encode_model(checkpoint.generator, checkpoint.config))
        config = {"format": FORMAT, **checkpoint.config}
        write_file(temporary / CONFIG, json.dumps(config, indent=2).encode())
        write_file(temporary / TRAINING, encode_model(checkpoint.training, {}))
        with (temporary / OPTIMIZERS).open("wb") as file:
            torch.save(checkpoint.optimizers, file)
            file.flush()
            os.fsync(file.fileno())
        progress = {"step": checkpoint.step, "seconds": checkpoint.seconds}
        write_file(temporary / PROGRESS, json.dumps(progress).encode())
        write_manifest(temporary, run / CODEC if checkpoint.codec is not None else None)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _flush_folder(run)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        system = error if isinstance(error, OSError) else error.__context__  # torch's error says less
        reason = system.strerror if isinstance(system, OSError) else str(error).partition("\n")[0][:160]
        raise ValueError(
            f"{run}: step {checkpoint.step} could not be saved ({reason}); those before it are complete: "
            "make room and continue with --resume"
        ) from error
    remove_old(run, keep)
    return final


def remove_old(run: Path, keep: int = 2) -> None:
    """Delete all but the newest `keep` checkpoints, and what a process that was killed left of others."""
    for old in list_checkpoints(run)[:-keep]:
        with suppress(OSError):  # under another name, as a part of one is none
            old.rename(run / f".{old.name}.old")
    _remove_unfinished(run)


def _remove_unfinished(run: Path) -> None:
    """Delete what a process that was killed while saving, or while deleting, left."""
    for left in run.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def load(path: str | Path) -> Checkpoint:
    """The checkpoint in `path`, or the newest of a run; raises ValueError, naming the file, if one is damaged."""
    file = find_model_file(Path(path))
    folder, model = file.parent, read_model(file)
    if (folder / MANIFEST).is_file():  # as there is none of a kinema from before there were checksums
        check_files(folder, (CONFIG, TRAINING, OPTIMIZERS, PROGRESS))
    training = read_tensors(folder / TRAINING)[1]
    try:
        optimizers = torch.load(folder / OPTIMIZERS, weights_only=True, map_location="cpu")
        if not isinstance(optimizers, dict):
            raise ValueError(f"it holds a {type(optimizers).__name__}")
    except Exception as error:  # a damaged file raises many types
        raise ValueError(damaged_message(folder / OPTIMIZERS, error)) from error
    try:
        progress = json.loads((folder / PROGRESS).read_text())
        step, seconds = progress["step"], progress["seconds"]
        number = re.fullmatch(r"step-(\d+)", folder.name)
        is_own = number is None or step == int(number[1])
        if type(step) is not int or not is_own or not 0 <= step <= MOST_STEPS or not 0 <= seconds < math.inf:
            raise ValueError(f"step {step} after {seconds} seconds")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(damaged_message(folder / PROGRESS, error)) from error
    return Checkpoint(model.config, model.generator, training, optimizers, step, seconds, model.codec)


def is_complete(step: Path, config: TrainConfig) -> bool:
    """Whether the checkpoint `step` is at the end of its budget, and not of a run that was stopped."""
    progress = json.loads((step / PROGRESS).read_text())
    by_steps = config.steps is not None and progress["step"] >= config.steps
    return by_steps or (config.minutes is not None and progress["seconds"] >= 60 * config.minutes)


def _flush_folder(path: Path) -> None:
    """Flush a folder's entries to disk; Windows cannot open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
