"""kinema train without a family: choices are printed and overruled by flags, and results are written at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kinema.experiment import TrainConfig
from kinema.training.checkpoint import is_complete

SMALL = ["--data.frames", 9, "--data.height", 16, "--data.width", 16, "--family.hidden", 16, "--family.depth", 1]
SMALL += ["--family.heads", 2, "--train.batch", 2, "--family.sampling.steps", 2]


@pytest.fixture
def clips(make_clip, tmp_path: Path) -> Path:
    """Twelve clips, each of another brightness."""
    for number in range(12):
        images = np.full((20, 16, 16, 3), 20 * number, np.uint8)
        images[:, :4] += np.arange(20, dtype=np.uint8)[:, None, None, None]
        make_clip(f"clips/{number:02d}.mp4", images=images, rate=10)
    return tmp_path / "clips"


def test_one_command_trains_and_writes_results(clips: Path, tmp_path: Path, kinema) -> None:
    out = tmp_path / "x"
    status, printed, err = kinema("train", "--data", clips, "--out", out, "--steps", 3, *SMALL)
    assert status == 0, err
    time = "time        as given (kinema would choose 17 frames at 10 a second"
    for line in ("family      latent-dit (", time, "codec PSNR", "steps       3, "):
        assert line in err, err
    results = {path.name for path in (out / "results").iterdir()}
    assert {"sheet.png", "rollout.mp4", "report.html", "results.json"} <= results
    assert "FD" in printed
    status, _, err = kinema("train", "--out", out, "--resume", "--steps", 4)
    assert status == 0 and "step-00000004" in err, err


def test_a_plan_trains_nothing(clips: Path, tmp_path: Path, kinema, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    status, out, err = kinema("plan", "--data", clips, "--minutes", 1, *SMALL)
    assert status == 0, err
    assert "family      latent-dit (" in out and "memory " in out and "windows of each clip" in out
    assert {path.name for path in tmp_path.iterdir()} - before <= {".cache"}
    status, out, err = kinema("plan", "mocogan", "--data", clips, "--steps", 7, *SMALL[:6])
    assert status == 0 and out.startswith("steps       7, "), err


def test_without_clips_there_is_nothing_to_choose(refused, tmp_path: Path) -> None:
    assert "kinema train --data FOLDER chooses all settings" in refused("train", "--out", tmp_path / "x")
    assert "no clips in it" in refused("plan", "--data", tmp_path)


def test_a_family_comes_first_and_a_preset_is_of_a_family(clips: Path, refused, tmp_path: Path) -> None:
    words = ["--data", clips, "--out", tmp_path / "x", "--steps", 1]
    assert "put mocogan first: kinema train mocogan" in refused("train", *words, "mocogan")
    assert "--preset is of a family" in refused("train", *words, "--preset", "pixels")


def test_results_that_cannot_be_written_lose_no_model(clips: Path, tmp_path: Path, kinema, monkeypatch) -> None:
    def fail(*words: object) -> None:
        raise ValueError("the folder is gone")

    monkeypatch.setattr("kinema.cli.train.write_results", fail)
    status, _, err = kinema("train", "--data", clips, "--out", tmp_path / "x", "--steps", 1, *SMALL)
    assert status == 0 and "saved" in err and "the results could not be written: the folder is gone" in err


def test_a_stopped_run_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"step": 5, "seconds": 59.0}')
    assert not is_complete(tmp_path, TrainConfig(minutes=1.0))
    assert not is_complete(tmp_path, TrainConfig(steps=6))
    assert is_complete(tmp_path, TrainConfig(steps=5, minutes=1.0))
