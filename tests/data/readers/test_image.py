"""Images: strips, animations, stacks and photos."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kinema.data.readers.base import Clip, ClipInfo, ReadError, probe, read_frames
from kinema.data.readers.image import ImageReader, image_size, is_still, read_image


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


def moving(frames: int = 4) -> list[Image.Image]:
    return [Image.new("RGB", (32, 24), (40 * k + 20,) * 3) for k in range(frames)]


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.avif", "a.tiff"])
def test_animations_and_stacks(tmp_path: Path, name: str) -> None:
    first, *others = moving()
    timed = {} if name == "a.tiff" else {"duration": 100}
    try:
        first.save(tmp_path / name, save_all=True, append_images=others, **timed)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow does not write {name} ({error})")
    levels = [float(frame.mean()) for frame in read_frames(tmp_path / name)]
    assert levels == pytest.approx([20, 60, 100, 140], abs=4)
    info = probe(Clip(tmp_path / name))
    assert (info.width, info.height, info.frames) == (32, 24, 4)
    assert info.fps == pytest.approx(25 if name == "a.tiff" else 10)
    assert not is_still(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path: Path, orientation: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 3), np.uint8)
    photo = Image.fromarray(image)
    tags = photo.getexif()
    tags[0x0112] = orientation
    photo.save(tmp_path / "a.png", exif=tags)
    upright = {1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1], 5: image.swapaxes(0, 1),
               6: np.rot90(image, -1), 7: np.rot90(image, 2).swapaxes(0, 1), 8: np.rot90(image)}  # fmt: skip
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), upright[orientation])
    assert image_size(tmp_path / "a.png") == upright[orientation].shape[1::-1]


def test_images_of_16_bits(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 16).astype(np.uint16).reshape(16, 64)
    Image.fromarray(ramp).save(tmp_path / "depth.png")
    np.testing.assert_array_equal(read_image(tmp_path / "depth.png")[..., 0], ramp >> 8)
    assert "16 bits" in ImageReader().notes(Clip(tmp_path / "depth.png"))[0]


def test_the_preview_of_a_photo_is_no_second_frame(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (40, 32)), Image.new("RGB", (20, 16))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert is_still(tmp_path / "a.jpg")


def test_damaged_tags_are_a_readable_error(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.new("RGB", (8, 8)).save(
        tmp_path / "a.webp", exif=tags.tobytes().replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x02")
    )
    with suppress(ReadError):  # either is right, a traceback is not
        read_image(tmp_path / "a.webp")


def test_what_is_shown_without_animation_is_no_frame(tmp_path: Path) -> None:
    first, *others = moving()
    first.save(tmp_path / "a.png", save_all=True, append_images=others, duration=100, default_image=True)
    assert [round(float(frame.mean())) for frame in read_frames(tmp_path / "a.png")] == [60, 100, 140]


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (8192, 8192)).save(tmp_path / "a.png")
    with pytest.raises(ReadError, match=r"8192x8192 have over 16777216 pixels: .* \$KINEMA_MOST_PIXELS higher"):
        read_image(tmp_path / "a.png")
