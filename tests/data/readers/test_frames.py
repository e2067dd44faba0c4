from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.readers.base import Clip, ReadError, probe, read_frames
from kinema.data.readers.frames import FramesReader
from kinema.data.writing import write_video


def put(folder: Path, numbers: list[int], name: str = "{:03d}.png", size: tuple[int, int] = (32, 16)) -> Path:
    """Images of the grey levels of their numbers."""
    folder.mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", size, (number,) * 3).save(folder / name.format(number))
    return folder


def levels(path: Path, fps: float | None = None) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in read_frames(path, fps=fps)]


@pytest.mark.parametrize("name", ["{:03d}.png", "{}.png", "img_{}.png", "take 2 - {:05d}.PNG"])
def test_images_come_in_the_order_of_their_numbers(tmp_path: Path, name: str) -> None:
    folder = put(tmp_path / "take", [2, 9, 3, 10, 4, 5, 6, 7, 8], name)
    assert levels(folder) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    info = probe(Clip(folder))
    assert (info.width, info.height, info.fps, info.frames) == (32, 16, 25, 9)


def test_a_missing_number_is_noted_and_its_time_is_kept(tmp_path: Path) -> None:
    folder = put(tmp_path / "clips/take", [100, 110, 120, 140, 150])
    assert levels(folder) == [100, 110, 120, 140, 150]
    assert levels(folder, fps=25) == [100, 110, 120, 120, 140, 150]
    source = FolderSource(DataConfig(str(tmp_path / "clips"), frames=4, height=16, width=32))
    assert source.notes == ("take: 1 of its frames are missing, by their numbers",)


def test_folders_are_clips_with_captions_rates_and_classes(tmp_path: Path) -> None:
    for name in ("walk/a", "walk/b", "run/c"):
        put(tmp_path / name, [*range(6)])
    (tmp_path / "walk/a.txt").write_text("a man\nwalks\n")
    (tmp_path / "run/c.json").write_text('{"prompt": "a dog runs", "fps": 10}')
    folder = scan(tmp_path)
    assert [(clip.path.name, clip.label, clip.caption, clip.fps) for clip in folder.clips] == [
        ("c", "run", "a dog runs", 10), ("a", "walk", "a man walks", None), ("b", "walk", "", None),
    ]  # fmt: skip
    assert scan(tmp_path / "walk/a").clips[0].path == tmp_path / "walk/a"  # the folder itself is the clip


def test_other_folders_are_not_frames(tmp_path: Path) -> None:
    put(tmp_path / "strips", [1, 2], size=(80, 16))
    put(tmp_path / "named", [1, 2], name="{}.a.png")
    (put(tmp_path / "mixed", [1, 2]) / "clip.mp4").touch()
    assert {clip.path.parent.name for clip in scan(tmp_path).clips} == {"strips", "named", "mixed"}


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = put(tmp_path / "take", [1, 2, 3])
    (folder / "002.png").write_bytes(b"nothing")
    with pytest.raises(ReadError, match=r"take: 002\.png: Pillow cannot read it"):
        levels(folder)


@pytest.mark.parametrize("name", ["out.npy", "out.png"])
def test_what_is_written_without_a_rate_comes_back_at_its_rate(tmp_path: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 32, 3), np.uint8)
    path = write_video(tmp_path / name, frames, 12.5)
    np.testing.assert_array_equal(np.stack(list(read_frames(path))), frames)
    source = FolderSource(DataConfig(str(tmp_path), frames=6, height=16, width=32))
    assert source.spec.fps == 12.5
    np.testing.assert_array_equal(source.read([(0, 0)]).frames[0].movedim(1, -1), frames)


def test_animations_and_unreadable_folders_are_not_frames(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pages = [Image.new("RGB", (32, 24), (80 * k,) * 3) for k in range(3)]
    for number in range(3):
        pages[0].save(tmp_path / f"set/{number}.webp", save_all=True, append_images=pages[1:], duration=40)
    assert len(scan(tmp_path / "set").clips) == 3
    put(tmp_path / "same", [1, 2])
    (tmp_path / "same/01.png").write_bytes((tmp_path / "same/001.png").read_bytes())  # 1 twice
    assert {clip.path.name for clip in scan(tmp_path / "same").clips} == {"001.png", "002.png", "01.png"}


def test_images_of_several_sizes_are_noted(tmp_path: Path) -> None:
    folder = put(tmp_path / "take", [1, 2, 3])
    Image.new("RGB", (16, 16)).save(folder / "004.png")
    assert FramesReader().notes(Clip(folder)) == ["its images differ in size: 16x16 to 32x16"]
