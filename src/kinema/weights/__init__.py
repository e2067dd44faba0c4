"""The models that ship: a file of half precision weights each, with its configuration, named as it is asked for."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped"]

FOLDER = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """The files of the models that came with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}
