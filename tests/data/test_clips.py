from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinema.data import clips, decoded
from kinema.data.clips import DataConfig, FolderClips, FolderSource, NoClips, open_source
from kinema.data.decoded import resize
from kinema.data.folder import Skipped
from kinema.data.readers.base import Clip
from kinema.data.readers.video import VideoReader


@pytest.fixture
def config(tmp_path):
    """Configurations over the test's own folder of clips, with the cache outside of it."""

    def make(**changes):
        settings = {
            "source": str(tmp_path / "set"),
            "frames": 4,
            "height": 32,
            "width": 32,
            "holdout": 0,
            "cache": str(tmp_path / "cache"),
        }
        return DataConfig(**(settings | changes))

    return make


@pytest.fixture
def five(make_clip, config):
    """Five clips of 10 frames; frame k of each is grey of level 10 k, and its first column is the clip's own level."""
    for n in range(5):
        images = np.empty((10, 32, 32, 3), np.uint8)
        images[:] = (10 * np.arange(10))[:, None, None, None]
        images[:, :, :4] = 50 * n
        make_clip(f"set/{n}.mkv", images=images, codec="ffv1", pixels="bgr0")
    return config


def which(batch) -> list[int]:
    """The numbers of the clips in a batch of `five`."""
    return [round(int(frames[0, 0, 0, 0]) / 50) for frames in batch.frames]


def test_batch(five):
    source = FolderSource(five())
    assert (source.spec.frames, source.spec.height, source.spec.width) == (4, 32, 32)
    assert source.spec.fps == 25 and source.spec.classes == () and source.skipped == ()
    batch = source.batch(3, 6, seed=1)
    assert batch.frames.shape == (6, 4, 3, 32, 32) and batch.frames.dtype == torch.uint8
    assert batch.frames.is_contiguous() and batch.conditions.present == frozenset()
    levels = batch.frames[:, :, 0, 16, 16].int()
    assert torch.equal(levels.diff(dim=1), torch.full((6, 3), 10, dtype=torch.int32))  # frames follow each other


def test_range_reaches_both_ends(make_clip, config):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    images[:, :16] = 255
    make_clip("set/a.mkv", images=images, codec="ffv1", pixels="bgr0")
    batch = FolderSource(config()).batch(0, 1, seed=0)
    assert batch.frames.unique().tolist() == [0, 255]
    assert torch.equal(batch.to(torch.device("cpu")).frames.unique(), torch.tensor([-1.0, 1.0]))


def test_every_start_is_drawn_and_none_beyond_the_end(five):
    source = FolderSource(five(frames=8))
    starts = source.batch(0, 200, seed=0).frames[:, 0, 0, 16, 16]
    assert starts.unique().tolist() == [0, 10, 20]


def test_an_epoch_has_every_clip_once_whatever_the_batch_size_and_the_ranks(five):
    source = FolderSource(five())
    single = [n for step in range(5) for n in which(source.batch(step, 4, seed=7))]
    assert [sorted(single[k : k + 5]) for k in range(0, 20, 5)] == [[0, 1, 2, 3, 4]] * 4
    assert len({tuple(single[k : k + 5]) for k in range(0, 20, 5)}) > 1  # each epoch in its own order
    shared = [
        n for step in range(5) for rank in (0, 1) for n in which(source.batch(step, 2, seed=7, rank=rank, ranks=2))
    ]
    assert shared == single
    assert which(source.batch(0, 20, seed=7)) == single


def test_an_epoch_is_permuted_once(monkeypatch):
    permuted, generator = list[object](), np.random.default_rng
    monkeypatch.setattr(clips.np.random, "default_rng", lambda key: permuted.append(key) or generator(key))
    numbers = [n for step in range(50) for n in clips.shuffled(1000, step * 20, 20, seed=98765)]
    assert sorted(numbers) == list(range(1000)) and permuted == [(98765, 0, 0)]
    across = clips.shuffled(1000, 990, 1020, seed=98765)
    assert across[:10] == numbers[-10:] and sorted(across[10:1010]) == list(range(1000)) and len(across) == 1020


