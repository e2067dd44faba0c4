"""Disks that are full, read-only, limited or gone: one clear line, and what was there and what is there is whole."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

MEASURING = "--clips 8 --frames 9 --height 16 --width 16 --features kinema --force --device cpu"
DISK = 2**21  # bytes of a small disk


@dataclass(frozen=True)
class Writer:
    """A command whose writing into `folder` is disturbed, with other caches that are filled before.

    `goes_on` says that it ends well all the same, as what is written there is only looked at. `before` is a command
    that writes the same before.
    """

    folder: str
    words: str  # with TRAIN FAMILY, or CHOOSE without one, in the place of the words that train a tiny network
    goes_on: bool = False
    before: str = ""
    warm: bool = True


SAMPLE = "sample model --count 3 --frames 9 --steps 2 --device cpu --out made"
WRITERS = {
    "checkpoints": Writer(
        "run", "TRAIN mocogan --steps 8 --train.save-every-minutes 0 --resume", before="TRAIN mocogan --steps 2"
    ),
    "checkpoints with a codec": Writer("run", "TRAIN latent-dit --steps 3 --train.save-every-minutes 0"),
    "TensorBoard": Writer("run/tensorboard", "TRAIN mocogan --steps 8 --train.save-every-minutes 0", goes_on=True),
    "sample sheets": Writer("run/samples", "TRAIN mocogan --steps 4 --train.sample-every-minutes 0", goes_on=True),
    "clips cache": Writer("cache", "TRAIN mocogan --steps 2", warm=False),
    "clips cache, checked": Writer(
        "cache", "data check clips --data.frames 4 --data.height 16 --data.width 16", warm=False
    ),
    "latents cache": Writer("cache/latents", "TRAIN latent-dit --steps 2 --data.cache-latents 512"),
    "measured cache": Writer("cache/measured", f"evaluate clips {MEASURING}", goes_on=True),
    "report": Writer("made", f"evaluate clips {MEASURING} --out made", before=f"evaluate clips {MEASURING} --out made"),
    "comparison": Writer("made", f"compare model clips --against clips {MEASURING} --out made"),
    "saved features": Writer("made", f"evaluate clips {MEASURING} --save-features made/saved.npz"),
    "sample": Writer("made", SAMPLE, before=f"{SAMPLE} --seed 9"),
    "sample png": Writer("made", f"{SAMPLE} --format png"),
    "sample npy": Writer("made", f"{SAMPLE} --format npy"),
    "sample dcm": Writer("made", f"{SAMPLE} --format dcm"),
    "sample webm": Writer("made", f"{SAMPLE} --format webm"),
    "generate": Writer("made", "generate --model model --count 2 --frames 9 --steps 2 --device cpu -o made/clip.gif"),
    "export": Writer("made", "export model --out made/x.safetensors", before="export model --out made/x.safetensors"),
    "export-clips lerobot": Writer("made", "export-clips clips --out made/robot"),
    "export-clips webdataset": Writer("made", "export-clips clips --format webdataset --out made/shards"),
    "sheet": Writer("made", "data check clips --data.frames 4 --data.height 16 --data.width 16 --out made/sheet.png"),
    "results": Writer("run/results", "CHOOSE --steps 2", goes_on=True),
}
FAULTS = ("full", "nearly full", "read-only", "limit", "vanishing")
ONLY_WATCHED = ("TensorBoard", "sample sheets", "results")  # smaller than what else is written, so not to be limited
CASES = [(name, fault) for fault in FAULTS for name in WRITERS if fault != "limit" or name not in ONLY_WATCHED]
QUICK = [("checkpoints", "nearly full"), ("sample", "full"), ("export-clips lerobot", "vanishing")]


@pytest.fixture(scope="module")
def rows() -> Iterator[list[tuple[str, ...]]]:
    """A table of writer, fault, outcome and what is left, printed at the end: pytest -s shows it."""
    rows: list[tuple[str, ...]] = []
    yield rows
    print()
    for writer, fault, outcome, left in rows:
        print(f"{writer:<25}{fault:<13}{outcome[:150]:<152}{left}")


@pytest.fixture(scope="module")
def references() -> dict[str, tuple[Path, Path]]:
    """Places by writer: one before it runs, and one in which it has run undisturbed."""
    return {}


@pytest.mark.parametrize(("writer", "fault"), QUICK)
def test_a_disturbed_writer_leaves_all_whole(writer: str, fault: str, disturbed: Callable[[str, str], None]) -> None:
    disturbed(writer, fault)


@pytest.mark.slow
@pytest.mark.parametrize(("writer", "fault"), CASES)
def test_all_disturbed_writers_leave_all_whole(writer: str, fault: str, disturbed: Callable[[str, str], None]) -> None:
    disturbed(writer, fault)


@pytest.mark.slow
def test_results_need_no_cache_that_can_be_written(server, make_place, train_words) -> None:
    place = make_place()
    flags = train_words("latent-dit", "run", "--steps", 2)[2:]
    with disk(place / "cache"):
        assert server.start(place, ["train", "latent-dit", *flags]).wait() == 0  # caches the clips that it trains on
        mount("-o", "remount,ro", str(place / "cache"))
        flags[flags.index("run")] = "other"
        command = server.start(place, ["train", *flags])
        assert command.wait(120) == 0, command.err
    assert "may only be read: clips are decoded again" in command.err
    assert {"report.html", "report.md", "results.json", "sheet.png"} <= contents(place / "other" / "results").keys()


@pytest.fixture
def disturbed(server, make_place, model, train_words, rows, references) -> Callable[[str, str], None]:
    """Run a writer under a fault, and check what is left."""

    def words(text: str) -> list[str]:
        first, *others = text.split()
        if first == "CHOOSE":
            return ["train", *train_words("latent-dit", "run", *others)[2:]]
        if first != "TRAIN":
            return text.split()
        return train_words(others[0], "run", *others[1:])

    def run(name: str, fault: str) -> None:
        writer = WRITERS[name]

        def place() -> Path:
            folder = make_place()
            shutil.copytree(model, folder / "model")
            return folder

        if name not in references:
            references[name] = before, undisturbed = place(), place()
            for one in references[name]:
                if writer.before:
                    assert server.start(one, words(writer.before)).wait() == 0
            command = server.start(undisturbed, words(writer.words))
            assert command.wait(120) == 0, command.err
        (before, undisturbed), folder = references[name], make_place()
        (folder / "clips").unlink()
        shutil.copytree(before, folder, symlinks=True, dirs_exist_ok=True)
        written = undisturbed / writer.folder
        sizes = [path.stat().st_size for path in written.rglob("*") if path.is_file()]
        if writer.warm and (undisturbed / "cache").exists():
            shutil.rmtree(folder / "cache", ignore_errors=True)
            shutil.copytree(undisturbed / "cache", folder / "cache")
        target = folder / writer.folder
        if writer.folder.startswith("cache/"):
            shutil.rmtree(target, ignore_errors=True)
        with ExitStack() as stack:
            limit = None
            if fault == "limit":
                limit = max(1, max(sizes) // 2)
            elif fault == "vanishing":
                stack.enter_context(vanishing(target))
            else:
                stack.enter_context(disk(target))
            before = contents(target)
            if fault in ("full", "nearly full"):
                room = sum(sizes) // 3 if fault == "nearly full" else 0
                fill(target, room)
            elif fault == "read-only":
                mount("-o", "remount,ro", str(target))
            command = server.start(folder, words(writer.words), most_bytes=limit)
            status = command.wait(120)
            (target / "filler").unlink(missing_ok=True) if fault != "read-only" else None
            after = contents(target)
        lines = command.err.strip().splitlines()
        last = lines[-1] if lines else ""
        rows.append((name, fault, f"{status}: {last}", ", ".join(sorted(after))[:100]))
        assert "Traceback" not in command.err, command.err
        if writer.goes_on:
            assert status == 0, command.err
        elif status or fault != "vanishing":
            assert (status, sum(line.startswith("kinema: ") for line in lines)) == (2, 1), command.err
            assert last.startswith("kinema: ") and "a file:" not in last, last
        if fault == "vanishing":
            return
        whole = contents(written)
        for path, content in after.items():
            made = path.rpartition("/")[2]
            assert made == ".lock" or (made[0] != "." and ".part" not in made), f"{path} is left over"
            if path.endswith(".webm"):  # whose bytes differ between any two runs
                assert len(content) > 0.9 * len(whole[path]), f"{path} is half there"
            if before.get(path) != content and not changing(path):
                assert whole.get(path) == content, f"{path} is half there"
        kept = before.keys() if status else set[str]()
        assert not {path for path in kept if path not in after and not changing(path)}, "something is lost"

    return run


def changing(path: str) -> bool:
    """Whether a file differs between any two runs."""
    if "tfevents" in path or path.startswith("locks"):
        return True
    return path.endswith((".pt", ".webm", "progress.json", "manifest.json"))


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names in it, and its folders with a name that starts with a full stop."""
    found = {path for path in folder.rglob("*") if path.is_file() or path.name.startswith(".")}
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in found}


def mount(*words: str) -> None:
    """Mount; the test is skipped where this process may not."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip(f"nothing can be mounted here: {'no mount' if done is None else done.stderr.strip()}")


@contextmanager
def disk(folder: Path) -> Iterator[None]:
    """A small disk of its own in the place of a folder, with the folder's content."""
    kept = folder.with_name(f"{folder.name}-before")
    if folder.exists():
        folder.rename(kept)
    folder.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder))
    try:
        if kept.exists():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, room: int) -> None:
    """Fill a folder's disk but for some bytes."""
    with (folder / "filler").open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(2**16))
        file.truncate(max(0, file.tell() - room))


@contextmanager
def vanishing(folder: Path) -> Iterator[None]:
    """Remove a folder again and again, once there is something in it."""
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            if folder.is_dir() and any(folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.003)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
