"""The optimizers of a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kinema.experiment import TrainConfig
from kinema.zoo.tensors import check_tensors

__all__ = ["load_optimizer", "make_optimizers"]

NEWTON_SCHULZ = 3  # steps; with 5 Muon takes 0.28 of the 0.67 s of a step of latent-dit on 2 cores


def make_optimizers(
    config: TrainConfig, module: nn.Module, parameters: Sequence[nn.Parameter]
) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of `parameters` of a module, by the suffix of their names in checkpoints.

    With "muon", Muon (Jordan et al. 2024) updates the matrices of linear layers, scaled to the size of AdamW's updates
    (Liu et al. 2025, arXiv 2502.16982, section 2.2), and AdamW the rest. Its updates are orthogonalised in 3 steps of
    Newton and Schulz's iteration in place of 5: that leaves the smallest singular values small, and takes less time.
    """
    trained = {id(p) for p in parameters}
    matrices: list[Tensor] = []
    if config.optimizer == "muon":
        linear = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]
        matrices = [weight for weight in linear if id(weight) in trained]
    muon_ids = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in muon_ids]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if others:
        optimizers[""] = torch.optim.AdamW(
            others, config.lr, config.betas, weight_decay=config.weight_decay, fused=True
        )
    if matrices:
        optimizers[".matrices"] = torch.optim.Muon(
            matrices,
            config.lr,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
            ns_steps=NEWTON_SCHULZ,
        )
    return optimizers


def load_optimizer(optimizer: torch.optim.Optimizer, state: Any, what: str) -> None:
    """Load the moments of a saved `state_dict`; the settings stay those of now.

    Fused kernels check nothing of what they are given, so all of it is checked first, and copied into the parameters'
    own memory layout. Raises ValueError, in one line
    that begins with `what`, where it is not a state of this optimizer.
    """
    own = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    try:
        saved = {int(number): dict(moments) for number, moments in state["state"].items()}
        counts = [len(group["params"]) for group in state["param_groups"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{what}: it is no state of an optimizer") from None
    own_counts = [len(group["params"]) for group in own["param_groups"]]
    if counts != own_counts or not saved.keys() <= {*range(len(parameters))}:
        raise ValueError(f"{what}: it is of {sum(counts)} parameters, not of these {len(parameters)}")
    for number, moments in saved.items():
        own_moments = _moments(optimizer, parameters[number])
        check_tensors(moments, own_moments, f"{what}: parameter {number}")
        saved[number] = {name: torch.empty_like(own).copy_(moments[name]) for name, own in own_moments.items()}
    optimizer.load_state_dict({"state": saved, "param_groups": own["param_groups"]})


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter, whose values do not matter."""
    if isinstance(optimizer, torch.optim.Muon):
        return {"momentum_buffer": parameter}
    return {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
