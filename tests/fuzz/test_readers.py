"""Damaged inputs are read or refused in a line: never a crash, a hang, another exception or much memory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

READ = Path(__file__).with_name("read_mutated.py")
HANG = 10  # seconds
START = 60  # seconds until the valid inputs are read
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 6, 3), np.uint8).repeat(8, 1).repeat(8, 2)  # [8, 32, 48, 3]
GREY = IMAGES[..., 0].copy()
LARGE = IMAGES.repeat(2, 1).repeat(2, 2)  # [8, 64, 96, 3]; x265 ends the process at smaller ones
LACED = {"flags": "+ildct+ilme"}
VIDEOS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"tone": 0.3},
    "mpeg4.mov": {"codec": "mpeg4", "tone": 0.3},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuva444p10le"},
    "qtrle.mov": {"codec": "qtrle", "pixels": "argb"},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264.mkv": {"tone": 0.3},
    "hevc.mkv": {"codec": "libx265", "images": LARGE, "options": {"x265-params": "log-level=none"}},
    "ffv1.mkv": {"codec": "ffv1", "pixels": "bgr0"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mp4": {"codec": "libsvtav1"},
    "mpeg4.avi": {"codec": "mpeg4", "tone": 0.3},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "laced.mpg": {"codec": "mpeg2video", "options": LACED},
    "h264.ts": {"tone": 0.3},
    "laced.ts": {"options": LACED},
    "h264.flv": {"tone": 0.3},
    "flv1.flv": {"codec": "flv1"},
    "wmv2.wmv": {"codec": "wmv2"},
    "mpeg2.mxf": {"codec": "mpeg2video"},
    "ffv1.nut": {"codec": "ffv1"},
    "raw.h264": {},
    "raw.m2v": {"codec": "mpeg2video"},
    "raw.mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "vp8.ivf": {"codec": "libvpx"},
}
SOUNDS = {"a.wav": "pcm_s16le", "a.mp3": "libmp3lame", "a.flac": "flac", "a.opus": "libopus", "a.m4a": "aac",
          "a.aac": "aac", "a.aiff": "pcm_s16be", "a.caf": "pcm_s16le", "a.ac3": "ac3", "a.mka": "flac"}  # fmt: skip
Make = Callable[..., Path]


def make_sound(path: Path, codec: str) -> None:
    path.parent.mkdir(parents=True)
    wave = 0.5 * np.sin(np.arange(9600) / 20)[None].astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def make_animations(folder: Path) -> None:
    first, *others = map(Image.fromarray, IMAGES)
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        (folder / name).mkdir(parents=True)
        options = {} if name == "a.tiff" else {"duration": 100}
        first.save(folder / name / name, save_all=True, append_images=others, **options)
    for name in ("strip.png", "strip.jpg"):
        (folder / name).mkdir()
        Image.fromarray(np.concatenate([*IMAGES[:, :, :32]], axis=1)).save(folder / name / name)


def make_frames(folder: Path) -> None:
    for suffix in ("png", "jpg", "bmp", "webp", "pgm", "tiff"):
        (folder / suffix / "take").mkdir(parents=True)
        for k, image in enumerate(IMAGES[:4]):
            Image.fromarray(image).convert("L" if suffix == "pgm" else "RGB").save(
                folder / f"{suffix}/take/{k}.{suffix}"
            )


def make_arrays(folder: Path) -> None:
    for name in ("a.npy", "float.npy", "many.npy", "a.npz", "small.npz", "a.h5", "chunked.h5"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "a.npy/a.npy", IMAGES)
    np.save(folder / "float.npy/a.npy", GREY.astype(np.float32) / 255)
    np.save(folder / "many.npy/a.npy", IMAGES[:, None])
    np.savez(folder / "a.npz/a.npz", one=IMAGES, two=GREY, fps=10)
    np.savez_compressed(folder / "small.npz/a.npz", one=IMAGES // 64, many=IMAGES[:2, None].astype(np.float32) / 255)
    h5py = pytest.importorskip("h5py", reason="needs h5py, of the extra hdf5")
    with h5py.File(folder / "a.h5/a.h5", "w") as file:
        file["clips/one"], file["clips/two"], file["fps"] = IMAGES, GREY, 10
    with h5py.File(folder / "chunked.h5/a.h5", "w", libver="latest") as file:
        file.create_dataset("many", data=IMAGES[:, None], chunks=(1, 1, 16, 16, 3), compression="gzip", shuffle=True)
        file.create_dataset("one", data=GREY.astype(np.float32) / 255, chunks=(2, 16, 16), fletcher32=True)


def make_lerobot(folder: Path, make_clip: Make) -> None:
    """Two episodes, in a format 3.0 with videos or with images in its table, or in 2.1."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    film = make_clip("made/robot.mp4", images=IMAGES, rate=10).read_bytes()
    places = {
        "v3.0": ("data/file-{file_index:03d}.parquet", "videos/{video_key}/file-{file_index:03d}.mp4"),
        "v2.1": ("data/{episode_index:06d}.parquet", "videos/{video_key}/{episode_index:06d}.mp4"),
    }

    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)

    for name, version, kind in (("videos", "v3.0", "video"), ("images", "v3.0", "image"), ("old", "v2.1", "video")):
        root, data, episodes = folder / name / "robot", [], []
        for episode in range(2):
            for k in range(4):
                row = {"action": [float(episode), float(k)], "timestamp": k / 10, "frame_index": k}
                row |= {"episode_index": episode, "task_index": 0}
                if kind == "image":
                    Image.fromarray(IMAGES[k]).save(stored := io.BytesIO(), "png")
                    row["top"] = {"bytes": stored.getvalue(), "path": None}
                data.append(row)
            place = {"data/chunk_index": 0, "data/file_index": 0, "videos/top/file_index": 0}
            place["videos/top/from_timestamp"] = 0.4 * episode
            episodes.append({"episode_index": episode, "length": 4, "tasks": ["go"]} | place)
        if version == "v3.0":
            write(root / "data/file-000.parquet", data)
            write(root / "meta/episodes/file-000.parquet", episodes)
            films = ["file-000"]
        else:
            films = ["000000", "000001"]
            for episode, film_name in enumerate(films):
                write(root / f"data/{film_name}.parquet", data[4 * episode : 4 * episode + 4])
            (root / "meta").mkdir()
            lines = [json.dumps(row) + "\n" for row in episodes]
            (root / "meta/episodes.jsonl").write_text("".join(lines))
        for film_name in films if kind == "video" else ():
            (root / "videos/top").mkdir(parents=True, exist_ok=True)
            (root / f"videos/top/{film_name}.mp4").write_bytes(film)
        features = {"action": {"dtype": "float32", "shape": [2]}, "top": {"dtype": kind, "shape": [32, 48, 3]}}
        info = {"codebase_version": version, "fps": 10, "features": features, "splits": {"train": "0:2"}}
        info |= dict(zip(("data_path", "video_path"), places[version], strict=True))
        (root / "meta/info.json").write_text(json.dumps(info))


