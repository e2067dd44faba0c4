"""Sound: mel-band energies, aligned with a clip's frames."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.conditions.encoder import Encoding

__all__ = ["SAMPLE_RATE", "AudioEncoder", "log_mel"]

SAMPLE_RATE = 16_000  # samples a second of every waveform
PARTS, MELS = 4, 24  # moments of a frame's time, and mel bands of each
WINDOW = 400  # samples, 25 ms
BINS = 512  # of the Fourier transform
FLOOR = 1e-5  # the energy of silence


@cache
def _filters(device: torch.device) -> Float[Tensor, "bins mels"]:
    """Triangular bands, evenly spaced on the mel scale of O'Shaughnessy 1987: 2595 log10(1 + f / 700)."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, MELS + 2) / 2595) - 1)  # hertz
    rising, falling = edges[1:-1] - edges[:-2], edges[2:] - edges[1:-1]
    bins = torch.linspace(0, SAMPLE_RATE / 2, BINS // 2 + 1)[:, None]
    return torch.minimum((bins - edges[:-2]) / rising, (edges[2:] - bins) / falling).clamp(min=0).to(device)


@torch.no_grad()
def log_mel(audio: Float[Tensor, "B samples"], frames: int, fps: float) -> Float[Tensor, "B T F"]:
    """The logarithms of the bands' energies at 4 moments of each frame's time, in about [-1, 1]; silence is -1.

    Frame t lasts from t / fps to (t + 1) / fps seconds; where the sound is shorter, the rest is silence.
    """
    with torch.autocast(audio.device.type, enabled=False):
        times = (torch.arange(frames * PARTS, device=audio.device) + 0.5) / (PARTS * fps) * SAMPLE_RATE
        first = times.round().long()  # in sound with half a window of silence before it, where each window begins
        last = math.ceil((frames * PARTS - 0.5) / (PARTS * fps) * SAMPLE_RATE)  # not first[-1], which waits for a GPU
        missing = last + WINDOW - audio.shape[1] - WINDOW // 2
        padded = F.pad(audio.float(), (WINDOW // 2, max(0, missing)))
        windows = padded.unfold(1, WINDOW, 1)[:, first] * torch.hann_window(WINDOW, device=audio.device)
        power = torch.fft.rfft(windows, BINS).abs().square() / WINDOW
        energy = power @ _filters(audio.device)  # [B, T PARTS, MELS]
        scaled = 1 + (energy.clamp(FLOOR, 1e3) / 10).log10() / 3
        return scaled.unflatten(1, (frames, PARTS)).flatten(2)


class AudioEncoder(nn.Module):
    """A vector for the sound of each frame and a little of its neighbours'."""

    def __init__(self, width: int, fps: float) -> None:
        super().__init__()
        self.fps, self.frame_width = fps, width
        self.embed = nn.Sequential(nn.Linear(PARTS * MELS, width), nn.GELU())
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, audio: Float[Tensor, "B samples"] | None, frames: int, present: Bool[Tensor, " B"]) -> Encoding:
        """A vector for each frame; `null` where `present` is false, and everywhere without sound."""
        null = self.null.expand(len(present), frames, -1)
        if audio is None:
            return Encoding(frames=null)
        encoded = self.mix(self.embed(log_mel(audio, frames, self.fps)).mT).mT
        return Encoding(frames=torch.where(present[:, None, None], encoded, null))
