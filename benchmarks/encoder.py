"""Train the video encoder that ships with kinema's metrics, and measure what it learned.

    python benchmarks/encoder.py --clips ../shared/data/grid_talking_face ../shared/data/robot_g1_pick \\
        --minutes 15 --out encoder.safetensors

It learns from the built-in worlds and from every other file of the --clips folders, so that metrics can be tried on the
rest; mind the licences of these. Half of each batch is of the worlds. The task is described in metrics/encoder.py. The
table at the end is of clips of another seed: how often a clip's other cut is found among those of 48, and how well the
strength of each corruption is predicted.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from kinema.data.clips import DataConfig, Source, open_source
from kinema.data.folder import scan
from kinema.metrics.encoder import DIMENSIONS, SIDE, Encoder, prepared
from kinema.runtime.device import channels_last, detect_runtime
from kinema.runtime.memory import keep_freed_memory

FRAMES = 16
LONGER = 2 * FRAMES + 4  # of which two cuts are made, cuts at twice the speed and leaps
BATCH = 48
LR = 1e-3
TEMPERATURE = 0.1
STRENGTH_WEIGHT = 50.0  # of the loss of the strengths of corruptions
HELD_OUT = 10**6  # the seed of the clips of the table
WORLDS = ("sprites", "shape-motion")
LARGER = 80  # pixels of the frames that cuts of SIDE are taken from

Corruption = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]


def smaller(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Scaled down and up again."""
    side = round(SIDE / (1 + 7 * strength))
    filters = Image.Resampling.BOX, Image.Resampling.BICUBIC
    return np.stack(
        [np.asarray(Image.fromarray(f).resize((side, side), filters[0]).resize((SIDE, SIDE), filters[1])) for f in cut]
    )


