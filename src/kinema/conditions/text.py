"""Text: words by number, and an encoder that is trained with the model that listens to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from kinema.nn.rotary import rotary_table
from kinema.nn.transformer import Block

__all__ = ["TextEncoder", "Told", "Vocabulary", "vocabulary", "words_of"]

PADDING, NOTHING, UNKNOWN = 0, 1, 2  # numbers before those of words
SPECIAL = 3
MULTIPLE = 8  # that texts are filled up to, so that few lengths occur


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in lower case; a comma, a full stop and any other sign is one of its own."""
    return tuple(re.findall(r"\w+|[^\w\s]", text.lower()))


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows, numbered in their order."""

    words: tuple[str, ...]

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, SPECIAL)}

    def __len__(self) -> int:
        return SPECIAL + len(self.words)

    def numbers(self, texts: Sequence[str], length: int) -> Int64[Tensor, "B S"]:
        """The first `length` words of each text; a text without any says nothing."""
        rows = [[self._number.get(word, UNKNOWN) for word in words_of(text)[:length]] or [NOTHING] for text in texts]
        longest = -(-max(map(len, rows)) // MULTIPLE) * MULTIPLE
        return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows])

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not among those that it knows."""
        return tuple(dict.fromkeys(word for word in words_of(text) if word not in self._number))


def vocabulary(captions: Iterable[str], most: int = 4096) -> Vocabulary:
    """At most so many words of the captions, the most frequent first and those as frequent by the alphabet."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return Vocabulary(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most]))


@dataclass(frozen=True, slots=True)
class Told:
    """What a text says to a network."""

    tokens: Float[Tensor, "B S D"]
    seen: Bool[Tensor, "B S"]  # where there are words
    pooled: Float[Tensor, "B D"]  # all in one


class TextEncoder(nn.Module):
    """A small transformer over the words of texts, which sees both ways and is trained with what it tells."""

    def __init__(self, words: Vocabulary, width: int, heads: int, depth: int = 2, length: int = 48) -> None:
        super().__init__()
        self.words, self.length, self.head = words, length, width // heads
        self.embed = nn.Embedding(len(words), width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(self, texts: Sequence[str] | None, told: Bool[Tensor, " B"]) -> Told:
        """What each clip is told: nothing where `told` is false, and to no clip without texts."""
        texts = [""] * len(told) if texts is None else texts
        numbers = self.words.numbers(texts, self.length)[:, : self.length].to(told.device, non_blocking=True)
        silence = torch.full_like(numbers[:1], PADDING)
        silence[:, 0] = NOTHING
        numbers = torch.where(told[:, None], numbers, silence)  # to read `told` here would wait for a GPU
        seen = numbers != PADDING
        positions = torch.arange(numbers.shape[1], device=told.device)[:, None].expand(-1, 3)
        table = rotary_table(positions, self.head)
        x = (self.embed(numbers) + self.places[: numbers.shape[1]]).float()
        for block in self.blocks:
            x, _ = block(x, table, seen[:, None, None].expand(-1, 1, numbers.shape[1], -1))
        x = self.norm(x)
        weight = seen.to(x)[..., None]
        return Told(x, seen, (x * weight).sum(1) / weight.sum(1))
