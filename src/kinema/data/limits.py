"""How much is read of one clip: limits that a few bytes of a damaged or hostile file would exceed, and their settings.

$KINEMA_MOST_PIXELS    pixels of a picture (16777216; one of 5120x2880 has fewer)
$KINEMA_MOST_FRAMES    frames of a clip (1000000), a hundredth as many pages of an image, and a tenth as many clips
                       of an array or members of a shard
$KINEMA_MOST_GB        gigabytes that an array, a sound, a table or an archive may take in memory unpacked (1)
"""

from __future__ import annotations

import math
import os

__all__ = ["check_limits", "most_bytes", "most_frames", "most_members", "most_pages", "most_pixels"]

DEFAULTS = {"KINEMA_MOST_PIXELS": 2.0**24, "KINEMA_MOST_FRAMES": 1e6, "KINEMA_MOST_GB": 1.0}


def most_pixels() -> int:
    """Pixels of a picture, at most."""
    return int(_limit("KINEMA_MOST_PIXELS"))


def most_frames() -> int:
    """Frames of a clip, at most, those that are shown again included."""
    return int(_limit("KINEMA_MOST_FRAMES"))


def most_pages() -> int:
    """Pages of an image, at most: of a file without an index all are looked through, a page taking far longer."""
    return max(1, most_frames() // 100)


def most_members() -> int:
    """Clips of an array, or members of a shard, at most."""
    return max(1, most_frames() // 10)


def most_bytes() -> int:
    """Bytes that what is unpacked of a file may take in memory."""
    return int(1e9 * _limit("KINEMA_MOST_GB"))


def check_limits() -> None:
    """Raise ValueError for a setting that is no number above 0."""
    for name in DEFAULTS:
        _limit(name)


def _limit(name: str) -> float:
    stated = os.environ.get(name)
    try:
        limit = float(stated) if stated else DEFAULTS[name]
    except ValueError:
        limit = math.nan
    if not 0 < limit < 1e18 or (limit < 1 and not name.endswith("_GB")):
        raise ValueError(f"${name} is {stated!r}: give a number above 0, as {DEFAULTS[name]:.0f}")
    return limit
