"""What is hostile or damaged is used rightly or refused in a line.

Never is there a traceback, a hang, a crash, much memory or nonsense. Settings, configurations and flags are in
`cases_of_settings.py`, checkpoints, models, caches and results in `cases_of_files.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest

TRY = Path(__file__).with_name("try_cases.py")
HANG = 10  # seconds
START = 120  # seconds until the small models are trained
GOOD = ("accepted and right", "refused in one line")
SETTINGS = ("settings", "configurations", "flags")
FILES = ("checkpoints", "resealed", "models", "cached clips", "cached latents", "measures", "results")
BAD = ("refused otherwise", "traceback", "hang", "over 2 GB", "crash", "accepted and wrong")


@dataclass
class Report:
    """What became of the cases, by their kinds."""

    outcomes: dict[str, Counter[str]]
    failures: list[str] = field(default_factory=list)
    cases: int = 0  # that there are
    slowest: tuple[float, str] = (0.0, "")

    @property
    def done(self) -> int:
        """The number of cases that were tried."""
        return sum(counter.total() for counter in self.outcomes.values())

    def add(self, kind: str, outcome: str, seconds: float, what: str, text: str) -> None:
        """Count a case."""
        self.outcomes[kind][outcome] += 1
        self.slowest = max(self.slowest, (seconds, what))
        if outcome not in GOOD:
            self.failures.append(f"{outcome}: {what}: {text}")


def try_all(folder: Path, counts: dict[str, int]) -> Report:
    """Try so many cases of each kind in another process, which is started again after one that ended it."""
    folder.mkdir()
    report = Report({kind: Counter() for kind in counts})
    while True:
        before = report.done
        command = [sys.executable, str(TRY), str(folder), str(report.done), json.dumps(counts)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PYTHONPATH": ":".join(sys.path)}
        with (folder / "stderr").open("w+") as log:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process:
                ended = follow(process, report)
            log.seek(0)
            trace = log.read()[-3000:]
        assert report.cases, f"the cases cannot be prepared: {trace}"
        if not ended:
            return report
        assert report.done > before, f"the cases cannot be gone on with: {trace}"
        report.failures.append(trace)


def follow(process: subprocess.Popen[str], report: Report) -> bool:
    """Count what a process says of its cases; whether it ended, or was ended, by one."""
    lines, kind, what, wait = Queue[str](), "", "", START

    def pump() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    Thread(target=pump, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=wait)
        except Empty:
            process.send_signal(signal.SIGABRT)  # at which faulthandler says where it was
            line, outcome, text = "", "hang", f"takes over {wait} s"
        else:
            outcome, text = "crash", "ends the process"
        if not line:
            if kind:
                report.add(kind, outcome, 0.0, what, text)
            return True
        kind, outcome, seconds, text = json.loads(line)
        if outcome == "done":
            return False
        if outcome == "ready":
            report.cases = int(text)
        elif outcome == "begun":
            what, wait = text, HANG
        else:
            report.add(kind, outcome, seconds, what, text)


def check(folder: Path, counts: dict[str, int]) -> None:
    """Try cases, print a table of what became of them, and fail for what must not be."""
    report = try_all(folder, counts)
    print("\n" + " " * 15 + "".join(f"{name:>20}" for name in (*GOOD, *BAD)))
    for kind, outcomes in report.outcomes.items():
        print(f"{kind:<15}" + "".join(f"{outcomes[name]:>20,}" for name in (*GOOD, *BAD)))
    print(f"the slowest took {report.slowest[0]:.1f} s: {report.slowest[1]}")
    assert not report.failures, "\n".join([f"{len(report.failures)} failures", *report.failures[:40]])
    assert report.done == report.cases
    assert all(report.outcomes[kind][outcome] for kind in counts if kind in SETTINGS for outcome in GOOD)


def test_some_cases(tmp_path: Path) -> None:
    check(tmp_path / "fuzz", dict(zip(SETTINGS, (300, 200, 40), strict=True)) | dict.fromkeys(FILES, 25))


@pytest.mark.slow
def test_hostile_settings(tmp_path: Path) -> None:
    check(tmp_path / "fuzz", dict(zip(SETTINGS, (10_000, 2000, 6000), strict=True)))


@pytest.mark.slow
def test_damaged_files(tmp_path: Path) -> None:
    check(tmp_path / "fuzz", dict.fromkeys(FILES, 2000))
