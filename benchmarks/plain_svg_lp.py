"""SVG-LP as a plain PyTorch port trains it: the baseline of train_speed.py.

The layers, the loss and the order of a step are those of the authors' repository (github.com/edenton/svg,
models/dcgan_64.py, models/lstm.py and train_svg_lp.py with its defaults), written anew, with three channels: a loop
over time that encodes the frame before and the frame to come at every step. float32, contiguous tensors, Adam as it
comes: nothing is tuned, and nothing is slower than a reader would write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

__all__ = ["Networks", "build", "step"]

PAST, CODE, HIDDEN, LATENT, BETA = 5, 128, 256, 10, 1e-4  # frames of 64x64 pixels

Skip = list[Tensor]


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, True))


class Encoder(nn.Module):
    """Frames [B, 3, 64, 64] in [0, 1] to codes [B, G] and the features of four layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList([_down(3, width), *(_down(width * m, width * m * 2) for m in (1, 2, 4))])
        self.code = nn.Sequential(nn.Conv2d(8 * width, CODE, 4), nn.BatchNorm2d(CODE), nn.Tanh(), nn.Flatten())

    def forward(self, x: Tensor) -> tuple[Tensor, Skip]:
        features = []
        for layer in self.down:
            x = layer(x)
            features.append(x)
        return self.code(x), features


class Decoder(nn.Module):
    """Codes and features to frames [B, 3, 64, 64] in [0, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.ConvTranspose2d(CODE, 8 * width, 4), nn.BatchNorm2d(8 * width), nn.LeakyReLU(0.2, True)
        )
        last = nn.Sequential(nn.ConvTranspose2d(2 * width, 3, 4, 2, 1), nn.Sigmoid())
        self.up = nn.ModuleList([*(_up(width * m * 2, width * m // 2) for m in (8, 4, 2)), last])

    def forward(self, code: Tensor, features: Skip) -> Tensor:
        x = self.first(code[:, :, None, None])
        for layer, seen in zip(self.up, reversed(features), strict=True):
            x = layer(torch.cat([x, seen], 1))
        return x


class Recurrence(nn.Module):
    """One step in time: a linear layer, LSTM cells, and a linear layer for each of `outputs`."""

    def __init__(self, inputs: int, outputs: Sequence[int], layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, HIDDEN)
        self.cells = nn.ModuleList(nn.LSTMCell(HIDDEN, HIDDEN) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(HIDDEN, o) for o in outputs)
        self.states: list[tuple[Tensor, Tensor] | None] = []

    def start(self) -> None:
        """Forget what came before."""
        self.states = [None] * len(self.cells)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.embed(x)
        for index, cell in enumerate(self.cells):
            self.states[index] = x, _ = cell(x, self.states[index])
        return [layer(x) for layer in self.out]


@dataclass(frozen=True, slots=True)
class Networks:
    """The five networks and their optimizers."""

    encoder: nn.Module
    decoder: nn.Module
    predictor: Recurrence
    posterior: Recurrence
    prior: Recurrence
    optimizers: tuple[Adam, ...]


def build(categories: int, *, width: int = 64, device: torch.device | str = "cpu") -> Networks:
    """Untrained networks on `device`; `categories` are of no use to them."""
    predictor = Recurrence(CODE + LATENT, (CODE,), 2)
    posterior, prior = (Recurrence(CODE, (LATENT, LATENT), 1) for _ in range(2))
    networks = [network.to(device) for network in (Encoder(width), Decoder(width), predictor, posterior, prior)]
    for network in networks:
        network.apply(_initialise)
    optimizers = tuple(Adam(network.parameters(), lr=2e-3, betas=(0.9, 0.999)) for network in networks)
    return Networks(networks[0], networks[1], predictor, posterior, prior, optimizers)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def step(networks: Networks, images: Tensor, videos: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One iteration on `videos` [B, 3, T, 64, 64], T above PAST; the rest is of no use to them; gives the losses."""
    frames = (videos / 2 + 0.5).movedim(2, 0).contiguous().unbind()
    for optimizer in networks.optimizers:
        optimizer.zero_grad()
    for recurrence in (networks.predictor, networks.posterior, networks.prior):
        recurrence.start()
    error, divergence, skip = torch.zeros(()), torch.zeros(()), []
    for t in range(1, len(frames)):
        code, features = networks.encoder(frames[t - 1])
        target, _ = networks.encoder(frames[t])
        if t < PAST:
            skip = features
        mean, log_variance = networks.posterior(target)
        prior_mean, prior_log_variance = networks.prior(code)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        predicted = networks.predictor(torch.cat([code, latent], 1))[0].tanh()
        error = error + F.mse_loss(networks.decoder(predicted, skip), frames[t])
        ratio = (log_variance.exp() + (mean - prior_mean) ** 2) / prior_log_variance.exp()
        divergence = divergence + (prior_log_variance - log_variance + ratio - 1).sum() / 2 / len(code)
    (error + BETA * divergence).backward()
    for optimizer in networks.optimizers:
        optimizer.step()
    return {"mse": error, "divergence": divergence}
