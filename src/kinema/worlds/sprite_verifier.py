"""Measures the sprites of a clip from its pixels alone, and verifies them against a caption.

No network is involved, so scores are reproducible. Backgrounds are grey, so a pixel's chroma is that of its sprite
times the share of the pixel that the sprite covers; that gives subpixel areas and centres, also at blurred edges.
Shapes are compared with blurred renderings of the world's shapes in polar coordinates, where a rotation is a shift.
Motions are classified by the thresholds in `motion_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Complex64, Float, Float32, UInt8

from kinema.worlds.sprite_drawing import COLOURS, DIRECTIONS, SHAPES, SIZES, draw
from kinema.worlds.sprite_words import Asked, Sprite

__all__ = ["Found", "Track", "Verdict", "bounce_frames", "motion_of", "size_of", "tracks", "verify"]

# Areas and lengths are for frames whose shorter side is 64 pixels.
SPECK = 0.4 * np.pi * SIZES["small"] ** 2  # least area of a sprite in the frame where it is largest
GLIMPSE = 12.0  # least area of a sprite that is visible in a frame
STRONG = 0.4  # coverage above which a pixel certainly belongs to a sprite
RIM = 2  # pixels around those that still belong to the sprite
WHITE = 150  # threshold between the brightest background and white
FIT = 0.8  # least squared correlation with a shape
ORDERS = {"square": 4, "triangle": 3, "star": 5, "cross": 4}  # order of rotational symmetry

RINGS, RAYS, REACH = 14, 60, 1.8  # polar grid out to REACH radii; 60 rays are divisible by 3, 4 and 5
SOFT = (0.03, 0.06, 0.1, 0.15, 0.22, 0.3)  # blurs of the reference shapes, in radii

STILL = 2.5  # largest distance from the median position of a sprite that stays
TURN = 2.5  # least reversal that counts as a turn
THROUGHOUT = 0.85  # least share of its frames in which a sprite must be visible


@dataclass(frozen=True, slots=True)
class Track:
    """The sprite of one colour over time, in pixels of the frame; values are undefined where it is not visible."""

    colour: str
    shape: str  # "none" if no shape fits
    visible: Bool[np.ndarray, " T"]
    centres: Float[np.ndarray, "T 2"]  # x, y from the frame's top left corner
    area: Float[np.ndarray, " T"]
    angle: Float[np.ndarray, " T"]  # radians, clockwise, unwrapped; 0 for a circle and a ring
    gaps: Float[np.ndarray, "T 4"]  # to the frame's left, top, right and bottom edge
    spare: Float[np.ndarray, " T"]  # area of the same colour elsewhere

    def during(self, first: int, end: int) -> Track:
        """The track in frames [first, end)."""
        part = slice(first, end)
        rest = (self.visible, self.centres, self.area, self.angle, self.gaps, self.spare)
        return Track(self.colour, self.shape, *(values[part] for values in rest))


@dataclass(frozen=True, slots=True)
class Found:
    """Which requested attributes of a sprite a clip shows."""

    found: bool  # a sprite of that colour, throughout its frames
    shape: bool
    size: bool  # true if it was not requested
    motion: bool  # always true for "wander"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a clip compares with what was requested."""

    sprites: tuple[Found, ...]  # in the order of the request
    extra: tuple[str, ...]  # colours of sprites that were not requested for their half

    @property
    def matches_prompt(self) -> bool:
        """Whether everything matches the request, the order in time included, and nothing else is there."""
        return not self.extra and all(s.found and s.shape and s.size and s.motion for s in self.sprites)


_NAMES = tuple(COLOURS)
_PAINT = np.array(list(COLOURS.values()), np.float32)
_PLANE = np.array([[2, -1, -1], [0, 3**0.5, -(3**0.5)]], np.float32).T / 6**0.5  # RGB to chroma
_CHROMA = (_PAINT @ _PLANE)[:-1]  # of all colours but white
_LENGTH = np.linalg.norm(_CHROMA, axis=1)


