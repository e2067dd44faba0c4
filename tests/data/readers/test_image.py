"""Strips: images whose square frames lie side by side."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kinema.data.readers.base import Clip, ClipInfo, ReadError, probe, read_frames
from kinema.data.readers.image import ImageReader, is_still


def test_strip(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    strip = np.concatenate(list(frames), axis=1)
    path = tmp_path / "strip.jpg"
    Image.fromarray(strip).convert("RGBA").save(path, format="PNG")  # MoCoGAN's data: a PNG under a JPEG's name
    np.testing.assert_array_equal(np.stack(list(read_frames(path))), frames)
    assert probe(Clip(path)) == ClipInfo(width=8, height=8, fps=25.0, sample_rate=None, frames=5, seconds=0.2)
    assert sum(1 for _ in read_frames(path, fps=50.0)) == 10
    stretch = ImageReader().frames(Clip(path, start=0.04, stop=0.12))
    np.testing.assert_array_equal(np.stack(list(stretch)), frames[1:3])

    Image.new("RGB", (20, 8)).save(tmp_path / "photo.png")
    assert is_still(tmp_path / "photo.png") and not is_still(path)
    with pytest.raises(ReadError, match=r"photo.png: an image of 20x8 is neither an animation nor a strip"):
        list(read_frames(tmp_path / "photo.png"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ReadError, match=r"strip.jpg: Pillow cannot read it"):
        list(read_frames(path))
