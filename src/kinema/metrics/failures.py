"""Failures of video models, drawn from real clips, and the order in which a person prefers them.

A measure that prefers static noise to a man who can be seen is of no use to who trains a model. So each failure is one
that models do make: they blur, dull and block (a codec that keeps few channels), stand still, copy the frames that they
were given, leave checkers (Odena et al. 2016, distill.pub/2016/deconv-checkerboard), draw one clip or the mean clip for
every seed, one colour, or noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import UInt8

from kinema.codecs.transform import TransformConfig
from kinema.data.writing import from_uint8, to_uint8

__all__ = ["FAILURES", "PREFERENCE", "failed"]

Clips = UInt8[np.ndarray, "N T H W 3"]
GIVEN = 5  # frames
BLOCK = 4  # pixels and frames of the codec
BATCH = 16  # clips
CHECKER = 4  # pixels of a side
CONTRAST = 24  # levels of 255 to either side

PREFERENCE: tuple[tuple[str, ...], ...] = (
    ("codec 24",),  # hardly different from the real clips
    ("codec 8", "copy"),  # all is there, a little soft; sharp, but it stops
    ("frozen", "codec 3"),  # sharp pictures, but no video; everything moves as it should, in blocks
    ("checkers", "one clip"),  # a pattern over everything; flawless, but no seed changes it
    ("codec 1", "mean clip"),  # grey shapes; a blur for every seed
    ("one colour", "noise"),  # nothing can be seen
)
"""Best first; a person has no preference, or people differ, among those in one place.

It was set by looking at sheets of four sets of clips (a robot, faces, ultrasound, actions), before any was measured;
the one clip alone went a place lower later. What can be seen counts most, then that it moves, then that clips differ.
"""


def failed(clips: UInt8[np.ndarray, "N T H W 3"], name: str, seed: int = 0) -> Clips:
    """As many clips as `clips`, of a model that fails as `name` of FAILURES says; the same for the same seed."""
    return FAILURES[name](clips, np.random.default_rng(seed))


def _codec(channels: int, clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reconstructions by the transform codec of the clips, which keeps this many values of 4x4 pixels x 4 frames."""
    frames, height, width = clips.shape[1:4]
    pads = [(0, 0), (0, (1 - frames) % BLOCK), (0, -height % BLOCK), (0, -width % BLOCK), (0, 0)]
    padded = from_uint8(np.pad(clips, pads, mode="edge"))
    codec = TransformConfig(BLOCK, BLOCK, channels).build()
    codec.calibrate(padded.split(1))
    made = [to_uint8(codec.decode(codec.encode(part)[0])[0]) for part in padded.split(BATCH)]
    return np.concatenate(made)[:, :frames, :height, :width]


def _copy(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Five real frames, the last of which is repeated."""
    return clips[:, np.minimum(np.arange(clips.shape[1]), GIVEN - 1)]


def _frozen(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first frame, repeated."""
    return clips[:, :1].repeat(clips.shape[1], 1)


def _checkers(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A board of darker and brighter squares over the clips, at rest."""
    places = np.indices(clips.shape[2:4]).astype(np.int64) // CHECKER
    board = CONTRAST * (1 - 2 * (places.sum(0) % 2))[..., None]  # [H, W, 1]
    return np.stack([(clip + board).clip(0, 255).astype(np.uint8) for clip in clips])


def _one_clip(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The clip that is nearest to the mean of all, for every seed."""
    mean = clips.mean(0, dtype=np.float32)
    nearest = np.argmin([np.square(clip - mean).mean() for clip in clips])
    return np.broadcast_to(clips[nearest], clips.shape)


def _mean_clip(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean over all clips, for every seed."""
    return np.broadcast_to(clips.mean(0).round().astype(np.uint8), clips.shape)


def _one_colour(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean colour of all pixels."""
    return np.broadcast_to(clips.mean((0, 1, 2, 3)).round().astype(np.uint8), clips.shape)


def _noise(clips: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform noise, another in each clip and the same on every frame."""
    frames, shape = clips.shape[1], (len(clips), 1, *clips.shape[2:])
    return rng.integers(0, 256, shape, np.uint8).repeat(frames, 1)


FAILURES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "codec 24": partial(_codec, 24),
    "codec 8": partial(_codec, 8),
    "copy": _copy,
    "frozen": _frozen,
    "codec 3": partial(_codec, 3),
    "checkers": _checkers,
    "one clip": _one_clip,
    "codec 1": partial(_codec, 1),
    "mean clip": _mean_clip,
    "one colour": _one_colour,
    "noise": _noise,
}