def tracks(frames: UInt8[np.ndarray, "T H W 3"]) -> tuple[Track, ...]:
    """The sprites of a clip, at most one of each colour, in the order of COLOURS; smaller spots are ignored."""
    height, width = frames.shape[1:3]
    unit = min(height, width) / 64
    pixels = frames.astype(np.float32)
    chroma = pixels @ _PLANE  # [T, H, W, 2]
    along = chroma @ (_CHROMA / _LENGTH[:, None]).T  # [T, H, W, colours]
    nearest = along.argmax(-1)
    cover = np.take_along_axis(along, nearest[..., None], -1)[..., 0] / _LENGTH[nearest]
    strong = np.where(cover > STRONG, nearest, -1)
    white = _white(pixels, cover, nearest)
    if white is not None:
        strong[(white > STRONG) & (cover <= STRONG)] = len(_CHROMA)
    least = SPECK * unit**2
    likely = [k for k in range(len(_NAMES)) if (strong == k).sum((1, 2)).max() > least / 2]
    own = {k: _grown(strong == k, round(RIM * max(unit, 1))) for k in likely}
    claims = sum(region.astype(np.int8) for region in own.values())
    found = []
    for k, region in own.items():
        if k < len(_CHROMA):
            parts = along[..., k] / _LENGTH[k]
        else:
            assert white is not None
            parts = white
        region &= (
            (claims == 1) | (strong == k) | ((strong < 0) & (nearest == k))
        )  # a contested pixel goes to the nearer colour
        track = _track(_NAMES[k], np.where(region, parts, 0).clip(-0.5, 1), strong == k, unit)
        if (track.area * track.visible).max() >= least:
            found.append(track)
    return tuple(found)


def _white(pixels, cover, nearest) -> Float32[np.ndarray, "T H W"] | None:
    """The share of each pixel that white covers; the background is the pixel's value while it is dark."""
    bright = pixels.mean(-1) - cover.clip(0, 1) * _PAINT.mean(-1)[nearest]  # without the colours' part
    if not (bright > WHITE).any():
        return None
    behind = np.partition(bright, len(bright) // 5, 0)[len(bright) // 5]
    seen = behind < WHITE - 40
    behind = np.where(seen, behind, np.median(behind[seen]) if seen.any() else 0)
    return (bright - (1 - cover.clip(0, 1)) * behind) / (_PAINT[-1].mean() - behind)


def _grown(mask: Bool[np.ndarray, "T H W"], by: int) -> Bool[np.ndarray, "T H W"]:
    for axis in (1, 2):
        grown = mask.copy()
        for step in range(1, by + 1):
            ahead = [slice(None)] * 3
            back = [slice(None)] * 3
            ahead[axis], back[axis] = slice(step, None), slice(None, -step)
            grown[tuple(ahead)] |= mask[tuple(back)]
            grown[tuple(back)] |= mask[tuple(ahead)]
        mask = grown
    return mask


def _track(colour: str, cover: np.ndarray, strong: Bool[np.ndarray, "T H W"], unit: float) -> Track:
    height, width = cover.shape[1:]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    total = cover.sum((1, 2)).clip(0)
    middle = []  # medians, which are robust to spots elsewhere
    for place, counts in ((x, strong.sum(1)), (y, strong.sum(2))):
        upto = counts.cumsum(1)
        middle.append(place[(upto * 2 >= upto[:, -1:]).argmax(1)])
    reach = REACH * np.sqrt(total / np.pi) + 2 * max(unit, 1)
    far = (x - middle[0][:, None])[:, None] ** 2 + (y - middle[1][:, None])[:, :, None] ** 2 > reach[:, None, None] ** 2
    cover = np.where(far, 0, cover)
    columns, rows = cover.sum(1), cover.sum(2)
    area = columns.sum(1).clip(0)
    visible = area > GLIMPSE * unit**2
    weight = np.where(visible, area, 1)
    centres = np.stack([columns @ x / weight, rows @ y / weight], -1)
    body = cover > STRONG
    across, down = np.asarray(body.any(1)), np.asarray(body.any(2))
    gaps = np.stack([side.argmax(1) for side in (across, down, across[:, ::-1], down[:, ::-1])], -1)
    shape, angle = _shape(cover, centres, area, visible)
    return Track(colour, shape, visible, centres, area, angle, gaps.astype(float), total - area)


def _polar(
    images: Float[np.ndarray, "F H W"], centres: Float[np.ndarray, "F 2"], radii: Float[np.ndarray, " F"]
) -> Complex64[np.ndarray, "F rings waves"]:
    """Fourier coefficients along the angle (clockwise from the right) of rings around `centres`, weighted by area."""
    rho = (np.arange(RINGS) + 0.5) / RINGS * REACH
    theta = np.arange(RAYS) * 2 * np.pi / RAYS
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    flat = padded.reshape(-1)
    reach = radii[:, None, None] * rho[:, None]
    x = (centres[:, 0, None, None] + reach * np.cos(theta) + 0.5).clip(0, width + 0.999).astype(np.float32)
    y = (centres[:, 1, None, None] + reach * np.sin(theta) + 0.5).clip(0, height + 0.999).astype(np.float32)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, low = x - left, y - top
    at = (np.arange(len(images))[:, None, None] * (height + 2) + top) * (width + 2) + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + width + 2] * (1 - right) + flat[at + width + 3] * right
    waves = np.fft.rfft(upper * (1 - low) + lower * low) * np.sqrt(rho)[:, None]
    waves[..., 1:] *= 2**0.5  # Parseval: sums of products over waves equal those over rays
    return waves.astype(np.complex64)


