"""The commands. Only what a command needs is imported, so that help is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from kinema import __version__

__all__ = ["main"]

COMMANDS = {
    "generate": ("generate", "make a clip of a prompt, an image, a video, sound or actions"),
    "demo": ("demo", "make clips of a few prompts with the model that ships"),
    "train": ("train", "train a family on a folder of clips"),
    "sample": ("sample", "make clips with a trained model"),
    "evaluate": ("evaluate", "measure clips, generated or real, by themselves or against others"),
    "compare": ("compare", "measure several models or folders by one protocol, as a leaderboard"),
    "metrics audit": ("metrics", "see which measures tell spoiled clips from good ones"),
    "anomalies": ("anomalies", "score how unexpected each frame of a video is, and mark it"),
    "caption": ("caption", "say what clips show"),
    "models": ("models", "list the models that ship and what each can be given"),
    "export": ("export", "write a trained model as one small file, to keep or to give away"),
    "data check": ("data", "say what is in a folder of clips, and show what training would see"),
}

EXAMPLES = """\
examples:
  kinema generate "a small red star bouncing" -o out.mp4
  kinema data check clips/
  kinema train mocogan --data clips/ --out runs/x --minutes 60
  kinema sample runs/x --count 8 --seed 0 --out out/
  kinema COMMAND --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 when done, 2 for what the user can mend (one line on stderr), 130 when stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"kinema {__version__}")
        return 0
    pairs = {name.split()[0]: name.split() for name in COMMANDS if " " in name}
    if words[0] in pairs and words[1:2] in ([], ["-h"], ["--help"]):
        words = [*pairs[words[0]], "--help"]
    name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), None)
    if name is None:
        print(f"kinema: there is no command {words[0]!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        command = import_module(f"kinema.commands.{COMMANDS[name][0]}")
        command.main(words[len(name.split()) :])
    except ValueError as error:
        print(f"kinema: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a file in the way, no permission
        print(f"kinema: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kinema: stopped", file=sys.stderr)
        return 130
    return 0


def _help() -> str:
    rows = "\n".join(f"  {name:<15}{summary}" for name, (_, summary) in COMMANDS.items())
    return f"kinema {__version__}: train, sample and measure video generation models\n\ncommands:\n{rows}\n\n{EXAMPLES}"


if __name__ == "__main__":
    sys.exit(main())
