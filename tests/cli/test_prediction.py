"""The commands of a family that predicts: continuing known frames, and scoring a video's frames."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinema.cli.main import main
from kinema.data.decoded import resize
from kinema.data.readers.base import Clip, probe, read_frames
from kinema.report.plot import COLOURS, MARK
from kinema.sampling.model import load, score

SMALL = ["--data.frames", "8", "--data.height", "16", "--data.width", "16", "--train.batch", "2", "--device", "cpu"]
NETWORK = [
    "--family.channels",
    "2",
    "--family.code",
    "8",
    "--family.hidden",
    "8",
    "--family.latent",
    "2",
    "--family.context-frames",
    "3",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A short run of SVG-LP on Shape Motion, 3 of 8 frames known; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "x"
    words = ["--steps", "60", "--train.lr", "0.01", "--train.ema-decay", "0.5"]
    assert main(["train", "svg-lp", "--out", str(out), *words, *SMALL, *NETWORK]) == 0
    return out


@pytest.fixture(scope="module")
def gan(tmp_path_factory) -> Path:
    """A run of a family that can do neither."""
    out = tmp_path_factory.mktemp("runs") / "gan"
    words = ["--family.ngf", "2", "--family.ndf", "2", *SMALL]
    assert main(["train", "mocogan", "--out", str(out), "--steps", "1", *words]) == 0
    return out


def sampled(kinema, model: Path, out: Path, *words: object) -> list[np.ndarray]:
    status, _, err = kinema("sample", model, "--format", "npy", "--out", out, *words)
    assert status == 0, err
    return [np.load(path) for path in sorted(out.glob("*.npy"))]


def test_a_run_shows_sheets_as_it_trains(tmp_path, kinema):
    words = [*SMALL, *NETWORK, "--train.sample-every-minutes", 0]
    status, _, err = kinema("train", "svg-lp", "--out", tmp_path / "x", "--steps", 1, *words)
    assert status == 0 and "--known CLIP" in err  # what the next command needs
    assert any((tmp_path / "x" / "tensorboard").iterdir())


def test_sampling_goes_on_from_a_clip(trained, make_clip, tmp_path, kinema):
    clip = make_clip("a.mkv", frames=6, codec="ffv1", pixels="bgr0")
    real = [resize(frame, 16, 16) for frame in read_frames(clip)]
    made = sampled(kinema, trained, tmp_path / "a", "--known", clip, "--count", 2, "--frames", 10)
    assert [m.shape for m in made] == [(10, 16, 16, 3)] * 2
    assert all(np.array_equal(m[:3], real[:3]) for m in made)  # as many as in training
    assert not np.array_equal(made[0][3:], made[1][3:])
    (other,) = sampled(kinema, trained, tmp_path / "b", "--known", clip, "--keep-first", 5, "--count", 1)
    assert other.shape[0] == 8 and np.array_equal(other[:5], real[:5])


def test_sampling_goes_on_from_each_clip_of_a_folder(trained, make_clip, tmp_path, kinema):
    for k, level in enumerate((40, 200)):
        images = np.full((4, 32, 48, 3), level, np.uint8)
        make_clip(f"clips/{k}.mkv", images=images, codec="ffv1", pixels="bgr0")
    make_clip("clips/short.mp4", frames=2)
    out = tmp_path / "out"
    status, _, err = kinema(
        "sample", trained, "--known", tmp_path / "clips", "--count", 4, "--format", "npy", "--out", out
    )
    assert status == 0
    assert err == "skipped short.mp4: it has 2 of the 3 frames that are needed\n"
    levels = [np.unique(np.load(path)[:3]).tolist() for path in sorted(out.glob("*.npy"))]
    assert levels == [[40], [200], [40], [200]]


def test_what_cannot_be_gone_on_from(trained, gan, make_clip, tmp_path, refused):
    clip, out = make_clip("a.mp4", frames=6), ["--out", tmp_path / "out"]
    assert "--known CLIP" in refused("sample", trained, *out)
    assert "MoCoGAN cannot use known frames: leave --known out" in refused("sample", gan, "--known", clip, *out)
    assert "name a clip or a folder with --known" in refused("sample", trained, "--keep-first", 2, *out)
    for count, says in (
        (0, "--keep-first is 0: it must be 1 to"),
        (8, "8 of 8 frames are known, so there is nothing to make"),
    ):
        assert says in refused("sample", trained, "--known", clip, "--keep-first", count, *out)
    says = refused("sample", trained, "--known", clip, "--keep-first", 7, *out)
    assert "6 of the 7 frames" in says and str(clip) in says
    assert "nowhere.mp4" in refused("sample", trained, "--known", tmp_path / "nowhere.mp4", *out)
    assert "continues given frames" in refused("evaluate", trained, "--clips", 2)
    make_clip("clips/short.mp4", frames=2)
    assert "none of its 1 clips can be used; the first is short.mp4" in refused(
        "sample", trained, "--known", tmp_path / "clips", *out
    )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def video(make_clip) -> Path:
    """40 frames, 64x48, at 20 a second: dark, but for a white one; more than are scored at a time."""
    images = np.full((40, 48, 64, 3), 30, np.uint8)
    images[34] = 255
    return make_clip("video.mkv", images=images, codec="ffv1", pixels="bgr0", rate=20)


def read(out: Path) -> list[dict[str, str]]:
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_anomalies_scores_and_marks_a_video(trained, video, tmp_path, kinema):
    out = tmp_path / "out"
    status, said, err = kinema("anomalies", trained, video, "--out", out)
    assert (status, err) == (0, "")
    rows = read(out)
    assert [row["frame"] for row in rows] == [str(k) for k in range(40)]
    assert [row["seconds"] for row in rows[:3]] == ["0.0000", "0.0500", "0.1000"]
    assert rows[0]["score"] == ""
    scores = np.array([float(row["score"]) for row in rows[1:]])
    assert scores.argmax() == 33

    model = load(trained)
    frames = np.stack([resize(frame, 16, 16) for frame in read_frames(video)])
    clip = torch.from_numpy(frames).movedim(-1, 1)[None] / 127.5 - 1
    (whole,) = score(model.family, model.runtime, [clip])
    np.testing.assert_allclose(scores, whole[0, 1:], rtol=0.05)  # in bfloat16, but in one piece

    threshold = np.percentile(scores, 95)
    marked = set(np.flatnonzero(scores > threshold) + 1)
    assert 34 in marked and len(marked) <= 2
    assert said.startswith(
        f"{len(marked)} of 40 frames are above {threshold:.6g}, the 95th percentile of the video's own scores: "
    )
    assert re.search(r"\b1\.70 to 1\.[78]", said)
    assert probe(Clip(out / "marked.mp4")).fps == 20
    for k, frame in enumerate(read_frames(out / "marked.mp4")):
        framed = np.abs(frame[24, 0].astype(int) - MARK).max() < 40
        assert frame.shape == (48, 64, 3) and framed == (k in marked), k
    assert Image.open(out / "scores.png").size[0] > 500


def test_bars_are_as_long_as_scores(trained, video, tmp_path, kinema):
    assert kinema("anomalies", trained, video, "--out", tmp_path, "--threshold", 1e9)[0] == 0
    longest = np.stack(list(read_frames(tmp_path / "marked.mp4")))[:, -2].astype(int)  # [T, W, 3]
    assert (longest[0] > 10).all() and not (np.abs(longest - MARK).max(-1) < 40).any()
    assert kinema("anomalies", trained, video, "--out", tmp_path, "--threshold", 1e-9)[0] == 0
    bars = np.stack(list(read_frames(tmp_path / "marked.mp4")))[:, -2].astype(int)
    lengths = (np.abs(bars - MARK).max(-1) < 90).sum(1)
    scores = np.array([float(row["score"] or 0) for row in read(tmp_path)])
    np.testing.assert_allclose(lengths[1:] / 64, scores[1:] / scores.max(), atol=0.1)
    assert COLOURS[0] != MARK


def test_the_threshold_can_come_from_normal_clips(trained, video, make_clip, tmp_path, kinema):
    make_clip("normal/a.mp4", frames=12)
    make_clip("normal/b.mp4", frames=9)
    (tmp_path / "normal" / "bad.mp4").write_text("no")
    out = tmp_path / "out"
    status, said, err = kinema("anomalies", trained, video, "--out", out, "--normal", tmp_path / "normal")
    assert status == 0 and err.startswith("skipped bad.mp4: ")
    values = []
    for name in ("a", "b"):
        assert kinema("anomalies", trained, tmp_path / "normal" / f"{name}.mp4", "--out", tmp_path / name)[0] == 0
        values += [float(row["score"]) for row in read(tmp_path / name)[1:]]
    assert f"above {np.percentile(values, 95):.5g}"[:-1] in said and "95th percentile of" in said


def test_anomalies_that_cannot_be_looked_for(trained, gan, video, make_clip, tmp_path, refused):
    out = ["--out", tmp_path / "out"]
    assert "MoCoGAN cannot score frames" in refused("anomalies", gan, video, *out)
    assert "it is one frame" in refused("anomalies", trained, make_clip("one.mp4", frames=1), *out)
    assert "nowhere.mp4" in refused("anomalies", trained, tmp_path / "nowhere.mp4", *out)
    assert "no model there" in refused("anomalies", tmp_path, video, *out)
    assert not (tmp_path / "out").exists()
