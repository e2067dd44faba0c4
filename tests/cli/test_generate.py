"""kinema generate: every condition reaches the model, and what cannot be is one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from kinema.cli.main import main
from kinema.conditions.audio import SAMPLE_RATE as RATE
from kinema.data.readers.base import read_audio, read_frames
from kinema.data.writing import write_video
from kinema.sampling.model import Model, load
from kinema.sampling.request import GenerateRequest
from kinema.zoo import files
from kinema.zoo.files import codec_file, write_manifest

CLICK = "a red ball bouncing"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the sprite world, of two steps, which uses every condition."""
    out = tmp_path_factory.mktemp("run")
    family = "--family.hidden 16 --family.depth 2 --family.heads 2 --family.patch 1 16 --family.attention full"
    data = "--data sprites --data.frames 8 --data.height 32 --data.width 32"
    rest = f"--steps 2 --train.batch 2 --train.lr 0.01 --train.ema-decay 0 --device cpu --out {out}"
    assert main(f"train latent-dit --preset pixels {data} {family} {rest}".split()) == 0
    return out


@pytest.fixture
def make(kinema, trained: Path, tmp_path: Path):
    """Generate exact frames uint8 [T, H, W, 3]; what was said on stderr is in `make.said`."""

    def generate(*words: object) -> np.ndarray:
        out = tmp_path / "out.npy"
        status, _, generate.said = kinema("generate", *words, "--model", trained, "-o", out, "--steps", 2)
        assert status == 0, generate.said
        return np.load(out)

    generate.said = ""
    return generate


