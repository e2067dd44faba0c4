"""Text, encoded by a frozen pretrained encoder from the Hugging Face hub or a folder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from kinema.conditions.encoder import Encoding
from kinema.config import shorten

__all__ = ["PretrainedTextEncoder"]

CACHED = 4096  # texts whose embeddings are kept, the most recent


class PretrainedTextEncoder(nn.Module):
    """The hidden states of a frozen encoder, projected to a model's width; only the projection is trained and saved.

    `name` is a model of the hub, such as sentence-transformers/all-MiniLM-L6-v2, or a folder with one. Raises
    ValueError where it cannot be loaded.
    """

    def __init__(self, name: str, width: int, length: int = 64) -> None:
        super().__init__()
        self.frozen = _FrozenEncoder(name, length)
        self.project = nn.Linear(self.frozen.width, width)
        self.norm = nn.LayerNorm(width)
        self.null = nn.Parameter(0.5 * torch.randn(width))
        self.pooled = nn.Linear(width, width)

    def unread(self, text: str) -> str:
        """The end of a text beyond the tokens that are read."""
        return self.frozen.unread(text)

    def forward(self, texts: Sequence[str] | None, frames: int, present: Bool[Tensor, " B"]) -> Encoding:
        """Tokens [B, S, D] and their projected mean; `null` where `present` is false or the text is empty."""
        device, texts = self.null.device, [""] * len(present) if texts is None else texts
        rows = self.frozen.encode(texts, device)
        longest = max(1 if row is None else len(row) for row in rows)
        states, mask = torch.zeros(len(rows), longest, self.frozen.width), torch.zeros(len(rows), longest)
        for clip, row in enumerate(rows):
            if row is not None:
                states[clip, : len(row)], mask[clip, : len(row)] = row, 1
        states, mask = states.to(device), mask.bool().to(device)
        empty = ~mask.any(1) | ~present  # [B]; to read `present` here would wait for a GPU
        tokens = torch.where(empty[:, None, None], self.null, self.norm(self.project(states)))
        mask = torch.where(empty[:, None], torch.arange(longest, device=device) == 0, mask)
        weight = mask.to(tokens)[..., None]
        return Encoding(clip=self.pooled((tokens * weight).sum(1) / weight.sum(1)), context=(tokens, mask))


class _FrozenEncoder:
    """A tokenizer, an encoder and a cache of its embeddings; no module, so that nothing trains, saves or copies it."""

    def __init__(self, name: str, length: int) -> None:
        self.tokenizer, self.model = _load(name)
        self.length, self.width = length, self.model.config.hidden_size
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> _FrozenEncoder:
        return self  # a moving average of the model shares it

    def unread(self, text: str) -> str:
        """The end of a text beyond `length` tokens, those that the tokenizer adds included."""
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self.tokenizer.decode(tokens[self.length - self.tokenizer.num_special_tokens_to_add() :])

    def encode(self, texts: Sequence[str], device: torch.device) -> list[Tensor | None]:
        """The hidden states [S, hidden] of each text, on the CPU; None for an empty one."""
        wanted = {text for text in texts if text.strip()}
        for text in sorted(wanted - self._cache.keys()):  # one by one: padding to others would round it otherwise
            self.model.to(device)
            words = self.tokenizer([text], truncation=True, max_length=self.length, return_tensors="pt")
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                (states,) = self.model(**words.to(device)).last_hidden_state.float().cpu()
            self._cache[text] = states[words["attention_mask"][0].bool().cpu()]
        for text in wanted:
            self._cache.move_to_end(text)
        rows = [self._cache[text] if text.strip() else None for text in texts]
        while len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return rows


@lru_cache(maxsize=1)  # a family's outline is made before it
def _load(name: str) -> tuple[Any, Any]:
    """The tokenizer and the encoder of this name."""
    try:
        from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"to encode text by {shorten(name)}, install transformers: pip install 'kinema[text]'"
        ) from error
    try:
        with torch.device("cpu"):  # whatever an outline is made on
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model = AutoModel.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no text encoder can be loaded from {shorten(name)} ({str(error).splitlines()[0][:160]}): give the name "
            "of one on the Hugging Face hub, or a folder that holds one"
        ) from error
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return tokenizer, model.eval().requires_grad_(False)
