"""Actions: tables of numbers, and their rows beside a clip's frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.readers.actions import read_actions
from kinema.data.readers.base import ReadError


@pytest.mark.parametrize("text", ["0.5,-1\n2,3\n", "turn,speed\n0.5,-1\n2,3\n\n", "\ufeffturn,speed\r\n0.5,-1\r\n2,3"])
def test_csv(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, newline="")
    np.testing.assert_array_equal(read_actions(path), np.array([[0.5, -1], [2, 3]], np.float32))


@pytest.mark.parametrize("shape", [(5, 3), (5,)])
def test_npy(tmp_path: Path, shape: tuple[int, ...]) -> None:
    table = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
    np.save(tmp_path / "a.npy", table)
    read = read_actions(tmp_path / "a.npy")
    assert read.dtype == np.float32 and read.shape == (5, 3 if len(shape) == 2 else 1)
    np.testing.assert_array_equal(read.reshape(shape), table)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"1,2\n3\n", "rows differ in length"),
        ("a.csv", b"1,2\n3,fast\n", "not a table of numbers"),
        ("a.csv", b"turn,speed\n", "not an array of shape"),
        ("a.csv", b"1,2\n3,nan\n", "row 1 has a number that is not finite"),
        ("a.npy", b"\x93NUMPY cut", "not a table of numbers"),
        ("a.txt", b"1", r"\.npy and \.csv"),
        ("b.csv", None, "no such file"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match=message):
        read_actions(tmp_path / name)


@pytest.fixture
def steered(make_clip, tmp_path):
    """Three clips of 10 frames with actions: the frame's number, and the clip's."""
    rows = ["file_name,caption,actions"]
    for n in range(3):
        images = np.empty((10, 32, 32, 3), np.uint8)
        images[:] = (10 * np.arange(10))[:, None, None, None]
        make_clip(f"set/{n}.mkv", images=images, codec="ffv1", pixels="bgr0")
        np.save(tmp_path / f"set/{n}.npy", np.stack([np.arange(10), np.full(10, n)], -1))
        rows.append(f"{n}.mkv,clip {n},{n}.npy")
    (tmp_path / "set/metadata.csv").write_text("\n".join(rows))
    return lambda **more: DataConfig(
        **({"source": str(tmp_path / "set"), "frames": 4, "height": 32, "width": 32} | more)
    )


@pytest.mark.parametrize("fps", [None, 50.0, 12.5])
def test_a_window_has_the_actions_of_its_frames(steered, fps: float | None) -> None:
    source = FolderSource(steered(fps=fps))
    assert source.spec.actions == 2 and set(source.spec.words) == {"clip", "0", "1", "2"}
    batch = source.batch(0, 30, seed=0)
    levels = (batch.frames[:, :, 0, 16, 16] / 10).round()
    assert batch.conditions.actions is not None and batch.conditions.text is not None
    torch.testing.assert_close(batch.conditions.actions[..., 0], levels, rtol=0, atol=0)
    clips = [float(text.split()[1]) for text in batch.conditions.text]
    assert torch.equal(batch.conditions.actions[:, :, 1], torch.tensor(clips)[:, None].expand(-1, 4))


def test_clips_whose_actions_cannot_be_used_are_skipped(steered, tmp_path: Path) -> None:
    np.save(tmp_path / "set/0.npy", np.zeros((3, 2)))
    table = tmp_path / "set/metadata.csv"
    table.write_text(table.read_text().replace("2.npy", ""))
    source = FolderSource(steered())
    assert source.usable == 1
    reasons = {skip.name: skip.reason for skip in source.skipped}
    assert "0.npy: it has 3 rows for the clip's 10 frames" in reasons["0.mkv"]
    assert reasons["2.mkv"] == "no actions in its metadata"


def test_actions_are_not_mirrored_and_clips_with_others_are_skipped(steered, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="flip mirrors clips but not their actions"):
        FolderSource(steered(flip=True))
    np.save(tmp_path / "set/1.npy", np.zeros((10, 5)))
    (skip,) = FolderSource(steered()).skipped
    assert (skip.name, skip.reason) == ("1.mkv", "it has actions of 5 numbers a frame, and others of 2")
