"""What is chosen for a folder of clips: each rule by a folder that needs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kinema.data.clips import FolderSource
from kinema.families.latent_dit import LatentDiTConfig
from kinema.runtime.device import Runtime
from kinema.training.choose import Choice, choose

CPU = Runtime(torch.device("cpu"), torch.float32)


def chosen(folder: Path) -> Choice:
    return choose(str(folder), CPU)


def reason(choice: Choice, what: str) -> str:
    (found,) = (row for row in choice.reasons if row.what == what)
    return f"{found.choice}: {found.why}"


@pytest.mark.parametrize(
    ("rate", "count", "fps", "frames"),
    [
        (10, 40, None, 17),  # 1.7 s as they are
        (25, 60, 12.5, 17),  # every second frame
        (50, 120, 10, 17),  # every fifth
        (25, 18, None, 17),  # too short for every second frame
        (25, 10, None, 9),  # too short for 17 frames
    ],
)
def test_a_training_clip_lasts_about_a_second_and_a_half(
    make_clip, tmp_path: Path, rate: int, count: int, fps: float | None, frames: int
) -> None:
    make_clip("set/a.mp4", count, rate=rate)
    make_clip("set/b.mp4", count, rate=rate)
    data = chosen(tmp_path / "set").experiment.data
    assert (data.fps, data.frames) == (fps, frames)
    assert len(FolderSource(replace(data, height=16, width=16)).clips) == 2


def test_clips_of_several_rates_are_brought_to_one(make_clip, tmp_path: Path) -> None:
    make_clip("set/a.mp4", 60, rate=30)
    make_clip("set/b.mp4", 40, rate=10)
    choice = chosen(tmp_path / "set")
    assert choice.experiment.data.fps == pytest.approx(10)
    assert "10 to 30 frames a second" in reason(choice, "time")


@pytest.mark.parametrize(
    ("size", "shape", "lost"),
    [((64, 64), (64, 64), "0%"), ((160, 128), (56, 72), "3%"), ((96, 54), (48, 88), "3%")],
)
def test_frames_have_the_shape_of_the_clips(
    make_clip, tmp_path: Path, size: tuple[int, int], shape: tuple[int, int], lost: str
) -> None:
    make_clip("set/a.mp4", 40, size=size)
    choice = chosen(tmp_path / "set")
    assert (choice.experiment.data.height, choice.experiment.data.width) == shape
    assert f"loses up to {lost}" in reason(choice, "frames")
    assert "--data.fit" not in reason(choice, "frames")


def test_a_crop_that_loses_much_is_said(make_clip, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_clip(f"set/{name}.mp4", 40, size=(64, 64))
    make_clip("set/tall.mp4", 40, size=(36, 64))
    assert "loses up to 44% of a frame (--data.fit pad or stretch keeps all)" in reason(
        chosen(tmp_path / "set"), "frames"
    )


def test_labels_that_are_names_are_left_out_and_classes_are_not(make_clip, tmp_path: Path) -> None:
    for number in range(8):
        make_clip(f"set/{number}.mp4", 20, rate=10)
    rows = [f"{n}.mp4,{n},clip {n}" for n in range(8)]
    (tmp_path / "set/metadata.csv").write_text("\n".join(["file_name,label,caption", *rows]))
    choice = chosen(tmp_path / "set")
    assert choice.experiment.data.label == "none"
    assert "8 labels for 8 clips are names" in reason(choice, "conditions")
    assert "captions (8 different)" in reason(choice, "conditions")
    assert FolderSource(replace(choice.experiment.data, height=16, width=16)).spec.classes == ()
    rows = [f"{n}.mp4,{n % 2},clip" for n in range(8)]
    (tmp_path / "set/metadata.csv").write_text("\n".join(["file_name,label,caption", *rows]))
    choice = chosen(tmp_path / "set")
    assert choice.experiment.data.label == "label"
    assert reason(choice, "conditions") == "2 labels, known frames and regions: not used: one caption for all clips"


def test_sound_is_named_as_unused_and_captions_of_some_are_used(make_clip, tmp_path: Path) -> None:
    make_clip("set/a.mp4", 40, tone=1.0)
    make_clip("set/b.mp4", 40, tone=1.0)
    (tmp_path / "set/metadata.csv").write_text("file_name,caption\na.mp4,one\nb.mp4,\n")
    said = reason(chosen(tmp_path / "set"), "conditions")
    assert "captions (1 different)" in said and "--data.audio" in said


def test_one_slow_clip_does_not_set_the_rate_of_all(make_clip, tmp_path: Path) -> None:
    for number in range(9):
        make_clip(f"set/{number}.mp4", 60, rate=30)
    make_clip("set/slow.mp4", 8, rate=1)
    data = chosen(tmp_path / "set").experiment.data
    assert (data.fps, data.frames) == (10, 17)


def test_every_action_keeps_its_frame(make_clip, tmp_path: Path) -> None:
    make_clip("set/a.mp4", 60, rate=25)
    np.save(tmp_path / "set/a.npy", np.zeros((60, 2), np.float32))
    (tmp_path / "set/metadata.csv").write_text("file_name,actions\na.mp4,a.npy\n")
    choice = chosen(tmp_path / "set")
    assert choice.experiment.data.fps is None and "actions" in reason(choice, "conditions")


def test_a_gpu_has_a_larger_network_and_the_same_codec(make_clip, tmp_path: Path) -> None:
    make_clip("set/a.mp4", 40, rate=10)
    large = choose(str(tmp_path / "set"), Runtime(torch.device("cuda"), torch.bfloat16)).experiment
    small = chosen(tmp_path / "set").experiment
    assert large.family.codec_source == small.family.codec_source == "transform"
    assert isinstance(large.family, LatentDiTConfig) and large.family.hidden == 384 and large.data == small.data


def test_a_world_is_taken_as_it_is() -> None:
    assert choose("shape-motion", CPU).experiment.data.source == "shape-motion"


def test_a_folder_of_broken_clips_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(np.zeros(100, np.uint8).tobytes())
    with pytest.raises(ValueError, match=r"none of its 1 clips can be used; the first is a.mp4: FFmpeg cannot read it"):
        chosen(tmp_path)


@pytest.mark.parametrize(("rates", "said"), [((8, 8), "8 frames a second"), ((5, 30), "5 to 30 frames a second")])
def test_a_rate_of_a_table_counts(tmp_path: Path, cpu: Runtime, rates: tuple[int, int], said: str) -> None:
    for name, fps in zip("ab", rates, strict=True):
        np.save(tmp_path / f"{name}.npy", np.zeros((60, 32, 32, 3), np.uint8))
        (tmp_path / f"{name}.npy.json").write_text(json.dumps({"fps": fps}))
    choice = choose(str(tmp_path), cpu)
    assert said in next(reason.why for reason in choice.reasons if reason.what == "time")
    assert choice.experiment.data.fps == (None if rates[0] == rates[1] else 5)
