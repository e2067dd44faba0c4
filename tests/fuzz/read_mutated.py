"""Read mutated copies of valid inputs, a line of JSON for each: run by test_readers.py in a process of its own.

    python read_mutated.py FOLDER DOOR FIRST STOP

FOLDER/DOOR/* are the valid inputs, each in a folder. Input number k, from FIRST to STOP, is a copy of one of them with
one of its files mutated; it depends on (door, k) alone, and stays in FOLDER/mutated while it is read.
"""

from __future__ import annotations

import faulthandler
import json
import re
import resource
import shutil
import sys
import time
import traceback
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from kinema.data.folder import scan
from kinema.data.readers.base import Clip, ReadError, find_reader

MEMORY = 2048  # MB that reading may ask for
HELD = 1024  # MB that it may hold; what is more is asked for by a header that lies, and not used
MOST_FRAMES = 10_000  # of an input, whose valid form has 8
SAMPLE_RATE = 16000
LENGTHS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
ENDS = 512  # bytes at the beginning and the end of a file where half of the mutations are, as headers are there
SILENT = "there is no audio track in it"
TABLES = "metadata.*"  # of the door "tables" what is mutated


def mutate(data: bytes, random: np.random.Generator) -> tuple[bytes, str]:
    """Damaged data, and how they were damaged."""
    size = len(data)
    if size < 2:
        return b"", "made empty"

    def place() -> int:
        first, last = [(0, size), (0, size), (0, min(ENDS, size)), (max(0, size - ENDS), size)][random.integers(4)]
        return int(random.integers(first, last))

    changed, at = bytearray(data), place()
    length = int(np.exp(random.uniform(0, np.log(size)))) + 1  # of a stretch; as often short as long
    kind = random.choice(["bits", "bytes", "length", "cut", "zeros", "repeat", "swap", "remove", "empty"],
                         p=[0.2, 0.15, 0.2, 0.1, 0.1, 0.08, 0.08, 0.08, 0.01])  # fmt: skip
    if kind == "bits":
        bits = [place() * 8 + int(random.integers(8)) for _ in range(random.integers(1, 9))]
        for bit in bits:
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed), f"bits {bits} flipped"
    if kind == "bytes":
        places = [place() for _ in range(random.integers(1, 9))]
        for one in places:
            changed[one] = int(random.integers(256))
        return bytes(changed), f"bytes {places} random"
    if kind == "length":
        width, order = int(random.choice([1, 2, 4, 8])), str(random.choice(["little", "big"]))
        old = int.from_bytes(data[at : at + width], order)
        new = int(random.choice(LENGTHS)) if random.random() < 0.5 else old + int(random.choice([-16, -1, 1, 16, 256]))
        new %= 1 << 8 * width
        changed[at : at + width] = new.to_bytes(width, order)
        return bytes(changed), f"{width} bytes at {at} set to {new}, {order} endian"
    if kind == "cut":
        return data[:at], f"cut to {at} bytes"
    if kind == "zeros":
        changed[at : at + length] = bytes(len(changed[at : at + length]))
        return bytes(changed), f"{length} bytes at {at} set to 0"
    if kind == "repeat":
        return data[: at + length] + data[at:], f"{length} bytes at {at} repeated"
    if kind == "swap":
        other = place()
        length = min(length, abs(other - at))
        changed[at : at + length], changed[other : other + length] = (
            data[other : other + length],
            data[at : at + length],
        )
        return bytes(changed), f"{length} bytes at {at} and {other} swapped"
    if kind == "remove":
        return data[:at] + data[at + length :], f"{length} bytes at {at} removed"
    return b"", "made empty"


def make(folder: Path, door: str, number: int) -> tuple[Path, str]:
    """Input `number` of a door, and what it is."""
    random = np.random.default_rng((zlib.crc32(door.encode()), number))
    inputs = sorted((folder / door).iterdir())
    valid, root = inputs[number % len(inputs)], folder / "mutated"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(valid, root)
    files = sorted(path for path in root.rglob(TABLES if door == "tables" else "*") if path.is_file())
    path = files[random.integers(len(files))]
    data, how = mutate(path.read_bytes(), random)
    path.write_bytes(data)
    return root, f"{valid.name}/{path.relative_to(root)}: {how}"


def reasons(root: Path, door: str) -> Iterator[str]:
    """Read all that is in a folder, as `kinema data check` does; yield why something was refused, a line each."""
    try:
        sounds = [Clip(path) for path in root.iterdir()] if door == "sound" else []
        clips = sounds or scan(root).clips
    except ValueError as error:
        check(error)
        yield str(error)
        return
    for clip in clips:
        reader = find_reader(clip.path)
        steps = [
            reader.info,
            lambda clip, reader=reader: count(reader.frames(clip, threads=1)),
            lambda clip, reader=reader: count(reader.frames(clip, reader.info(clip).fps, threads=1)),
            reader.notes,
            reader.actions,
            reader.version,
            reader.fingerprint,
        ]
        for step in [*(steps if not sounds else []), lambda clip, reader=reader: reader.audio(clip, SAMPLE_RATE)]:
            try:
                step(clip)
            except ReadError as error:
                check(error)
                if error.reason != SILENT:
                    yield str(error)


def count(frames: Iterable[object]) -> None:
    """Read all frames; raise where there are more than can be."""
    if (number := sum(1 for _ in frames)) > MOST_FRAMES:
        raise AssertionError(f"{number} frames")


def check(error: ValueError) -> None:
    """Raise where a refusal is not a line."""
    if "\n" in str(error):
        raise AssertionError(f"a message of several lines: {error!r}")


def main(folder: Path, door: str, first: int, stop: int) -> None:
    faulthandler.enable()
    for valid in sorted((folder / door).iterdir()):  # which also imports all that is needed
        refused = [*reasons(valid, door)]
        assert not refused, f"{valid} is not valid: {refused}"
    resident, limit = memory("VmRSS"), (memory("VmSize") + MEMORY) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    say(-1, "ready", 0.0, "")
    for number in range(first, stop):
        root, what = make(folder, door, number)
        say(number, "begun", 0.0, what)
        begun = time.monotonic()
        try:
            refused = next(iter([*reasons(root, door)]), "")
            outcome = "refused" if refused else "read"
            assert (held := memory("VmHWM") - resident) < HELD, f"{held} MB held"
        except Exception as error:  # all that a reader must not raise
            outcome, refused = "failed", f"{type(error).__name__}: {error}"
            traceback.print_exc()
        say(number, outcome, time.monotonic() - begun, refused)
    say(-1, "done", 0.0, str(memory("VmHWM") - resident))


def memory(name: str) -> int:
    """Memory of this process in MB: VmSize of its addresses, VmRSS that it holds, VmHWM that it held at most."""
    return int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def say(number: int, outcome: str, seconds: float, text: str) -> None:
    print(json.dumps([number, outcome, seconds, text]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
