"""The sprite world: one to three moving shapes, with captions, sound and actions.

Shapes of several colours and sizes travel, bounce, orbit, zigzag, grow, spin, appear or wander over plain and textured
backgrounds, at once or one after the other. Captions have many paraphrases. Every bounce makes a click, whose pitch
depends on the shape and loudness on the size. The actions are the first sprite's displacements. Sprites of a clip
differ in colour, never overlap and stay within the frame, so that `sprite_verifier` can check a clip exactly.

For each shape and motion one colour is held out of training, to measure how a model generalises to new combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from kinema.conditions.audio import SAMPLE_RATE
from kinema.conditions.text import make_vocabulary
from kinema.types import Batch, ClipSpec, Conditions, hash_seed
from kinema.worlds.sprite_drawing import COLOURS, DIRECTIONS, EXTENTS, REACH, SHAPES, SIZES, draw
from kinema.worlds.sprite_verifier import verify
from kinema.worlds.sprite_words import BACKGROUNDS, MOTION_WORDS, Asked, Sprite, caption, phrases

__all__ = ["COLOURS", "MOTIONS", "SIZES", "Scene", "Sprites", "render", "scene", "sound"]

MOTIONS = tuple(MOTION_WORDS)
MOTION_WEIGHTS = {
    "bounce": 4,
    "orbit": 4,
    "zigzag": 4,
    "spin": 4,
}  # relative frequency in training of motions that are harder to learn
MOST = 3  # sprites of a clip
FEWEST, LENGTH = 8, 16  # frames that show a motion; of the clip that shorter ones are cut from
FPS = 8.0
GROWN = (3.5, 10.0)  # first and last radius of a sprite that grows
TRIES = 12  # candidate paths of each sprite after the first; the one farthest from the others is taken
CLEAR = 1.0  # least distance between sprites, pixels

PITCHES = (523.0, 659.0, 784.0, 988.0, 1319.0, 1760.0)  # hertz of a click, by shape
LOUDNESS = {"small": 0.3, "medium": 0.55, "large": 0.9}
CLICK = 0.06  # seconds


@dataclass(frozen=True, slots=True)
class Scene:
    """The ground truth of a batch of clips; a shape of -1 is no sprite, lengths are in pixels of the frame."""

    asked: tuple[Asked, ...]
    captions: tuple[str, ...]
    shape: Int64[np.ndarray, "B 3"]
    colour: UInt8[np.ndarray, "B 3 3"]
    size: Int64[np.ndarray, "B 3"]  # index in SIZES
    centres: Float32[np.ndarray, "B T 3 2"]
    radius: Float32[np.ndarray, "B T 3"]
    angle: Float32[np.ndarray, "B T 3"]  # radians, clockwise
    seen: Float32[np.ndarray, "B T 3"]  # opacity
    bounced: Bool[np.ndarray, "B T 3"]  # between the frame before and this one
    background: UInt8[np.ndarray, "B H W"]

    def cut(self, first: Int64[np.ndarray, " B"], frames: int) -> Scene:
        """The scene of `frames` frames only, from frame `first` of each clip."""
        times = first[:, None] + np.arange(frames)  # [B, T]
        clip = np.arange(len(first))[:, None]
        moving = ("centres", "radius", "angle", "seen", "bounced")
        return replace(self, **{name: getattr(self, name)[clip, times] for name in moving})


class Sprites:
    """An endless source of sprite clips, 8 frames a second, with captions, sound and actions.

    The action of a frame is the first sprite's displacement from the frame before, x and y (down), in pixels of a frame
    whose shorter side is 64. Clips of fewer than 8 frames, too few to show a motion, are cut at random from clips of
    16. Raises ValueError for frames too small to show a shape.
    """

    skipped = ()  # clips are rendered, not read

    def __init__(self, frames: int = 17, height: int = 64, width: int = 64) -> None:
        if min(height, width) < 32:
            raise ValueError(f"sprites needs frames of 32x32 or more, not {height}x{width}")
        words = make_vocabulary((*phrases(), *COLOURS))
        self.spec = ClipSpec(frames, height, width, fps=FPS, words=words.words, actions=2, audio=True)

    @property
    def key(self) -> str:
        """The world's name, the frequencies of its motions, and the sizes of its clips."""
        return f"sprites {MOTION_WEIGHTS} {self.spec}"

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The `size` clips of a training step, frames uint8; a function of `seed`, `step` and `rank`."""
        spec = self.spec
        truth, steps = self._truth(step, size, seed, rank)
        conditions = Conditions(
            text=truth.captions,
            audio=torch.from_numpy(sound(truth)),
            actions=torch.from_numpy(steps * (64 / min(spec.height, spec.width))),
        )
        return Batch(torch.from_numpy(render(truth)), conditions)

    def matches_prompt(
        self, clips: UInt8[np.ndarray, "N T H W 3"], step: int, size: int, *, seed: int
    ) -> Float[np.ndarray, " N"]:
        """1 where a clip matches the caption of the same index in `batch(step, size, seed=seed)`, else 0."""
        asked = self._truth(step, size, seed, 0)[0].asked
        return np.array(
            [float(verify(clip, prompt).matches_prompt) for clip, prompt in zip(clips, asked, strict=False)]
        )

    def _truth(self, step: int, size: int, seed: int, rank: int) -> tuple[Scene, Float32[np.ndarray, "B T 2"]]:
        """The scene of a training step, and the first sprite's displacement to each frame in pixels."""
        spec = self.spec
        rng, length = np.random.default_rng((seed, step, rank)), spec.frames if spec.frames >= FEWEST else LENGTH
        truth = scene(rng, size, length, spec.height, spec.width, often=MOTION_WEIGHTS)
        steps = np.diff(truth.centres[:, :, 0], axis=1, prepend=truth.centres[:, :1, 0])
        first = rng.integers(length - spec.frames + 1, size=size)
        return truth.cut(first, spec.frames), steps[np.arange(size)[:, None], first[:, None] + np.arange(spec.frames)]


