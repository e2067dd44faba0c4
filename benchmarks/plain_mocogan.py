"""MoCoGAN as a plain PyTorch port trains it: the baseline of train_speed.py.

The layers, losses and order of a step are those of the authors' repository (github.com/sergeytulyakov/mocogan,
src/models.py and src/trainers.py, with --use_infogan --use_categories --use_noise --noise_sigma 0.1), written anew.
float32, contiguous tensors, Adam as it comes: nothing is tuned, and nothing is slower than a reader would write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

__all__ = ["Players", "build", "step"]

FRAMES, CONTENT, MOTION, SIGMA = 16, 50, 10, 0.1  # frames of 64x64 pixels


class Seeds(nn.Module):
    """Gaussian noise on the input of a critic's layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x + SIGMA * torch.randn(x.shape, device=x.device)


class Generator(nn.Module):
    """Content, category and a recurrent path of motion codes, to frames."""

    def __init__(self, categories: int, ngf: int) -> None:
        super().__init__()
        self.categories = categories
        self.cell = nn.GRUCell(MOTION, MOTION)
        inputs, where = CONTENT + categories + MOTION, (4, 1, 0)  # kernel, stride, padding
        layers: list[nn.Module] = []
        for outputs in (8 * ngf, 4 * ngf, 2 * ngf, ngf):
            layers += [nn.ConvTranspose2d(inputs, outputs, *where, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]
            inputs, where = outputs, (4, 2, 1)
        self.draw = nn.Sequential(*layers, nn.ConvTranspose2d(inputs, 3, *where, bias=False), nn.Tanh())

    def codes(self, count: int) -> tuple[Tensor, Tensor]:
        """The codes [count * T, D, 1, 1] of the frames of `count` clips, and the clips' categories [count]."""
        device = self.cell.weight_hh.device
        state, path = torch.randn(count, MOTION, device=device), []
        for _ in range(FRAMES):
            state = self.cell(torch.randn(count, MOTION, device=device), state)
            path.append(state)
        category = torch.randint(self.categories, (count,), device=device)
        still = torch.cat([torch.randn(count, CONTENT, device=device), F.one_hot(category, self.categories)], 1)
        codes = torch.cat([still.repeat_interleave(FRAMES, 0), torch.stack(path, 1).flatten(0, 1)], 1)
        return codes[:, :, None, None], category

    def images(self, count: int) -> Tensor:
        """Single frames [count, 3, H, W]: as the authors do, drawn from among the codes of 2 * T clips for each."""
        codes, _ = self.codes(count * FRAMES * 2)
        return self.draw(codes[torch.randperm(len(codes), device=codes.device)[:count].sort().values])

    def videos(self, count: int) -> tuple[Tensor, Tensor]:
        """Clips [count, 3, T, H, W] and their categories [count]."""
        codes, category = self.codes(count)
        return self.draw(codes).unflatten(0, (count, FRAMES)).transpose(1, 2), category


def _image_critic(ndf: int) -> nn.Sequential:
    """Frames [B, 3, 64, 64] to a logit a patch [B, 1, 4, 4]."""
    layers: list[nn.Module] = []
    for i, o in pairwise((3, ndf, 2 * ndf, 4 * ndf)):
        norm = [nn.BatchNorm2d(o)] if i != 3 else []
        layers += [Seeds(), nn.Conv2d(i, o, 4, 2, 1, bias=False), *norm, nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, Seeds(), nn.Conv2d(4 * ndf, 1, 4, 2, 1, bias=False))


def _video_critic(categories: int, ndf: int) -> nn.Sequential:
    """Clips [B, 3, 16, 64, 64] to logits [B, 1 + categories], the first for real."""
    layers: list[nn.Module] = []
    for i, o in pairwise((3, ndf, 2 * ndf, 4 * ndf, 8 * ndf)):
        norm = [nn.BatchNorm3d(o)] if i != 3 else []
        layers += [Seeds(), nn.Conv3d(i, o, 4, (1, 2, 2), (0, 1, 1), bias=False), *norm, nn.LeakyReLU(0.2, True)]
    return nn.Sequential(*layers, nn.Conv3d(8 * ndf, 1 + categories, 4, bias=False), nn.Flatten())


@dataclass(frozen=True, slots=True)
class Players:
    """The three networks, each with its optimizer."""

    generator: Generator
    image_critic: nn.Module
    video_critic: nn.Module
    of_generator: Adam
    of_image_critic: Adam
    of_video_critic: Adam


def build(categories: int, *, ngf: int = 64, ndf: int = 64, device: torch.device | str = "cpu") -> Players:
    """Untrained networks on `device`."""
    generator = Generator(categories, ngf).to(device)
    critics = _image_critic(ndf).to(device), _video_critic(categories, ndf).to(device)
    return Players(generator, *critics, _adam(generator), *map(_adam, critics))


def _adam(network: nn.Module) -> Adam:
    return Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-5)


def step(players: Players, images: Tensor, videos: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One iteration on real `images` [B, 3, H, W] and `videos` [B, 3, T, H, W] with `labels` [B]; gives the losses."""
    generator, image_critic, video_critic = players.generator, players.image_critic, players.video_critic

    players.of_image_critic.zero_grad()
    fake = generator.images(len(images))  # its graph is recorded, then dropped
    image_loss = _says(image_critic(images), 1.0) + _says(image_critic(fake.detach()), 0.0)
    image_loss.backward()
    players.of_image_critic.step()

    players.of_video_critic.zero_grad()
    fake, _ = generator.videos(len(videos))
    on_real, on_fake = video_critic(videos), video_critic(fake.detach())
    video_loss = _says(on_real[:, 0], 1.0) + _says(on_fake[:, 0], 0.0) + F.cross_entropy(on_real[:, 1:], labels)
    video_loss.backward()
    players.of_video_critic.step()

    players.of_generator.zero_grad()
    loss = _says(image_critic(generator.images(len(images))), 1.0)
    fake, category = generator.videos(len(videos))
    on_fake = video_critic(fake)
    loss = loss + _says(on_fake[:, 0], 1.0) + F.cross_entropy(on_fake[:, 1:], category)
    loss.backward()  # into the critics' weights too, until their next zero_grad
    players.of_generator.step()
    return {"image_critic": image_loss, "video_critic": video_loss, "generator": loss}


def _says(logits: Tensor, truth: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))
