"""What only a GPU can show: precision, memory and waiting of real presets. `pytest -m gpu` runs them.

The contract on a GPU, compiled too, is in test_contract.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kinema.experiment import Experiment
from kinema.presets import PRESETS, preset
from kinema.runtime.device import Runtime, fast_bf16
from kinema.runtime.memory import peak_memory
from kinema.training.loop import Trainer
from kinema.types import Batch
from kinema.worlds.shape_motion import ShapeMotion

pytestmark = pytest.mark.gpu

PIXELS = [family for family in PRESETS if family not in ("token-transformer",)]  # they need no trained codec
PEAK = 12e9  # bytes, of any preset for a laptop at its own batch


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
    return torch.device("cuda", 0)


def trainer(experiment: Experiment, device: torch.device, precision: torch.dtype) -> Trainer:
    data = experiment.data
    source = ShapeMotion(data.frames, data.height, data.width)
    found = Trainer(experiment, source, Runtime(device, precision))
    found.begin()
    return found


def loss_of(found: Trainer, batch: Batch) -> list[float]:
    found.family.train()
    losses = []
    for turn in found.turns:
        with found.runtime.autocast():
            losses.append(turn.loss(batch, found.runtime.train_step(0, 0, turn.name))[0].item())
    return losses


@pytest.mark.parametrize("family", PIXELS)
def test_bfloat16_trains_as_float32(family: str, gpu: torch.device) -> None:
    if not fast_bf16(gpu):
        pytest.skip("this GPU has no fast bfloat16")
    exact, fast = (trainer(preset(family), gpu, dtype) for dtype in (torch.float32, torch.bfloat16))
    batch = exact.source.batch(0, 4, seed=0).to(gpu)
    assert loss_of(fast, batch) == pytest.approx(loss_of(exact, batch), rel=0.05, abs=0.05)


@pytest.mark.parametrize("family", PIXELS)
def test_a_step_of_the_laptop_preset_fits_a_small_gpu(family: str, gpu: torch.device) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(gpu)
    found = trainer(preset(family), gpu, torch.bfloat16 if fast_bf16(gpu) else torch.float32)
    found.advance()
    peak = peak_memory(gpu)
    assert peak is not None and 0 < peak < PEAK


def test_a_step_does_not_wait_for_the_gpu(gpu: torch.device) -> None:
    found = trainer(preset("latent-dit"), gpu, torch.float32)
    for _ in range(2):
        found.advance()  # allocations and kernels are warm
    torch.cuda.set_sync_debug_mode("error")
    try:
        found.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_checkpoint_of_a_gpu_loads_on_a_cpu(gpu: torch.device) -> None:
    experiment = replace(preset("mocogan", "demo"))
    found = trainer(experiment, gpu, torch.float32)
    found.advance()
    other = trainer(experiment, torch.device("cpu"), torch.float32)
    other.restore(found.state())
    other.advance()
    assert other.step == 2
