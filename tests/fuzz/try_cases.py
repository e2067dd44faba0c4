"""Try hostile settings and damaged files, one after another, and say what became of each.

Run by test_cases.py in a process of its own.
"""

from __future__ import annotations

import faulthandler
import json
import random
import re
import resource
import sys
import time
import traceback
from pathlib import Path

import cases_of_files
import cases_of_settings
import torch
from case import Case, Wrong

MEMORY = 4096  # MB of addresses beyond those of a process that is ready
HELD = 2048  # MB of memory
DOORS = {
    "settings": cases_of_settings.settings_cases,
    "configurations": cases_of_settings.configuration_cases,
    "flags": cases_of_settings.flag_cases,
    "checkpoints": cases_of_files.checkpoint_cases,
    "resealed": cases_of_files.resealed_cases,
    "models": cases_of_files.model_cases,
    "cached clips": cases_of_files.clip_cases,
    "cached latents": cases_of_files.latent_cases,
    "measures": cases_of_files.measure_cases,
    "results": cases_of_files.result_cases,
}


def main(folder: Path, first: int, counts: dict[str, int]) -> None:
    faulthandler.enable()
    torch.set_num_threads(1)
    cases_of_settings.prepare(folder)
    cases_of_files.prepare(folder)
    cases: list[tuple[str, Case]] = []
    for door, count in counts.items():
        made = DOORS[door](folder)
        random.Random(door).shuffle(made)
        cases += [(door, case) for case in made[:count]]
    resident, limit = memory("VmRSS"), (memory("VmSize") + MEMORY) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    say("", "ready", 0.0, str(len(cases)))
    for door, case in cases[first:]:
        say(door, "begun", 0.0, case.what)
        text, begun = "", time.monotonic()
        try:
            case.use()
            outcome = "accepted and right"
        except ValueError as error:
            text = str(error)
            outcome = "refused in one line" if text and "\n" not in text and len(text) < 2000 else "refused otherwise"
        except Wrong as error:
            outcome, text = "accepted and wrong", str(error)
        except Exception as error:  # all that must not be
            outcome, text = "traceback", f"{type(error).__name__}: {str(error)[:300]}"
            traceback.print_exc()
        if (held := memory("VmHWM") - resident) > HELD:
            outcome, text = "over 2 GB", f"{held} MB held"
            resident += held
        say(door, outcome, time.monotonic() - begun, text)
    say("", "done", 0.0, "")


def memory(name: str) -> int:
    """Memory of this process in MB: VmSize of its addresses, VmRSS that it holds, VmHWM that it held at most."""
    found = re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def say(door: str, outcome: str, seconds: float, text: str) -> None:
    print(json.dumps([door, outcome, seconds, text]), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]))
