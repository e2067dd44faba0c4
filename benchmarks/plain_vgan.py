"""VGAN as a plain PyTorch port trains it: the baseline of train_speed.py.

The layers, losses and order of a step are those of the authors' repository (github.com/cvondrick/videogan, main.lua),
written anew. float32, contiguous tensors, Adam as it comes: nothing is tuned, and nothing is slower than a reader
would write it. One generated batch serves both players, as it does there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

__all__ = ["Players", "build", "step"]

LATENT, WIDTHS, SPARSITY = 100, (512, 256, 128, 64), 0.1  # for clips of 32 frames of 64x64 pixels


class Generator(nn.Module):
    """A latent code to a moving foreground, its mask and a still background."""

    def __init__(self) -> None:
        super().__init__()
        moving: list[nn.Module] = [nn.ConvTranspose3d(LATENT, WIDTHS[0], (2, 4, 4)), *_norm3d(WIDTHS[0])]
        still: list[nn.Module] = [nn.ConvTranspose2d(LATENT, WIDTHS[0], 4), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU(True)]
        for i, o in pairwise(WIDTHS):
            moving += [nn.ConvTranspose3d(i, o, 4, 2, 1), *_norm3d(o)]
            still += [nn.ConvTranspose2d(i, o, 4, 2, 1), nn.BatchNorm2d(o), nn.ReLU(True)]
        self.moving = nn.Sequential(*moving)
        self.still = nn.Sequential(*still, nn.ConvTranspose2d(WIDTHS[-1], 3, 4, 2, 1), nn.Tanh())
        self.foreground = nn.Sequential(nn.ConvTranspose3d(WIDTHS[-1], 3, 4, 2, 1), nn.Tanh())
        self.mask = nn.Sequential(nn.ConvTranspose3d(WIDTHS[-1], 1, 4, 2, 1), nn.Sigmoid())

    def videos(self, count: int) -> tuple[Tensor, Tensor]:
        """Clips [count, 3, T, H, W] and the mask's mean."""
        latent = torch.randn(count, LATENT, 1, 1, device=self.still[0].weight.device)
        moving = self.moving(latent[..., None])
        foreground, mask, background = self.foreground(moving), self.mask(moving), self.still(latent)[:, :, None]
        return mask * foreground + (1 - mask) * background, mask.mean()


def _norm3d(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm3d(channels), nn.ReLU(True)]


def _critic() -> nn.Sequential:
    """Clips [B, 3, 32, 64, 64] to logits [B, 2] of real and generated."""
    layers: list[nn.Module] = []
    for i, o in pairwise((3, *WIDTHS[::-1])):
        norm = [nn.BatchNorm3d(o)] if i != 3 else []
        layers += [nn.Conv3d(i, o, 4, 2, 1), *norm, nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv3d(WIDTHS[0], 2, (2, 4, 4)), nn.Flatten())


@dataclass(frozen=True, slots=True)
class Players:
    """The two networks, each with its optimizer."""

    generator: Generator
    critic: nn.Module
    of_generator: Adam
    of_critic: Adam


def build(categories: int, *, device: torch.device | str = "cpu") -> Players:
    """Untrained networks on `device`; `categories` are of no use to them."""
    generator, critic = Generator().to(device), _critic().to(device)
    return Players(generator, critic, *(Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (generator, critic)))


def step(players: Players, images: Tensor, videos: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One iteration on real `videos` [B, 3, T, H, W]; `images` and `labels` are of no use; gives the losses."""
    generator, critic = players.generator, players.critic
    fake, mask = generator.videos(len(videos))

    players.of_critic.zero_grad()
    critic_loss = _says(critic(videos), 0) + _says(critic(fake.detach()), 1)
    critic_loss.backward()
    players.of_critic.step()

    players.of_generator.zero_grad()
    loss = _says(critic(fake), 0) + SPARSITY * mask
    loss.backward()  # into the critic's weights too, until their next zero_grad
    players.of_generator.step()
    return {"critic": critic_loss, "generator": loss}


def _says(logits: Tensor, truth: int) -> Tensor:
    return F.cross_entropy(logits, torch.full((len(logits),), truth, device=logits.device))