def test_batches_are_a_function_of_seed_step_and_rank(five):
    source, again = FolderSource(five(flip=True)), FolderSource(five(flip=True))
    source.batch(0, 8, seed=0)  # what was asked before changes nothing
    first = source.batch(5, 8, seed=3, rank=1, ranks=2).frames
    assert torch.equal(first, again.batch(5, 8, seed=3, rank=1, ranks=2).frames)
    for other in ({"step": 6}, {"seed": 4}, {"rank": 0}):
        arguments = {"step": 5, "size": 8, "seed": 3, "rank": 1, "ranks": 2} | other
        assert not torch.equal(first, again.batch(**arguments).frames)


def test_flip_mirrors_about_half(five):
    plain, mirrored = FolderSource(five()).batch(0, 100, seed=0), FolderSource(five(flip=True)).batch(0, 100, seed=0)
    same = [torch.equal(a, b) for a, b in zip(plain.frames, mirrored.frames, strict=True)]
    other = [torch.equal(a, b.flip(-1)) for a, b in zip(plain.frames, mirrored.frames, strict=True)]
    assert all(a or b for a, b in zip(same, other, strict=True)) and 30 < sum(same) < 70


def test_labels_and_captions(five, tmp_path):
    rows = "".join(f"{n}.mkv,{10 - n % 2},clip {n}\n" for n in range(5))
    (tmp_path / "set" / "metadata.csv").write_text("file_name,label,caption\n" + rows)
    source = FolderSource(five())
    batch = source.batch(0, 7, seed=0)
    numbers = which(batch)
    assert source.spec.classes == ("9", "10")
    assert batch.conditions.label is not None and batch.conditions.label.dtype == torch.int64
    assert batch.conditions.label.tolist() == [1 - n % 2 for n in numbers]
    assert batch.conditions.text == tuple(f"clip {n}" for n in numbers)


def test_bad_files_are_listed_and_the_rest_is_used(five, make_clip, tmp_path):
    make_clip("set/short.mp4", 3)
    (tmp_path / "set" / "text.mp4").write_text("not a video")
    source = FolderSource(five(short="skip"))
    assert source.usable == 5
    assert source.skipped[0] == Skipped("short.mp4", "3 frames at 25 fps, 4 are needed")
    assert source.skipped[1].name == "text.mp4" and source.skipped[1].reason.startswith("FFmpeg cannot read it")
    with pytest.raises(
        ValueError, match=r"none of its 7 clips can be used; the first is 0.mkv: 10 frames at 25 fps, 11"
    ):
        FolderSource(five(frames=21))  # the last frame is held for at most as many frames as there are


def test_the_last_frame_of_short_clips_is_held(make_clip, tmp_path):
    make_clip("set/short.mp4", 5, size=(32, 32))
    make_clip("set/shorter.mp4", 3, size=(32, 32))
    source = FolderSource(DataConfig(source=str(tmp_path / "set"), frames=8, height=32, width=32))
    assert source.padded == 1 and source.skipped == (Skipped("shorter.mp4", "3 frames at 25 fps, 4 are needed"),)
    levels = source.batch(0, 1, seed=0).frames[0, :, 0, 16, 16].tolist()
    assert levels[4:] == [levels[4]] * 4 and levels[:5] == sorted(set(levels))


def test_actions_of_held_frames_are_the_last_ones(make_clip, tmp_path):
    make_clip("set/short.mp4", 5, size=(32, 32))
    np.save(tmp_path / "set/actions.npy", np.arange(10, dtype=np.float32).reshape(5, 2))
    (tmp_path / "set/metadata.csv").write_text("file_name,actions\nshort.mp4,actions.npy\n")
    source = FolderSource(DataConfig(source=str(tmp_path / "set"), frames=8, height=32, width=32))
    actions = source.batch(0, 1, seed=0).conditions.actions
    assert actions is not None and actions[0, :, 0].tolist() == [0, 2, 4, 6, 8, 8, 8, 8]


