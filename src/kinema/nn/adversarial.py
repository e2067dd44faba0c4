"""Adversarial losses and gradient penalties: once, for every family that has a critic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["AdversarialLoss", "Penalty", "critic_loss", "generator_loss", "gradient_penalty"]

AdversarialLoss = Literal["vanilla", "relativistic", "hinge", "wasserstein"]


def critic_loss(kind: AdversarialLoss, real: Float[Tensor, "B *N"], fake: Float[Tensor, "B *N"]) -> Float[Tensor, ""]:
    """What a critic descends, from its logits on real and generated samples.

    "vanilla" is the cross-entropy of Goodfellow et al. 2014 (arXiv 1406.2661, eq. 1); "relativistic" pairs each real
    sample with a generated one (Jolicoeur-Martineau 2018, arXiv 1807.00734, section 4; R3GAN, arXiv 2501.05441, eq. 2);
    "hinge" asks for margins of 1 (Lim and Ye 2017, arXiv 1705.02894); "wasserstein" is the difference of the means and
    wants a critic whose slope is bounded (Arjovsky et al. 2017, arXiv 1701.07875, eq. 2).
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
    """What a generator descends, from the critic's logits; `real` is asked for only by the losses that compare.

    "vanilla" is the non-saturating form (arXiv 1406.2661, section 3). No gradient flows into `real`.
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

    On real samples it is R1, on generated ones R2. Many logits a sample are averaged first.
    """
    samples = samples.detach().requires_grad_()
    logits = critic(samples).float().flatten(1).mean(1).sum()
    (gradient,) = torch.autograd.grad(logits, samples, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean() / 2


class Penalty(nn.Module):
    """The R1 and R2 gradient penalties of the critics, with a weight that may fall as they play.

    A penalty strong enough to hold a young critic keeps a grown one from small differences, so its weight can fall
    geometrically over the first `falls` steps, to `LAST` of itself (R3GAN, arXiv 2501.05441, lowers it to a tenth in
    a cosine). How far it has fallen is kept with the weights, so that a resumed run equals an unbroken one.
    """

    LAST = 0.05

    played: Tensor

    def __init__(self, weight: float, falls: int = 0) -> None:
        super().__init__()
        self.first, self.falls = weight, falls
        self.register_buffer("played", torch.zeros((), dtype=torch.int64))

    @property
    def weight(self) -> Float[Tensor, ""] | float:
        """The weight now, of an image."""
        return self.first * self.LAST ** (self.played / self.falls).clamp(max=1) if self.falls else self.first

    def play(self) -> None:
        """Let a step pass."""
        self.played += 1

    def forward(
        self,
        critic: Callable[[Tensor], Tensor],
        real: Float[Tensor, "B *N"],
        fake: Float[Tensor, "B *N"],
        frames: int = 1,
    ) -> Float[Tensor, ""] | float:
        """The weighted penalties at real and generated samples of so many frames, of a quarter of the batch.

        A weight that suits an image is too small for a clip, whose critic has `frames` times the pixels to tell it by,
        so it is taken so many times over (in proportion to the pixels: Karras et al. 2020, arXiv 2006.06676,
        appendix C).
        """
        if not self.first:
            return 0.0
        some = slice(max(1, len(real) // 4))  # the mean over a quarter is as unbiased, at a quarter of the cost
        penalty = gradient_penalty(critic, real[some]) + gradient_penalty(critic, fake[some])
        return self.weight * frames * penalty
