"""Labels are as given, or drawn from the clip's own noise."""

from __future__ import annotations

import pytest
import torch

from kinema.nn.labels import labels
from kinema.types import Conditions, Noise

CPU = torch.device("cpu")


def test_given_labels_are_taken() -> None:
    given = torch.tensor([2, 0])
    assert torch.equal(labels(Conditions(label=given), 3, Noise((0, 1)), "clip", CPU), given)


def test_others_are_drawn_by_the_seed() -> None:
    noise = Noise(tuple(range(100)))
    drawn = labels(Conditions(), 3, noise, "clip", CPU)
    assert set(drawn.tolist()) == {0, 1, 2}
    assert torch.equal(labels(Conditions(), 3, Noise((7,)), "clip", CPU), drawn[7:8])
    assert not labels(Conditions(), 0, noise, "clip", CPU).any()


@pytest.mark.parametrize(("classes", "message"), [(0, "without labels"), (3, "labels 0 to 2, not")])
def test_unknown_labels_are_refused(classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels(Conditions(label=torch.tensor([3])), classes, Noise((0,)), "clip", CPU)
