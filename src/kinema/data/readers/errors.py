"""What readers raise where something cannot be read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ReadError"]

LONGEST = 400  # characters of a reason, which may quote a file


class ReadError(ValueError):
    """A file that cannot be used, in one line: `reason` says what is wrong, the message names the file too."""

    def __init__(self, path: Path, reason: str) -> None:
        reason = " ".join(reason.split())
        self.path, self.reason = path, reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}..."
        super().__init__(" ".join(f"{path}: {self.reason}".splitlines()))  # a name may have several lines too
