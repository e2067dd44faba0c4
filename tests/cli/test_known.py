"""Known parts of a clip: its first frames, its last, both ends, a region; families make the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from kinema import presets
from kinema.cli.main import main
from kinema.data.clips import DataConfig
from kinema.data.decoded import resize
from kinema.data.readers.base import read_frames
from kinema.data.writing import to_uint8
from kinema.experiment import Experiment, TrainConfig
from kinema.families.vgan import VGAN, VGANConfig
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.sampling.model import Model, load, stream
from kinema.sampling.request import GenerateRequest
from kinema.types import Conditions, Progress, Seeds, no_progress

MADE = 255  # of what is not known
SIZE = 16


class EchoConfig(VGANConfig):
    """VGAN's."""

    def build(self) -> Echo:
        return Echo(self)


class Echo(VGAN):
    """Gives back what is known; the rest is white."""

    accepts = frozenset({"known", "mask"})

    def __init__(self, config: EchoConfig) -> None:
        super().__init__(config)
        self.max_frames = None

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        drawn = torch.ones(len(seeds), frames, 3, SIZE, SIZE)
        if conditions.known is not None and conditions.mask is not None:
            t = conditions.known.shape[1]
            drawn[:, :t] = conditions.known.where(conditions.mask, drawn[:, :t])
        yield drawn


def echo() -> Experiment:
    """The smallest."""
    data = DataConfig(frames=8, height=SIZE, width=SIZE)
    return Experiment(EchoConfig(ngf=2, ndf=2), data, TrainConfig(batch=2, steps=1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[dict[str, Path]]:
    """A run of each family that accepts known frames, not to be changed."""
    small = "--data.height 16 --data.width 16 --train.batch 2 --steps 1 --device cpu"
    words = {
        "echo": "",
        "tgan": "--data.frames 8 --family.ngf 2 --family.ngf-path 2 --family.ndf 2 --family.search-steps 2",
        "svg-lp": "--data.frames 8 --family.channels 2 --family.code 8 --family.hidden 8 --family.context-frames 3",
        "video-vae": "--data.frames 9 --family.hidden 4",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES._builtin, "echo", f"{__name__}:EchoConfig")
        patch.setitem(presets.PRESETS, "echo", {"cpu": echo})
        runs = {name: tmp_path_factory.mktemp("runs") / name for name in words}
        for name, out in runs.items():
            assert main(["train", name, "--out", str(out), *small.split(), *words[name].split()]) == 0
        yield runs


@pytest.fixture
def clip(make_clip) -> Path:
    """Twelve frames of 24x24 in which frame k is of level 10 k; larger than the models' and as wide as high."""
    return make_clip("a.mkv", frames=12, size=(24, 24), codec="ffv1", pixels="bgr0")


@pytest.fixture
def mask(tmp_path) -> Path:
    """An image of 48x48, black in its left quarter."""
    pixels = np.full((48, 48), 255, np.uint8)
    pixels[:, :12] = 0
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture
def sampled(trained, kinema, clip, tmp_path):
    def sample(family: str, *words: object, known: Path = clip) -> np.ndarray:
        out = tmp_path / "clip.npy"
        status, _, err = kinema("sample", trained[family], "--known", known, "--count", 1, "--out", out, *words)
        assert status == 0, err
        return np.load(out)

    return sample


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("", [0]),
        ("--keep-first 3", [0, 1, 2]),
        ("--keep-last 1", [7]),
        ("--keep-last 7", [1, 2, 3, 4, 5, 6, 7]),
        ("--between", [0, 7]),
        ("--between --keep-first 2", [0, 1, 7]),
        ("--between --keep-last 3", [0, 5, 6, 7]),
        ("--keep-first 2 --keep-last 3", [0, 1, 5, 6, 7]),
        ("--between --frames 12", [0, 11]),
        ("--keep-first 4 --frames 20", [0, 1, 2, 3]),  # more than the clip has
    ],
)
def test_known_frames(words: str, kept: list[int], sampled) -> None:
    made = sampled("echo", *words.split())
    frames = int(words.split()[-1]) if "--frames" in words else 8
    levels = [np.unique(frame).tolist() for frame in made]
    assert levels == [[10 * k] if k in kept else [MADE] for k in range(frames)]


def test_a_known_region(sampled, mask) -> None:
    made = sampled("echo", "--mask", mask)
    assert made.shape == (8, SIZE, SIZE, 3)
    assert (made[:, :, :4] == 10 * np.arange(8)[:, None, None, None]).all() and (made[:, :, 4:] == MADE).all()
    both = sampled("echo", "--mask", mask, "--between")
    assert (both[[0, 7]] == made[[0, 7], :1, :1]).all() and np.array_equal(both[1:7], made[1:7])


def test_a_mask_is_cropped_as_the_frames_are(sampled, make_clip, tmp_path) -> None:
    wide = np.zeros((4, 16, 48, 3), np.uint8)
    wide[:, :, :20] = 90  # 16 of these 20 are cropped
    clip = make_clip("wide.mkv", images=np.repeat(wide, 2, 0), codec="ffv1", pixels="bgr0")
    Image.fromarray(np.where(wide[0] == 90, 0, 255).astype(np.uint8)).save(tmp_path / "wide.png")
    made = sampled("echo", "--mask", tmp_path / "wide.png", known=clip)
    assert (made[:, :, :4] == 90).all() and (made[:, :, 4:] == MADE).all()


