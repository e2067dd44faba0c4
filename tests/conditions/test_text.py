"""Text: words as tokens, and an encoder that padding does not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinema.conditions.text import TextEncoder, Vocabulary, make_vocabulary, split_words

CAPTIONS = ("a red ball", "a red box, then a ball")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Red ball, then", ("a", "red", "ball", ",", "then")),
        ("", ()),
        (" \n\t ", ()),
        ("naïve Ünïcode 球", ("naïve", "ünïcode", "球")),
        ("go! 🚀🚀", ("go", "!", "🚀", "🚀")),
    ],
)
def test_words(text: str, words: tuple[str, ...]) -> None:
    assert split_words(text) == words


def test_a_vocabulary_has_the_most_frequent_words_first() -> None:
    assert make_vocabulary(CAPTIONS).words == ("a", "ball", "red", ",", "box", "then")
    assert make_vocabulary(CAPTIONS, most=3).words == ("a", "ball", "red")


def test_words_have_tokens_and_unknown_ones_share_one() -> None:
    known = make_vocabulary(CAPTIONS)
    rows = known.tokenize(["a red ball", "a blue ball", "a pink ball", ""], length=48)
    assert rows.shape == (4, 8)  # filled up to a multiple
    assert torch.equal(rows[1], rows[2]) and not torch.equal(rows[0], rows[1])
    assert len({*rows[0, :3].tolist()}) == 3 and rows[0, 3:].unique().numel() == 1
    assert rows[3, 0] != rows[0, -1]  # an empty text is not padding
    assert known.tokenize(["a " * 100], length=5)[0, :5].unique().numel() == 1
    assert known.unknown("a pink ball, a pink 🚀") == ("pink", "🚀")


def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(make_vocabulary(CAPTIONS), 16, heads=2, length=12).eval()


def read(encode: TextEncoder, *texts: str) -> tuple[Tensor, Tensor, Tensor]:
    """The clip vectors, the context tokens and their mask."""
    encoding = encode(texts, 9, torch.ones(len(texts), dtype=torch.bool))
    assert encoding.clip is not None and encoding.context is not None
    return encoding.clip, *encoding.context


def test_padding_changes_nothing() -> None:
    encode = encoder()
    pooled, tokens, _ = read(encode, "a red ball")
    both, padded, mask = read(encode, "a red ball", "a red ball, then a red ball")
    assert padded.shape[1] > 3 and mask.sum(1).tolist() == [3, 8]
    torch.testing.assert_close(padded[0, :3], tokens[0, :3])
    torch.testing.assert_close(both[0], pooled[0])


def test_order_matters() -> None:
    pooled, *_ = read(encoder(), "red ball box", "box ball red")
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-3)


def test_a_dropped_text_is_an_empty_one() -> None:
    encode = encoder()
    pooled = encode(["a red ball", "a box"], 9, torch.tensor([False, True])).clip
    none = encode(None, 9, torch.ones(2, dtype=torch.bool)).clip
    empty, *_ = read(encode, "", "")
    assert pooled is not None and none is not None
    torch.testing.assert_close(pooled[0], none[0])
    torch.testing.assert_close(empty, none)
    assert not torch.allclose(pooled[1], none[1])


def test_a_text_longer_than_the_encoder_reads_is_cut() -> None:
    _, tokens, _ = read(encoder(), "red " * 10_000)
    assert tokens.shape == (1, 12, 16)
    assert encoder().unread("red " * 12) == ""
    assert encoder().unread("red " * 11 + "ball, then a box") == ", then a box"


def test_a_vocabulary_without_words_reads_everything_as_unknown() -> None:
    assert Vocabulary(()).unknown("a b") == ("a", "b")
