"""Every command as a user meets it: what it writes, what it says, and one line for whatever was wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load, save_file

from kinema.cli.main import main
from kinema.data.clips import DataConfig, open_source
from kinema.data.readers.base import Clip, probe, read_frames
from kinema.data.writing import contact_sheet, write_video
from kinema.zoo import FORMAT
from kinema.zoo.files import codec_file, write_manifest

SMALL = ["--data.frames", "8", "--data.height", "16", "--data.width", "16"]
TINY = ["--family.ngf", "4", "--family.ndf", "4", "--train.batch", "2", "--device", "cpu", *SMALL]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps on Shape Motion, whose labels are up and left; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "x"
    assert main(["train", "mocogan", "--out", str(out), "--steps", "2", *TINY]) == 0
    return out


@pytest.fixture
def run_copy(trained, tmp_path) -> Path:
    """A run to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def clips(make_clip, tmp_path) -> Path:
    """A folder of three clips that can be trained on."""
    for k in range(3):
        make_clip(f"clips/{k}.mp4", frames=10 + k)
    return tmp_path / "clips"


# from clips to clips


def test_train_says_where_the_model_is(tmp_path, clips, kinema):
    status, out, err = kinema("train", "mocogan", "--data", clips, "--out", tmp_path / "x", "--steps", 2, *TINY)
    assert (status, out) == (0, "")
    assert "step-00000002" in err and f"kinema sample {tmp_path / 'x'}" in err
    assert not err.startswith("\n")
    config = json.loads((tmp_path / "x" / "step-00000002" / "config.json").read_text())
    assert config["data"]["source"] == str(clips) and config["train"]["steps"] == 2


def test_train_reports_losses_where_there_is_no_terminal(tmp_path, kinema, monkeypatch):
    monkeypatch.setattr("kinema.training.watch.SCALARS", 0.0)
    monkeypatch.setattr("kinema.training.watch.LINES", 0.0)
    _, _, err = kinema("train", "mocogan", "--out", tmp_path / "x", "--steps", 2, *TINY)
    assert re.search(r"^step 1 .* it/s .*generator_video \d", err, re.MULTILINE)


