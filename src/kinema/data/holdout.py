"""The files of a folder that are held out of training: whole files, and all of a group, such as a patient's."""

from __future__ import annotations

from dataclasses import replace

from kinema.data.cache import digest
from kinema.data.folder import SPLITS, Folder, clip_name
from kinema.data.readers.base import Clip

__all__ = ["LEAST", "held_out"]

LEAST = 5  # files or groups: with fewer, all are trained on


def held_out(folder: Folder, share: float) -> frozenset[str]:
    """The names, as of `clip_name`, of the clips that are held out: those of `share` of the groups, in [0, 1).

    Where clips have splits, they are those of other splits than train, whatever the share. Otherwise clips of one file,
    and files with one `Clip.group`, are one group. Groups are ordered by a hash of their name and the first are held
    out, so that a new file moves few others; at least one where there are `LEAST` or more, none where there are fewer
    or `share` is 0.
    """
    if any(clip.split for clip in folder.clips):
        held = (clip for clip in folder.clips if clip.split and not SPLITS.get(clip.split.lower()))
        return frozenset(clip_name(clip, folder.root) for clip in held)
    groups: dict[str, list[str]] = {}
    for clip in folder.clips:
        groups.setdefault(_group(clip, folder), []).append(clip_name(clip, folder.root))
    if not share or len(groups) < LEAST:
        return frozenset()
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    return frozenset(name for group in sorted(groups, key=digest)[:count] for name in groups[group])


def _group(clip: Clip, folder: Folder) -> str:
    """The name of a clip's group: that of its metadata, or else its file."""
    return f"file {clip_name(replace(clip, member=''), folder.root)}" if clip.group is None else f"group {clip.group}"
