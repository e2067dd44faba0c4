"""Text: a vocabulary of words, and an encoder that is trained with the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from kinema.conditions.encoder import Encoding
from kinema.nn.rotary import rotary_table
from kinema.nn.transformer import Block

__all__ = ["TextEncoder", "Vocabulary", "make_vocabulary", "split_words"]

PADDING, EMPTY, UNKNOWN = 0, 1, 2  # tokens before those of words
SPECIAL = 3
MULTIPLE = 8  # that lengths are padded to, so that there are few of them


def split_words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case; a comma, a full stop and any other sign is a word of its own."""
    return tuple(re.findall(r"\w+|[^\w\s]", text.lower()))


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows, numbered in their order."""

    words: tuple[str, ...]

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.words, SPECIAL)}

    def __len__(self) -> int:
        return SPECIAL + len(self.words)

    def tokenize(self, texts: Sequence[str], length: int) -> Int64[Tensor, "B S"]:
        """The tokens of the first `length` words of each text; EMPTY for a text without words."""
        rows = [[self._tokens.get(word, UNKNOWN) for word in split_words(text)[:length]] or [EMPTY] for text in texts]
        longest = -(-max(map(len, rows)) // MULTIPLE) * MULTIPLE
        return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows])

    def unknown(self, text: str) -> tuple[str, ...]:
        """The words of a text that are not in the vocabulary."""
        return tuple(dict.fromkeys(word for word in split_words(text) if word not in self._tokens))


def make_vocabulary(captions: Iterable[str], most: int = 4096) -> Vocabulary:
    """The `most` commonest words of the captions, the most frequent first and equally frequent ones by the alphabet."""
    counts = Counter(word for caption in captions for word in split_words(caption))
    return Vocabulary(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most]))


class TextEncoder(nn.Module):
    """A small bidirectional transformer over the words of texts, trained with the model that it conditions."""

    def __init__(self, words: Vocabulary, width: int, heads: int, depth: int = 2, length: int = 48) -> None:
        super().__init__()
        self.words, self.length, self.head = words, length, width // heads
        self.embed = nn.Embedding(len(words), width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.pooled = nn.Linear(width, width)
        nn.init.normal_(self.embed.weight, std=0.5)

    def unread(self, text: str) -> str:
        """The words of a text beyond the `length` that are read."""
        return " ".join(split_words(text)[self.length :])

    def forward(self, texts: Sequence[str] | None, frames: int, present: Bool[Tensor, " B"]) -> Encoding:
        """Tokens [B, S, D] and their projected mean; of an empty text where `present` is false, or without texts."""
        texts = [""] * len(present) if texts is None else texts
        tokens = self.words.tokenize(texts, self.length)[:, : self.length].to(present.device, non_blocking=True)
        empty = torch.full_like(tokens[:1], PADDING)
        empty[:, 0] = EMPTY
        tokens = torch.where(present[:, None], tokens, empty)  # to read `present` here would wait for a GPU
        mask = tokens != PADDING
        places = torch.arange(tokens.shape[1], device=present.device)[:, None].expand(-1, 3)
        table = rotary_table(places, self.head)
        x = (self.embed(tokens) + self.positions[: tokens.shape[1]]).float()
        for block in self.blocks:
            x, _ = block(x, table, mask[:, None, None].expand(-1, 1, tokens.shape[1], -1))
        x = self.norm(x)
        weight = mask.to(x)[..., None]
        mean = (x * weight).sum(1) / weight.sum(1)
        return Encoding(clip=self.pooled(mean), context=(x, mask))
