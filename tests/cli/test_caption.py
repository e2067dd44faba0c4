"""kinema caption: a line for each clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kinema.cli.main import main

SMALL = ["--data.frames", "9", "--data.height", "16", "--data.width", "32", "--train.batch", "2", "--device", "cpu"]
NETWORK = ["--family.hidden", "16", "--family.depth", "1", "--family.heads", "2"]


@pytest.fixture(scope="module")
def train(tiny_codec: Callable[..., str], tmp_path_factory) -> Callable[..., Path]:
    """Train for a step on Shape Motion, which has captions."""

    def run(*words: str) -> Path:
        out = tmp_path_factory.mktemp("runs")
        codec = ["--family.codec", tiny_codec((4, 5, 3))]
        assert (
            main(["train", "token-transformer", "--out", str(out), "--steps", "1", *codec, *NETWORK, *SMALL, *words])
            == 0
        )
        return out

    return run


def test_caption_prints_a_line_a_clip(train, make_clip, tmp_path, kinema, refused):
    model = train("--family.text", "6")
    for name in ("b/one.mp4", "b/two.mp4", "b/short.mp4"):
        make_clip(name, frames=4 if "short" in name else 12)
    status, said, err = kinema("caption", model, tmp_path / "b")
    assert status == 0
    names = [line.split(": ")[0] for line in said.splitlines()]
    assert names == [str(tmp_path / "b" / "one.mp4"), str(tmp_path / "b" / "two.mp4")]
    assert "skipped short.mp4: it has 4 of the 9 frames" in err
    status, one, err = kinema("caption", model, tmp_path / "b" / "one.mp4")
    assert (status, err) == (0, "") and said.startswith(one)
    assert "it has 4 of the 9 frames" in refused("caption", model, tmp_path / "b" / "short.mp4")


def test_models_without_captions(train, make_clip, tmp_path, kinema, refused):
    clip = make_clip("one.mp4", frames=12)
    assert "writes no captions" in refused("caption", train(), clip)
    words = ["--family.ngf", "2", "--family.ndf", "2", "--data.width", "16"]
    assert main(["train", "mocogan", "--out", str(tmp_path / "gan"), "--steps", "1", *SMALL, *words]) == 0
    assert "MoCoGAN writes no captions" in refused("caption", tmp_path / "gan", clip)
    assert "needs a codec that makes tokens: train one" in refused(
        "train", "token-transformer", "--out", tmp_path / "x", "--steps", 1, *SMALL
    )


def test_the_command_samples(train, tmp_path, kinema):
    model = train("--preset", "masked", "--family.sampling.steps", "2")
    status, out, err = kinema("sample", model, "--count", 2, "--frames", 14, "--label", "up", "--out", tmp_path / "out")
    assert (status, err) == (0, "") and len(out.splitlines()) == 3
