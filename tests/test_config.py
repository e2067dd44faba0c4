"""Configurations survive strict JSON, and what does not fit is refused by the name of its key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from kinema.config import check_number, check_ranges, from_dict, to_dict
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


@pytest.mark.parametrize("values", [{"model": "other"}, None, [], 3, "x"])
def test_foreign_values_are_not_an_experiment(values: Any) -> None:
    with pytest.raises(ValueError, match=r"^here: not a kinema configuration"):
        Experiment.from_dict(values, "here")


@pytest.mark.parametrize(
    ("part", "changed", "message"),
    [
        ("family", None, "here: not a kinema configuration"),
        ("family", {"name": []}, "here: not a kinema configuration"),
        (
            "family",
            {"name": "x" * 100},
            f"here: family.name: there is no family '{'x' * 60}...'; there are latent-dit,",
        ),
        ("family", {"name": "vgan", "latent": 10**30}, "here: family: latent is 10"),
        ("family", {"name": "vgan", "codec_config": {"name": 3}}, "here: family: codec_config holds a model of 3"),
        ("data", None, "here: data: "),
        ("train", {"lr": float("nan")}, "here: train: lr is nan: it must be 1e-20 to 10000"),
        ("train", {"seed": 7 * 10**5000}, "here: train: it holds a value that no configuration has"),
        ("spec", {"frames": 10**9, "height": 8, "width": 8}, "here: spec: frames is 1000000000: it must be 1 to 8,192"),
        ("spec", [[[]]], "here: spec: "),
    ],
)
def test_hostile_parts_of_an_experiment_are_named(part: str, changed: Any, message: str) -> None:
    values = PRESETS["vgan"]["paper"]().to_dict(ClipSpec(16, 64, 64)) | {part: changed}
    with pytest.raises(ValueError, match=r"^.*$") as error:
        Experiment.from_dict(values, "here")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_values_that_are_nested_deep_are_one_line() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"^here: it holds a value that no configuration has$"):
        from_dict(Outer, {"name": deep}, "here")


@dataclass(frozen=True)
class Ranged:
    count: int = 1
    open: int | None = None
    sides: tuple[int, ...] = (1, 2)
    shares: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, count=(1, 5000), open=(1, 3), sides=(1, 3), shares=(0.0, 1.0))


@pytest.mark.parametrize(
    "settings", [{"count": 5000}, {"open": 3}, {"open": None}, {"sides": ()}, {"shares": (1, 0.5)}]
)
def test_what_is_in_its_range_is_taken(settings: dict[str, Any]) -> None:
    assert to_dict(Ranged(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count is 0: it must be 1 to 5,000"),
        ({"count": 7 * 10**5000}, "count is a number of more than 60 digits: it must be 1 to 5,000"),
        ({"open": 4}, "open is 4: it must be 1 to 3"),
        ({"sides": (1, 4)}, "sides is 4: it must be 1 to 3"),
        ({"shares": (float("nan"),)}, "shares is nan: it must be 0 to 1"),
        ({"shares": (0.0, float("-inf"))}, "shares is -inf: it must be 0 to 1"),
    ],
)
def test_what_is_out_of_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^.*$") as error:
        Ranged(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("value", [True, None, "3", 3.0, [3]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"^x is .*: it must be .*1 to 9$"):
        check_number("x", value, 1, 9, whole=True)
