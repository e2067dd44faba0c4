"""Bounds on a critic's slope, kept by clipping its weights."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["bound_slope_", "clip_singular_values_"]

SMALLEST = 0.01  # of a deviation: what a normalisation's gain is kept above, as the authors' code does
LINEAR = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
NORMALISATION = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@torch.no_grad()
def bound_slope_(critic: nn.Module) -> None:
    """Make each layer of a critic change no more than its input does, in place (TGAN, arXiv 1611.06624, Table 2).

    Singular values of linear and convolutional layers are at most 1, gains of batch normalisations at most the
    deviation that they have seen; leaky ReLU needs nothing. A convolution counts as a matrix [out, in * kernel].
    """
    for module in critic.modules():
        if isinstance(module, LINEAR):
            clip_singular_values_(module.weight)
        elif isinstance(module, NORMALISATION):
            assert module.running_var is not None
            deviation = _over_ranks(module.running_var).sqrt()
            module.weight.clamp_(SMALLEST * deviation, deviation)


@torch.no_grad()
def clip_singular_values_(weight: Tensor) -> None:
    """Set the singular values above 1 of `weight`, read as a matrix [out, the rest], to 1 in place; leave the others.

    With W = U S V' this is W - U (1 - 1/S) U' W over those above 1, so U is all that is needed: the eigenvectors of
    W W', whose side is the shorter of the two.
    """
    matrix = weight.float().flatten(1)
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares, directions = torch.linalg.eigh((wide @ wide.T).double())
    above = squares > 1
    if not above.any():
        return
    u = directions[:, above]
    shrunk = wide - (u * (1 - squares[above].rsqrt()) @ u.T).float() @ wide
    weight.copy_((shrunk if wide is matrix else shrunk.T).reshape(weight.shape))


def _over_ranks(statistic: Tensor) -> Tensor:
    """The mean over all processes: each has seen clips of its own, and all must clip alike."""
    if not dist.is_initialized():
        return statistic
    total = statistic.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
