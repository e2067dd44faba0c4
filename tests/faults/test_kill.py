"""Commands that are killed at random moments and started again end as undisturbed ones do, and leave nothing behind."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

MEASURING = "--clips 8 --frames 9 --height 16 --width 16 --features kinema --force --device cpu"
MOST_IN_A_ROW = 4  # kills before a command may end


@dataclass(frozen=True)
class Case:
    """A command that writes `made`, with the kills of the slow test and of the quick one."""

    words: str  # after "train", the family and further words
    made: tuple[str, ...]
    kills: int
    quick: int = 0


CASES = {
    "train mocogan": Case("mocogan --steps 16 --train.save-every-minutes 0", ("run",), 26, 2),
    "train video-vae": Case("video-vae --steps 12 --train.save-every-minutes 0", ("run",), 22),
    "train latent-dit": Case("latent-dit --steps 12 --train.save-every-minutes 0", ("run",), 24),
    "cache latents": Case("latent-dit --steps 2 --data.cache-latents 256", ("run", "cache/latents"), 20),
    "cache clips": Case(
        "data check clips --data.frames 4 --data.height 16 --data.width 16", ("sheet.png", "cache/clips"), 16
    ),
    "evaluate": Case(
        f"evaluate model --against clips {MEASURING} --out report --save-features saved.npz",
        ("report", "saved.npz", "cache/measured"),
        20,
    ),
    "sample": Case("sample model --count 4 --frames 9 --steps 4 --out made --device cpu", ("made",), 16, 2),
    "generate": Case("generate --model model --count 3 --steps 4 --device cpu -o made/clip.gif", ("made",), 14),
    "export": Case("export model --out made/model.safetensors", ("made",), 14),
    "export-clips lerobot": Case("export-clips clips --out made", ("made",), 14, 2),
    "export-clips webdataset": Case("export-clips clips --format webdataset --out made", ("made",), 14),
}


@dataclass
class Counts:
    """What became of the cases of a command."""

    killed: int = 0
    ended: int = 0  # before the kill came
    finished: int = 0
    equal: int = 0
    lost: list[str] = field(default_factory=list)
    leftovers: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, Counts]]:
    """Counts by command, printed at the end: pytest -s shows them."""
    counts: dict[str, Counts] = {}
    yield counts
    heads = ("killed", "ended", "finished", "equal", "lost", "leftovers")
    print(f"\n{'command':<25}", *(f"{head:>10}" for head in heads))
    rows = [
        (one.killed, one.ended, one.finished, one.equal, len(one.lost), one.leftovers.total())
        for one in counts.values()
    ]
    for name, row in zip([*counts, "all"], [*rows, tuple(map(sum, zip(*rows, strict=True)))], strict=True):
        print(f"{name:<25}", *(f"{count:>10}" for count in row))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.quick])
def test_a_few_kills_lose_nothing(name: str, killed: Callable[[str, int], Counts]) -> None:
    check(killed(name, CASES[name].quick))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_kills_lose_nothing(name: str, killed: Callable[[str, int], Counts]) -> None:
    check(killed(name, CASES[name].kills))


def check(counts: Counts) -> None:
    assert counts.killed
    assert not counts.lost
    assert not counts.leftovers
    assert counts.equal == counts.finished


@pytest.fixture
def killed(server, make_place, model, train_words, table) -> Callable[[str, int], Counts]:
    """Kill a command so many times, a few times in a row before it may end, and count what became of it."""

    def run(name: str, kills: int) -> Counts:
        case, chance, counts = CASES[name], random.Random(name), Counts()
        table[name] = counts
        words = case.words.split()
        if trains := words[0] in ("mocogan", "video-vae", "latent-dit"):
            words = train_words(words[0], "run", *words[1:])

        def place() -> Path:
            folder = make_place()
            shutil.copytree(model, folder / "model")
            return folder

        def start(folder: Path) -> Any:
            resume = ["--resume"] if trains and newest(folder / "run") else []
            return server.start(folder, [*words, *resume])

        undisturbed = place()
        begun = time.monotonic()
        command = start(undisturbed)
        assert command.wait() == 0, command.err
        seconds = time.monotonic() - begun
        while counts.killed < kills:
            folder = place()
            for _ in range(min(chance.randint(1, MOST_IN_A_ROW), kills - counts.killed)):
                before, command = newest(folder / "run"), start(folder)
                time.sleep(chance.uniform(0, seconds))
                reached = newest(folder / "run")
                if not command.kill():
                    counts.ended += 1
                    break
                counts.killed += 1
                if newest(folder / "run") < max(before, reached):
                    counts.lost.append(f"step {max(before, reached)} was saved, and then {newest(folder / 'run')}")
            failed = (command := start(folder)).wait() != 0
            is_there = "export-clips" in name and "made exists" in command.err  # whole, and it is not written again
            if failed and not is_there:
                counts.lost.append(command.err)
                continue
            counts.finished += 1
            counts.leftovers.update(leftovers(folder, undisturbed))
            different = differences(folder, undisturbed, case.made)
            counts.equal += not different
            counts.lost += different
        return counts

    return run


def newest(run: Path) -> int:
    """The newest step of a run; 0: there is none."""
    return max((int(path.name.removeprefix("step-")) for path in run.glob("step-*")), default=0)


def files(folder: Path, made: tuple[str, ...] = (".",)) -> dict[str, Path]:
    """Files and folders by their names in a folder, without what differs between any two runs."""
    found = {}
    for top in made:
        place = folder / top
        for path in [place, *place.rglob("*")] if place.is_dir() else [place] * place.exists():
            name = path.relative_to(folder).as_posix()
            if "/tensorboard" not in name and not name.startswith(("clips/", "cache/locks")):
                found[name] = path
    return found


def leftovers(folder: Path, undisturbed: Path) -> list[str]:
    """Files and folders that an undisturbed command does not leave."""
    return sorted(files(folder).keys() - files(undisturbed).keys())


def differences(folder: Path, undisturbed: Path, made: tuple[str, ...]) -> list[str]:
    """What of an undisturbed command's files is missing or has another content."""
    here, there = files(folder, made), files(undisturbed, made)
    missing = [f"{name} is missing" for name in sorted(there.keys() - here.keys())]
    both = sorted(name for name in here.keys() & there.keys() if there[name].is_file())
    return missing + [f"{name} differs" for name in both if not same(here[name], there[name])]


def same(one: Path, other: Path) -> bool:
    """Whether files have the same content, apart from the seconds that something took."""
    if one.name == "progress.json":
        return json.loads(one.read_text())["step"] == json.loads(other.read_text())["step"]
    if one.name == "manifest.json":  # of what is compared itself
        return json.loads(one.read_text())["crc32"].keys() == json.loads(other.read_text())["crc32"].keys()
    if one.name == "optimizers.pt":
        mine, theirs = (torch.load(path, weights_only=True) for path in (one, other))
        return equal(mine, theirs)
    return one.read_bytes() == other.read_bytes()


def equal(one: Any, other: Any) -> bool:
    """Whether nested values are equal, their tensors bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
