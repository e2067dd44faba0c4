from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kinema.data.clips import DataConfig, FolderSource
from kinema.data.folder import scan
from kinema.data.huggingface import save_folder
from kinema.data.readers.base import find_reader
from kinema.data.writing import write_video

LENGTHS = (9, 14, 6, 11)


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, which keeps what it prepares below the test's folder."""
    package = pytest.importorskip("datasets", reason="needs the package datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / ".huggingface")
    return package


@pytest.fixture
def dataset(datasets: Any, tmp_path: Path) -> Any:
    """Four rows: two of files, and two of bytes, of which one has a name."""
    videos = []
    for n, length in enumerate(LENGTHS):
        levels = 10 * np.arange(1, length + 1, dtype=np.uint8)[:, None, None, None]
        suffix = ".webm" if n == 3 else ".mp4"
        path = write_video(tmp_path / f"{n}{suffix}", np.broadcast_to(levels, (length, 32, 48, 3)), 12.5)
        videos.append(
            {"path": str(path)} if n < 2 else {"path": "x/y.mp4" if n == 2 else None, "bytes": path.read_bytes()}
        )
    columns = {
        "video": videos,
        "label": [0, 1, 1, 0],
        "caption": [f'a "{n}",\nö' for n in range(4)],
        "actions": [(n + np.arange(2 * length).reshape(length, 2)).tolist() for n, length in enumerate(LENGTHS)],
        "score": [0.5, float("nan"), 2.0, None],
    }
    dataset = datasets.Dataset.from_dict(columns)
    dataset = dataset.cast_column("label", datasets.ClassLabel(names=["run", "walk"]))
    return dataset.cast_column("video", datasets.Video(decode=False))


def check(folder: Path) -> None:
    """A folder has the clips of `dataset`."""
    found = scan(folder)
    assert found.classes == ("run", "walk") and found.skipped == ()
    assert [clip.label for clip in found.clips] == ["run", "walk", "walk", "run"]
    assert [clip.caption for clip in found.clips] == [f'a "{n}",\nö' for n in range(4)]
    for n, clip in enumerate(found.clips):
        reader = find_reader(clip.path)
        levels = [float(frame.mean()) for frame in reader.frames(clip)]
        np.testing.assert_allclose(levels, 10 * np.arange(1, LENGTHS[n] + 1), atol=4)
        np.testing.assert_array_equal(reader.actions(clip), n + np.arange(2 * LENGTHS[n]).reshape(-1, 2))


def load(datasets: Any, folder: Path) -> Any:
    """What the package itself reads from a folder."""
    loaded = datasets.load_dataset("videofolder", data_dir=str(folder))
    return datasets.DatasetDict(
        {name: one.cast_column("video", datasets.Video(decode=False)) for name, one in loaded.items()}
    )


def test_a_dataset_comes_back(datasets: Any, dataset: Any, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "clips"
    assert save_folder(dataset, folder) == (4, ())
    check(folder)
    names = ["000000.mp4", "000001.mp4", "000002.mp4", "000003.webm"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*names, *(f"{n:06d}.npy" for n in range(4)), "metadata.jsonl"]
    )
    assert (folder / names[0]).samefile(tmp_path / "0.mp4")
    loaded = load(datasets, folder)["train"]
    assert [Path(row["video"]["path"]).name for row in loaded] == names
    assert loaded["label"][:] == ["run", "walk", "walk", "run"] and loaded["score"][:] == [0.5, None, 2.0, None]
    assert loaded["actions"][:] == [f"{n:06d}.npy" for n in range(4)]
    source = FolderSource(DataConfig(str(folder), frames=4, height=16, width=24, holdout=0))
    assert len(source.clips) == 4 and source.skipped == ()


@pytest.mark.parametrize("kind", ["decoded", "streamed", "streamed and decoded", "numpy", "paths", "no features"])
def test_other_kinds_of_datasets(datasets: Any, dataset: Any, tmp_path: Path, kind: str) -> None:
    if "decoded" in kind:
        dataset = dataset.cast_column("video", datasets.Video())
    if "streamed" in kind:
        dataset = dataset.to_iterable_dataset()
    if kind == "numpy":
        dataset = dataset.with_format("numpy")
    if kind == "paths":
        paths = [str(tmp_path / f"{n}{'.webm' if n == 3 else '.mp4'}") for n in range(4)]
        dataset = dataset.remove_columns("video").add_column("video", paths)
    if kind == "no features":
        rows = [row | {"label": ["run", "walk"][row["label"]]} for row in dataset]
        dataset = datasets.IterableDataset.from_generator(lambda: iter(rows))
        assert dataset.features is None
    save_folder(dataset, tmp_path / "clips")
    check(tmp_path / "clips")


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "unseen"), ("train",)])
@pytest.mark.parametrize("streamed", [False, True])
def test_splits_are_folders(
    datasets: Any, dataset: Any, tmp_path: Path, splits: tuple[str, ...], streamed: bool
) -> None:
    parts = {name: dataset.select([2 * n, 2 * n + 1]).remove_columns("label") for n, name in enumerate(splits)}
    if streamed:
        whole = datasets.IterableDatasetDict({name: one.to_iterable_dataset() for name, one in parts.items()})
    else:
        whole = datasets.DatasetDict(parts)
    assert save_folder(whole, tmp_path / "clips") == (2 * len(splits), ())
    found = scan(tmp_path / "clips")
    assert found.classes == ()
    assert [clip.path.parent.name for clip in found.clips] == sorted([*splits, *splits])
    assert [clip.split for clip in found.clips] == (sorted([*splits, *splits]) if len(splits) > 1 else [None, None])
    if "unseen" not in splits:  # the package takes folders of other names for no splits
        assert {name: len(one) for name, one in load(datasets, tmp_path / "clips").items()} == dict.fromkeys(splits, 2)