def _held_out() -> Int64[np.ndarray, "shape motion"]:
    """The colour that is held out of training, by shape and motion."""
    return np.array([[hash_seed("held out", shape, motion) % len(COLOURS) for motion in MOTIONS] for shape in SHAPES])


HELD_OUT = _held_out()


def scene(
    rng: np.random.Generator,
    clips: int,
    frames: int,
    height: int,
    width: int,
    *,
    sprites: int | None = None,
    then: bool | None = None,
    unseen: bool = False,
    often: Mapping[str, float] | None = None,
) -> Scene:
    """A random scene of `clips` clips, of the combinations in training or, if `unseen`, of held-out ones.

    `sprites` is the number of sprites and `then` whether two follow each other; None: random. A clip has fewer sprites
    where present is no room for more. `often` has relative frequencies of motions, 1 for those not in it.
    """
    unit = min(height, width) / 64
    room = np.array([width, height]) / unit  # lengths are in pixels of a shorter side of 64 until the end
    count = rng.choice((1, 2, 3), clips, p=(0.4, 0.42, 0.18)) if sprites is None else np.full(clips, sprites)
    sequential = (rng.random(clips) < 1 / 3 if then is None else np.full(clips, then)) & (count == 2)
    shape = rng.integers(len(SHAPES), size=(clips, MOST))
    weights = np.array([(often or {}).get(name, 1) for name in MOTIONS], float)
    motion = rng.choice(len(MOTIONS), (clips, MOST), p=weights / weights.sum())
    for turning in (SHAPES.index("circle"), SHAPES.index("ring")):  # whose spin is not visible
        invisible = (shape == turning) & (motion == MOTIONS.index("spin"))
        shape = np.where(invisible, SHAPES.index("square") + rng.integers(4, size=shape.shape), shape)
    colour = _colours(rng, shape, motion, unseen)
    bounds = np.where((count > 1)[:, None], (0.45, 0.85), (1 / 3, 2 / 3))
    size = (rng.random((clips, MOST))[..., None] > bounds[:, None]).sum(-1)

    begin, end = np.zeros((clips, MOST), int), np.full((clips, MOST), frames)
    begin[sequential, 1], end[sequential, 0] = frames // 2, frames // 2
    paths: list[_Path] = []
    present = np.arange(MOST) < count[:, None]
    for i in range(MOST):
        path = _paths(
            rng, TRIES if i else 1, shape[:, i], motion[:, i], size[:, i], begin[:, i], end[:, i], frames, room
        )
        chosen, clear = path.clearest(paths)
        present[:, i] &= clear
        chosen.seen[~present[:, i]] = 0
        paths.append(chosen)
    present[:, 2] &= present[:, 1]  # sprites are numbered without gaps
    shape = np.where(present, shape, -1)

    stacked = [np.stack([getattr(path, name) for path in paths], 2) for name in ("centres", "radius", "angle", "seen")]
    centres, radius, angle, seen = (values.astype(np.float32) for values in stacked)
    seen *= present[:, None]
    bounced = np.stack([path.bounced for path in paths], 2) & present[:, None]
    asked, captions, places = [], [], rng.integers(len(BACKGROUNDS), size=clips)
    for clip in range(clips):
        described = _asked(
            rng, present[clip], shape[clip], colour[clip], motion[clip], size[clip], bool(sequential[clip])
        )
        asked.append(described)
        captions.append(caption(described, list(BACKGROUNDS)[places[clip]], rng))
    return Scene(
        tuple(asked),
        tuple(captions),
        shape,
        np.array(list(COLOURS.values()), np.uint8)[colour],
        size,
        centres * np.float32(unit),
        radius * np.float32(unit),
        angle,
        seen,
        bounced,
        _backgrounds(rng, places, height, width),
    )


