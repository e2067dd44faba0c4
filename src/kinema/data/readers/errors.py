"""What readers raise where something cannot be read."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ReadError"]


class ReadError(ValueError):
    """A file that cannot be used, in one line: `reason` says what is wrong, the message names the file too."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, " ".join(reason.split())
        super().__init__(" ".join(f"{path}: {self.reason}".splitlines()))  # a name may have several lines too
