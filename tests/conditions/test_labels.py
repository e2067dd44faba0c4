"""Labels are those of the conditions, or drawn from a stream of their own."""

from __future__ import annotations

import pytest
import torch

from kinema.conditions.labels import LabelEncoder, choose_labels
from kinema.types import Conditions, Seeds

CPU = torch.device("cpu")


def test_labels_of_the_conditions_are_taken() -> None:
    label = torch.tensor([2, 0])
    assert torch.equal(choose_labels(Conditions(label=label), 3, Seeds((0, 1)), "clip", CPU), label)


def test_labels_are_else_drawn_by_the_seed() -> None:
    seeds = Seeds(tuple(range(100)))
    drawn = choose_labels(Conditions(), 3, seeds, "clip", CPU)
    assert set(drawn.tolist()) == {0, 1, 2}
    assert torch.equal(choose_labels(Conditions(), 3, Seeds((7,)), "clip", CPU), drawn[7:8])
    assert not choose_labels(Conditions(), 0, seeds, "clip", CPU).any()


@pytest.mark.parametrize(("classes", "message"), [(0, "without labels"), (3, "labels 0 to 2, not")])
def test_unknown_labels_are_refused(classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_labels(Conditions(label=torch.tensor([3])), classes, Seeds((0,)), "clip", CPU)


def test_a_drawn_label_has_a_stream_of_its_own() -> None:
    """So that a clip is the same whether its label was given or drawn, and moves with the seeds of its stream."""
    seeds = Seeds(tuple(range(40)), {"clip": tuple(range(100, 140))})
    drawn = choose_labels(Conditions(), 3, seeds, "clip", CPU)
    assert torch.equal(drawn, seeds.stream("clip", "label").integers(3))
    assert not torch.equal(drawn, seeds.stream("clip").integers(3))  # the first values of the noise
    assert not torch.equal(drawn, choose_labels(Conditions(), 3, Seeds(seeds.values), "clip", CPU))


def test_a_dropped_label_is_encoded_as_none() -> None:
    torch.manual_seed(0)
    encode, label = LabelEncoder(3, 8), torch.tensor([2, 0])
    full, partly, none = (
        encode(given, 9, present).clip
        for given, present in (
            (label, torch.tensor([True, True])),
            (label, torch.tensor([False, True])),
            (None, torch.tensor([True, True])),
        )
    )
    assert full is not None and partly is not None and none is not None
    assert torch.equal(partly[0], none[0]) and torch.equal(partly[1], full[1])
    assert not torch.equal(full[0], none[0]) and not torch.equal(full[0], full[1])