@pytest.mark.parametrize(
    ("fit", "corner", "middle"),
    [("crop", 255, 255), ("pad", 0, 255), ("stretch", 100, 255)],
)
def test_frames_of_another_shape_are_fitted(fit, corner, middle):
    frame = np.full((20, 60, 3), 100, np.uint8)
    frame[:, 20:40] = 255  # a white square between two grey ones
    fitted = resize(frame, 30, 30, fit)
    assert fitted.shape == (30, 30, 3)
    assert (fitted[1, 1, 0], fitted[15, 15, 0]) == (corner, middle)


def test_rate_of_the_source(five, make_clip):
    assert FolderSource(five(fps=12.5)).spec.fps == 12.5
    assert FolderSource(five(fps=50.0, frames=20)).batch(0, 2, seed=0).frames.shape[1] == 20
    make_clip("set/other.mp4", rate=30)
    mixed = FolderSource(five())
    assert mixed.spec.fps == 25 and mixed.mixed_rates and mixed.rates == (25, 30)  # the median


def test_frames_cover_the_size_and_are_cropped_at_the_centre(make_clip, config):
    images = np.zeros((4, 40, 120, 3), np.uint8)
    images[:, :, 40:80] = 255  # a white square in the middle of a wide picture
    make_clip("set/wide.mkv", images=images, codec="ffv1", pixels="bgr0")
    make_clip("set/tall.mkv", images=images.transpose(0, 2, 1, 3), codec="ffv1", pixels="bgr0")
    frames = FolderSource(config(height=20, width=20)).batch(0, 2, seed=0).frames
    assert frames.shape[-2:] == (20, 20)
    assert frames.min() == 255
    make_clip("set/small.mkv", 4, size=(8, 8), codec="ffv1")
    assert FolderSource(config(height=20, width=28)).batch(0, 3, seed=0).frames.shape[-2:] == (20, 28)


def test_frames_are_resized_as_pillow_resizes_them():
    frames = np.random.default_rng(0).integers(0, 256, (3, 60, 91, 3), np.uint8)
    fitted = resize(frames, 20, 30)
    for frame, one in zip(frames, fitted, strict=True):
        cut = Image.fromarray(frame).crop((0, 0, 90, 60))  # as wide as 20x30 wants it, in whole pixels
        expected = np.asarray(cut.resize((30, 20), Image.Resampling.BICUBIC))
        assert np.abs(one.astype(int) - expected).max() <= 1
        assert np.array_equal(resize(frame, 20, 30), one)
    assert resize(frames, 60, 91) is frames


def test_a_video_whose_frames_change_in_size_is_read(five, monkeypatch):
    sizes = [(32, 32)] * 5 + [(16, 24)] * 5
    frames = [np.full((*size, 3), 100 + k, np.uint8) for k, size in enumerate(sizes)]
    timed = [(k / 25, 1 / 25, partial(np.asarray, frame)) for k, frame in enumerate(frames)]
    monkeypatch.setattr(VideoReader, "recording", lambda self, clip, threads: iter(timed))
    read = FolderSource(five()).read([(0, 3)]).frames[0]
    assert read.float().mean((1, 2, 3)).round().tolist() == [103, 104, 105, 106]


