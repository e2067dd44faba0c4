"""Conditions matter: after a little training the loss is lower under a clip's own condition than under another's.

The diffusion transformer's conditions are in families/test_latent_dit.py; TGAN searches for known frames in sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kinema.experiment import Experiment, TrainConfig
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.training.loop import Trainer
from kinema.types import Batch, ClipSpec, Conditions, TrainStep

FRAMES, CLIPS, TESTED = 9, 8, 32
MOCOGAN = {"content": 4, "motion": 3, "ngf": 2, "ndf": 4, "ndf_image": 2, "norm": "none", "noise": 0.0}
TGAN = {"latent": 5, "path": 4, "ngf": 2, "ngf_path": 3, "ndf": 4, "norm": "none", "loss": "vanilla", "clip_every": 0}
SVG = {"context_frames": 3, "channels": 8, "code": 16, "hidden": 16, "latent": 4}
TOKENS = {"hidden": 16, "depth": 2, "heads": 2}

CASES: dict[str, tuple[str, dict[str, Any], str, str]] = {  # family, settings, condition, the turn that uses it
    "mocogan-label": ("mocogan", MOCOGAN, "label", "video_critic"),
    "tgan-label": ("tgan", TGAN, "label", "critic"),
    "svg-lp-known": ("svg-lp", SVG, "known", "generator"),
    "token-transformer-label": ("token-transformer", TOKENS, "label", "generator"),
    "token-transformer-text": ("token-transformer", TOKENS | {"text": 8}, "text", "generator"),
    "token-transformer-masked-label": ("token-transformer", TOKENS | {"mode": "masked"}, "label", "generator"),
}


class BrightOrDark:
    """Clips of one brightness, which the label and the caption say and every frame shows."""

    skipped = ()
    key = "bright or dark"
    spec = ClipSpec(FRAMES, 16, 32, classes=("dark", "bright"))

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        label = (torch.arange(size) + step) % 2
        generator = torch.Generator().manual_seed(step)
        plain = (1.2 * label - 0.6)[:, None, None, None, None].expand(-1, FRAMES, 3, 16, 32)
        text = tuple(("dark", "bright")[value] for value in label.tolist())
        return Batch(plain + 0.1 * torch.randn(plain.shape, generator=generator), Conditions(text=text, label=label))


def with_conditions_of_the_next(batch: Batch, name: str, context_frames: int) -> Batch:
    """The clips with a condition of the next one, which is of the other brightness."""
    if name == "known":
        return replace(
            batch, frames=torch.cat([batch.frames.roll(1, 0)[:, :context_frames], batch.frames[:, context_frames:]], 1)
        )
    following = batch.conditions.select([clip + 1 for clip in range(len(batch.frames))])
    return replace(batch, conditions=replace(batch.conditions, **{name: getattr(following, name)}))


@pytest.mark.parametrize("case", CASES)
def test_a_clips_own_condition_lowers_the_loss(case: str, cpu: Runtime, tiny_codec: Callable[..., str]) -> None:
    family, settings, name, turn = CASES[case]
    if family == "token-transformer":
        settings = settings | {"codec": tiny_codec((4, 5, 3))}
    config = FAMILIES[family](**settings)
    trainer = Trainer(Experiment(config, train=TrainConfig(batch=CLIPS, lr=5e-3)), BrightOrDark(), cpu)
    trainer.begin()
    for _ in range(60):
        trainer.advance()
    batch = BrightOrDark().batch(1000, TESTED, seed=0)
    (conditioned,) = (one for one in trainer.turns if one.name == turn)
    trainer.family.eval()

    def loss(batch: Batch) -> float:
        with torch.no_grad():
            return sum(float(conditioned.loss(batch, TrainStep.from_seed(seed))[0]) for seed in range(4))

    assert loss(batch) < 0.95 * loss(with_conditions_of_the_next(batch, name, settings.get("context_frames", 0)))
