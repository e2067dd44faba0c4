"""The moving average follows its formula; what is frozen is shared, neither copied nor averaged."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kinema.conditions import pretrained
from kinema.experiment import Experiment
from kinema.runtime.device import Runtime
from kinema.training.ema import MovingAverage
from kinema.training.loop import Trainer
from kinema.worlds.shape_motion import ShapeMotion


@pytest.mark.parametrize("ema_decay", [0.0, 0.2])
def test_the_average_follows_its_formula(
    tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime, ema_decay: float
) -> None:
    trainer = Trainer(tiny(ema_decay=ema_decay), world, cpu)
    expected = {name: value.clone() for name, value in trainer.average.module.state_dict().items()}
    for decay in (min(ema_decay, d) for d in (1 / 10, 2 / 11, 3 / 12)):
        trainer.advance()
        weights = trainer.family.generator.state_dict()
        for name, value in expected.items():
            if value.is_floating_point():
                expected[name] = decay * value + (1 - decay) * weights[name]
    found = trainer.average.module.state_dict()
    floating = [name for name, value in expected.items() if value.is_floating_point()]
    torch.testing.assert_close({n: found[n] for n in floating}, {n: expected[n] for n in floating})


def test_frozen_parameters_are_shared_and_left_as_they_are() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    average = MovingAverage(module, module[1].parameters(), 0.5)
    mine, theirs = average.module[0].weight, module[0].weight
    assert mine.data_ptr() == theirs.data_ptr() and average.module[1].weight.data_ptr() != module[1].weight.data_ptr()
    version = theirs._version  # counts the writes
    with torch.no_grad():
        module[1].weight.fill_(1.0)
    before = average.module[1].weight.clone()
    average.update(100)
    torch.testing.assert_close(average.module[1].weight, (before + 1) / 2)
    assert theirs._version == version


def test_the_average_can_begin_anew(tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime) -> None:
    trainer = Trainer(tiny(), world, cpu)
    trainer.advance()
    trainer.average.reset()
    expected = trainer.family.generator.state_dict()
    torch.testing.assert_close(dict(trainer.average.module.state_dict()), dict(expected), rtol=0, atol=0)


def test_a_pretrained_text_encoder_is_neither_copied_nor_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(4, 4)  # stands for one of transformers, of which only the width is asked
    model.config = SimpleNamespace(hidden_size=4)
    monkeypatch.setattr(pretrained, "_load", lambda name: (None, model))
    encoder = pretrained.PretrainedTextEncoder("any", 8)
    average = MovingAverage(encoder, encoder.parameters(), 0.9)
    assert average.module.frozen.model is model
    assert sum(value.numel() for value in encoder.state_dict().values()) == 4 * 8 + 8 + 2 * 8 + 8 + 8 * 8 + 8
