"""Conditions as vectors: one for each group of frames, and context tokens to attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.nn.transformer import Context
from kinema.types import Conditions

__all__ = ["FRAME_WIDTH", "ConditionEncoder", "EncodedConditions", "Encoding", "RawConditions"]

FRAME_WIDTH = 64  # dimensions of what conditions a single frame


@dataclass(frozen=True, slots=True)
class Encoding:
    """What one condition's encoder gives: a vector a clip, vectors a frame, or tokens to attend to."""

    clip: Float[Tensor, "B D"] | None = None
    frames: Float[Tensor, "B T d"] | None = None
    context: Context | None = None


@dataclass(frozen=True, slots=True)
class EncodedConditions:
    """All conditions of a batch: a vector for each group of frames, and context tokens if there are any."""

    groups: Float[Tensor, "B G D"]
    context: Context | None = None

    @staticmethod
    def concatenate(parts: Sequence[EncodedConditions]) -> EncodedConditions:
        """The conditions of several batches of one encoder, as one batch."""
        groups = torch.cat([part.groups for part in parts])
        contexts = [part.context for part in parts if part.context is not None]
        if not contexts:
            return EncodedConditions(groups)
        longest = max(mask.shape[1] for _, mask in contexts)
        missing = [longest - mask.shape[1] for _, mask in contexts]
        tokens = [F.pad(tokens, (0, 0, 0, more)) for (tokens, _), more in zip(contexts, missing, strict=True)]
        masks = [F.pad(mask, (0, more)) for (_, mask), more in zip(contexts, missing, strict=True)]
        return EncodedConditions(groups, (torch.cat(tokens), torch.cat(masks)))

    def repeat_interleave(self, times: int) -> EncodedConditions:
        """Each clip's conditions `times` times, one after the other."""
        groups, context = self.groups.repeat_interleave(times, 0), self.context
        if context is not None:
            context = context[0].repeat_interleave(times, 0), context[1].repeat_interleave(times, 0)
        return EncodedConditions(groups, context)

    def slice(self, first: int, length: int) -> EncodedConditions:
        """Groups `first` to `first + length`; the last one is repeated where there are fewer."""
        groups = self.groups[:, first : first + length]
        missing = length - groups.shape[1]
        return replace(self, groups=torch.cat([groups, self.groups[:, -1:].expand(-1, missing, -1)], 1))


class RawConditions(NamedTuple):
    """Conditions that a network still has to encode: in training its forward does, so that hooks see the encoders."""

    conditions: Conditions
    frames: int
    dropped: Mapping[str, Bool[Tensor, " B"]]  # in which clips a condition is left out
    first: int = 0  # group at which the clips begin


class ConditionEncoder(nn.Module):
    """The encoders of all conditions that a model accepts, by their names in `Conditions`.

    An encoder is called with the condition or None, the number of frames, and a mask [B] of the clips in which it is
    present; it gives an `Encoding`. One that gives vectors a frame has their size as `frame_width`. A group is `group`
    frames, and the first one has `lead` fewer.
    """

    def __init__(self, width: int, group: int, lead: int, encoders: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.group, self.lead, self.accepts = group, lead, frozenset(encoders)
        self.encoders = nn.ModuleDict(encoders)
        self.register_buffer("zero", torch.zeros(width), persistent=False)
        of_frames = sum(getattr(encoder, "frame_width", 0) for encoder in encoders.values())
        self.of_group = nn.Linear(group * of_frames, width) if of_frames else None

    zero: Tensor

    @torch.compiler.disable  # texts are strings, and another text would be another graph
    def forward(
        self,
        conditions: Conditions,
        frames: int,
        clips: int,
        dropped: Mapping[str, Bool[Tensor, " B"]] | None = None,
    ) -> EncodedConditions:
        """The conditions of `clips` clips of `frames` frames; `dropped` says in which clips a condition is left out."""
        everywhere = torch.ones(clips, dtype=torch.bool, device=self.zero.device)
        lead = self.lead
        given = [name for name in self.encoders if getattr(conditions, name) is not None]
        if not any(getattr(self.encoders[name], "frame_width", 0) for name in given):
            frames = min(frames, 2 * self.group - lead)  # all groups after the first are the same: see `slice`
        groups = self.zero.expand(clips, -(-(frames + lead) // self.group), -1)
        context, of_frames = None, []
        for name, encoder in self.encoders.items():
            present = ~dropped[name] if dropped and name in dropped else everywhere
            encoding = encoder(getattr(conditions, name), frames, present)
            if encoding.clip is not None:
                groups = groups + encoding.clip[:, None]
            if encoding.frames is not None:
                of_frames.append(encoding.frames)
            context = encoding.context or context
        if self.of_group is not None:
            missing = self.group * groups.shape[1] - frames - lead
            padded = F.pad(torch.cat(of_frames, 2), (0, 0, lead, missing))  # [B, G group, n]
            groups = groups + self.of_group(rearrange(padded, "b (g k) d -> b g (k d)", k=self.group))
        return EncodedConditions(groups, context)
