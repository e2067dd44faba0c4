"""Visible corruptions of clips, each at a strength from 0 (none) to 1, to test measures with.

Spatial ones change every frame of a clip alike, so that motion stays as it was; temporal ones change the order of the
frames, or with flicker their brightness. After Unterthiner et al. 2018 (arXiv 1812.01717) and Ge et al. 2024 (arXiv
2404.12391), who test video distances so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter

__all__ = ["SPATIAL", "TEMPORAL", "corrupted"]

Clips = UInt8[np.ndarray, "N T H W 3"]
# at strength 1; pixels are of frames whose shorter side is 64
BLUR = 3.0  # deviation in pixels
NOISE = 30.0  # deviation, of 255
BLOCK = 8  # side in pixels
TINT = (1.0, 0.85, 0.6)  # the colour of grey
REVERSED = 0.5  # share of the frames: a clip that runs backwards as a whole has no break in it
DROPPED = 0.6  # share of the frames: with more, the clip hardly moves
FLICKER = 0.2  # deviation of a frame's brightness, as a share of it


def corrupted(clips: UInt8[np.ndarray, "N T H W 3"], name: str, strength: float, seed: int = 0) -> Clips:
    """The clips under a corruption of SPATIAL or TEMPORAL; its draws depend on `seed` and the clip's number."""
    corruption = (SPATIAL | TEMPORAL)[name]
    rngs = (np.random.default_rng((seed, number)) for number in range(len(clips)))
    return np.stack([corruption(clip, strength, rng) for clip, rng in zip(clips, rngs, strict=True)])


def _blur(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur."""
    deviation = BLUR * strength * min(clip.shape[1:3]) / 64
    return _pixels(gaussian_filter(clip.astype(np.float32), (0, deviation, deviation, 0), mode="nearest"))


def _noise(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise, the same on every frame."""
    return _pixels(clip + NOISE * strength * rng.standard_normal(clip.shape[1:], np.float32))


def _blocks(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Squares towards their mean, as in coarse compression."""
    side = max(2, round(BLOCK * min(clip.shape[1:3]) / 64))
    flat = clip.astype(np.float32)
    for axis in (1, 2):
        edges = np.arange(0, clip.shape[axis], side)
        sizes = np.diff(edges, append=clip.shape[axis])
        sums = np.moveaxis(np.add.reduceat(flat, edges, axis), axis, -1)
        flat = np.moveaxis((sums / sizes).repeat(sizes, -1), -1, axis)
    return _pixels(clip + strength * (flat - clip))


def _colour(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Colours towards a brownish grey of the same brightness."""
    grey = clip.mean(-1, keepdims=True, dtype=np.float32) * np.array(TINT, np.float32)
    return _pixels(clip + strength * (grey - clip))


def _freeze(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A range of frames repeats its first frame."""
    first, length = _range(len(clip), strength, rng)
    order = np.arange(len(clip))
    order[first : first + length] = first
    return clip[order]


def _shuffle(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the frames is permuted."""
    order = np.arange(len(clip))
    some = rng.choice(len(clip), _share(len(clip), strength), replace=False)
    order[some] = order[rng.permutation(some)]
    return clip[order]


def _reverse(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A range of frames runs backwards."""
    first, length = _range(len(clip), strength * REVERSED, rng)
    order = np.arange(len(clip))
    order[first : first + length] = order[first : first + length][::-1]
    return clip[order]


def _swap(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the pairs of neighbouring frames is swapped."""
    order = np.arange(len(clip))
    for pair in rng.permutation(len(clip) // 2)[: round(strength * (len(clip) // 2))]:
        order[2 * pair : 2 * pair + 2] = 2 * pair + 1, 2 * pair
    return clip[order]


def _drop(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the frames, never the first, is replaced by the frame before."""
    order = np.arange(len(clip))
    order[1 + rng.choice(len(clip) - 1, round(strength * DROPPED * (len(clip) - 1)), replace=False)] = 0
    return clip[np.maximum.accumulate(order)]


def _flicker(clip: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Every frame is darker or brighter at random."""
    level = np.maximum(1 + FLICKER * strength * rng.standard_normal((len(clip), 1, 1, 1), np.float32), 0)
    return _pixels(clip * level)


def _share(frames: int, strength: float) -> int:
    """The number of frames in a share of them: none, or at least two."""
    return 0 if strength == 0 else min(frames, max(2, round(strength * frames)))


def _range(frames: int, strength: float, rng: np.random.Generator) -> tuple[int, int]:
    """The first frame of a random range, and its length."""
    length = _share(frames, strength)
    return int(rng.integers(frames - length + 1)), length


def _pixels(values: Float[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    return values.round().clip(0, 255).astype(np.uint8)


Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
SPATIAL: dict[str, Corruption] = {"blur": _blur, "noise": _noise, "blocks": _blocks, "colour": _colour}
TEMPORAL: dict[str, Corruption] = {
    "freeze": _freeze,
    "shuffle": _shuffle,
    "reverse": _reverse,
    "swap": _swap,
    "drop": _drop,
    "flicker": _flicker,
}
