"""Configurations survive strict JSON, and what does not fit is refused by the name of its key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from kinema.config import from_dict, to_dict
from kinema.experiment import Experiment
from kinema.presets import PRESETS
from kinema.types import ClipSpec


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    rate: float | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    steps: int = 10
    kind: Literal["slow", "fast"] = "slow"
    pairs: tuple[tuple[str, float], ...] = ()
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be at least 1")


def through_json(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))


@pytest.mark.parametrize(
    "config",
    [Outer("a"), Outer("b", 3, "fast", (("x", 0.5), ("y", 1.0)), Inner((4,), 0.1)), Outer("c", inner=Inner((), None))],
)
def test_roundtrip(config: Outer) -> None:
    again = from_dict(Outer, through_json(to_dict(config)), "here")
    assert again == config
    assert isinstance(again.inner, Inner)
    assert hash(again) == hash(config)  # tuples came back as tuples


def test_what_is_left_out_takes_its_default() -> None:
    assert from_dict(Outer, {"name": "a", "inner": {"rate": 1}}, "here") == Outer("a", inner=Inner(rate=1.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a", "step": 3}, "here: unknown key 'step'; did you mean 'steps'?"),
        ({"name": "a", "zzz": 3}, "here: unknown key 'zzz'; known are name, steps, kind, pairs, inner"),
        ({"name": "a", "inner": {"rat": 3}}, "here: unknown key 'inner.rat'"),
        ({"name": 1}, "here: name: "),
        ({"name": "a", "steps": "3"}, "here: steps: "),
        ({"name": "a", "steps": 2.5}, "here: steps: "),
        ({"name": "a", "steps": True}, "here: steps: "),
        ({"name": "a", "steps": None}, "here: steps: "),
        ({"name": "a", "kind": "quick"}, "here: kind: "),
        ({"name": "a", "pairs": [["x", "y"]]}, "here: pairs.0.1: "),
        ({"name": "a", "inner": {"sizes": [1, "2"]}}, "here: inner.sizes.1: "),
        ({"name": "a", "inner": 3}, "here: inner: "),
        ({"name": "a", "steps": 0}, "here: steps must be at least 1"),
        ({}, "here: name: "),
        ([], "here: "),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^.*$") as error:
        from_dict(Outer, values, "here")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("family", "name"), [(family, name) for family in PRESETS for name in PRESETS[family]])
def test_every_preset_survives_a_checkpoint(family: str, name: str) -> None:
    spec = ClipSpec(16, 64, 48, fps=25.0, classes=("up", "left"))
    experiment = PRESETS[family][name]()
    assert Experiment.from_dict(through_json(experiment.to_dict(spec)), "here") == (experiment, spec)


def test_foreign_values_are_not_an_experiment() -> None:
    with pytest.raises(ValueError, match=r"^here: not a kinema configuration"):
        Experiment.from_dict({"model": "other"}, "here")