def specks(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Black and white specks, in half of the clips the same ones on every frame."""
    frames = len(cut) if rng.random() < 0.5 else 1
    where, light = rng.random((2, frames, SIDE, SIDE, 1))
    return np.where(where < 0.25 * strength, np.where(light < 0.5, 0, 255).astype(np.uint8), cut)


def jpeg(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Compressed frame by frame."""
    frames = []
    for frame in cut:
        box = io.BytesIO()
        Image.fromarray(frame).save(box, "JPEG", quality=round(40 * (1 - strength)) + 2)
        frames.append(np.asarray(Image.open(box)))
    return np.stack(frames)


def hue(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Channels mixed and bent."""
    mixing = np.eye(3) + strength * rng.normal(0, 0.5, (3, 3))
    return ((cut / 255 @ mixing).clip(0, 1) ** (1 + strength) * 255).astype(np.uint8)


def faster(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Up to twice as fast."""
    return longer[(np.arange(FRAMES) * (1 + strength)).astype(int)]


def mixed(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Each frame away from its place by some way."""
    return cut[np.argsort(np.arange(FRAMES) + strength * FRAMES / 2 * rng.standard_normal(FRAMES))]


def back_and_forth(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Back and forth in ever shorter periods."""
    period = round(FRAMES - 1 - (FRAMES - 4) * strength)
    place = np.arange(FRAMES) % (2 * period)
    return cut[np.minimum(place, 2 * period - place)]


def leap(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A leap ahead somewhere, by up to a clip's length."""
    place = np.arange(FRAMES)
    place[rng.integers(1, FRAMES) :] += round(FRAMES * strength)
    return longer[place]


def uneven(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Standing still and hurrying on by turns."""
    steps = np.exp(3 * strength * rng.standard_normal(FRAMES))
    place = np.cumsum(steps)
    return cut[((place - place[0]) / (place[-1] - place[0]) * (FRAMES - 1)).astype(int)]


def unsteady(cut: np.ndarray, longer: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness that trembles."""
    shift = 40 * strength * rng.standard_normal((FRAMES, 1, 1, 1))
    return (cut + shift).clip(0, 255).astype(np.uint8)


CORRUPTIONS: tuple[Corruption, ...] = (
    smaller,
    specks,
    jpeg,
    hue,
    faster,
    mixed,
    back_and_forth,
    leap,
    uneven,
    unsteady,
)


class Learner(nn.Module):
    """The encoder and the heads that it is trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.project = nn.Sequential(nn.Linear(DIMENSIONS, 256), nn.ReLU(), nn.Linear(256, 64))
        self.strength = nn.Linear(DIMENSIONS, len(CORRUPTIONS))

    def loss(self, clips: Tensor, way: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of two cuts of each clip and a corrupted one [3 B, 3, T, 64, 64], and the share of clips found."""
        features = self.encoder(clips).float()
        first, second, corrupted = F.normalize(self.project(features), dim=1).chunk(3)
        alike = torch.cat([first @ second.T, first @ corrupted.T], 1) / TEMPERATURE
        back = torch.cat([second @ first.T, second @ corrupted.T], 1) / TEMPERATURE
        each = torch.arange(len(first))
        found = F.cross_entropy(alike, each) + F.cross_entropy(back, each)
        # a strength for each corruption, 0 for all but one: no threshold above which a clip counts as corrupted
        error = F.mse_loss(self.strength(features), self.truth(way, strength))
        return found + STRENGTH_WEIGHT * error, (alike.argmax(1) == each).float().mean()

    def truth(self, way: Tensor, strength: Tensor) -> Float[Tensor, "3*B ways"]:
        """The strength of each corruption in each clip."""
        corrupted = strength[:, None] * F.one_hot(way, len(CORRUPTIONS))
        return torch.cat([torch.zeros_like(corrupted), torch.zeros_like(corrupted), corrupted])


def drawn(worlds: list[Source], folders: list[Source], step: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two cuts and a corrupted one of BATCH clips, half of them of worlds, with the corruptions and their strengths."""
    rng = np.random.default_rng((seed, step))
    kinds = [some[step % len(some)] for some in (worlds, folders or worlds)]
    longer = np.concatenate([s.batch(step, BATCH // 2, seed=seed).frames.movedim(2, -1).numpy() for s in kinds])
    cuts: tuple[list[np.ndarray], ...] = ([], [], [])
    way, strength = rng.integers(len(CORRUPTIONS), size=BATCH), rng.random(BATCH, np.float32)
    for clip, how, level in zip(longer, way, strength, strict=True):
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        for number in (0, 1, 2):
            y, x = rng.integers(LARGER - SIDE + 1, size=2)
            first = rng.integers(5)
            window = clip[first:, y : y + SIDE, x : x + SIDE]
            cut = window[:FRAMES]
            cuts[number].append(CORRUPTIONS[how](cut, window, float(level), rng) if number == 2 else cut)
    clips = torch.from_numpy(np.concatenate([np.stack(part) for part in cuts]))
    return prepared(clips), torch.from_numpy(way), torch.from_numpy(strength)


def every_other(folder: Path, place: Path) -> Path:
    """A folder of links to every other clip."""
    place.mkdir()
    for clip in scan(folder).clips[::2]:
        (place / clip.path.name).symlink_to(clip.path.resolve())
    return place


def main() -> None:
    """Train, print the table, write the weights in half precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, nargs="*", default=[], help="folders of further clips")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    arguments = parser.parse_args()
    keep_freed_memory()
    runtime = detect_runtime()
    size = {"frames": LONGER, "height": LARGER, "width": LARGER}
    with tempfile.TemporaryDirectory() as temporary:
        folders = [every_other(f, Path(temporary, str(i))) for i, f in enumerate(arguments.clips)]
        sources = [
            [open_source(DataConfig(str(name), holdout=0, **size)) for name in some] for some in (WORLDS, folders)
        ]
        torch.manual_seed(arguments.seed)
        learner = Learner()
        channels_last(learner)
        optimizer = torch.optim.AdamW(learner.parameters(), lr=LR, weight_decay=0.05, fused=True)
        begun, step, recent = time.monotonic(), 0, []
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(drawn, *sources, step, arguments.seed)
            while (spent := (time.monotonic() - begun) / 60 / arguments.minutes) < 1:
                for group in optimizer.param_groups:
                    group["lr"] = LR * min(1, step / 100) * (1 - spent)
                clips, way, strength = coming.result()
                step += 1
                coming = ahead.submit(drawn, *sources, step, arguments.seed)
                with runtime.autocast():
                    loss, found = learner.loss(clips, way, strength)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recent.append((loss.item(), found.item()))
                if step % 50 == 0:
                    mean = np.mean(recent, 0)
                    print(f"step {step}: loss {mean[0]:.3f}, found {mean[1]:.3f}", flush=True)
                    recent = []
        print(f"{step} steps of {BATCH} clips")
        report(learner.eval(), sources)
    weights = {name: tensor.half().contiguous() for name, tensor in learner.encoder.state_dict().items()}
    save_file({name: tensor for name, tensor in weights.items() if "num_batches" not in name}, arguments.out)


@torch.inference_mode()
def report(learner: Learner, sources: list[list[Source]]) -> None:
    """Measure on clips of another seed, and set the mean and deviation that features are standardised by."""
    kept: list[Tensor] = []
    found, predicted, truth = [], [], []
    for step in range(20):
        clips, way, strength = drawn(*sources, step, HELD_OUT)
        features = learner.encoder(clips)
        kept.append(features[: 2 * BATCH])
        a, b, _ = F.normalize(learner.project(features), dim=1).chunk(3)
        found.append(((a @ b.T).argmax(1) == torch.arange(BATCH)).float())
        predicted.append(learner.strength(features))
        truth.append(learner.truth(way, strength))
    table = Table("", "", title="Clips of another seed")
    table.add_row("the same clip is found", f"{torch.cat(found).mean():.3f} (chance {1 / BATCH:.3f})")
    pairs = zip(CORRUPTIONS, torch.cat(predicted).T, torch.cat(truth).T, strict=True)
    for corruption, guess, true in pairs:
        table.add_row(f"strength of {corruption.__name__}: correlation", f"{np.corrcoef(guess, true)[0, 1]:.3f}")
    Console().print(table)
    clean = torch.cat(kept)
    learner.encoder.mean.copy_(clean.mean(0))
    learner.encoder.deviation.copy_(clean.std(0))


if __name__ == "__main__":
    main()
