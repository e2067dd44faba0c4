"""All that a clip is told, made into one vector for each of its moments and the words of its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kinema.conditions.actions import ActionEncoder
from kinema.conditions.audio import AudioEncoder
from kinema.conditions.pretrained import PretrainedEncoder
from kinema.conditions.text import TextEncoder, Vocabulary
from kinema.nn.transformer import Context
from kinema.types import Conditions

__all__ = ["Heard", "Listener"]

FRAME = 64  # dimensions of what a frame alone is told


@dataclass(frozen=True, slots=True)
class Heard:
    """What clips are told: to each moment, a group of frames, and in words."""

    moments: Float[Tensor, "B G D"]
    context: Context | None = None

    @staticmethod
    def joined(parts: Sequence[Heard]) -> Heard:
        """What the clips of all parts, of one listener, are told, part after part."""
        moments = torch.cat([part.moments for part in parts])
        contexts = [part.context for part in parts if part.context is not None]
        if not contexts:
            return Heard(moments)
        longest = max(seen.shape[1] for _, seen in contexts)
        missing = [longest - seen.shape[1] for _, seen in contexts]
        tokens = [F.pad(tokens, (0, 0, 0, more)) for (tokens, _), more in zip(contexts, missing, strict=True)]
        seen = [F.pad(seen, (0, more)) for (_, seen), more in zip(contexts, missing, strict=True)]
        return Heard(moments, (torch.cat(tokens), torch.cat(seen)))

    def repeated(self, times: int) -> Heard:
        """What each clip is told so many times, one after the other."""
        moments, context = self.moments.repeat_interleave(times, 0), self.context
        if context is not None:
            context = context[0].repeat_interleave(times, 0), context[1].repeat_interleave(times, 0)
        return Heard(moments, context)

    def cut(self, first: int, length: int) -> Heard:
        """What `length` moments from `first` on are told; those after the last are told what it is."""
        moments = self.moments[:, first : first + length]
        missing = length - moments.shape[1]
        return replace(self, moments=torch.cat([moments, self.moments[:, -1:].expand(-1, missing, -1)], 1))


class Listener(nn.Module):
    """Labels, texts, sound and actions as vectors; a moment is `group` frames, or if `alone` the first is one frame.

    It hears labels if there are `categories`, texts if there are `words`, actions if there are any, and sound at `fps`
    frames a second if that is said; `hears` has their names in Conditions. Texts are read by an encoder that is trained
    with it or, if `reader` says so, by a pretrained one.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        group: int,
        alone: bool,
        categories: int = 0,
        words: tuple[str, ...] = (),
        actions: int = 0,
        fps: float | None = None,
        reader: str | None = None,
    ) -> None:
        super().__init__()
        self.group, self.alone = group, alone
        self.register_buffer("nothing", torch.zeros(width), persistent=False)
        self.label = nn.Embedding(categories + 1, width) if categories else None  # the last says that none is told
        self.text = None
        if words:
            self.text = PretrainedEncoder(reader, width) if reader else TextEncoder(Vocabulary(words), width, heads)
        self.audio = AudioEncoder(FRAME, fps) if fps else None
        self.actions = ActionEncoder(actions, FRAME) if actions else None
        parts = {"label": self.label, "text": self.text, "audio": self.audio, "actions": self.actions}
        self.hears = frozenset(name for name, part in parts.items() if part is not None)
        self.pooled = nn.Linear(width, width) if words else None
        frames = FRAME * len(self.hears & {"audio", "actions"})
        self.moment = nn.Linear(group * frames, width) if frames else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.2)

    nothing: Tensor

    def forward(
        self, given: Conditions, frames: int, clips: int, left_out: Mapping[str, Bool[Tensor, " B"]] | None = None
    ) -> Heard:
        """What `clips` clips of `frames` frames are told; of each condition not those where it is `left_out`."""
        told = dict.fromkeys(self.hears, torch.ones(clips, dtype=torch.bool, device=self.nothing.device))
        told |= {name: ~without for name, without in (left_out or {}).items()}
        count = frames + self.alone * (self.group - 1)
        moments = self.nothing.expand(clips, -(-count // self.group), -1)
        context = None
        if self.label is not None:
            none = torch.full((clips,), self.label.num_embeddings - 1, device=self.nothing.device)
            label = none if given.label is None else torch.where(told["label"], given.label, none)
            moments = moments + self.label(label)[:, None]
        if self.text is not None and self.pooled is not None:
            text = self.text(given.text, told["text"])
            moments = moments + self.pooled(text.pooled)[:, None]
            context = (text.tokens, text.seen)
        by_frame = []
        if self.audio is not None:
            by_frame.append(self.audio(given.audio, frames, told["audio"]))
        if self.actions is not None:
            by_frame.append(self.actions(given.actions, frames, told["actions"]))
        if self.moment is not None:
            each = torch.cat(by_frame, 2)
            missing = self.group * moments.shape[1] - count
            each = F.pad(each, (0, 0, self.alone * (self.group - 1), missing))  # [B, G group, n]
            moments = moments + self.moment(rearrange(each, "b (g k) d -> b g (k d)", k=self.group))
        return Heard(moments, context)