def test_train_goes_on(run_copy, kinema):
    status, _, err = kinema("train", "mocogan", "--out", run_copy, "--resume", "--steps", 3, "--device", "cpu")
    assert status == 0, err
    assert (run_copy / "step-00000003").is_dir()
    config = json.loads((run_copy / "step-00000003" / "config.json").read_text())
    assert config["family"]["ngf"] == 4  # the run's, not the preset's


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "npy", "png"])
def test_sample_writes_every_format(suffix, trained, tmp_path, kinema):
    status, out, err = kinema("sample", trained, "--count", 2, "--format", suffix, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    written = [Path(line) for line in out.splitlines()]
    ending = "" if suffix == "png" else f".{suffix}"
    assert [path.name for path in written] == [f"clip-000{ending}", f"clip-001{ending}", "sheet.png"]
    fps = json.loads((trained / "step-00000002" / "config.json").read_text())["spec"]["fps"]
    shapes = []
    for path in written[:2]:
        if suffix == "npy":
            frames = np.load(path)
        elif suffix == "png":
            frames = np.stack([np.asarray(Image.open(image)) for image in sorted(path.iterdir())])
        else:
            frames = np.stack(list(read_frames(path)))
            assert probe(Clip(path)).fps == pytest.approx(fps, rel=0.01)
        shapes.append(frames.shape)
    assert shapes == [(8, 16, 16, 3)] * 2
    assert Image.open(written[2]).size[0] > 8 * 16

    status, out, _ = kinema("sample", trained, "--count", 1, "--out", tmp_path / "new" / f"one.{suffix}")
    assert status == 0 and Path(out.splitlines()[0]) == tmp_path / "new" / f"one{ending}"


def sampled(kinema, trained: Path, out: Path, *words: object) -> list[np.ndarray]:
    status, _, err = kinema("sample", trained, "--format", "npy", "--out", out, *words)
    assert status == 0, err
    return [np.load(path) for path in sorted(out.glob("*.npy"))]


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """The same clip, but for the rounding of sums in another order."""
    return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 2


def test_a_folder_may_be_named_like_a_version(trained, tmp_path, kinema):
    status, _, err = kinema("sample", trained, "--count", 1, "--out", tmp_path / "v1.2")
    assert status == 0 and (tmp_path / "v1.2" / "clip-000.mp4").exists(), err


def test_sample_seeds(trained, tmp_path, kinema):
    both = sampled(kinema, trained, tmp_path / "a", "--count", 2, "--seed", 5)
    (second,) = sampled(kinema, trained, tmp_path / "b", "--count", 1, "--seed", 6)
    assert near(both[1], second) and not np.array_equal(both[0], second)
    held = sampled(kinema, trained, tmp_path / "c", "--count", 3, "--content-seed", 4, "--motion-seed", 7)
    assert near(held[0], held[1]) and near(held[1], held[2])
    (long,) = sampled(kinema, trained, tmp_path / "d", "--count", 1, "--seed", 6, "--frames", 20)
    assert long.shape == (20, 16, 16, 3)


def test_sample_labels(trained, tmp_path, kinema):
    names = sampled(kinema, trained, tmp_path / "a", "--count", 2, "--label", "up", "left")
    numbers = sampled(kinema, trained, tmp_path / "b", "--count", 2, "--label", "0", "1")
    assert all(np.array_equal(a, b) for a, b in zip(names, numbers, strict=True))


def test_sample_grid_shares_content_by_row_and_motion_by_column(trained, tmp_path, kinema):
    (grid,) = sampled(kinema, trained, tmp_path / "grid", "--grid", 2, 3, "--seed", 1, "--label", "up")
    (clip,) = sampled(
        kinema, trained, tmp_path / "one", "--count", 1, "--content-seed", 2, "--motion-seed", 3, "--label", "up"
    )
    assert grid.shape == (8, 2 * 20 - 4, 3 * 20 - 4, 3)
    assert near(grid[:, 20:36, 40:56], clip)  # row 1 is content 1 + 1, column 2 is motion 1 + 2
    assert (tmp_path / "grid" / "sheet.png").exists()


def test_data_check(make_clip, tmp_path, kinema):
    make_clip("clips/wave/a.mp4", frames=10)
    make_clip("clips/wave/b.mp4", frames=12, tone=0.4)
    make_clip("clips/jump/c.webm", frames=9, codec="libvpx-vp9", size=(64, 48), rate=20)
    (tmp_path / "clips" / "jump" / "bad.mp4").write_text("not a video")
    sheet = tmp_path / "sheet.png"
    status, out, err = kinema("data", "check", tmp_path / "clips", "--out", sheet, *SMALL)
    assert (status, err) == (0, "")
    rows = dict(re.findall(r"│ (\S[^│]*?) +│ (\S[^│]*?) +│", out))
    assert rows["clips"] == "4 found, 3 usable, 1 skipped"
    assert rows["frames"] == "8 to 10, 27 in all: 0.40 to 0.50 s at 20 a second"
    assert rows["sizes"] == "48x32 (2), 64x48 (1)"
    assert rows["frame rates"] == "25 (2), 20 (1)"
    assert rows["sound"] == "44100 Hz (1)"
    assert rows["labels"] == "jump (2), wave (2)" and rows["captions"] == "none"
    assert re.search(r"^time +as given \(kinema would choose 9 frames at 20 a second", out, re.MULTILINE)
    assert f"kinema train --data {tmp_path / 'clips'} --out runs/x --minutes 30 --data.frames 8" in out
    assert re.search(r"^skipped jump/bad\.mp4: ", out, re.MULTILINE)

    config = DataConfig(source=str(tmp_path / "clips"), frames=8, height=16, width=16, fps=20)
    source = open_source(config)
    shown = [*dict(source.chosen(0, 4, seed=0)).items()]
    names = [source.name(clip) for clip, _ in shown]
    assert sorted(names) == ["jump/c.webm", "wave/a.mp4", "wave/b.mp4"]
    seen = contact_sheet(source.read(shown).frames.movedim(2, -1).numpy(), labels=names)
    assert np.array_equal(np.asarray(Image.open(sheet)), seen)


def test_data_check_counts_what_metadata_leaves_out(clips, tmp_path, kinema):
    (clips / "metadata.csv").write_text("file_name,caption\n0.mp4,one\n1.mp4,two\ngone.mp4,three\n")
    status, out, _ = kinema("data", "check", clips, "--out", tmp_path / "sheet.png", *SMALL)
    assert status == 0
    assert "4 found, 2 usable, 2 skipped" in out and "2 of 2" in out
    assert re.search(r"^skipped 2\.mp4: no row in metadata\.csv$", out, re.MULTILINE)
    assert re.search(r"^skipped gone\.mp4: named in metadata\.csv but does not exist$", out, re.MULTILINE)


def test_held_out_files_are_counted_and_not_trained_on(make_clip, tmp_path, kinema):
    for k in range(6):
        make_clip(f"set/{k}.mp4", frames=10)
    check = ("data", "check", tmp_path / "set", "--out", tmp_path / "sheet.png", *SMALL)
    assert re.search(r"held out of training +│ 1 of 6, by file", kinema(*check)[1])
    assert re.search(r"held out of training +│ none", kinema(*check, "--data.holdout", 0)[1])
    rows = "".join(f"{k}.mp4,{k % 5}\n" for k in range(6))
    (tmp_path / "set" / "metadata.csv").write_text("file_name,patient\n" + rows)
    said = kinema(*check, "--data.holdout", 0.6)[1]
    assert re.search(r"6 found, 6 usable, 0 skipped", said)
    assert re.search(r"held out of training +│ [34] of 6, whole groups by patient", said)
    status, _, err = kinema(
        "train", "mocogan", "--data", tmp_path / "set", "--out", tmp_path / "x", "--steps", 1, *TINY
    )
    assert status == 0 and re.search(r"^[12] of 6 clips are held out of training", err, re.MULTILINE)


# bad files among good ones


def test_a_bad_file_is_named_once_and_the_run_goes_on(clips, make_clip, tmp_path, kinema):
    (clips / "notes.mp4").write_text("not a video")
    make_clip("clips/short.mp4", frames=1)
    cut = make_clip("clips/cut.mp4", frames=40)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (clips / "metadata.csv").write_text(
        "file_name,caption\n" + "".join(f"{n}.mp4,x\n" for n in ("0", "1", "notes", "short", "cut", "gone"))
    )
    status, _, err = kinema("train", "mocogan", "--data", clips, "--out", tmp_path / "x", "--steps", 1, *TINY)
    assert status == 0, err
    for name in ("notes.mp4", "short.mp4", "cut.mp4", "gone.mp4", "2.mp4"):
        assert len(re.findall(rf"^skipped {re.escape(name)}: ", err, re.MULTILINE)) == 1, err
    assert "skipped short.mp4: 1 frame at 25 fps, 4 are needed" in err


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("16-bit.mkv", {"codec": "ffv1", "pixels": "gray16le"}),
        ("odd.mkv", {"codec": "ffv1", "pixels": "bgr0", "size": (47, 31)}),
        ("alpha.mov", {"codec": "qtrle", "pixels": "argb"}),
        ("ten-bit.mp4", {"codec": "libx264", "pixels": "yuv420p10le"}),
    ],
)
def test_unusual_pixels_can_be_trained_on(name, settings, make_clip, tmp_path, kinema):
    make_clip(f"clips/{name}", **settings)
    sheet = tmp_path / "sheet.png"
    status, out, err = kinema("data", "check", tmp_path / "clips", "--out", sheet, *SMALL)
    assert status == 0, err
    assert "1 found, 1 usable, 0 skipped" in out
    grey = np.asarray(Image.open(sheet)).reshape(-1, 3)[:128].astype(int)
    assert np.ptp(grey, axis=1).max() <= 3  # make_clip's frames are grey