def _asked(rng, present, shape, colour, motion, size, sequential: bool) -> Asked:
    shapes, colours, sizes = SHAPES, tuple(COLOURS), tuple(SIZES)
    with_size = rng.random(len(present)) < 0.6
    sprites = tuple(
        Sprite(shapes[s], colours[c], MOTIONS[m], sizes[z] if sized and MOTIONS[m] != "grow" else None)
        for is_present, s, c, m, z, sized in zip(present, shape, colour, motion, size, with_size, strict=True)
        if is_present
    )
    return Asked(sprites, sequential and len(sprites) == 2)


def _colours(
    rng: np.random.Generator, shape: Int64[np.ndarray, "B 3"], motion: Int64[np.ndarray, "B 3"], unseen: bool
) -> Int64[np.ndarray, "B 3"]:
    """Colours that differ within a clip, none of them held out; if `unseen`, held-out ones as far as they differ."""
    clips = len(shape)
    order = rng.random((clips, len(COLOURS))).argsort(1)
    held = HELD_OUT[shape, motion]
    if unseen:
        chosen = held.copy()
        for i in range(1, MOST):  # a colour that an earlier sprite has is replaced by a free one
            taken = (chosen[:, i, None] == chosen[:, :i]).any(1)
            free = (order[:, :, None] != chosen[:, None, :i]).all(2).argmax(1)
            chosen[taken, i] = order[taken, free[taken]]
        return chosen
    first, second = order[:, :MOST], order[:, MOST : 2 * MOST]
    return np.where(first == held, second, first)


@dataclass(slots=True)
class _Path:
    """The paths of one sprite of each clip, or several candidates [B, tries, T, ...]."""

    centres: Float[np.ndarray, "*B T 2"]
    radius: Float[np.ndarray, "*B T"]
    angle: Float[np.ndarray, "*B T"]
    seen: Float[np.ndarray, "*B T"]
    bounced: Bool[np.ndarray, "*B T"]
    reach: Float[np.ndarray, "*B T"]

    def clearest(self, others: list[_Path]) -> tuple[_Path, Bool[np.ndarray, " B"]]:
        """The candidate that keeps farthest from the other sprites, and whether that is far enough."""
        distance = np.full(self.radius.shape[:2], np.inf)  # [B, tries]
        for other in others:
            gap = np.hypot(*np.moveaxis(self.centres - other.centres[:, None], -1, 0)) - self.reach
            both = (self.seen > 0) & (other.seen > 0)[:, None]
            distance = np.minimum(distance, np.where(both, gap - other.reach[:, None], np.inf).min(2))
        clip, best = np.arange(len(distance)), distance.argmax(1)
        names = ("centres", "radius", "angle", "seen", "bounced", "reach")
        return _Path(*(getattr(self, name)[clip, best] for name in names)), distance[clip, best] > CLEAR


