"""Control: how often a clip shows the class that was asked for, as a classifier of real clips sees it.

From MoCoGAN (Tulyakov et al., CVPR 2018, arXiv 1707.04993, section 4): a classifier is trained on real labelled clips
and reads generated ones. What it reads of real clips that it has not seen is the most a model can score; one over the
number of classes is what a model scores that does not listen.

`label_control` reads the features that distances are of; `MotionClassifier` is trained on pixels, for one world.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from kinema.data.clips import Source
from kinema.run import Run, channels_last

__all__ = ["MotionClassifier", "label_control", "motion_control", "train_classifier"]

WIDTHS = (3, 16, 32, 64)
AT_ONCE = 32  # clips in memory
FOLDS = 5  # that real clips are read in, each by the others
RIDGE = 0.1  # the penalty of weights, beside features of variance 1


class MotionClassifier(nn.Module):
    """Clips [B, T, 3, H, W] to a logit a class [B, K], for any T from 2 on and sides of 8 pixels or more.

    Three 3D convolutions that halve the frames' sides, on the clip and its frame differences, the mean over all
    places and times, and a linear layer.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in pairwise((2 * WIDTHS[0], *WIDTHS[1:])):
            layers += [nn.Conv3d(i, o, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(o), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classes = nn.Linear(WIDTHS[-1], classes)

    def forward(self, frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B K"]:
        clip = torch.cat([frames[:, 1:], frames.diff(dim=1)], 2)
        return self.classes(self.features(rearrange(clip, "b t c h w -> b c t h w")).mean((2, 3, 4)))


def train_classifier(source: Source, run: Run, *, steps: int = 300, batch: int = 32, seed: int = 0) -> MotionClassifier:
    """A classifier of the labelled clips of `source`, ready to read others. ValueError: they have no labels."""
    if not source.facts.classes:
        raise ValueError("a motion classifier learns from labelled clips, and these have no labels")
    generator = run.generator("classifier", seed)
    classifier = MotionClassifier(len(source.facts.classes)).to(run.device)
    channels_last(classifier)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        clips = source.batch(step, batch, seed=seed).to(run.device)
        assert clips.given.label is not None
        # of any brightness, so that dim or blurred shapes are read as well as the real ones
        level = torch.rand(batch, 1, 1, 1, 1, generator=generator, device=run.device) * 0.9 + 0.1
        with run.autocast():
            logits = classifier((clips.frames + 1) * level - 1)
        loss = F.cross_entropy(logits.float(), clips.given.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.inference_mode()
def motion_control(
    classifier: MotionClassifier, frames: Float[Tensor, "B T 3 H W"], asked: Int64[Tensor, " B"], run: Run
) -> Float[Tensor, " B"]:
    """1 for each clip in [-1, 1] whose motion is the one `asked` for, else 0; their mean is the score."""
    device = next(classifier.parameters()).device
    with run.autocast():
        logits = torch.cat([classifier(part.to(device)) for part in frames.split(AT_ONCE)])
    return (logits.argmax(1) == asked.to(device)).float().cpu()


def label_control(
    real: Float[np.ndarray, "M D"],
    classes: Sequence[str],
    groups: Int64[np.ndarray, " M"],
    features: Float[np.ndarray, "N D"],
    asked: Sequence[str],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " M"]]:
    """1 for each clip whose features are read as the class that was `asked` for, else 0; and the same of `real` clips.

    Features are read by ridge regression of the real clips' `classes` on theirs, and each real clip by that on clips of
    other `groups`. Clips of the class "" have none, and come out as NaN.
    """
    _, group = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(0).permutation(group.max() + 1)[group] % FOLDS
    names, told = np.array(classes), np.array(asked)
    itself = names.copy()
    for number in range(FOLDS):
        held = fold == number
        itself[held] = _read(real[~held], names[~held], real[held])
    found = _read(real, names, features)
    return np.where(told == "", np.nan, found == told), np.where(names == "", np.nan, itself == names)


def _read(
    real: Float[np.ndarray, "M D"], classes: Shaped[np.ndarray, " M"], features: Float[np.ndarray, "N D"]
) -> Shaped[np.ndarray, " N"]:
    """The class of each row of `features`, as those of labelled ones have it."""
    real, classes = real[classes != ""], classes[classes != ""]
    names, number = np.unique(classes, return_inverse=True)
    mean, deviation = real.mean(0, dtype=np.float64), real.std(0, dtype=np.float64) + 1e-12
    x, y = (real - mean) / deviation, np.eye(len(names))[number]
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    return names[((features - mean) / deviation @ weights + y.mean(0)).argmax(1)]
