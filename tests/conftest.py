"""What tests share: the smallest run that has every part of a real one (three players, labels), and small clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kinema.cli.main import main
from kinema.codecs.video_vae import VideoVAEConfig
from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.families.mocogan import MoCoGANConfig
from kinema.runtime.device import Runtime
from kinema.training.loop import train
from kinema.worlds.shape_motion import ShapeMotion

Tiny = Callable[..., Experiment]
MakeClip = Callable[..., Path]
Cine = Callable[..., Path]


@pytest.fixture
def tiny() -> Tiny:
    """Make the tiny experiment; the arguments are those of TrainConfig."""
    family = MoCoGANConfig(content=4, motion=3, ngf=2, ndf=2, ndf_image=2)
    data = DataConfig(frames=8, height=16, width=32)
    return lambda **settings: Experiment(family, data, TrainConfig(**{"batch": 4} | settings))


@pytest.fixture
def words() -> list[str]:
    """The same experiment as the words of a command; an --out and a budget are still to come."""
    family = "--family.content 4 --family.motion 3 --family.ngf 2 --family.ndf 2 --family.ndf-image 2"
    data = "--data.source shape-motion --data.frames 8 --data.height 16 --data.width 32"
    return f"train mocogan --preset paper {family} {data} --train.batch 4 --device cpu".split()


@pytest.fixture
def world() -> ShapeMotion:
    """The clips that the tiny experiment asks for."""
    return ShapeMotion(frames=8, height=16, width=32)


@pytest.fixture
def cpu() -> Runtime:
    """A CPU in float32."""
    return Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights for the perceptual loss, drawn at random, with the names and shapes of torchvision's VGG16."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    generator, weights = torch.Generator().manual_seed(0), {}
    for number, i, o in zip(numbers, widths[:-1], widths[1:], strict=True):
        kernel = torch.randn(o, i, 3, 3, generator=generator)
        weights[f"features.{number}.weight"] = kernel * (2 / (9 * i)) ** 0.5  # ReLU keeps the scale
        weights[f"features.{number}.bias"] = 0.1 * torch.randn(o, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="session")
def tiny_codec(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Train a codec for two steps on clips of 9 frames, 16x32, with tokens where `levels` are given; return its run."""

    @cache
    def make(levels: tuple[int, ...] = ()) -> str:
        family = VideoVAEConfig(space=4, channels=3, hidden=4, levels=levels)
        experiment = Experiment(family, DataConfig(frames=9, height=16, width=32), TrainConfig(steps=2, batch=2))
        out = tmp_path_factory.mktemp("codec")
        train(experiment, out, runtime=Runtime(torch.device("cpu"), torch.float32))
        return str(out)

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep decoded clips out of the user's cache."""
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / ".cache"))


@pytest.fixture
def kinema(capfd):
    """Run a command; return its exit status, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:  # after help
            status = end.code
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def refused(kinema):
    """Run a command that must fail as promised: status 2 and one line on stderr, which is returned."""

    def run(*words: object) -> str:
        status, _, err = kinema(*words)
        assert status == 2, err
        assert err.startswith("kinema: ") and err.count("\n") == 1, err
        return err

    return run


@pytest.fixture
def shared_data() -> Path:
    """The folder of real files beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder shared/data is not beside this checkout")
    return folder


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Write a clip below the test's folder; without `images`, frame k is grey of level 10 k.

    `stamps` are the frames' times in ticks of 1 / `rate` seconds; `tone` adds so many seconds of a sine, amplitude 0.5.
    """

    def make(
        name: str,
        frames: int = 10,
        *,
        size: tuple[int, int] = (48, 32),  # width, height
        images: np.ndarray | None = None,
        codec: str = "libx264",
        pixels: str = "yuv420p",
        rate: int | Fraction = 25,
        stamps: Sequence[int] | None = None,
        tone: float = 0.0,
        options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if images is None:
            levels = (10 * np.arange(frames)).astype(np.uint8)
            images = np.broadcast_to(levels[:, None, None, None], (frames, size[1], size[0], 3))
        layout = {3: "rgb24", 4: "rgba"}[images.shape[-1]]
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], pixels
            sound = container.add_stream("aac", rate=44100, layout="stereo") if tone else None
            for k, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=layout)
                frame.pts, frame.time_base = (stamps[k] if stamps else k), 1 / Fraction(rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if sound:
                wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(tone * 44100)) / 44100).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
                frame.sample_rate = 44100
                container.mux(sound.encode(frame))
                container.mux(sound.encode(None))
        return path

    return make


@pytest.fixture
def cine(tmp_path: Path) -> Cine:
    """Write a DICOM cine of frames [T, H, W] or [T, H, W, 3], or of encoded ones, with these values beside the usual.

    A value None leaves its element out.
    """
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom, of the extra dicom")
    uid = pydicom.uid

    def make(
        frames: np.ndarray,
        name: str = "a.dcm",
        *,
        syntax: str = "1.2.840.10008.1.2.1",  # explicit VR, little endian
        pixels: bytes | None = None,
        encoded: list[bytes] | None = None,
        **values: Any,
    ) -> Path:
        syntax = uid.UID(syntax)
        usual = dict(
            SOPClassUID=uid.UltrasoundMultiFrameImageStorage,
            SOPInstanceUID="1.2.3.4",
            StudyInstanceUID="1.2.3",
            PatientID="7",
            Rows=frames.shape[1],
            Columns=frames.shape[2],
            NumberOfFrames=len(frames),
            SamplesPerPixel=frames.shape[3] if frames.ndim == 4 else 1,
            PhotometricInterpretation="RGB" if frames.ndim == 4 else "MONOCHROME2",
            BitsAllocated=8 * frames.dtype.itemsize,
            BitsStored=8 * frames.dtype.itemsize,
            PixelRepresentation=int(frames.dtype.kind == "i"),
            FrameTime="40",
            FrameIncrementPointer=0x00181063,
        )
        if frames.ndim == 4:
            usual["PlanarConfiguration"] = 0
        data = pydicom.Dataset()
        for key, value in (usual | values).items():
            if value is not None:
                setattr(data, key, value)
        data.HighBit = data.BitsStored - 1
        big = syntax == uid.ExplicitVRBigEndian
        stored = frames.astype(frames.dtype.newbyteorder(">")) if big else frames
        data.PixelData = pydicom.encaps.encapsulate(encoded) if encoded else pixels or stored.tobytes()
        data["PixelData"].VR = "OB" if encoded or (data.BitsAllocated == 8 and not syntax.is_implicit_VR) else "OW"
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
        pydicom.dcmwrite(path, data, enforce_file_format=True, **({} if encoded else options))
        return path

    return make