def make_shards(folder: Path, make_clip: Make) -> None:
    members = {}
    np.save(actions := io.BytesIO(), np.zeros((8, 2), np.float32))
    for n in range(2):
        film = make_clip(f"made/{n}.mkv", images=IMAGES, tone=0.3)
        row = json.dumps({"patient": str(n)}).encode()
        members |= {f"{n}.mkv": film.read_bytes(), f"{n}.txt": b"a caption", f"{n}.cls": b"1", f"{n}.json": row}
        members[f"{n}.npy"] = actions.getvalue()
    for name, mode in (("a.tar", "w"), ("gz.tar", "w:gz"), ("xz.tar", "w:xz"), ("gnu.tar", "w")):
        (folder / name).mkdir(parents=True)
        kind = tarfile.GNU_FORMAT if name == "gnu.tar" else tarfile.PAX_FORMAT
        with tarfile.open(folder / name / "a.tar", mode, format=kind) as file:
            for member, content in members.items():
                info = tarfile.TarInfo(member if kind == tarfile.PAX_FORMAT else f"{'long' * 30}/{member}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


def make_dicom(folder: Path, cine: Make, make_clip: Make) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom, of the extra dicom")
    uid = pydicom.uid

    def put(kind: str, *frames: np.ndarray, **values: Any) -> Path:
        return cine(*frames, str(folder / kind / "a.dcm"), **values)

    def packets(codec: str, pixels: str) -> list[bytes]:
        with av.open(str(make_clip("made/a.avi", images=IMAGES, codec=codec, pixels=pixels))) as file:
            return [bytes(packet) for packet in file.demux() if packet.size]

    def encoded(images: np.ndarray, **options: Any) -> list[bytes]:
        found = []
        for image in images:
            Image.fromarray(image).save(stored := io.BytesIO(), **options)
            found.append(stored.getvalue())
        return found

    region = pydicom.Dataset()
    region.RegionSpatialFormat, region.RegionDataType = 1, 1
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 4, 4
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 39, 27
    put("grey", GREY, SequenceOfUltrasoundRegions=[region])
    put("big endian", GREY.astype(np.uint16) * 16, syntax=uid.ExplicitVRBigEndian, BitsStored=12)
    put("implicit", IMAGES, syntax=uid.ImplicitVRLittleEndian, FrameTime=None, FrameTimeVector=["40"] * len(IMAGES))
    rle = put("rle", IMAGES)
    data = pydicom.dcmread(rle)
    data.compress(uid.RLELossless)
    data.save_as(rle)
    put("jpeg", GREY, encoded=encoded(GREY, format="JPEG"), syntax=uid.JPEGBaseline8Bit)
    put("jpeg 2000", GREY, encoded=encoded(GREY, format="JPEG2000", no_jp2=True), syntax=uid.JPEG2000Lossless)
    put("jpeg-ls", GREY, encoded=packets("jpegls", "gray"), syntax=uid.JPEGLSLossless)
    put("lossless jpeg", IMAGES, encoded=packets("ljpeg", "bgr24"), syntax=uid.JPEGLossless)
    for name, options in {"v.mp4": {}, "v.ts": {}, "v.m2v": {"codec": "mpeg2video"}}.items():
        film = make_clip(f"made/{name}", images=IMAGES, **options).read_bytes()
        put(name, IMAGES, encoded=[film[:1000], film[1000:]], syntax=uid.MPEG4HP41)


def make_tables(folder: Path) -> None:
    columns = {"caption": "a caption, of a clip", "label": "x", "patient": "7", "fps": "12.5", "actions": "a.csv"}
    rows = [{"file_name": f"{name}.npy"} | columns for name in "ab"]
    for kind in ("csv", "tsv", "jsonl", "json", "parquet"):
        (folder / kind).mkdir(parents=True)
        for row in rows:
            np.save(folder / kind / row["file_name"], GREY)
        (folder / kind / "a.csv").write_text("x,y\n" + "1,2\n" * len(GREY))
    for kind, comma in (("csv", ","), ("tsv", "\t")):
        lines = [comma.join(rows[0]), *(comma.join(f'"{cell}"' for cell in row.values()) for row in rows)]
        (folder / f"{kind}/metadata.{kind}").write_text("\n".join(lines) + "\n")
    (folder / "jsonl/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "json/metadata.json").write_text(json.dumps(rows))
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, of the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "parquet/metadata.parquet")


@pytest.fixture
def doors(tmp_path: Path, make_clip: Make, cine: Make) -> dict[str, Callable[[Path], None]]:
    """What makes the valid inputs of each kind, each in a folder of its own."""

    def make_videos(folder: Path) -> None:
        for name, options in VIDEOS.items():
            made = make_clip(f"made/{name}", **{"images": IMAGES} | options)
            (folder / name).mkdir(parents=True)
            made.rename(folder / name / name)

    def make_sounds(folder: Path) -> None:
        for name, codec in SOUNDS.items():
            make_sound(folder / name / name, codec)

    return {
        "video": make_videos,
        "sound": make_sounds,
        "animations": make_animations,
        "frames": make_frames,
        "arrays": make_arrays,
        "lerobot": lambda folder: make_lerobot(folder, make_clip),
        "webdataset": lambda folder: make_shards(folder, make_clip),
        "dicom": lambda folder: make_dicom(folder, cine, make_clip),
        "tables": make_tables,
    }


@dataclass
class Report:
    """What became of the inputs of a door."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    megabytes: int = 0  # of memory, at most


def read_all(folder: Path, door: str, first: int, stop: int) -> Report:
    """Read mutated inputs in another process, which is started again after an input that ended or stopped it."""
    report, number = Report(), first
    while number < stop:
        command = [sys.executable, str(READ), str(folder), door, str(number), str(stop)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        with (folder / "stderr").open("w+") as log:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
                what = _follow(process, report)
            log.seek(0)
            trace = log.read()[-4000:]
        if not report.outcomes and what:  # the valid inputs are not read
            report.failures += [f"{door}: {what}", trace]
            break
        number = first + sum(report.outcomes.values())
        if what:
            report.failures.append(f"{door} {number}: {what}")
            report.outcomes["failed"] += 1
            number += 1
        report.failures += [trace] if trace and report.failures else []
    return report


def _follow(process: subprocess.Popen[str], report: Report) -> str:
    """Note what a process says of its inputs; what became of the one that ended it or that takes too long."""
    lines, what, wait = Queue[str](), "the valid inputs", START

    def pump() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    Thread(target=pump, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=wait)
        except Empty:
            process.kill()
            return f"takes over {wait} s: {what}"
        if not line:
            return f"ends the process with {process.wait()}: {what}"
        number, outcome, seconds, text = json.loads(line)
        if outcome == "done":
            report.megabytes = max(report.megabytes, int(text))
            return ""
        if outcome == "begun":
            what, wait = text, HANG
        elif outcome != "ready":
            report.outcomes[outcome] += 1
            report.slowest = max(report.slowest, (seconds, f"{number} {what}"))
            if outcome == "failed":
                report.failures.append(f"{number}: {text}: {what}")


DOORS = ("video", "sound", "animations", "frames", "arrays", "lerobot", "webdataset", "dicom", "tables")


def check(tmp_path: Path, doors: dict[str, Callable[[Path], None]], door: str, count: int) -> None:
    doors[door](tmp_path / "inputs" / door)
    report = read_all(tmp_path / "inputs", door, 0, count)
    print(door, dict(report.outcomes), f"slowest {report.slowest[0]:.2f} s {report.slowest[1]}", report.megabytes, "MB")
    assert not report.failures, "\n".join([f"{len(report.failures)} inputs failed", *report.failures])
    assert sum(report.outcomes.values()) == count
    assert report.outcomes["refused"]


@pytest.mark.parametrize("door", DOORS)
def test_some_damaged_inputs(tmp_path: Path, doors, door: str) -> None:
    check(tmp_path, doors, door, 12)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_damaged_inputs(tmp_path: Path, doors, door: str) -> None:
    check(tmp_path, doors, door, 2000)
