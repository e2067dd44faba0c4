"""Control: how often a clip shows the class that was asked for, according to a classifier of real clips.

From MoCoGAN (Tulyakov et al., CVPR 2018, arXiv 1707.04993, section 4): a classifier is trained on real labelled clips
and applied to generated ones. Its accuracy on held-out real clips is the most a model can score; one over the number of
classes is what a model scores that ignores labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64, Shaped

__all__ = ["label_control"]

FOLDS = 5  # of cross-validation on real clips
RIDGE = 0.1  # penalty of the weights, for features of variance 1


def label_control(
    real: Float[np.ndarray, "M D"],
    classes: Sequence[str],
    groups: Int64[np.ndarray, " M"],
    features: Float[np.ndarray, "N D"],
    requested: Sequence[str],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " M"]]:
    """1 for each clip that is classified as the class that was `requested`, else 0; and the same of `real` clips.

    The classifier is ridge regression of the real clips' `classes` on their features; each real clip is classified by
    one fitted to clips of other `groups`. Clips of the class "" have none, and give NaN.
    """
    _, group = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(0).permutation(group.max() + 1)[group] % FOLDS
    names, wanted = np.array(classes), np.array(requested)
    held_out = names.copy()
    for number in range(FOLDS):
        held = fold == number
        held_out[held] = _classified(real[~held], names[~held], real[held])
    found = _classified(real, names, features)
    return np.where(wanted == "", np.nan, found == wanted), np.where(names == "", np.nan, held_out == names)


def _classified(
    real: Float[np.ndarray, "M D"], classes: Shaped[np.ndarray, " M"], features: Float[np.ndarray, "N D"]
) -> Shaped[np.ndarray, " N"]:
    """The class of each row of `features`, by ridge regression on the labelled rows of `real`."""
    real, classes = real[classes != ""], classes[classes != ""]
    names, number = np.unique(classes, return_inverse=True)
    mean, deviation = real.mean(0, dtype=np.float64), real.std(0, dtype=np.float64) + 1e-12
    x, y = (real - mean) / deviation, np.eye(len(names))[number]
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    return names[((features - mean) / deviation @ weights + y.mean(0)).argmax(1)]
