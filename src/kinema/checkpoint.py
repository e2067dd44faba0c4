"""Checkpoints: a run's folder holds `step-N/` folders, each complete or not there at all.

step-00001200/
  generator.safetensors   the moving average that is sampled from, with config.json's text in its metadata
  config.json             the experiment: family, data, train, and the facts of the clips
  training.safetensors    every weight and buffer of the family, as training goes on from them
  optimizers.pt           optimizer state, only ever loaded with `weights_only=True`
  progress.json           step and seconds trained
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["Checkpoint", "export", "find", "load", "load_generator", "save_step"]

GENERATOR, CONFIG, TRAINING = "generator.safetensors", "config.json", "training.safetensors"
OPTIMIZERS, PROGRESS = "optimizers.pt", "progress.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All that a run goes on from."""

    config: dict[str, Any]
    generator: dict[str, Tensor]  # the moving average
    training: dict[str, Tensor]
    optimizers: dict[str, Any]
    step: int
    seconds: float


def save_step(run: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `run/step-N` and then drop all but the newest `keep`; return its path.

    It is written under another name, flushed to the disk and renamed, so a kill or a full disk leaves the run as it
    was. Raises ValueError when it cannot be written.
    """
    final = run / f"step-{checkpoint.step:08d}"
    temporary = run / f".{final.name}.{os.getpid()}"
    config = json.dumps(checkpoint.config, indent=2)
    try:
        for leftover in run.glob(".step-*"):  # of a process that was killed while it saved
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        _write(temporary / GENERATOR, save(_packed(checkpoint.generator), metadata={"kinema": config}))
        _write(temporary / CONFIG, config.encode())
        _write(temporary / TRAINING, save(_packed(checkpoint.training)))
        with (temporary / OPTIMIZERS).open("wb") as file:
            torch.save(checkpoint.optimizers, file)
            file.flush()
            os.fsync(file.fileno())
        progress = {"step": checkpoint.step, "seconds": checkpoint.seconds}
        _write(temporary / PROGRESS, json.dumps(progress).encode())
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _flush_folder(run)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(
            f"{run}: step {checkpoint.step} could not be saved ({_reason(error)}); those before it are whole: "
            "make room and go on with --resume"
        ) from error
    for old in _steps(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def find(path: str | Path) -> Path:
    """The newest checkpoint of a run's folder, or the checkpoint folder itself; raises ValueError if there is none."""
    path = Path(path)
    if (path / CONFIG).exists():
        return path
    steps = _steps(path) if path.is_dir() else []
    if not steps:
        raise ValueError(
            f"{path}: no checkpoint there (a run's folder holds step-N folders); train one with `kinema train`"
        )
    return steps[-1]


def load(path: str | Path) -> Checkpoint:
    """The checkpoint in `path`, or the newest of a run; raises ValueError naming a damaged or foreign file."""
    folder = find(path)
    config, generator = load_generator(folder)
    training = _read_tensors(folder / TRAINING)[1]
    try:
        optimizers = torch.load(folder / OPTIMIZERS, weights_only=True, map_location="cpu")
    except Exception as error:  # of many kinds on a damaged file
        raise ValueError(_damaged(folder / OPTIMIZERS, error)) from error
    try:
        progress = json.loads((folder / PROGRESS).read_text())
        return Checkpoint(config, generator, training, optimizers, progress["step"], progress["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(_damaged(folder / PROGRESS, error)) from error


def load_generator(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The experiment's plain values and the sampling weights of a run, a checkpoint or a generator.safetensors file."""
    path = Path(path)
    file = path if path.is_file() else find(path) / GENERATOR
    metadata, tensors = _read_tensors(file)
    try:
        return json.loads(metadata["kinema"]), tensors
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not a kinema generator (its metadata holds no kinema configuration)") from error


def export(path: str | Path, out: Path, half: bool = False) -> Path:
    """Write the generator of a run or a checkpoint, with its configuration, as the one file `out`; return its path.

    `half` makes the weights float16, which is half as large. Raises ValueError where a weight is beyond float16's
    range, and where the file cannot be written.
    """
    config, tensors = load_generator(path)
    if half:
        tensors = {name: x.half() if x.is_floating_point() else x for name, x in tensors.items()}
        if broken := [name for name, x in tensors.items() if not x.isfinite().all()]:
            raise ValueError(f"{path}: {broken[0]} has weights that float16 cannot hold: export without --half")
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, save(_packed(tensors), metadata={"kinema": json.dumps(config)}))
        temporary.rename(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{out} could not be written: {_reason(error)}") from error
    return out


def _steps(run: Path) -> list[Path]:
    return sorted(p for p in run.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and p.is_dir())


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, which is what the format holds."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as content:
            return content.metadata() or {}, {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(_damaged(file, error)) from error


def _damaged(file: Path, error: Exception) -> str:
    mend = ""
    if re.fullmatch(r"step-\d+", file.parent.name):
        mend = f"; to go on from the checkpoint before it, remove {file.parent}"
    return f"{file}: truncated or not a kinema file ({_reason(error)}){mend}"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
