"""Adversarial losses and gradient penalties of the families that have a critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["AdversarialLoss", "Penalty", "critic_loss", "generator_loss", "gradient_penalty"]

AdversarialLoss = Literal["vanilla", "relativistic", "hinge", "wasserstein"]


def critic_loss(kind: AdversarialLoss, real: Float[Tensor, "B *N"], fake: Float[Tensor, "B *N"]) -> Float[Tensor, ""]:
    """The loss of a critic, from its logits on real and generated samples.

    "vanilla" is the cross-entropy of Goodfellow et al. 2014 (arXiv 1406.2661, eq. 1); "relativistic" compares each real
    sample with a generated one (Jolicoeur-Martineau 2018, arXiv 1807.00734, section 4; R3GAN, arXiv 2501.05441, eq. 2);
    "hinge" has margins of 1 (Lim and Ye 2017, arXiv 1705.02894); "wasserstein" is the difference of the means and
    needs a critic with a bounded Lipschitz constant (Arjovsky et al. 2017, arXiv 1701.07875, eq. 2).
    """
    real, fake = real.float(), fake.float()
    if kind == "vanilla":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()


def generator_loss(
    kind: AdversarialLoss, fake: Float[Tensor, "B *N"], real: Callable[[], Float[Tensor, "B *N"]]
) -> Float[Tensor, ""]:
    """The loss of a generator, from the critic's logits; only "relativistic" calls `real`, without gradients.

    "vanilla" is the non-saturating form (arXiv 1406.2661, section 3).
    """
    fake = fake.float()
    if kind == "vanilla":
        return F.softplus(-fake).mean()
    if kind == "relativistic":
        with torch.no_grad():
            on_real = real().float()
        return F.softplus(on_real - fake).mean()
    return -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], samples: Float[Tensor, "B *N"]) -> Float[Tensor, ""]:
    """Half the mean squared norm of a critic's gradient at `samples` (Mescheder et al. 2018, arXiv 1801.04406, eq. 9).

    On real samples it is R1, on generated ones R2. Several logits of one sample are averaged first.
    """
    samples = samples.detach().requires_grad_()
    logits = critic(samples).float().flatten(1).mean(1).sum()
    (gradient,) = torch.autograd.grad(logits, samples, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean() / 2


@dataclass(frozen=True, slots=True)
class Penalty:
    """The R1 and R2 gradient penalties of a critic, with a weight that may decay during training.

    A penalty that is strong enough early in training later keeps the critic from learning small differences. So its
    weight can decay geometrically from `first` to `LAST * first` over `falls` steps (R3GAN, arXiv 2501.05441, decays
    it to a tenth by a cosine).
    """

    LAST: ClassVar[float] = 0.05

    first: float
    falls: int = 0

    def weight(self, step: int) -> float:
        """The weight for an image at a training step."""
        return self.first * self.LAST ** min(1.0, step / self.falls) if self.falls else self.first

    def __call__(
        self,
        critic: Callable[[Tensor], Tensor],
        real: Float[Tensor, "B *N"],
        fake: Float[Tensor, "B *N"],
        step: int,
        frames: int = 1,
    ) -> Float[Tensor, ""] | float:
        """The weighted penalties at real and generated samples of `frames` frames, on a quarter of the batch.

        The weight grows in proportion to the number of pixels (Karras et al. 2020, arXiv 2006.06676, appendix C): a
        clip's is `frames` times an image's.
        """
        if not self.first:
            return 0.0
        some = slice(max(1, len(real) // 4))  # unbiased too, at a quarter of the cost
        penalty = gradient_penalty(critic, real[some]) + gradient_penalty(critic, fake[some])
        return self.weight(step) * frames * penalty
