"""kinema train without a family: choices are printed and overruled by flags, and results are written at the end."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from kinema.experiment import TrainConfig
from kinema.runtime.device import Runtime
from kinema.training.checkpoint import is_complete
from kinema.training.choose import choose

SMALL = ["--data.frames", 9, "--data.height", 16, "--data.width", 16, "--family.hidden", 16, "--family.depth", 3]
SMALL += ["--family.merged-hidden", 16, "--family.heads", 2, "--train.batch", 2, "--family.sampling.steps", 2]


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
    assert "nothing is left" not in err


def test_a_run_whose_budget_is_spent_says_so(clips: Path, tmp_path: Path, kinema) -> None:
    small = ["--data.frames", 8, *SMALL[2:6], "--train.batch", 2, "--family.ngf", 4, "--family.ndf", 4]
    assert kinema("train", "vgan", "--data", clips, "--out", tmp_path / "x", "--steps", 1, *small)[0] == 0
    status, _, err = kinema("train", "--out", tmp_path / "x", "--resume")
    assert status == 0 and "nothing is left of the budget: give more --steps" in err and "saved" not in err


def test_a_stopped_run_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"step": 5, "seconds": 59.0}')
    assert not is_complete(tmp_path, TrainConfig(minutes=1.0))
    assert not is_complete(tmp_path, TrainConfig(steps=6))
    assert is_complete(tmp_path, TrainConfig(steps=5, minutes=1.0))


def test_what_a_run_writes_is_not_taken_for_clips(clips: Path, refused) -> None:
    for out in (clips, clips / "run"):
        assert "is in the folder of clips" in refused("train", "--data", clips, "--out", out, "--steps", 1)
        assert "is in the folder of clips" in refused("train", "mocogan", "--data", clips, "--out", out, "--steps", 1)


def test_a_folder_has_one_run_at_a_time(clips: Path, tmp_path: Path, kinema) -> None:
    out = tmp_path / "x"
    out.mkdir()
    with FileLock(out / ".lock"):
        status, _, err = kinema("train", "--data", clips, "--out", out, "--steps", 1, *SMALL)
    assert status == 2 and "another run writes into" in err.splitlines()[-1]


def test_a_resumed_run_keeps_its_held_out_files(clips: Path, tmp_path: Path, kinema) -> None:
    out = tmp_path / "x"
    codec = ["--family.codec-options", "channels", 8]
    assert kinema("train", "latent-dit", "--data", clips, "--out", out, "--steps", 1, *SMALL, *codec)[0] == 0
    status, _, err = kinema("train", "latent-dit", "--out", out, "--resume", "--steps", 2, "--data.holdout", 0)
    assert status == 2 and "data.holdout: 0.0, not 0.1" in err
    words = ["--out", out, "--resume", "--steps", 2, "--family.codec-options", "space", 8]
    status, _, err = kinema("train", *words)
    assert status == 2 and "--family.codec-options is set already" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "inf"], "minutes is inf: it must be"),
        (["--steps", 1, "--train.lr", "nan"], "lr is nan: it must be"),
        (["--steps", 1, "--data.fps", 1e9], "fps is 1e+09: it must be 1e-06 to 1000"),
        (["--steps", 1, "--data.height", 80000], "it must be 1 to 8,192"),
    ],
)
def test_what_cannot_be_is_said_before_clips_are_read(
    clips: Path, tmp_path: Path, refused, words: list[object], message: str
) -> None:
    assert message in refused("train", "--data", clips, "--out", tmp_path / "x", *words)


def test_data_check_follows_its_flags_and_shows_brackets(make_clip, tmp_path: Path, kinema) -> None:
    for number in range(6):
        make_clip(f"set [b]/{number}.mp4", 20, rate=10)
    rows = "".join(f"{n}.mp4,[/a]{n % 2},{'xyz'[n // 2]}\n" for n in range(6))
    (tmp_path / "set [b]/metadata.csv").write_text("file_name,label,place\n" + rows)
    words = ["data", "check", tmp_path / "set [b]", "--out", tmp_path / "[sheet].png"]
    status, out, err = kinema(*words)
    assert status == 0 and "[/a]0 (3), [/a]1 (3)" in out and "set [b]" in out, err
    status, out, err = kinema(*words, "--data.label", "place", "--data.fps", 5)
    assert re.search(r"^codec transform of 8x8 pixels x 4 frames: 8 channels [\d.]+ dB, 16 channels", out, re.MULTILINE)
    assert status == 0 and "x (2), y (2), z (2)" in out and "3 labels" in out, err
    assert "time        as given" in out and out.splitlines()[-1].endswith("--data.label place --data.fps 5")


def test_a_slide_show_does_not_set_the_rate_of_videos(make_clip, tmp_path: Path) -> None:
    for number, (count, rate) in enumerate([(5, 1), (20, 8), (60, 24), (30, 240), (12, 12)]):
        make_clip(f"set/{number}.mp4", count, rate=rate)
    data = choose(str(tmp_path / "set"), Runtime(torch.device("cpu"), torch.float32)).experiment.data
    assert data.fps == 8 and data.frames >= 5