def _paths(
    rng: np.random.Generator,
    tries: int,
    shape: Int64[np.ndarray, " B"],
    motion: Int64[np.ndarray, " B"],
    size: Int64[np.ndarray, " B"],
    begin: Int64[np.ndarray, " B"],
    end: Int64[np.ndarray, " B"],
    frames: int,
    room: Float[np.ndarray, "2"],
) -> _Path:
    """`tries` random paths of one sprite of each clip, visible from frame `begin` to before frame `end`."""
    clips = len(shape)
    t = np.arange(frames)
    inside = (begin[:, None] <= t) & (t < end[:, None])  # [B, T]
    s = ((t - begin[:, None]) / (end - begin - 1)[:, None]).clip(0, 1)  # time within a sprite's frames, in [0, 1]
    brief = (end - begin < 2 * frames // 3)[:, None]  # half a clip: shorter paths, so that steps stay small

    is_a = {name: motion == number for number, name in enumerate(MOTIONS)}
    radius = np.array(list(SIZES.values()))[size]
    radii = np.where(is_a["grow"][:, None], GROWN[0] + (GROWN[1] - GROWN[0]) * s, radius[:, None])  # [B, T]
    largest = radii.max(1)
    extents = (
        np.where(is_a["spin"][:, None, None], REACH[shape][:, None, None], EXTENTS[shape]) * largest[:, None, None]
    )
    low = extents[:, None, 0] + 0.5  # [B, 1, 2] of centres
    high = room - extents[:, None, 1] - 0.5
    span = high - low

    def uniform(a: float = 0.0, b: float = 1.0, *shape: int) -> Float[np.ndarray, "B tries *n"]:
        return rng.uniform(a, b, (clips, tries, *shape))

    fixed = low + uniform(0, 1, 2) * span
    centres = np.broadcast_to(fixed[:, :, None], (clips, tries, frames, 2)).copy()  # [B, tries, T, 2]
    along = s[:, None, :, None]
    angle = np.zeros((clips, tries, frames))
    bounced = np.zeros((clips, tries, frames), bool)

    ways = np.array([DIRECTIONS.get(name, (0, 0)) for name in MOTIONS], float)[motion][:, None]  # [B, 1, 2]
    straight = np.any(ways, (1, 2))
    longest = np.where(ways != 0, span, np.inf).min(2, keepdims=True)  # the shorter axis of the motion
    length = np.where(straight[:, None, None], longest, 0) * uniform(0.55, 1, 1)
    start = low + np.where(ways < 0, length, 0) + uniform(0, 1, 2) * (span - length * np.abs(ways))
    _assign(centres, straight, start[:, :, None] + (length * ways)[:, :, None] * along)

    # a bounce: a straight line through a point on a wall, reflected at every wall
    heading, wall = uniform(-0.9, 0.9), rng.integers(4, size=(clips, tries))
    towards = np.stack([np.cos(heading), np.sin(heading)], -1)  # mostly along the first axis
    towards = np.where((wall % 2 == 0)[..., None], towards, towards[..., ::-1]) * np.where(wall < 2, 1, -1)[..., None]
    point = uniform(0, 1, 2) * span
    at_wall = np.where((wall < 2)[..., None], span, 0)
    across = np.stack([wall % 2 == 0, wall % 2 == 1], -1)
    point = np.where(across, at_wall, point)
    fast = np.where(brief, uniform(28, 40), uniform(42, 70))[..., None]
    line = point[:, :, None] + (fast * towards)[:, :, None] * (along - uniform(0.3, 0.7)[..., None, None])
    folds = np.floor(line / span[:, :, None])
    rest = line - folds * span[:, :, None]
    rest = np.where(folds % 2 == 0, rest, span[:, :, None] - rest)
    _assign(centres, is_a["bounce"], low[:, :, None] + rest)
    bounced[:, :, 1:] = (np.diff(folds, axis=2) != 0).any(-1) & is_a["bounce"][:, None, None]
    bounced &= inside[:, None]

    circle = 9 + uniform(0, 1, 1) * (np.minimum(16, span.min(2, keepdims=True) / 2) - 9)
    middle = low + circle + uniform(0, 1, 2) * (span - 2 * circle)
    turned = (
        uniform(0, 2 * np.pi)[..., None] + _random_sign(rng, uniform(1.67 * np.pi, 2.3 * np.pi))[..., None] * s[:, None]
    )
    ring = np.stack([np.cos(turned), np.sin(turned)], -1)
    _assign(centres, is_a["orbit"], middle[:, :, None] + circle[:, :, None] * ring)

    swings = np.where(brief, 3, rng.integers(3, 5, size=(clips, tries)))[..., None]
    phase = s[:, None] * swings  # up, down, up...
    wave = 2 * np.abs((phase + uniform(0.0, 0.3)[..., None] + rng.integers(2, size=(clips, tries, 1))) % 2 - 1) - 1
    wide = uniform(5.5, 8.5)[..., None]
    forth = _random_sign(rng, np.ones((clips, tries)))[..., None]
    travel = span * uniform(0.6, 1, 1)  # [B, tries, 2] if along this axis
    progress = 0.5 + forth * (s[:, None] - 0.5)
    onward = (
        low[:, :, None] + (uniform(0, 1, 2) * (span - travel))[:, :, None] + travel[:, :, None] * progress[..., None]
    )
    swing = (low + wide + uniform(0, 1, 2) * (span - 2 * wide))[:, :, None] + (wide * wave)[..., None]
    level = np.array([True, False]) ^ (rng.random((clips, tries, 1, 1)) < 0.5)  # the axis of travel
    _assign(centres, is_a["zigzag"], np.where(level, onward, swing))

    waves = np.arange(1, 4)[:, None]
    about = np.sin(np.pi * waves * s[:, None, :, None, None] + uniform(0, 2 * np.pi, 1, 3, 2)) / waves**0.7
    about = (about * uniform(0.3, 1, 1, 3, 2)).sum(3)  # [B, tries, T, 2]
    about = (about - about.min(2, keepdims=True)) / (np.ptp(about, 2)[:, :, None] + 1e-6)
    roam = uniform(0.4, 1, 1, 2) * span[:, :, None]
    _assign(centres, is_a["wander"], low[:, :, None] + uniform(0, 1, 1, 2) * (span[:, :, None] - roam) + roam * about)

    spin = np.where(brief, uniform(np.radians(130), np.radians(190)), uniform(np.radians(150), np.radians(290)))
    angle = np.where(is_a["spin"][:, None, None], _random_sign(rng, spin)[..., None] * s[:, None], angle)
    shown = ~is_a["appear"][:, None] | (s >= rng.uniform(0.3, 0.6, clips)[:, None])

    def every(values: Float[np.ndarray, "B T"]) -> Float[np.ndarray, "B tries T"]:
        return np.broadcast_to(values[:, None], (clips, tries, frames)).copy()

    seen = every((inside & shown).astype(float))
    return _Path(centres, every(radii), angle, seen, bounced, every(REACH[shape][:, None] * radii))


def _assign(centres: Float[np.ndarray, "B tries T 2"], some: Bool[np.ndarray, " B"], values: np.ndarray) -> None:
    centres[some] = np.broadcast_to(values, centres.shape)[some]


def _random_sign(rng: np.random.Generator, values: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """`values` with random signs."""
    return values * np.where(rng.random(values.shape) < 0.5, 1, -1)


def _backgrounds(
    rng: np.random.Generator, places: Int64[np.ndarray, " B"], height: int, width: int
) -> UInt8[np.ndarray, "B H W"]:
    """Black, plain grey, stripes, checkers or clouds, all darker than any sprite."""
    y, x = np.mgrid[:height, :width] / min(height, width)  # [H, W]
    grey = np.zeros((len(places), height, width))
    for number in range(1, len(BACKGROUNDS)):
        some = np.flatnonzero(places == number)
        dark, bright, turn = rng.uniform(((5,), (20,), (0,)), ((45,), (45,), (np.pi,)), (3, len(some)))[..., None, None]
        pitch = rng.uniform(4 * np.pi, 10 * np.pi, (len(some), 1, 1))  # radians across the shorter side
        shift = rng.uniform(0, 2 * np.pi, (3, len(some), 1, 1))
        if number == 1:
            pattern = 0.0
        elif number == 2:
            pattern = np.sin(pitch * (np.cos(turn) * x + np.sin(turn) * y) + shift[0]) > 0
        elif number == 3:
            pattern = (np.sin(pitch * x + shift[0]) > 0) ^ (np.sin(pitch * y + shift[1]) > 0)
        else:
            bent = np.sin(5 * x + shift[0] + 2 * np.sin(4 * y + shift[1]))
            pattern = bent * np.sin(6 * y + shift[2] + x) / 2 + 0.5
        grey[some] = dark + bright * pattern
    return (grey + 0.5).astype(np.uint8)


def render(scene: Scene) -> UInt8[np.ndarray, "B T 3 H W"]:
    """The scene's frames."""
    return draw(scene.background, scene.shape, scene.colour, scene.centres, scene.radius, scene.angle, scene.seen)


def sound(scene: Scene) -> Float32[np.ndarray, "B samples"]:
    """A mono waveform at SAMPLE_RATE of the clip's duration, with a click at the frame of every bounce."""
    clips, frames, _ = scene.bounced.shape
    waves = np.zeros((clips, round(frames / FPS * SAMPLE_RATE)), np.float32)
    time = np.arange(round(CLICK * SAMPLE_RATE)) / SAMPLE_RATE
    loudness = tuple(LOUDNESS.values())
    for clip, frame, sprite in np.argwhere(scene.bounced):
        first = round(frame / FPS * SAMPLE_RATE)
        click = np.sin(2 * np.pi * PITCHES[scene.shape[clip, sprite]] * time) * np.exp(-time / (CLICK / 5))
        click = loudness[scene.size[clip, sprite]] * click[: waves.shape[1] - first]
        waves[clip, first : first + len(click)] += click.astype(np.float32)
    return waves.clip(-1, 1)
