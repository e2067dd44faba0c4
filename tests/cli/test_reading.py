from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from kinema.cli.reading import read_each


def test_images_of_a_folder_are_frames_of_a_clip_or_stills(tmp_path: Path) -> None:
    for number in (1, 2):
        Image.new("RGB", (24, 16)).save(tmp_path / f"IMG_{number}.jpg")
    assert read_each(str(tmp_path), lambda clip: clip.path.name) == [tmp_path.name]
    assert read_each(str(tmp_path), lambda clip: clip.path.name, stills=True) == ["IMG_1.jpg", "IMG_2.jpg"]


def test_a_file_without_clips_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    with pytest.raises(ValueError, match="there are no clips in it"):
        read_each(str(tmp_path / "a.tar"), lambda clip: clip.path.name)