def decoding(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    calls, recording = list[str](), VideoReader.recording

    def recorded(self: VideoReader, clip: Clip, threads: int = 0):
        calls.append(clip.path.name)
        return recording(self, clip, threads)

    monkeypatch.setattr(VideoReader, "recording", recorded)
    return calls


def test_files_are_decoded_when_they_are_asked_for_and_a_few_ahead(five, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "PREFETCH", 2)
    calls = decoding(monkeypatch)
    (tmp_path / "set" / "4.mkv").write_bytes((tmp_path / "set" / "4.mkv").read_bytes()[:-200])
    (tmp_path / "set" / "5.mkv").write_bytes(b"nothing")
    source = FolderClips(five())
    assert [clip.path.name for clip in source.clips] == [f"{n}.mkv" for n in range(5)]
    assert calls == [] and source.spec.fps and [skip.name for skip in source.skipped] == ["5.mkv"]
    coming = source.decode([3, 4, 1, 0, 2])
    assert next(coming) == (3, 10)
    coming.close()
    assert set(calls) <= {"3.mkv", "4.mkv", "1.mkv"}
    assert [*source.decode([3, 4])] == [(3, 10), (4, 0)]
    assert [skip.name for skip in source.skipped] == ["4.mkv", "5.mkv"]
    assert "0.mkv" not in calls and "2.mkv" not in calls
    assert torch.equal(source.read([(3, 2)]).frames, FolderSource(five()).read([(3, 2)]).frames)
    with pytest.raises(ValueError, match="none of its 2 clips can be used"):
        [*FolderClips(five(frames=11)).decode([4])]


def test_the_cache_is_reused_and_damaged_entries_are_made_again(five, tmp_path, monkeypatch):
    calls = decoding(monkeypatch)
    first = FolderSource(five()).batch(0, 5, seed=0).frames
    assert sorted(calls) == [f"{n}.mkv" for n in range(5)]
    cached = sorted((tmp_path / "cache" / "clips").glob("*.npy"))
    assert len(cached) == 5 and np.load(cached[0]).shape == (10, 32, 32, 3)
    assert not list(cached[0].parent.glob("*.part"))

    calls.clear()
    FolderSource(five())
    assert calls == []
    os.truncate(cached[0], cached[0].stat().st_size - 1)
    cached[1].write_bytes(b"")
    cached[2].with_suffix(".json").unlink()
    assert torch.equal(FolderSource(five()).batch(0, 5, seed=0).frames, first)
    assert len(calls) == 3

    calls.clear()
    os.utime(tmp_path / "set" / "0.mkv", ns=(1, 1))  # the file has changed
    FolderSource(five())
    assert calls == ["0.mkv"]


def test_other_code_decodes_anew(five, monkeypatch):
    calls, key = decoding(monkeypatch), FolderSource(five()).key
    monkeypatch.setattr(decoded, "code_digest", lambda *packages: f"other {packages}")
    monkeypatch.setattr(clips, "code_digest", lambda *packages: f"other {packages}")
    calls.clear()
    assert FolderSource(five()).key != key
    assert sorted(calls) == [f"{n}.mkv" for n in range(5)]


def test_an_interrupted_decode_leaves_nothing(five, tmp_path, monkeypatch):
    def interrupted(self, clip, threads):
        yield 0.0, 0.04, partial(np.zeros, (32, 32, 3), np.uint8)
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoReader, "recording", interrupted)
    with pytest.raises(KeyboardInterrupt):
        FolderSource(five())
    assert list((tmp_path / "cache" / "clips").iterdir()) == []


def test_a_full_disk_names_the_cache_and_the_way_out(five, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(decoded, "ArrayWriter", full)
    with pytest.raises(ValueError, match=r"cache.clips \(No space left on device\).*KINEMA_CACHE"):
        FolderSource(five())


def test_progress(five):
    seen = []
    FolderSource(five(), lambda done, total: seen.append((done, total)))
    assert seen == [(n, 5) for n in range(1, 6)]


def test_the_cache_follows_the_environment(five, tmp_path, monkeypatch):
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path / "elsewhere"))
    FolderSource(five(cache=None))
    assert len(list((tmp_path / "elsewhere" / "clips").glob("*.npy"))) == 5


def test_open_source(five, monkeypatch, tmp_path):
    assert isinstance(open_source(five()), FolderSource)
    world = open_source(DataConfig("shape-motion", frames=3, height=16, width=24))
    assert world.batch(0, 2, seed=0).frames.shape == (2, 3, 3, 16, 24)
    with pytest.raises(ValueError, match=r"nowhere: no such folder.*shape-motion"):
        open_source(five(source="nowhere"))
    with pytest.raises(ValueError, match="for folders of clips"):
        open_source(DataConfig("shape-motion", flip=True))


