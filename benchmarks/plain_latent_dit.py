"""A diffusion transformer over latents as a plain PyTorch port trains it: the baseline of train_speed.py.

The network, the loss and the order of a step are those of latent-dit on 5x8x8 latents of 16 channels, 320 tokens: a
noise level a frame, rotary positions, normalised queries and keys, adaLN-Zero. `Port` has the sizes of its preset
"latent", and `LARGE` those of "gpu". float32, attention as two matrix products and a softmax whose scores are kept,
AdamW, clipping and the moving average as they come: nothing is tuned, and nothing is slower than a reader would write
it. A part of the latents is given in every clip; they are drawn once, as train_speed.py's clips are.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

__all__ = ["LARGE", "Networks", "Port"]

FRAMES, CHANNELS, SIDE = 5, 16, 8
TOKENS, WAVES = FRAMES * SIDE * SIDE, 128
LR, BETAS, NORM, AVERAGE, SHIFT = 1e-3, (0.9, 0.99), 1.0, 0.998, 2.0


def _angles(pairs: int) -> Tensor:
    """How far each pair of a head's channels is turned at each token [N, pairs]."""
    cells = torch.stack(torch.meshgrid(*map(torch.arange, (FRAMES, SIDE, SIDE)), indexing="ij"), -1).reshape(-1, 3)
    spatial = 3 * pairs // 8
    shares = (pairs - 2 * spatial, spatial, spatial)
    return torch.cat([cells[:, i : i + 1] * 10_000.0 ** (-torch.arange(n) / n) for i, n in enumerate(shares)], 1)


class RMSNorm(nn.Module):
    """To unit mean square, with a gain a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain


class Attention(nn.Module):
    """Between all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, head = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.norms = nn.ModuleList([RMSNorm(head), RMSNorm(head)])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), TOKENS, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, heads, N, d] each
        q, k = (self._turned(norm(y), cos, sin) for norm, y in zip(self.norms, (q, k), strict=True))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((scores @ v).transpose(1, 2).reshape(x.shape))

    @staticmethod
    def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    """Attention and an MLP, shifted, scaled and gated by each frame's condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width, elementwise_affine=False) for _ in range(2)])
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        six = self.modulation(condition).repeat_interleave(SIDE * SIDE, 1).chunk(6, -1)  # [B, N, D] each
        x = x + six[2] * self.attention(self.norms[0](x) * (1 + six[1]) + six[0], cos, sin)
        return x + six[5] * self.mlp(self.norms[1](x) * (1 + six[4]) + six[3])


class Denoiser(nn.Module):
    """Noisy latents, which are given, noise levels and labels to a velocity."""

    def __init__(self, classes: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS + 1, width)
        self.places = nn.Parameter(0.02 * torch.randn(SIDE * SIDE, width))
        self.level = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, CHANNELS)
        angles = _angles(width // heads // 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    cos: Tensor
    sin: Tensor

    def forward(self, x: Tensor, given: Tensor, levels: Tensor, label: Tensor) -> Tensor:
        waves = 1000 * levels[..., None] * 10_000.0 ** (-torch.arange(WAVES, device=x.device) / WAVES)
        condition = self.level(torch.cat([waves.cos(), waves.sin()], -1)) + self.label(label)[:, None]  # [B, L, D]
        tokens = torch.cat([x, given], 2).permute(0, 1, 3, 4, 2).reshape(len(x), FRAMES, SIDE * SIDE, -1)
        y = (self.embed(tokens) + self.places).reshape(len(x), TOKENS, -1)
        for block in self.blocks:
            y = block(y, condition, self.cos, self.sin)
        shift, scale = self.modulation(condition).repeat_interleave(SIDE * SIDE, 1).chunk(2, -1)
        y = self.head(self.norm(y) * (1 + scale) + shift)
        return y.reshape(len(x), FRAMES, SIDE, SIDE, CHANNELS).permute(0, 1, 4, 2, 3)


@dataclass
class Networks:
    """What a step works on."""

    denoiser: Denoiser
    average: Denoiser
    optimizer: AdamW
    latents: Tensor


@dataclass(frozen=True)
class Port:
    """The port at some size."""

    width: int = 192
    depth: int = 6
    heads: int = 4
    clips: int = 8  # a step

    def build(self, classes: int, device: torch.device) -> Networks:
        """The network, its moving average, its optimizer, and latents to learn from."""
        denoiser = Denoiser(classes, self.width, self.depth, self.heads).to(device)
        latents = torch.randn(self.clips, FRAMES, CHANNELS, SIDE, SIDE, device=device)
        optimizer = AdamW(denoiser.parameters(), LR, BETAS, weight_decay=0.0)
        return Networks(denoiser, copy.deepcopy(denoiser), optimizer, latents)

    def step(self, networks: Networks, images: Tensor, videos: Tensor, labels: Tensor) -> None:
        """One training step; images and videos are not looked at."""
        x0, denoiser = networks.latents, networks.denoiser
        given = torch.zeros(len(x0), FRAMES, 1, SIDE, SIDE, device=x0.device)
        given[: len(x0) // 2, 0] = 1
        levels = torch.randn(len(x0), 1, device=x0.device).sigmoid().expand(-1, FRAMES)
        levels = SHIFT * levels / (1 + (SHIFT - 1) * levels) * (1 - given[:, :, 0, 0, 0])
        noise, t = torch.randn_like(x0), levels[..., None, None, None]
        label = torch.where(torch.rand(len(x0), device=x0.device) < 0.1, len(denoiser.label.weight) - 1, labels)
        velocity = denoiser((1 - t) * x0 + t * noise, given, levels, label)
        loss = (F.mse_loss(velocity, noise - x0, reduction="none") * (1 - given)).mean()
        networks.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), NORM)
        networks.optimizer.step()
        with torch.no_grad():
            for mine, theirs in zip(networks.average.parameters(), denoiser.parameters(), strict=True):
                mine.lerp_(theirs, 1 - AVERAGE)


LARGE = Port(width=384, depth=12, heads=6, clips=4)