def test_columns_of_other_names(datasets: Any, dataset: Any, tmp_path: Path) -> None:
    dataset = dataset.rename_columns({"video": "film", "label": "class", "actions": "steps", "caption": "told"})
    dataset = (
        dataset.add_column("label", ["a"] * 4).add_column("video", [1] * 4).add_column("other_file_name", ["b"] * 4)
    )
    dataset = dataset.add_column("tags", [["x"]] * 4)
    words = {"video": "film", "label": "class", "actions": "steps", "caption": "told"}
    with pytest.warns(UserWarning, match="left out: tags, label, other_file_name$"):
        save_folder(dataset, tmp_path / "clips", **words)
    check(tmp_path / "clips")


def test_rows_that_cannot_be_written_are_named(datasets: Any, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((5, 16, 16, 3), np.uint8), 10)
    (tmp_path / "secret").write_text("root:x:0:0")
    (tmp_path / "link").symlink_to(tmp_path / "a.mp4")
    good = (tmp_path / "a.mp4").read_bytes()
    values = [
        {"path": str(tmp_path / "none.mp4")},
        {"path": "hf://datasets/a/b/c.mp4"},
        None,
        {"path": str(tmp_path / "secret")},
        {"bytes": b"text"},
        {"bytes": good},
        {"bytes": good},
        {"path": str(tmp_path / "link")},
    ]
    steps = [[[0.0]]] * 5 + [[[float("inf")]]] + [[[0.0]]] * 2
    dataset = datasets.Dataset.from_dict(
        {"video": [{"path": None, "bytes": None} | (one or {}) for one in values], "actions": steps},
        features=datasets.Features(
            {
                "video": {"path": datasets.Value("string"), "bytes": datasets.Value("binary")},
                "actions": datasets.List(datasets.List(datasets.Value("float32"))),
            }
        ),
    )
    count, skipped = save_folder(dataset, tmp_path / "clips")
    assert count == 2 and [one.name for one in skipped] == [f"row {n}" for n in range(6)]
    reasons = (
        "none.mp4 cannot be read",
        "without streaming",
        "no video in it",
        "no video, or",
        "no video, or",
        "finite",
    )
    for one, reason in zip(skipped, reasons, strict=True):
        assert reason in one.reason
    assert sorted(os.listdir(tmp_path / "clips")) == [
        "000006.mp4", "000006.npy", "000007.mp4", "000007.npy", "metadata.jsonl",
    ]  # fmt: skip
    assert not (tmp_path / "clips/000007.mp4").is_symlink()
    whole = datasets.DatasetDict(train=dataset, test=dataset.select([0]))
    count, skipped = save_folder(whole, tmp_path / "splits")
    assert count == 2 and skipped[-1].name == "test row 0" and os.listdir(tmp_path / "splits") == ["train"]


def test_what_is_refused(datasets: Any, dataset: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.iterdir())
    frames = datasets.Dataset.from_dict({"video": [[[0, 1], [2, 3]]]})
    for given, words, message in (
        (dataset, {"folder": "there"}, "exists: choose another name"),
        (dataset, {"video": "film"}, "no column 'film'; it has video, label"),
        (dataset, {"caption": "told"}, "no column 'told'"),
        (dataset.select([]), {}, "no row that can be written"),
        (frames, {}, r"holds list, not files: cast it first, dataset.cast_column\('video', datasets.Video\(decode=F"),
        ({"../out": dataset}, {}, "is no name of a folder"),
    ):
        words = {"folder": "new"} | words
        with pytest.raises(ValueError, match=message):
            save_folder(given, tmp_path / words.pop("folder"), **words)
        assert sorted(tmp_path.iterdir()) == before


def test_the_package_is_imported_only_by_who_uses_it() -> None:
    code = "import sys, kinema.data.huggingface; print('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("wrong", [{"label": "clas"}, {"actions": "acts"}, {"caption": "txet"}])
def test_a_column_that_was_named_must_be_there(tmp_path: Path, wrong: dict[str, str]) -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict({"video": ["a.mp4"], "label": [1]})
    with pytest.raises(ValueError, match=f"no column '{next(iter(wrong.values()))}'; it has video, label"):
        save_folder(dataset, tmp_path / "clips", **wrong)
    assert not (tmp_path / "clips").exists()
