"""Captions of sprites, from a small grammar with paraphrases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BACKGROUNDS", "MOTION_WORDS", "Asked", "Sprite", "caption", "phrases"]

SHAPE_WORDS = {
    "circle": ("circle", "circle", "disc", "ball"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "cross": ("cross", "cross", "plus"),
    "ring": ("ring", "ring", "hoop"),
}
SIZE_WORDS = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "big", "huge"),
}


def _going(*ways: str) -> tuple[str, ...]:
    verbs = ("moving", "moving", "going", "travelling", "sliding", "flying")
    return tuple(f"{verb} {way}" for way in ways for verb in verbs)


MOTION_WORDS = {  # in the order of the motions' numbers
    "left": _going("left", "to the left"),
    "right": _going("right", "to the right"),
    "up": _going("up", "upwards"),
    "down": _going("down", "downwards"),
    "up left": _going("up and left", "up and to the left", "diagonally up left"),
    "up right": _going("up and right", "up and to the right", "diagonally up right"),
    "down left": _going("down and left", "down and to the left", "diagonally down left"),
    "down right": _going("down and right", "down and to the right", "diagonally down right"),
    "bounce": ("bouncing", "bouncing", "bouncing around", "bouncing off the walls"),
    "orbit": ("orbiting", "circling", "moving in a circle", "going round in a circle"),
    "zigzag": ("zigzagging", "zigzagging", "moving in zigzags", "going in a zigzag"),
    "grow": ("growing", "growing", "getting bigger", "growing larger"),
    "spin": ("spinning", "rotating", "turning round"),
    "appear": ("appearing", "appearing", "popping up", "showing up"),
    "wander": ("wandering", "wandering about", "roaming", "being steered"),
}
BACKGROUNDS = {
    "black": ("on a black background", "on black"),
    "grey": ("on a grey background", "on a plain background", "on grey"),
    "stripes": ("on a striped background", "over stripes"),
    "checkers": ("on a checkered background", "over checkers"),
    "clouds": ("on a cloudy background", "over clouds"),
}
LINKS = (" ", " ", " ", " is ", " that is ")
ONE = ("{}", "{}", "there is {}")
TWO = ("{} and {}", "{} and {}", "{} while {}", "{}, and {}")
THEN = ("{}, then {}", "{}, then {}", "first {}, then {}", "{} and then {}")
THREE = ("{}, {} and {}", "{} and {} and {}")


def phrases() -> tuple[str, ...]:
    """All phrases of captions except the names of colours."""
    tables = (SHAPE_WORDS, SIZE_WORDS, MOTION_WORDS, BACKGROUNDS)
    words = (word for table in tables for words in table.values() for word in words)
    frames = (text.replace("{}", "") for text in (*LINKS, *ONE, *TWO, *THEN, *THREE))
    return ("a", "an", *words, *frames)


@dataclass(frozen=True, slots=True)
class Sprite:
    """The attributes of a sprite that a caption describes."""

    shape: str
    colour: str
    motion: str
    size: str | None  # None if the caption does not mention it


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caption describes: sprites at once, or with `then` one in the first half and another in the second."""

    sprites: tuple[Sprite, ...]
    then: bool = False


def caption(asked: Asked, background: str, rng: np.random.Generator) -> str:
    """A random caption of `asked`; a quarter of captions mention the background."""

    def one(words: tuple[str, ...]) -> str:
        return words[int(rng.random() * len(words))]  # ten times as fast as `choice`

    parts = []
    for sprite in asked.sprites:
        size = [one(SIZE_WORDS[sprite.size])] if sprite.size else []
        noun = " ".join([*size, sprite.colour, one(SHAPE_WORDS[sprite.shape])])
        article = "an" if noun[0] in "aeiou" else "a"
        parts.append(f"{article} {noun}{one(LINKS)}{one(MOTION_WORDS[sprite.motion])}")
    if asked.then:
        text = one(THEN).format(*parts)
    elif len(parts) == 3:
        text = one(THREE).format(*parts)
    elif len(parts) == 2:
        text = one(TWO).format(*parts)
    else:
        text = one(ONE).format(*parts)
    return f"{text} {one(BACKGROUNDS[background])}" if rng.random() < 0.25 else text
