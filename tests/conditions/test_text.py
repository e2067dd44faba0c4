"""Text: words by number, and an encoder that minds no padding."""

from __future__ import annotations

import pytest
import torch

from kinema.conditions.text import TextEncoder, Vocabulary, vocabulary, words_of

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
    assert words_of(text) == words


def test_a_vocabulary_has_the_most_frequent_words_first() -> None:
    assert vocabulary(CAPTIONS).words == ("a", "ball", "red", ",", "box", "then")
    assert vocabulary(CAPTIONS, most=3).words == ("a", "ball", "red")


def test_numbers_tell_words_apart_and_unknown_ones_are_alike() -> None:
    known = vocabulary(CAPTIONS)
    rows = known.numbers(["a red ball", "a blue ball", "a pink ball", ""], length=48)
    assert rows.shape == (4, 8)  # filled up to a multiple
    assert torch.equal(rows[1], rows[2]) and not torch.equal(rows[0], rows[1])
    assert len({*rows[0, :3].tolist()}) == 3 and rows[0, 3:].unique().numel() == 1
    assert rows[3, 0] != rows[0, -1]  # nothing is said, which is not padding
    assert known.numbers(["a " * 100], length=5)[0, :5].unique().numel() == 1
    assert known.unknown("a pink ball, a pink 🚀") == ("pink", "🚀")


def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(vocabulary(CAPTIONS), 16, heads=2, length=12).eval()


def test_a_text_is_the_same_alone_and_beside_longer_ones() -> None:
    encode = encoder()
    alone = encode(["a red ball"], torch.ones(1, dtype=torch.bool))
    beside = encode(["a red ball", "a red ball, then a red ball"], torch.ones(2, dtype=torch.bool))
    assert beside.tokens.shape[1] > 3 and beside.seen.sum(1).tolist() == [3, 8]
    torch.testing.assert_close(beside.tokens[0, :3], alone.tokens[0, :3])
    torch.testing.assert_close(beside.pooled[0], alone.pooled[0])


def test_order_matters() -> None:
    told = encoder()(["red ball box", "box ball red"], torch.ones(2, dtype=torch.bool))
    assert not torch.allclose(told.pooled[0], told.pooled[1], atol=1e-3)


def test_what_is_not_told_is_as_no_text_at_all() -> None:
    encode = encoder()
    told = encode(["a red ball", "a box"], torch.tensor([False, True]))
    nothing = encode(None, torch.ones(2, dtype=torch.bool))
    empty = encode(["", ""], torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(told.pooled[0], nothing.pooled[0])
    torch.testing.assert_close(empty.pooled, nothing.pooled)
    assert not torch.allclose(told.pooled[1], nothing.pooled[1])


def test_a_text_longer_than_the_encoder_reads_is_cut() -> None:
    told = encoder()(["red " * 10_000], torch.ones(1, dtype=torch.bool))
    assert told.tokens.shape == (1, 12, 16)


def test_a_vocabulary_without_words_reads_everything_as_unknown() -> None:
    assert Vocabulary(()).unknown("a b") == ("a", "b")
