"""The entry point of the command line, which imports only the command that runs."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import kinema
from kinema import __version__
from kinema.cli.streams import lasting_streams
from kinema.printable import printable

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "generate": "make a clip from a prompt, an image, a video, sound or actions",
    "demo": "make clips of a few prompts with the shipped model",
    "train": "train a model on a folder of clips",
    "plan": "say what training would take, and what kinema would choose",
    "sample": "make clips with a trained model",
    "evaluate": "measure clips, generated or real, alone or against a reference",
    "compare": "measure several models or folders with one protocol, as a leaderboard",
    "metrics audit": "test which measures detect corrupted clips",
    "anomalies": "score how unexpected each frame of a video is, and mark it",
    "caption": "caption clips",
    "models": "list the shipped models and their conditions",
    "export": "write a trained model as one small file",
    "export-clips": "write clips as a LeRobot dataset, or as WebDataset shards",
    "data check": "describe a folder of clips, and show the frames that training reads",
}

LONG_WORD = re.compile(r"(\S{250})\S+")  # of an error, such as a number of thousands of digits

LONGEST = 4000  # characters of an error

EXAMPLES = """\
examples:
  kinema generate "a small red star bouncing" -o out.mp4
  kinema data check clips/
  kinema train --data clips/ --out runs/x --minutes 30
  kinema sample runs/x --count 8 --seed 0 --out out/
  kinema COMMAND --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0, or 2 after an error that the user can fix (one line on stderr), or 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    _share_cores()
    with lasting_streams():
        return _main(words)


def _main(words: Sequence[str]) -> int:
    """The same, with streams that can be written to."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what is unfinished is removed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            _run(words)
            sys.stdout.flush()
    except ValueError as error:
        print(f"kinema: {_one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails too
        return 0
    except OSError as error:  # a full disk, a file in the way, no permission
        line = f"{error.filename or 'a file'}: {error.strerror or error}"
        print(f"kinema: {_one_line(line)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if re.search(r"home directory|Symlink loop", str(error)):  # of a path that is none
            print(f"kinema: {_one_line(error)}", file=sys.stderr)
        elif isinstance(error, MemoryError) or re.search(r"allocate memory|out of memory", str(error)):
            print("kinema: the memory is full: take fewer clips at once, or fewer or smaller frames", file=sys.stderr)
        else:
            raise
        return 2
    except KeyboardInterrupt:
        print("kinema: stopped", file=sys.stderr)
        return 130
    return 0


def _share_cores() -> None:
    """Make OpenMP's threads wait without spinning for long, or training beside another process nearly stops.

    OpenMP reads it when torch is imported. A person's own settings stay.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def _run(words: Sequence[str]) -> None:
    """Run the command of these words; raises ValueError where there is none."""
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return
    if words[0] == "--version":
        print(f"kinema {__version__}")
        return
    if words[0] in ("metrics", "data") and list(words[1:]) in ([], ["-h"], ["--help"]):
        words = [*next(name for name in COMMANDS if name.startswith(f"{words[0]} ")).split(), "--help"]
    name = next((n for n in COMMANDS if list(words[: len(n.split())]) == n.split()), None)
    if name is None:
        raise ValueError(f"there is no command {words[0]!r}; there are {', '.join(COMMANDS)}")
    import_module(f"kinema.cli.{name.split()[0].replace('-', '_')}").main(words[len(name.split()) :])


def _show_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Print kinema's own warnings as one line each, and no others."""
    if Path(filename).is_relative_to(Path(kinema.__file__).parent):
        print(f"kinema: {_one_line(message)}", file=sys.stderr)


def _one_line(message: object) -> str:
    """An error or a warning as one line, which may quote files."""
    line = LONG_WORD.sub(r"\1...", printable(" ".join(str(message).split())))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _help() -> str:
    rows = "\n".join(f"  {name:<15}{summary}" for name, summary in COMMANDS.items())
    return f"kinema {__version__}: train, sample and measure video generation models\n\ncommands:\n{rows}\n\n{EXAMPLES}"
