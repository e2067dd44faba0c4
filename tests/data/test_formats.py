"""Every format of clips that kinema reads can be trained on, resumed and measured with, and gives the same frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from formats import FORMATS

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.writing import write_video
from kinema.runtime.device import Runtime
from kinema.training import checkpoint
from kinema.training.loop import train

CLIPS, LENGTH = 6, 12
NEEDS = {"HDF5": "h5py", "LeRobot": "pyarrow", "DICOM": "pydicom"}
LOSSLESS = {"images", "npy", "HDF5", "DICOM"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of a square that moves, each of another grey."""
    folder = tmp_path_factory.mktemp("videos")
    for clip in range(CLIPS):
        frames = np.full((LENGTH, 32, 32, 3), 30 + 30 * clip, np.uint8)
        for k in range(LENGTH):
            frames[k, 8:16, k : k + 8] = 220
        write_video(folder / f"{clip:04d}.mp4", frames, 12.5)
    return folder


@pytest.fixture(params=FORMATS)
def clips_in(request: pytest.FixtureRequest, videos: Path, tmp_path: Path) -> tuple[str, Path]:
    """The name of a format, and the folder of clips in it."""
    name = request.param
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    FORMATS[name](scan(videos), tmp_path / "clips")
    return name, tmp_path / "clips"


def config(folder: Path) -> DataConfig:
    return DataConfig(str(folder), frames=8, height=16, width=16, holdout=0.0)


def test_the_frames_are_the_same(clips_in: tuple[str, Path], videos: Path) -> None:
    name, folder = clips_in
    expected, found = FolderSource(config(videos)), FolderSource(config(folder))
    assert len(found.clips) == CLIPS and not found.skipped
    assert found.spec.fps == pytest.approx(12.5, rel=1e-3)
    for clip in range(CLIPS):
        ours, theirs = found.frames(clip).astype(int), expected.frames(clip).astype(int)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= (0 if name in {*LOSSLESS, "WebDataset"} else 8)  # the mp4 is copied


def test_a_resumed_run_equals_an_unbroken_one(
    clips_in: tuple[str, Path], tiny: Callable, cpu: Runtime, tmp_path
) -> None:
    def go(steps: int, out: str, resume: bool = False) -> checkpoint.Checkpoint:
        experiment = replace(tiny(steps=steps), data=config(clips_in[1]))
        return checkpoint.load(
            train(experiment, tmp_path / out, source=FolderSource(experiment.data), runtime=cpu, resume=resume)
        )

    unbroken = go(4, "unbroken")
    go(2, "resumed")
    resumed = go(4, "resumed", resume=True)
    for part in ("generator", "training", "optimizers"):
        torch.testing.assert_close(getattr(resumed, part), getattr(unbroken, part), rtol=0, atol=0)


@pytest.mark.slow
def test_it_is_measured(clips_in: tuple[str, Path], videos: Path, kinema: Callable) -> None:
    size = ("--frames", 8, "--height", 16, "--width", 16)
    code, out, err = kinema("evaluate", clips_in[1], "--against", videos, "--clips", 6, "--force", *size)
    assert code == 0, err
    assert "sharpness" in out


@pytest.mark.slow
def test_it_is_checked(clips_in: tuple[str, Path], kinema: Callable, tmp_path: Path) -> None:
    code, out, err = kinema("data", "check", clips_in[1], "--out", tmp_path / "sheet.png")
    assert code == 0, err
    assert f"{CLIPS} found, {CLIPS} usable, 0 skipped" in out
    assert (tmp_path / "sheet.png").exists()