@pytest.mark.parametrize("bad", [{"frames": 0}, {"height": 0}, {"width": -1}, {"fps": 0.0}, {"fps": float("nan")}])
def test_ranges(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
        DataConfig(**bad)


def test_real_folder(shared_data: Path, tmp_path):
    folder = shared_data / "licence_unknown" / "mocogan_actions" / "bend"
    source = FolderSource(DataConfig(str(folder), frames=60, holdout=0, cache=str(tmp_path)))
    assert len(source.clips) + len(source.skipped) == 9
    assert source.spec.fps == 25
    assert all("60 are needed" in skip.reason for skip in source.skipped)
    assert source.batch(0, 4, seed=0).frames.shape == (4, 60, 3, 64, 64)


def test_batches_do_not_depend_on_what_is_decoded_when(five, make_clip, monkeypatch):
    make_clip("set/9.mkv", 3, codec="ffv1")  # too short
    whole = FolderSource(five(short="skip"))
    monkeypatch.setattr(clips, "AHEAD", 0.0)
    lazy = FolderSource(five(short="skip", cache=None))
    assert len(whole.lengths) == 5 and len(lazy.lengths) <= 1
    for step in (7, 0, 3):
        one, other = (source.batch(step, 4, seed=1) for source in (whole, lazy))
        assert torch.equal(one.frames, other.frames)
    lazy.decode_all()
    assert lazy.lengths == whole.lengths and lazy.skipped == whole.skipped and lazy.key == whole.key


def test_clips_with_other_actions_are_skipped_when_they_are_found(five, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "OPENED", 2)  # the first and the last
    rows = "".join(f"{n}.mkv,{n}.npy\n" for n in range(5))
    for n in range(5):
        np.save(tmp_path / "set" / f"{n}.npy", np.zeros((10, 3 if n == 2 else 2)))
    (tmp_path / "set" / "metadata.csv").write_text("file_name,actions\n" + rows)
    source = FolderSource(five())
    assert source.usable == 4
    assert source.skipped == (Skipped("2.mkv", "it has actions of 3 numbers a frame, and others of 2"),)


def test_a_file_that_is_gone_or_changed_is_left_out_of_later_batches(tmp_path: Path, make_clip: Callable) -> None:
    clips, cache = tmp_path / "clips", tmp_path / "cache"
    for name in ("a", "b", "c"):
        make_clip(f"clips/{name}.mp4", frames=8)
    source = FolderSource(DataConfig(str(clips), 4, 16, 16, holdout=0, cache=str(cache)))
    whole = source.batch(0, 3, seed=0)
    shutil.rmtree(cache)
    assert torch.equal(source.batch(0, 3, seed=0).frames, whole.frames)  # decoded again
    shutil.rmtree(cache)
    (clips / "a.mp4").unlink()
    make_clip("clips/b.mp4", frames=6)
    assert source.batch(0, 3, seed=0).frames.shape == whole.frames.shape
    assert [(one.name, one.reason.partition(":")[0]) for one in source.skipped] == [
        ("a.mp4", "No such file or directory"),
        ("b.mp4", "it was changed since it was found"),
    ]
    assert source.usable == len(source.lengths) == 1
    (clips / "c.mp4").unlink()
    shutil.rmtree(cache)
    with pytest.raises(NoClips, match="none of its 3 clips can be used"):
        source.batch(1, 3, seed=0)


def test_files_that_cannot_be_used_are_not_those_held_out(tmp_path: Path, make_clip: Callable) -> None:
    for number in range(6):
        make_clip(f"clips/{number}.mp4", frames=8)
    config = DataConfig(str(tmp_path / "clips"), 4, 16, 16, cache=str(tmp_path / "cache"))
    held = [clip.path.name for clip in FolderClips(config, "held out").clips]
    for number in range(20):
        (tmp_path / f"clips/sheet{number}.png").write_bytes(b"x")
    (tmp_path / "clips/b.mp4").write_bytes(b"x")
    assert [clip.path.name for clip in FolderClips(config, "held out").clips] == held and len(held) == 1
