"""A process that has imported kinema and forks one for each command, which saves the seconds of importing.

Reads requests as lines of JSON on stdin and answers each with one line on stdout: {"words": ...} starts a command and
gives its process id, {"wait": PID, "seconds": S} gives its exit status (negative: the signal that ended it) or null
where it still runs.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import sys
import threading
import time
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import kinema.cli
from kinema.cli.main import main
from kinema.training import checkpoint

for module in Path(kinema.cli.__file__).parent.glob("*.py"):
    if not module.stem.startswith("__"):
        import_module(f"kinema.cli.{module.stem}")


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer = _wait(ended, request["wait"], request["seconds"]) if "wait" in request else _start(request)
        print(json.dumps(answer), file=answers, flush=True)


def _wait(ended: dict[int, int], pid: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended[pid] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() >= until:
            return None
        else:
            time.sleep(0.002)
    return ended[pid]


def _start(request: dict[str, Any]) -> int:
    """Fork a process that runs the words of a command in a folder, with its output in a file."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        for target, number in ((os.devnull, 0), (request["output"] + ".out", 1), (request["output"] + ".err", 2)):
            os.dup2(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        if (most := request["most_bytes"]) is not None:  # of a file: Python ignores SIGXFSZ, so writing more fails
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        if (keep := request["keep"]) is not None:  # so many checkpoints of a run
            checkpoint.save_step = partial(checkpoint.save_step, keep=keep)
        code = main(request["words"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:  # as at the end of an interpreter
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