@pytest.fixture
def refuses(refused, trained: Path, tmp_path: Path):
    def run(*words: object) -> str:
        message = refused("generate", *words, "--model", trained, "-o", tmp_path / "out.npy")
        assert not (tmp_path / "out.npy").exists()
        return message

    return run


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    """Files of every kind that can be given."""
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    files = {name: tmp_path / name for name in ("video.mkv", "image.png", "mask.png", "actions.csv", "sound.wav")}
    with av.open(str(files["video.mkv"]), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "bgr0"
        for image in video:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    Image.fromarray(video[3]).save(files["image.png"])
    region = np.zeros((32, 32), np.uint8)
    region[:, 16:] = 255
    Image.fromarray(region).save(files["mask.png"])
    files["actions.csv"].write_text("x,y\n" + "\n".join(f"{k},{-k}" for k in range(12)))
    with av.open(str(files["sound.wav"]), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44100, layout="mono")
        wave = (8000 * np.sin(np.arange(44100 * 3) / 20)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return files


def test_a_prompt_decides_and_a_seed_repeats(make) -> None:
    first, again = make(CLICK), make(CLICK)
    assert first.shape == (8, 32, 32, 3) and np.array_equal(first, again)
    for other in ((CLICK, "--seed", 1), ("a blue star growing",), ()):
        assert not np.array_equal(first, make(*other))


@pytest.mark.parametrize(("length", "frames"), [(("--frames", 3), 3), (("--frames", 20), 20), (("--seconds", 2), 16)])
def test_length(make, length: tuple[object, ...], frames: int) -> None:
    assert len(make(CLICK, *length)) == frames


def test_every_condition_changes_the_clip(make, given: dict[str, Path]) -> None:
    plain = make()
    for words in (("--audio", given["sound.wav"]), ("--actions", given["actions.csv"])):
        assert not np.array_equal(plain, make(*words))


def test_known_parts_come_back(make, given: dict[str, Path]) -> None:
    video, image = np.stack(list(read_frames(given["video.mkv"]))), np.asarray(Image.open(given["image.png"]))
    assert np.array_equal(make("--image", given["image.png"])[0], image)
    assert np.array_equal(make("--image", given["image.png"], "--keep-last", 1)[-1], image)
    assert np.array_equal(make(CLICK, "--video", given["video.mkv"], "--keep-first", 3)[:3], video[:3])
    ends = make("--video", given["video.mkv"], "--between")
    assert np.array_equal(ends[[0, -1]], video[[0, 7]])
    painted = make("--video", given["video.mkv"], "--mask", given["mask.png"])
    assert np.array_equal(painted[:, :, :16], video[:8, :, :16])
    assert not np.array_equal(painted[:, :, 16:], video[:8, :, 16:])
    still = make("--image", given["image.png"], "--mask", given["mask.png"])
    assert np.array_equal(still[:, :, :16], np.repeat(image[None, :, :16], 8, 0))


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_sound_is_in_the_file(kinema, trained: Path, tmp_path: Path, given: dict[str, Path], suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    words = ("--audio", given["sound.wav"], "--model", trained, "--steps", 1, "--seconds", 1.5, "-o", out)
    status, said, _ = kinema("generate", CLICK, *words)
    assert status == 0 and said.strip() == str(out)
    encoded, meant = read_audio(out, RATE), read_audio(given["sound.wav"], RATE, 1.5)
    assert len(meant) == 1.5 * RATE and len(encoded) >= len(meant)
    assert len(list(read_frames(out))) == 12
    level = [np.sqrt((wave[2000:20000] ** 2).mean()) for wave in (encoded, meant)]
    assert level[0] == pytest.approx(level[1], rel=0.1)


def test_silence_follows_sound_that_ends_before(make, given: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[GenerateRequest] = []
    stream = Model.stream
    monkeypatch.setattr(Model, "stream", lambda *a, **k: requests.append(a[1]) or stream(*a, **k))
    make("--audio", given["sound.wav"], "--seconds", 5)
    assert requests[0].audio is not None
    (wave,) = requests[0].audio
    assert len(wave) == 5 * RATE and np.abs(wave[: 2 * RATE]).max() > 0.1 and not wave[4 * RATE :].any()


def test_only_as_much_of_a_long_sound_is_read_as_is_needed(given: dict[str, Path]) -> None:
    whole = read_audio(given["sound.wav"], RATE)
    np.testing.assert_allclose(read_audio(given["sound.wav"], RATE, 0.25), whole[: RATE // 4], atol=1e-4)
    assert len(whole) == 3 * RATE and len(read_audio(given["sound.wav"], RATE, 99.0)) == 3 * RATE


def test_several_clips_are_numbered_and_each_is_its_seeds(kinema, make, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "a.npy"
    words = ("--count", 2, "--seed", 4, "--model", trained, "--steps", 2, "-o", out)
    status, said, _ = kinema("generate", CLICK, *words)
    assert status == 0 and said.split() == [str(out.with_name(f"a-00{k}.npy")) for k in range(2)]
    assert np.array_equal(np.load(out.with_name("a-001.npy")), make(CLICK, "--seed", 5))


def test_unknown_words_are_warned_of(make) -> None:
    make("a red dragon bouncing 🐉")
    assert make.said == "kinema: the model does not know these words, which are ignored: dragon, 🐉\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("",), "the prompt is empty"),
        (("  ",), "the prompt is empty"),
        (("red " * 2500,), "the prompt has 10,000 letters"),
        (("🐉🐉",), "knows no word of the prompt; it knows "),
        ((CLICK, "--frames", 0), "--frames is 0: it must be 1 to"),
        ((CLICK, "--frames", 4, "--seconds", 1), "--frames and --seconds both"),
        ((CLICK, "--seconds", -1), "--seconds is -1: it must be 0.001 to"),
        ((CLICK, "--count", 0), "--count is 0: it must be 1 to"),
        ((CLICK, "--label", 3), "cannot use label"),
        ((CLICK, "--keep-first", 3), "says what of --image or --video is known"),
        ((CLICK, "--image", "none.png"), "none.png: there is no such file"),
        ((CLICK, "--video", "none.mp4"), "none.mp4: FFmpeg cannot read it"),
        ((CLICK, "--audio", "none.wav"), "none.wav: FFmpeg cannot read it"),
        ((CLICK, "--actions", "none.csv"), "none.csv: there is no such file"),
        ((CLICK, "--guidance", "x"), "guidance"),
        ((CLICK, "--solver", "magic"), "solver"),
        ((CLICK, "--steps", 0), "steps is 0: it must be 1 to"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_one_line(refuses, words: tuple[object, ...], message: str) -> None:
    assert message in refuses(*words)


def test_bad_files_are_one_line(refuses, given: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(given["image.png"].read_bytes()[:60])
    assert "Pillow cannot read it" in refuses("--image", broken)
    both = ("--image", given["image.png"], "--video", given["video.mkv"])
    assert "choose one" in refuses(*both)
    assert "it has 10 of the 16 frames" in refuses("--video", given["video.mkv"], "--between", "--frames", 16)
    assert "12 rows for 20 frames" in refuses("--actions", given["actions.csv"], "--frames", 20)
    wide = tmp_path / "wide.csv"
    wide.write_text("\n".join(["1,2,3"] * 8))
    assert "takes 2 for each" in refuses("--actions", wide)
    white = tmp_path / "white.png"
    Image.new("L", (7, 5), 255).save(white)
    assert "is all white" in refuses("--image", given["image.png"], "--mask", white)
    assert "no audio track" in refuses("--audio", given["video.mkv"])


def test_where_nothing_can_be_written(refused, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "a.mp4", tmp_path / "a.doc", tmp_path / "folder"):
        refused("generate", CLICK, "--model", trained, "--steps", 1, "-o", out)


def test_a_mask_of_another_size_is_resized(make, given: dict[str, Path], tmp_path: Path) -> None:
    Image.open(given["mask.png"]).resize((128, 128)).save(tmp_path / "large.png")
    small, large = (
        make("--video", given["video.mkv"], "--mask", mask) for mask in (given["mask.png"], tmp_path / "large.png")
    )
    assert np.array_equal(small, large)


def test_a_model_without_text_says_so(refused, tiny_codec, tmp_path: Path) -> None:
    message = refused("generate", CLICK, "--model", tiny_codec(), "-o", tmp_path / "a.mp4")
    assert "the model cannot use a prompt, as it was trained with known: leave it out" in message


# Models that ship


def test_an_exported_model_ships_by_its_name(
    kinema, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make
) -> None:
    status, said, err = kinema("export", trained, "--out", tmp_path / "ships" / "small.safetensors", "--half")
    assert status == 0 and "MB" in said, err
    full = (next(trained.glob("step-*")) / "generator.safetensors").stat().st_size
    assert (tmp_path / "ships" / "small.safetensors").stat().st_size < 0.7 * full
    monkeypatch.setattr(files, "FOLDER", tmp_path / "ships")
    assert [*files.shipped()] == ["small"]
    exact, half = load(trained), load("small")
    assert half.spec == exact.spec and half.family.accepts == exact.family.accepts
    for name, tensor in exact.family.generator.state_dict().items():
        torch.testing.assert_close(half.family.generator.state_dict()[name], tensor, rtol=1e-3, atol=1e-6)
    status, said, _ = kinema("models")
    assert status == 0 and "small" in said and "audio" in said and "text" in said


def test_without_any_the_commands_say_so(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    assert "no model called sprites came" in refused("generate", CLICK, "-o", tmp_path / "a.mp4")
    assert "no models came" in refused("models")


def test_weights_beyond_half_precision_are_not_halved(refused, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = next((tmp_path / "run").glob("step-*")) / "generator.safetensors"
    with safe_open(file, framework="pt") as content:
        tensors, metadata = {n: content.get_tensor(n) for n in content.keys()}, content.metadata()  # noqa: SIM118
    tensors["patches.head.bias"][0] = 1e6
    save_file(tensors, file, metadata)
    write_manifest(file.parent, codec_file(file))
    out = tmp_path / "x.safetensors"
    assert "patches.head.bias has weights that float16 cannot hold" in refused(
        "export", tmp_path / "run", "--out", out, "--half"
    )
    assert not out.exists()
    assert "end --out in that" in refused("export", trained, "--out", tmp_path / "x.pt")


def test_sound_beside_frames_in_other_formats_is_left_out(tmp_path: Path) -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    assert write_video(tmp_path / "a.gif", frames, 8, np.zeros(8000, np.float32)).exists()
