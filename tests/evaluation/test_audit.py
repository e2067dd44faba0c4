"""The audit of measures: on measures whose sensitivity is known, and as a command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from kinema.data.writing import to_uint8
from kinema.evaluation.audit import STRENGTHS, Audit, FailureAudit, audit, audit_failures
from kinema.metrics.corruptions import SPATIAL, TEMPORAL
from kinema.metrics.failures import FAILURES, PREFERENCE
from kinema.metrics.features import load_network
from kinema.worlds.sprites import Sprites


class TimeBlind:
    """The mean colour of a clip, whatever the order of its frames."""

    name, checksum, preprocessing, dimensions, least = "time-blind", "0" * 64, "none", 3, 1

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float().mean((1, 2, 3))


@pytest.fixture(scope="module")
def found() -> Audit:
    clips = to_uint8(Sprites(12, 32, 32).batch(0, 64, seed=9).to(torch.device("cpu")).frames)
    return audit(clips, np.arange(64) // 2, {"time-blind": TimeBlind()})


def test_every_measure_has_a_curve_for_every_corruption(found) -> None:
    assert set(found.error) == set(SPATIAL | TEMPORAL)
    assert {"FD time-blind", "KD time-blind", "flicker", "warping error", "SSIM", "PSNR"} <= set(found.curves)
    for curves in found.curves.values():
        assert set(curves) == set(SPATIAL | TEMPORAL)
        assert all(len(values) == len(STRENGTHS) for values in curves.values())


def test_a_measure_that_ignores_time_is_found(found) -> None:
    assert all(
        found.rank_correlation("PSNR", name) == pytest.approx(1) for name in ("blur", "noise", "blocks", "colour")
    )
    assert found.detection("FD time-blind", "colour") is not None
    assert found.rank_correlation("FD time-blind", "colour") >= 0.8
    assert found.rank_correlation("FD time-blind", "swap") == found.rank_correlation("FD time-blind", "reverse") == 0
    assert found.detection("FD time-blind", "shuffle") is None
    assert found.relative_sensitivity("FD time-blind", "shuffle") == 0


def test_measures_of_time_are_sensitive_to_time(found) -> None:
    assert found.rank_correlation("flicker", "flicker") == pytest.approx(1)
    assert found.rank_correlation("freeze", "freeze") >= 0.9
    assert found.detection("warping error", "shuffle") is not None
    assert found.relative_sensitivity("warping error", "shuffle") > found.relative_sensitivity(
        "FD time-blind", "shuffle"
    )


def test_equal_errors_make_a_ratio_of_one() -> None:
    strengths = np.array(STRENGTHS)
    names = [*SPATIAL, "shuffle"]
    error = {name: (place + 1) * strengths for place, name in enumerate(names)}
    half = Audit(STRENGTHS, error, {"x": error | {"shuffle": error["shuffle"] / 2}}, {"x": 0.0})
    assert half.relative_sensitivity("x", "shuffle") == pytest.approx(0.5)
    assert half.temporal_sensitivity("x") == pytest.approx(0.5)
    assert half.relative_sensitivity("x", "blur") == pytest.approx(1)


def test_sensitivity_to_time_only_or_to_nothing_has_no_finite_ratio() -> None:
    strengths = np.array(STRENGTHS)
    names = [*SPATIAL, "shuffle"]
    error = {name: strengths for name in names}
    curves = {
        "time": dict.fromkeys(SPATIAL, 0 * strengths) | {"shuffle": strengths},
        "nothing": dict.fromkeys(names, 0 * strengths),
        "undefined": dict.fromkeys(names, strengths) | {"shuffle": np.nan * strengths},
    }
    found = Audit(STRENGTHS, error, curves, dict.fromkeys(curves, 0.0))
    assert found.temporal_sensitivity("time") == np.inf
    assert np.isnan(found.temporal_sensitivity("nothing")) and np.isnan(found.temporal_sensitivity("undefined"))
    assert (
        np.isnan(found.rank_correlation("undefined", "shuffle")) and found.rank_correlation("nothing", "shuffle") == 0
    )


@pytest.fixture(scope="module")
def ranked() -> FailureAudit:
    clips = to_uint8(Sprites(6, 48, 48).batch(0, 40, seed=3).to(torch.device("cpu")).frames)
    networks = {name: load_network(name, None, torch.device("cpu")) for name in ("imagenet", "kinema")}
    return audit_failures(clips, np.arange(40), networks)


def test_the_default_distance_ranks_failures_as_a_person_does(ranked) -> None:
    values = ranked.values["FD imagenet"]
    assert set(values) == set(FAILURES)
    assert ranked.rank_correlation("FD imagenet") > 0.85
    assert len(ranked.wrong_pairs("FD imagenet")) < len(ranked.wrong_pairs("FD kinema"))
    assert ranked.floors["FD imagenet"] < values["codec 24"] < min(values["frozen"], values["codec 3"])
    assert values["copy"] < values["frozen"]
    seen = [name for names in PREFERENCE[:-1] for name in names if name != "mean clip"]  # dark
    assert max(values[name] for name in seen) < min(values[name] for name in PREFERENCE[-1])


def test_wrong_pairs_and_their_correlation() -> None:
    places = {name: float(place) for place, names in enumerate(PREFERENCE) for name in names}
    odd = places | {"noise": -1.0}
    nan = places | {"noise": np.nan}
    found = FailureAudit({"right": places, "odd": odd, "nan": nan}, {"right": 0.0, "odd": 0.0, "nan": 0.0})
    assert found.rank_correlation("right") == pytest.approx(1) and found.wrong_pairs("right") == []
    assert found.rank_correlation("odd") < 0.7
    better = [name for names in PREFERENCE[:-1] for name in names]
    assert found.wrong_pairs("odd") == found.wrong_pairs("nan") == [(name, "noise") for name in better]
    assert np.isnan(found.rank_correlation("nan"))


def test_only_the_failures_are_quick(tmp_path, kinema) -> None:
    words = ["--on", "sprites", "--clips", 32, "--frames", 6, "--height", 32, "--width", 32, "--out", tmp_path / "x"]
    status, printed, err = kinema("metrics", "audit", *words, "--failures-only", "--features", "kinema")
    assert (status, err) == (0, "")
    assert "Spearman" in printed and "FD kinema: " in printed and "FD imagenet" not in printed
    values = json.loads((tmp_path / "x" / "audit.json").read_text())
    assert set(values["failures"]["FD kinema"]) == set(FAILURES) and "curves" not in values
    assert (tmp_path / "x" / "failures.png").exists() and not (tmp_path / "x" / "corruptions.png").exists()


def test_the_command_writes_what_it_found(tmp_path, kinema) -> None:
    out = tmp_path / "audit"
    words = [
        "--features",
        "kinema",
        "--on",
        "sprites",
        "--clips",
        32,
        "--frames",
        8,
        "--height",
        32,
        "--width",
        32,
        "--out",
        out,
    ]
    status, printed, err = kinema("metrics", "audit", *words)
    assert (status, err) == (0, "")
    values = json.loads((out / "audit.json").read_text())
    assert values["strengths"] == list(STRENGTHS) and "FD kinema" in values["curves"]
    assert "| FD kinema |" in (out / "audit.md").read_text() and "FD kinema" in printed
    assert (out / "corruptions.png").exists() and (out / "FD-kinema-time.png").exists()