def test_families_use_what_they_can(sampled, trained, clip, mask, refused, tmp_path) -> None:
    assert sampled("tgan", "--between").shape == sampled("tgan", "--mask", mask).shape == (8, SIZE, SIZE, 3)
    first = np.stack([resize(frame, SIZE, SIZE) for frame in read_frames(clip)][:3])
    assert np.array_equal(sampled("svg-lp")[:3], first)
    assert sampled("video-vae", "--keep-first", 5).shape == (9, SIZE, SIZE, 3)
    for family, name in (("svg-lp", "SVGLP"), ("video-vae", "VideoVAE")):
        for words in (["--keep-last", 2], ["--between"], ["--mask", mask]):
            says = refused("sample", trained[family], "--known", clip, "--out", tmp_path / "out", *words)
            assert f"{name} can only go on from the first frames" in says


def test_a_codec_shows_what_it_decodes(sampled, trained, clip, refused, kinema, make_clip, tmp_path) -> None:
    assert "a codec makes no clips of its own" in refused("sample", trained["video-vae"], "--out", tmp_path / "out")
    frames = np.stack([resize(frame, SIZE, SIZE) for frame in read_frames(clip)][:9])
    real = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    known = Conditions().with_first_frames(real)
    model = load(trained["video-vae"])
    chunks = stream(model.family, model.runtime, Seeds((0,)), 9, known)
    assert np.array_equal(sampled("video-vae"), np.concatenate([to_uint8(chunk) for chunk in chunks], 1)[0])
    for number in range(4):
        make_clip(f"clips/{number}.mkv", 40 + number, size=(SIZE, SIZE), codec="ffv1", pixels="bgr0")
    measured = ["--clips", 4, "--fps", 7.031, "--force", "--features", "kinema", "--out", tmp_path / "report"]
    status, _, err = kinema("evaluate", trained["video-vae"], "--against", tmp_path / "clips", *measured)
    assert status == 0, err
    result = json.loads((tmp_path / "report" / "results.json").read_text())[0]
    assert 5 < result["numbers"]["PSNR"]["value"] < 60
    assert "is a codec" in refused("evaluate", trained["video-vae"], "--clips", 4, "--force")


def test_clips_of_a_folder_that_are_too_short_are_named(trained, make_clip, kinema, tmp_path) -> None:
    make_clip("clips/a.mkv", frames=7)
    make_clip("clips/b.mkv", frames=8)
    words = ["--known", tmp_path / "clips", "--between", "--count", 2, "--format", "npy", "--out", tmp_path / "out"]
    status, _, err = kinema("sample", trained["echo"], *words)
    assert (status, err) == (0, "skipped a.mkv: it has 7 of the 8 frames that are needed\n")


def test_what_cannot_be_known(trained, clip, mask, refused, tmp_path) -> None:
    def says(*words: object, known: object = clip) -> str:
        clip = ["--known", known] if known else []
        return refused("sample", trained["echo"], "--out", tmp_path / "out", *clip, *words)

    for words in (["--keep-first", 2], ["--keep-last", 2], ["--between"], ["--mask", mask]):
        assert f"{words[0]} says what of --known is known" in says(*words, known=None)
    for words in (["--keep-last", 0], ["--keep-first", 0, "--between"], ["--keep-last", -1, "--mask", mask]):
        assert "it must be 1 to" in says(*words)
    for words in (["--keep-last", 8], ["--keep-first", 4, "--keep-last", 4], ["--between", "--frames", 2]):
        assert "frames are known, so there is nothing to make" in says(*words)
    assert "12 of the 20 frames that are needed" in says("--between", "--frames", 20)
    assert "nowhere.png: there is no such file" in says("--mask", tmp_path / "nowhere.png")
    assert "a.mkv: Pillow cannot read it" in says("--mask", clip)
    for level, name in ((0, "black"), (255, "white")):
        Image.new("L", (8, 8), level).save(tmp_path / "one.png")
        assert f"one.png is all {name}: black is kept, white is generated" in says("--mask", tmp_path / "one.png")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def model(trained) -> Model:
    return load(trained["echo"], Runtime(torch.device("cpu"), torch.float32))


def test_in_python_known_clips_are_cycled_under_one_mask(model) -> None:
    known = np.stack([np.full((8, SIZE, SIZE, 3), level, np.uint8) for level in (10, 200)])
    mask = np.zeros((8, SIZE, SIZE), bool)
    mask[-1, 3] = True
    made = model.generate(GenerateRequest((0, 1, 2), known=known, mask=mask), batch=2)
    expected = np.full_like(made, MADE)
    for clip, level in zip(expected, (10, 200, 10), strict=True):
        clip[-1, 3] = level
    assert np.array_equal(made, expected)
    assert (model.generate(GenerateRequest(known=known[:1, :2]))[0, :2] == 10).all()
    with pytest.raises(ValueError, match="give known too"):
        model.generate(GenerateRequest(mask=mask))
