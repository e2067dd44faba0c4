"""TGAN as a plain PyTorch port trains it: the baseline of train_speed.py.

The layers, losses and order of a step are those of the authors' repository (github.com/pfnet-research/tgan, the
"wgan_svd" configurations, with labels as their conditional model has them), written anew. float32, contiguous tensors,
RMSprop and decompositions as they come: nothing is tuned, and nothing is slower than a reader would write it. One
generated batch serves both players, as it does there. Every fifth step also clips, which a median does not show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import RMSprop

__all__ = ["Players", "build", "step"]

FRAMES, LATENT, HEAD, CRITIC = 16, 100, (256, 4, 4), (64, 128, 256, 512)  # frames of 64x64 pixels
CLIP_EVERY = 5


class Generator(nn.Module):
    """A code to a path of codes, and each of them to a frame."""

    def __init__(self, categories: int) -> None:
        super().__init__()
        self.categories = categories
        inputs, where = LATENT + categories, (1, 1, 0)  # kernel, stride, padding
        layers: list[nn.Module] = []
        for outputs in (512, 256, 128, 128):
            layers += [nn.ConvTranspose1d(inputs, outputs, *where), nn.BatchNorm1d(outputs), nn.ReLU(True)]
            inputs, where = outputs, (4, 2, 1)
        self.path = nn.Sequential(*layers, nn.ConvTranspose1d(inputs, LATENT, *where), nn.Tanh())
        self.of_clip, self.of_frame = _head(LATENT + categories), _head(LATENT)
        layers = []
        for i, o in pairwise((512, 256, 128, 64, 32)):
            layers += [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True)]
        self.draw = nn.Sequential(*layers, nn.Conv2d(32, 3, 3, 1, 1), nn.Tanh())

    def videos(self, labels: Tensor) -> Tensor:
        """A clip for each label, [B, 3, T, H, W]."""
        z0 = torch.rand(len(labels), LATENT, device=labels.device) * 2 - 1
        code = torch.cat([z0, F.one_hot(labels, self.categories)], 1)
        path = self.path(code[:, :, None]).transpose(1, 2).flatten(0, 1)  # [B * T, D]
        still = self.of_clip(code.repeat_interleave(FRAMES, 0))
        frames = self.draw(torch.cat([still, self.of_frame(path)], 1))
        return frames.unflatten(0, (len(labels), FRAMES)).transpose(1, 2)


def _head(inputs: int) -> nn.Sequential:
    size = HEAD[0] * HEAD[1] * HEAD[2]
    return nn.Sequential(
        nn.Linear(inputs, size, bias=False), nn.BatchNorm1d(size), nn.ReLU(True), nn.Unflatten(1, HEAD)
    )


def _critic(categories: int) -> nn.Sequential:
    """Clips with the class in channels, [B, 3 + categories, 16, 64, 64], to logits [B, 1]."""
    layers: list[nn.Module] = []
    for index, (i, o) in enumerate(pairwise((3 + categories, *CRITIC))):
        norm = [nn.BatchNorm3d(o)] if index else []
        layers += [nn.Conv3d(i, o, 4, 2, 1), *norm, nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv3d(CRITIC[-1], 1, (1, 4, 4)), nn.Flatten())


@dataclass(frozen=True, slots=True)
class Players:
    """The two networks, each with its optimizer, and how often the critic has moved."""

    generator: Generator
    critic: nn.Module
    of_generator: RMSprop
    of_critic: RMSprop
    turns: count[int] = field(default_factory=lambda: count(1))


def build(categories: int, *, device: torch.device | str = "cpu") -> Players:
    """Untrained networks on `device`."""
    generator, critic = Generator(categories).to(device), _critic(categories).to(device)
    return Players(generator, critic, *(RMSprop(n.parameters(), lr=5e-5) for n in (generator, critic)))


def step(players: Players, images: Tensor, videos: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One iteration on real `videos` [B, 3, T, H, W] with `labels` [B]; `images` are of no use; gives the losses."""
    generator, critic = players.generator, players.critic
    classes = F.one_hot(labels, generator.categories)[:, :, None, None, None].expand(-1, -1, *videos.shape[2:])
    fake = generator.videos(labels)

    players.of_generator.zero_grad()
    loss = -critic(torch.cat([fake, classes], 1)).mean()
    loss.backward()  # into the critic's weights too, until the zero_grad below
    players.of_generator.step()

    players.of_critic.zero_grad()
    critic_loss = critic(torch.cat([fake.detach(), classes], 1)).mean() - critic(torch.cat([videos, classes], 1)).mean()
    critic_loss.backward()
    players.of_critic.step()
    if next(players.turns) % CLIP_EVERY == 0:
        _clip(critic)
    return {"critic": critic_loss, "generator": loss}


@torch.no_grad()
def _clip(critic: nn.Module) -> None:
    """Singular values of the convolutions to 1 at most, gains of the normalisations to the deviations seen."""
    for module in critic.modules():
        if isinstance(module, nn.Conv3d):
            u, s, v = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
            module.weight.copy_(((u * s.clamp(max=1)) @ v).view_as(module.weight))
        elif isinstance(module, nn.BatchNorm3d):
            deviation = module.running_var.sqrt()
            module.weight.clamp_(0.01 * deviation, deviation)
