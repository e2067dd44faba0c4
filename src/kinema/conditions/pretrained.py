"""Text, read by a pretrained encoder from the Hugging Face hub or a folder, which stays as it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from kinema.conditions.text import Told

__all__ = ["PretrainedEncoder"]

KEPT = 4096  # texts whose embeddings are kept, those used last


class PretrainedEncoder(nn.Module):
    """What a frozen encoder makes of texts, projected to a model's width; only the projection is trained and saved.

    `name` is a model of the hub, such as sentence-transformers/all-MiniLM-L6-v2, or a folder with one. Raises
    ValueError where it cannot be had.
    """

    def __init__(self, name: str, width: int, length: int = 64) -> None:
        super().__init__()
        self.name, self.length = name, length
        tokenizer, model = _load(name)
        self._encoder = (tokenizer, model)  # in a tuple, so that its weights are none of this module's
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self.project = nn.Linear(model.config.hidden_size, width)
        self.norm = nn.LayerNorm(width)
        self.nothing = nn.Parameter(0.5 * torch.randn(width))

    def forward(self, texts: Sequence[str] | None, told: Bool[Tensor, " B"]) -> Told:
        """What each clip is told: nothing where `told` is false, and to no clip without texts."""
        device = self.nothing.device
        said = [text if tell else "" for text, tell in zip(texts or [""] * len(told), told.tolist(), strict=True)]
        self._read({text for text in said if text.strip()})
        rows = [self._kept[text] if text.strip() else None for text in said]
        longest = max(1 if row is None else len(row) for row in rows)
        hidden = self.project.in_features
        embedded, seen = torch.zeros(len(rows), longest, hidden), torch.zeros(len(rows), longest, dtype=torch.bool)
        silent = torch.tensor([row is None for row in rows], device=device)
        for clip, row in enumerate(rows):
            seen[clip, : 1 if row is None else len(row)] = True
            if row is not None:
                embedded[clip, : len(row)] = row
        seen = seen.to(device)
        tokens = torch.where(silent[:, None, None], self.nothing, self.norm(self.project(embedded.to(device))))
        weight = seen.to(tokens)[..., None]
        return Told(tokens, seen, (tokens * weight).sum(1) / weight.sum(1))

    def _read(self, texts: set[str]) -> None:
        """Keep the embeddings of these texts, and of others while there are no more than KEPT."""
        if new := sorted(texts - self._kept.keys()):
            tokenizer, model = self._encoder
            model.to(self.nothing.device)
            words = tokenizer(new, padding=True, truncation=True, max_length=self.length, return_tensors="pt")
            with torch.no_grad(), torch.autocast(self.nothing.device.type, enabled=False):
                states = model(**words.to(self.nothing.device)).last_hidden_state.float().cpu()
            for text, row, mask in zip(new, states, words["attention_mask"].bool().cpu(), strict=True):
                self._kept[text] = row[mask]
        for text in texts:
            self._kept.move_to_end(text)
        while len(self._kept) > max(KEPT, len(texts)):
            self._kept.popitem(last=False)


def _load(name: str) -> tuple[Any, Any]:
    """The tokenizer and the encoder of this name."""
    try:
        from transformers import AutoModel, AutoTokenizer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f"to read text by {name}, install transformers: pip install 'kinema[text]'") from error
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no text encoder can be had from {name} ({str(error).splitlines()[0][:160]}): give the name of one on the "
            "Hugging Face hub, or a folder that holds one"
        ) from error
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return tokenizer, model.eval().requires_grad_(False)