# what the user can mend


def test_folders_without_clips(tmp_path, refused):
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ["--out", tmp_path / "x", "--steps", 1, *TINY]
    assert "no clips in it" in refused("train", "mocogan", "--data", empty, *words)
    assert "no clips in it" in refused("data", "check", empty)
    (empty / "a.mp4").write_text("no")
    (empty / "b.mp4").write_text("no")
    assert "none of its 2 clips can be used" in refused("train", "mocogan", "--data", empty, *words)
    assert "none of its 2 clips can be used" in refused("data", "check", empty)
    assert "no such folder" in refused("train", "mocogan", "--data", tmp_path / "nowhere", *words)
    assert "not a folder" in refused("data", "check", tmp_path / "nowhere")
    assert "no such folder" in refused("evaluate", tmp_path / "nowhere")


def test_metadata_that_cannot_be_read(clips, tmp_path, refused):
    (clips / "metadata.csv").write_text("name\n0.mp4\n")
    words = ["--out", tmp_path / "x", "--steps", 1, *TINY]
    assert "metadata.csv, line 1" in refused("train", "mocogan", "--data", clips, *words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tran"], "no command 'tran'"),
        (["train"], "one of latent-dit, mocogan"),
        (["train", "mocogan"], "--out"),
        (["train", "nofamily", "--out", "x", "--steps", "1"], "no family 'nofamily'"),
        (["train", "mocogan", "--preset", "nopreset", "--out", "x", "--steps", "1"], "no preset 'nopreset'"),
        (["train", "mocogan", "--out", "x", "--steps", "1", "--preset"], "--preset"),
        (["train", "mocogan", "--out", "x", "--steps", "1", "--resume"], "x: no model there"),
        (["train", "mocogan", "--out", "x", *TINY], "give --steps or --minutes"),
        (["train", "mocogan", "--out", "x", "--steps", "0", *TINY], "steps is 0: it must be 1 to"),
        (["train", "mocogan", "--out", "x", "--minutes", "-1", *TINY], "minutes is -1: it must be 1e-06 to"),
        (["train", "mocogan", "--out", "x", "--steps", "1", "--train.batch", "0"], "batch is 0: it must be 1 to"),
        *(
            (["train", "mocogan", "--out", "x", "--steps", "1", f"--train.{name}", *values], f"{said} is ")
            for name, values, said in (
                ("batch", [str(10**30)], "batch"),
                ("seed", ["-1"], "seed"),
                ("lr", ["nan"], "lr"),
                ("clip-norm", ["-1"], "clip_norm"),
                ("clip-norm", ["nan"], "clip_norm"),
                ("weight-decay", ["inf"], "weight_decay"),
                ("save-every-minutes", ["nan"], "save_every_minutes"),
                ("sample-every-minutes", ["-1"], "sample_every_minutes"),
                ("ema-decay", ["nan"], "ema_decay"),
                ("betas", ["0.9", "1"], "betas"),
            )
        ),
        (["train", "mocogan", "--out", "x", "--steps", "1", "--data.frames", "0"], "frames is 0"),
        (["train", "mocogan", "--out", "x", "--steps", "1", *TINY, "--data.height", "20"], "multiples of 16"),
        (["train", "mocogan", "--out", "x", "--steps", "many"], "many"),
        (["train", "mocogan", "--out", "x", "--steps", "1", "--famly.ngf", "4"], "--famly.ngf"),
        (["train", "mocogan", "--out", "x", "--steps", "1", *TINY, "--device", "abacus"], "abacus"),
        (["sample"], "MODEL"),
        (["sample", "nowhere", "--out", "out"], "nowhere: no model there"),
        (["evaluate", "shape-motion", "--clips", "1"], "clips is 1: it must be 2 to"),
        (["evaluate", "shape-motion", "--features", "smell"], "smell"),
        (["evaluate", "shape-motion", "--clips", "2", "--frames", "1"], "frames"),
        (["compare", "shape-motion"], "two sources or more"),
        (["metrics", "audit", "--clips", "40"], "--on"),
        (["metrics", "audit", "--on", "shape-motion", "--clips", "8"], "give 16 or more of each"),
    ],
    ids=lambda value: " ".join(value[:5]) if isinstance(value, list) else "",
)
def test_one_line_says_what_is_wrong(words, says, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*words)
    assert not Path("x").exists(), "a command that was refused leaves nothing"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--label", "sideways"], "its labels are up, left"),
        (["--label", "2"], "its labels are up, left"),
        (["--format", "avi"], "mp4, webm, gif"),
        (["--count", "0"], "--count is 0: it must be 1 to"),
        (["--grid", "0", "2"], "--grid is 0: it must be 1 to"),
        (["--frames", "0"], "--frames is 0: it must be 1 to"),
        (["--fps", "0"], "--fps is 0: it must be 0.01 to 1,000"),
        (["--colour", "red"], "--colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sampling_that_cannot_be_done(words, says, trained, refused, tmp_path):
    assert says in refused("sample", trained, "--out", tmp_path / "out", *words)


def test_labels_of_a_model_without_any(clips, tmp_path, kinema, refused):
    assert kinema("train", "mocogan", "--data", clips, "--out", tmp_path / "x", "--steps", 1, *TINY)[0] == 0
    for label in ("up", "0"):
        says = refused("sample", tmp_path / "x", "--out", tmp_path / "out", "--label", label)
        assert "without labels" in says or "0 labels" in says


def test_a_run_is_not_overwritten(run_copy, refused):
    before = sorted(run_copy.rglob("*"))
    assert "--resume" in refused("train", "mocogan", "--out", run_copy, "--steps", 4, *TINY)
    assert sorted(run_copy.rglob("*")) == before


def test_a_run_goes_on_with_its_own_network_only(run_copy, refused):
    words = ["train", "mocogan", "--out", run_copy, "--resume", "--steps", 4, "--device", "cpu"]
    assert "family.ngf: 8, not 4" in refused(*words, "--family.ngf", 8)
    assert "clips' height: 32, not 16" in refused(*words, "--data.height", 32)


def test_damaged_and_foreign_checkpoints(run_copy, tmp_path, refused):
    out = ["--out", tmp_path / "out"]
    generator = run_copy / "step-00000002" / "generator.safetensors"
    complete = generator.read_bytes()
    weights = load(complete)

    generator.write_bytes(complete[: len(complete) // 2])
    assert "generator.safetensors: damaged" in refused("sample", run_copy, *out)
    foreign = tmp_path / "foreign.safetensors"
    save_file(weights, foreign)
    assert "foreign.safetensors: not a kinema model" in refused("sample", foreign, *out)
    foreign.write_text("hello")
    says = refused("sample", foreign, *out)
    assert "foreign.safetensors: damaged or not a kinema file" in says and "remove" not in says

    def with_config(text: str) -> Path:
        save_file(weights, generator, metadata={"kinema": text})
        write_manifest(generator.parent, codec_file(generator))
        return run_copy

    config = json.loads((generator.parent / "config.json").read_text())
    assert "did you mean 'ngf'" in refused(
        "sample", with_config(json.dumps(config | {"family": config["family"] | {"nfg": 4}})), *out
    )
    assert "not a kinema" in refused("sample", with_config(json.dumps({"format": FORMAT})), *out)
    assert "not a kinema" in refused("sample", with_config("not JSON"), *out)
    wider = config | {"family": config["family"] | {"ngf": 8}}
    assert "generator: the tensor " in refused("sample", with_config(json.dumps(wider)), *out)
    other = config | {"family": {"name": "transmogrifier"}}
    assert "no family 'transmogrifier'" in refused("sample", with_config(json.dumps(other)), *out)


def test_a_file_in_the_way(trained, clips, tmp_path, refused):
    wall = tmp_path / "file"
    wall.touch()
    for out in (wall, wall / "x"):
        assert str(wall) in refused("train", "mocogan", "--out", out, "--steps", 1, *TINY)
    assert str(wall) in refused("sample", trained, "--out", wall / "x", "--count", 1)
    assert str(wall) in refused("sample", trained, "--out", wall / "x.gif", "--count", 1)
    assert str(wall) in refused("data", "check", clips, "--out", wall / "x.png", *SMALL)
    assert str(wall) in refused("evaluate", trained, "--clips", 2, "--frames", 8, "--out", wall / "x")
    assert "sheet.xyz" in refused("data", "check", clips, "--out", tmp_path / "sheet.xyz", *SMALL)
    images = tmp_path / "taken"
    images.mkdir()
    (images / "photo.png").touch()
    assert str(images) in refused("sample", trained, "--out", tmp_path / "taken.png", "--count", 1)


def test_written_clips_play_everywhere(trained, tmp_path, kinema):
    assert kinema("sample", trained, "--grid", 1, 2, "--out", tmp_path / "x.mp4")[0] == 0
    with av.open(str(tmp_path / "x.mp4")) as film:
        stream = film.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (36, 16)


def test_a_name_of_a_file_may_be_no_text(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    write_video(clips / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8), 25.0)
    (clips / os.fsdecode(b"\xff\xfe.mp4")).write_bytes(b"x")
    command = [sys.executable, "-m", "kinema.cli", "data", "check", str(clips), "--out", str(tmp_path / "sheet.png")]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"})
    assert done.returncode == 0, done.stderr
    assert rb"skipped \udcff\udcfe.mp4: " in done.stdout
