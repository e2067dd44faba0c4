"""Commands at the same time on one run and one cache: each is right or says in one line why not, and the run is whole.

All trainings here have one budget, so a run has one state a step: what a command makes of the run must be what it makes
of one of these states.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from filelock import FileLock

MEASURING = "--clips 8 --frames 9 --height 16 --width 16 --features kinema --force --device cpu"
STEPS = 8  # of a run
TRAIN = f"TRAIN latent-dit --steps {STEPS} --train.save-every-minutes 0"
LATER = 0.6  # seconds that a command starts after another at most, in which a run gets its first steps
COMMANDS = {
    "train": TRAIN,
    "resume": f"{TRAIN} --resume",
    "sample": "sample run --count 2 --frames 9 --steps 2 --device cpu --out made/sample",
    "generate": "generate --model run --frames 9 --steps 2 --device cpu -o made/generate/clip.mp4",
    "evaluate": f"evaluate run --against clips {MEASURING} --out made/evaluate",
    "compare": f"compare run clips --against clips {MEASURING} --out made/compare",
    "export": "export run --out made/export/x.safetensors",
    "export-clips": "export-clips clips --out made/export-clips",
    "data check": "data check clips --data.frames 4 --data.height 16 --data.width 16 --out made/data-check/sheet.png",
}
PAIRS = [*combinations_with_replacement(COMMANDS, 2)]
QUICK = [("train", "resume"), ("export-clips", "export-clips")]


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, Counter[str]]]:
    """How commands ended, printed at the end: pytest -s shows it."""
    counts: dict[str, Counter[str]] = {}
    yield counts
    print()
    for name, endings in counts.items():
        for ending, count in endings.most_common():
            print(f"{name:<14}{count:>5}  {ending}")


@pytest.fixture(scope="module")
def states(server, make_place, train_words) -> list[Path]:
    """Folders in which a run, `run`, has 0 steps, 1 and so on to STEPS."""
    place = make_place()
    command = server.start(place, train_words("latent-dit", "run", *TRAIN.split()[2:]), keep=STEPS)
    assert command.wait() == 0, command.err
    found = [make_place()]
    for step in range(1, STEPS + 1):
        found.append(copy(place, make_place()))
        for path in (found[-1] / "run").glob("step-*"):
            if int(path.name.removeprefix("step-")) not in (step - 1, step):
                shutil.rmtree(path)
    return found


@pytest.fixture(scope="module")
def results() -> dict[str, list[dict[str, bytes]]]:
    """What commands make of the states, once they have been run alone."""
    return {}


@pytest.mark.parametrize("pair", QUICK, ids="-".join)
def test_a_few_pairs_end_well(pair: tuple[str, str], together: Callable[[tuple[str, str]], None]) -> None:
    together(pair)


@pytest.mark.parametrize("name", ["train", "resume"])
def test_nothing_is_written_before_the_lock_is_taken(name: str, server, make_place, states, train_words) -> None:
    place = copy(states[2], make_place())
    if name == "train":  # another one's, before its first checkpoint is there
        for path in (place / "run").glob("step-*"):
            shutil.rmtree(path)
    with FileLock(place / "run" / ".lock"):
        before = contents(place / "run")
        command = server.start(place, train_words("latent-dit", "run", *COMMANDS[name].split()[2:]))
        assert command.wait() == 2
        assert command.err.splitlines()[-1].startswith("kinema: another run writes into run"), command.err
        assert contents(place / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_all_pairs_end_well(pair: tuple[str, str], together: Callable[[tuple[str, str]], None]) -> None:
    together(pair)


@pytest.fixture
def together(server, make_place, train_words, states, results, table) -> Callable[[tuple[str, str]], None]:
    """Start both commands of a pair, some of them twice, and check what they did."""

    def words(name: str) -> list[str]:
        first, *others = COMMANDS[name].split()
        return train_words(others[0], "run", *others[1:]) if first == "TRAIN" else COMMANDS[name].split()

    def alone(name: str) -> list[dict[str, bytes]]:
        if name not in results:
            results[name] = []
            for state in states[1:] if " run " in COMMANDS[name] else states[:1]:
                place = copy(state, make_place())
                command = server.start(place, words(name))
                assert command.wait() == 0, command.err
                results[name].append(contents(place / "made" / name.replace(" ", "-")))
        return results[name]

    def run(pair: tuple[str, str]) -> None:
        chance = random.Random(" ".join(pair))
        names = [*pair, *chance.choices(pair, k=chance.randint(0, 2))]
        place = copy(states[0 if "train" in pair else 2], make_place())
        trainings = [name for name in names if name in ("train", "resume")]
        commands = []
        for name in names:
            commands.append((name, server.start(place, words(name))))
            time.sleep(chance.uniform(0, LATER))
        for name, command in commands:
            status = command.wait(120)
            last = (command.err.strip().splitlines() or [""])[-1]
            line = last.replace(str(place), "") if status else "right"
            table.setdefault(name, Counter())[f"{status} {line[:150]}"] += 1
            assert "Traceback" not in command.err, command.err
            if status:
                lines = [line for line in command.err.splitlines() if line.startswith("kinema: ")]
                assert (status, lines) == (2, [last]), command.err
        ended_well = {name for name, command in commands if command.poll() == 0}
        for name in ended_well - {"train", "resume"}:
            made = contents(place / "made" / name.replace(" ", "-"))
            assert made in alone(name), f"{name} made what it makes of no state of the run: {sorted(made)}"
        hidden = [path for path in place.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
        assert not [path for path in hidden if path.name != ".lock"]
        if not trainings:
            return
        if "train" in trainings:
            assert "train" in ended_well  # the one that had the lock
        finishing = server.start(place, words("resume"))
        assert finishing.wait() == 0, finishing.err
        assert weights(place) == weights(states[-1])

    return run


def copy(place: Path, other: Path) -> Path:
    """Copy a run into another place."""
    if (place / "run").exists():
        shutil.copytree(place / "run", other / "run")
    return other


def weights(place: Path) -> dict[str, bytes]:
    """The weights of a run's checkpoints and its codec."""
    return {name: content for name, content in contents(place / "run").items() if name.endswith(".safetensors")}


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