@cache
def _templates() -> Complex64[np.ndarray, "shape soft rings waves"]:
    """Polar Fourier coefficients of the world's shapes at several blurs, normalised to length 1."""
    radius, side = 40.0, 192
    count = len(SHAPES)
    ones = np.ones((count, 1, 1), np.float32)
    drawn = draw(
        np.zeros((count, side, side), np.uint8),
        np.arange(count)[:, None],
        np.full((count, 1, 3), 255, np.uint8),
        np.full((count, 1, 1, 2), side / 2, np.float32),
        ones * np.float32(radius),
        ones * 0,
        ones,
    )[:, 0, 0]
    place = np.arange(side)
    waves = []
    for soft in SOFT:
        blur = np.exp(-(((place[:, None] - place) / (soft * radius)) ** 2) / 2)
        blur /= blur.sum(1, keepdims=True)
        waves.append(_polar(blur @ (drawn / 255.0) @ blur.T, np.full((count, 2), side / 2), np.full(count, radius)))
    stacked = np.stack(waves, 1)
    return stacked / np.linalg.norm(stacked, axis=(2, 3), keepdims=True)


def _shape(cover, centres, area, visible) -> tuple[str, Float[np.ndarray, " T"]]:
    """The shape that fits best over all frames in which it is visible, and its angle in each."""
    angle = np.zeros(len(area))
    seen = np.flatnonzero(visible)
    if not len(seen):
        return "none", angle
    waves = _polar(cover[seen], centres[seen], np.sqrt(area[seen] / np.pi))
    length = (np.abs(waves) ** 2).sum((1, 2)) + 1e-6
    fits, turns = [], {}
    for name, template in zip(SHAPES, _templates(), strict=True):  # template [soft, rings, waves]
        order = ORDERS.get(name)
        kept = [0] if order is None else list(range(0, RAYS // 2, order))
        products = np.einsum("frk,srk->fsk", waves[..., kept], template[..., kept].conj())
        if order is not None:  # aligned by the phase of the first wave
            phase = np.angle(products[..., 1])  # minus the angle times the order
            products = products * np.exp(-1j * phase[..., None] * np.arange(len(kept)))
        fit = products.real.sum(-1).clip(0) ** 2 / length[:, None]  # [F, soft], 1 for the same shape
        best = fit.argmax(1)
        fits.append(fit.max(1))
        if order is not None:
            turns[name] = -phase[np.arange(len(best)), best] / order
    mean = np.average(np.stack(fits), axis=1, weights=area[seen])
    best = int(mean.argmax())
    name = SHAPES[best]
    if mean[best] < FIT:
        return "none", angle
    if name in turns:
        order = ORDERS[name]
        angle = np.interp(np.arange(len(angle)), seen, np.unwrap(turns[name] * order) / order)
    return name, angle


def size_of(track: Track, height: int, width: int) -> str:
    """The size whose radius is nearest in ratio, in frames of height x width; "none" if it is 25 % off or more."""
    if not track.visible.any():
        return "none"
    radius = np.sqrt(np.median(track.area[track.visible]) / np.pi) / (min(height, width) / 64)
    name = min(SIZES, key=lambda name: abs(np.log(SIZES[name] / radius)))
    return name if 0.75 < radius / SIZES[name] < 1.25 else "none"


def motion_of(track: Track, height: int, width: int) -> str:
    """The motion of a track in frames of height x width, one of MOTIONS or "still".

    Only frames in which the sprite is visible count. Lengths are pixels of a frame whose shorter side is 64. A sprite
    stays if it is at most 2.5 from its median position in each axis; then it is

    - "appear" if it is invisible for the first fifth of the frames or longer;
    - "grow" if its last radius is at least 1.6 times its first, with a correlation with time of at least 0.9;
    - "spin" if it rotates by at least 110 degrees at a constant rate (root mean square error at most 15 degrees);
    - "still" otherwise.

    A turn is a reversal by 2.5 or more along an axis; it is at an edge if the gap to the edge is at most 3 plus half a
    step. A sprite that does not stay is

    - "orbit" if it follows a circle (radius 7 to 19, root mean square error at most 15 %) in one direction for at least
      260 degrees;
    - "bounce" if it has turns, all at edges, and keeps its speed along each axis (three quarters of the steps within
      1.2 plus 35 % of the median);
    - "zigzag" if it has at least two turns along one axis, not all at edges, over a range of 6 to 24, and moves by at
      least 10 along the other axis without a turn at constant speed (root mean square error below 2);
    - the nearest of the eight directions if it has no turn and moves by at least 10 in a straight line at constant
      speed (root mean square error at most 1 plus 4 % of the distance);
    - "wander" otherwise.
    """
    seen = np.flatnonzero(track.visible)
    if len(seen) < 2:
        return "still"
    unit = min(height, width) / 64
    places = track.centres[seen] / unit  # [n, 2]
    late = seen[0] >= len(track.visible) / 5
    if np.abs(places - np.median(places, 0)).max() <= STILL:
        if late:
            return "appear"
        return _stationary_motion(seen, np.sqrt(track.area[seen] / np.pi), track.angle[seen])
    if _orbits(places):
        return "orbit"
    turns = [_turns(places[:, axis], TURN) for axis in (0, 1)]
    gaps = track.gaps[seen] / unit
    edge = [[_at_edge(places[:, axis], gaps[:, axis::2], turn) for turn in turns[axis]] for axis in (0, 1)]
    if edge[0] + edge[1] and all(edge[0] + edge[1]):
        return "bounce" if all(_keeps_speed(places[:, a], seen, turns[a]) for a in (0, 1)) else "wander"
    for across, axis in ((1, 0), (0, 1)):
        _, off, way = _line(seen, places[:, [axis]])
        wide = 6 <= np.ptp(places[:, across]) <= 24
        if len(turns[across]) > 1 and not turns[axis] and wide and off < 2 and abs(way[0]) >= 10:
            return "zigzag"
    length, off, way = _line(seen, places)
    if not turns[0] + turns[1] and length >= 10 and off <= 1 + 0.04 * length:
        return max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], way) / np.hypot(*DIRECTIONS[name]))
    return "wander"


