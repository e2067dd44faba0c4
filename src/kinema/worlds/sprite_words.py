"""What is said of sprites: captions in a small grammar with paraphrases."""

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
    """All that captions are made of, but for the names of colours."""
    tables = (SHAPE_WORDS, SIZE_WORDS, MOTION_WORDS, BACKGROUNDS)
    said = (way for table in tables for ways in table.values() for way in ways)
    frames = (text.replace("{}", "") for text in (*LINKS, *ONE, *TWO, *THEN, *THREE))
    return ("a", "an", *said, *frames)


@dataclass(frozen=True, slots=True)
class Sprite:
    """What is asked of one sprite."""

    shape: str
    colour: str
    motion: str
    size: str | None  # None where it is not said


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a clip: sprites together, or one in its first half and `then` another in its second."""

    sprites: tuple[Sprite, ...]
    then: bool = False


def caption(asked: Asked, background: str, rng: np.random.Generator) -> str:
    """One of the many ways to say it; the background is mentioned in a quarter of them."""

    def one(words: tuple[str, ...]) -> str:
        return words[int(rng.random() * len(words))]  # `choice` would take ten times as long

    said = []
    for sprite in asked.sprites:
        size = [one(SIZE_WORDS[sprite.size])] if sprite.size else []
        noun = " ".join([*size, sprite.colour, one(SHAPE_WORDS[sprite.shape])])
        article = "an" if noun[0] in "aeiou" else "a"
        said.append(f"{article} {noun}{one(LINKS)}{one(MOTION_WORDS[sprite.motion])}")
    if asked.then:
        text = one(THEN).format(*said)
    elif len(said) == 3:
        text = one(THREE).format(*said)
    elif len(said) == 2:
        text = one(TWO).format(*said)
    else:
        text = one(ONE).format(*said)
    return f"{text} {one(BACKGROUNDS[background])}" if rng.random() < 0.25 else text
