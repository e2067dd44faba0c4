"""Commands in processes of their own that can be killed, on a few tiny clips."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kinema.data.writing import write_video

SERVER = Path(__file__).with_name("fork_server.py")


@dataclass(frozen=True)
class Command:
    """A command that runs."""

    server: Server
    pid: int
    output: Path

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit status once it has ended; raises TimeoutError where it does not in time."""
        status = self.poll(seconds)
        if status is None:
            self.kill()
            raise TimeoutError(f"it did not end in {seconds:g} s:\n{self.err}")
        return status

    def poll(self, seconds: float = 0.0) -> int | None:
        """Its exit status, or None where it runs so many seconds from now."""
        return self.server.ask({"wait": self.pid, "seconds": seconds})

    def kill(self) -> bool:
        """End it with SIGKILL; return whether it still ran."""
        if self.poll() is None:  # not reaped yet, so the number is its own
            os.kill(self.pid, signal.SIGKILL)
        return self.poll(10.0) == -signal.SIGKILL

    @property
    def out(self) -> str:
        """What it printed."""
        return self.output.with_name(f"{self.output.name}.out").read_text()

    @property
    def err(self) -> str:
        """What it printed on stderr."""
        return self.output.with_name(f"{self.output.name}.err").read_text()


class Server:
    """Starts commands; see fork_server.py."""

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.started = outputs, 0
        words = [sys.executable, str(SERVER)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, request: dict) -> int | None:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(
        self, folder: Path, words: Sequence[object], most_bytes: int | None = None, keep: int | None = None
    ) -> Command:
        """Start a command in a folder, with the cache `folder/cache`.

        `most_bytes` limits the size of each file that it writes, and `keep` is how many checkpoints it keeps.
        """
        self.started += 1
        output = self.outputs / str(self.started)
        pid = self.ask(
            {
                "words": [str(word) for word in words],
                "folder": str(folder),
                "environment": {"KINEMA_CACHE": str(folder / "cache")},
                "output": str(output),
                "most_bytes": most_bytes,
                "keep": keep,
            }
        )
        assert pid is not None
        return Command(self, pid, output)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What starts commands."""
    server = Server(tmp_path_factory.mktemp("outputs"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of 12 frames, 16x16, of noise that goes by."""
    folder, rng = tmp_path_factory.mktemp("videos") / "clips", np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        noise = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
        write_video(folder / f"{number:02d}.mp4", np.stack([np.roll(noise, t, 1) for t in range(12)]), 10)
    return folder


TINY = {
    "mocogan": "--preset paper --family.content 4 --family.motion 3 --family.ngf 2 --family.ndf 2 --family.ndf-image 2",
    "video-vae": "--family.hidden 4 --family.space 4 --family.channels 3",
    "latent-dit": "--family.hidden 16 --family.depth 3 --family.heads 2 --family.merged-hidden 0",
}
DATA = "--data clips --data.frames 9 --data.height 16 --data.width 16 --train.batch 2 --device cpu"


@pytest.fixture(scope="session")
def train_words() -> Callable[..., list[str]]:
    """The words that train the tiny network of a family into a folder; further words are appended."""

    def make(family: str, out: str = "run", *more: object) -> list[str]:
        return [*f"train {family} {TINY[family]} {DATA} --out {out}".split(), *map(str, more)]

    return make


@pytest.fixture(scope="session")
def make_place(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Callable[[], Path]:
    """Make a folder to run commands in, with `clips`."""

    def make() -> Path:
        place = tmp_path_factory.mktemp("place")
        (place / "clips").symlink_to(clips)
        return place

    return make


@pytest.fixture(scope="session")
def model(server: Server, make_place: Callable[[], Path], train_words: Callable[..., list[str]]) -> Path:
    """A run of two steps, of a latent family."""
    place = make_place()
    command = server.start(place, train_words("latent-dit", "run", "--steps", 2))
    assert command.wait() == 0, command.err
    return place / "run"