def _stationary_motion(t: np.ndarray, radius: Float[np.ndarray, " n"], angle: Float[np.ndarray, " n"]) -> str:
    few = max(1, len(t) // 8)
    if radius[-few:].mean() >= 1.6 * radius[:few].mean() and np.corrcoef(t, radius)[0, 1] >= 0.9:
        return "grow"
    _, off, way = _line(t, angle[:, None])
    return "spin" if abs(way[0]) >= np.radians(110) and off <= np.radians(15) else "still"


def _line(t: np.ndarray, values: Float[np.ndarray, "n d"]) -> tuple[float, float, Float[np.ndarray, " d"]]:
    """The length of the linear motion that fits `values`, its root mean square error, and its displacement."""
    late = t - t.mean()
    slope = late @ values / (late @ late)
    off = values - values.mean(0) - late[:, None] * slope
    way = slope * np.ptp(t)
    return float(np.linalg.norm(way)), float(np.sqrt((off**2).sum(1).mean())), way


def _orbits(places: Float[np.ndarray, "n 2"]) -> bool:
    if len(places) < 4:
        return False
    # x^2 + y^2 = 2 c.x + (r^2 - c^2) is linear in the centre c and the constant
    terms = np.concatenate([places, np.ones((len(places), 1))], 1)
    middle = np.linalg.lstsq(terms, (places**2).sum(1), rcond=None)[0][:2] / 2
    out = places - middle
    radii = np.hypot(*out.T)
    radius = radii.mean()
    steps = np.diff(np.unwrap(np.arctan2(out[:, 1], out[:, 0])))
    way = np.sign(steps.sum())
    through = np.abs(steps.sum()) >= np.radians(260) and (steps * way > -0.2).all()
    return bool(7 <= radius <= 19 and radii.std() <= 0.15 * radius and through)


def _turns(values: Float[np.ndarray, " n"], least: float) -> list[int]:
    """The indices at which values reverse by `least` or more."""
    turns: list[int] = []
    low = high = 0  # indices of the extremes since the last turn
    way = 0
    for i in range(1, len(values)):
        if values[i] > values[high]:
            high = i
        if values[i] < values[low]:
            low = i
        if way >= 0 and values[high] - values[i] >= least:
            if way > 0 or high > 0:
                turns.append(high)
            way, low = -1, i
        elif way <= 0 and values[i] - values[low] >= least:
            if way < 0 or low > 0:
                turns.append(low)
            way, high = 1, i
    return [i for i in turns if values[i] - values[0] or i]


def _at_edge(values: Float[np.ndarray, " n"], gaps: Float[np.ndarray, "n 2"], turn: int) -> bool:
    """Whether a turn is at the edge that the sprite moved towards; gaps are to the lower and the upper edge."""
    around = values[[max(turn - 1, 0), min(turn + 1, len(values) - 1)]]
    upper = values[turn] >= around.mean()
    step = np.abs(np.diff(values)).max(initial=0)
    return bool(gaps[turn, int(upper)] <= 3 + step / 2)


def _keeps_speed(values: Float[np.ndarray, " n"], t: np.ndarray, turns: Sequence[int]) -> bool:
    speeds = np.abs(np.diff(values) / np.diff(t))
    steady = np.ones(len(speeds), bool)
    for turn in turns:  # steps around the turn are shorter
        steady[max(turn - 1, 0) : turn + 1] = False
    if not steady.any():
        return True
    usual = np.median(speeds[steady])
    return bool((np.abs(speeds[steady] - usual) <= 1.2 + 0.35 * usual).mean() >= 0.75)


def verify(frames: UInt8[np.ndarray, "T H W 3"], asked: Asked) -> Verdict:
    """Compare a clip with what was requested; sprites are identified by their colour.

    A sprite is found if it is visible in 85 % of its frames; for "appear", of those since it became visible. A sprite
    that was not requested counts as extra if it is visible in more than a tenth of the frames and more than one, and so
    does a second spot of a requested colour that is as large as a small sprite's least area.
    """
    count = len(frames)
    height, width = frames.shape[1:3]
    seen = tracks(frames)
    parts = [(asked.sprites, 0, count)]
    if asked.then:
        half = count // 2
        parts = [(asked.sprites[:1], 0, half), (asked.sprites[1:], half, count)]
    results, extra = [], []
    for sprites, first, end in parts:
        there = {track.colour: track.during(first, end) for track in seen}
        results += [_found(there.get(sprite.colour), sprite, height, width) for sprite in sprites]
        for colour, track in there.items():
            spare = track.spare > SPECK * (min(height, width) / 64) ** 2
            foreign = colour not in [sprite.colour for sprite in sprites]
            if (track.visible if foreign else spare).sum() > max(1, (end - first) / 10):
                extra.append(colour)
    return Verdict(tuple(results), tuple(extra))


def _found(track: Track | None, sprite: Sprite, height: int, width: int) -> Found:
    if track is None or not track.visible.any():
        return Found(False, False, False, False)
    motion = motion_of(track, height, width)
    since = track.visible.argmax() if sprite.motion == "appear" else 0
    return Found(
        found=bool(track.visible[since:].mean() >= THROUGHOUT),
        shape=track.shape == sprite.shape,
        size=sprite.size is None or size_of(track, height, width) == sprite.size,
        motion=sprite.motion in ("wander", motion),
    )


def bounce_frames(track: Track, height: int, width: int) -> tuple[int, ...]:
    """The frames before which a track bounces off an edge of frames of height x width.

    A bounce is a turn of 0.75 pixels or more (of a frame whose shorter side is 64) near an edge. It lies before the
    frame of the turn if the step to that frame is shorter than the next one, and else after it.
    """
    seen = np.flatnonzero(track.visible)
    unit = min(height, width) / 64
    frames = set()
    for axis in (0, 1):
        values, gaps = track.centres[seen, axis] / unit, track.gaps[seen][:, axis::2] / unit
        for turn in _turns(values, 0.75):
            if _at_edge(values, gaps, turn):
                before = abs(values[turn] - values[turn - 1]) < abs(
                    values[min(turn + 1, len(values) - 1)] - values[turn]
                )
                frames.add(int(seen[turn if before else turn + 1]))
    return tuple(sorted(frames))
