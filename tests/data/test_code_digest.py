"""What is kept is made again when the code that makes it changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kinema.data import cache
from kinema.data.cache import PACKAGE, code_digest


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of kinema's sources that `code_digest` reads."""
    folder = tmp_path / "kinema"
    shutil.copytree(PACKAGE, folder, ignore=lambda _, names: [n for n in names if "." in n and not n.endswith(".py")])
    monkeypatch.setattr(cache, "PACKAGE", folder)
    return folder


def test_equal_sources_have_one_digest(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = code_digest("types", "metrics")
    monkeypatch.setattr(cache, "PACKAGE", PACKAGE)
    assert code_digest("types", "metrics") == copied
    assert len({copied, code_digest("types"), code_digest("metrics"), code_digest("metrics.kernel")}) == 4


@pytest.mark.parametrize("file", ["types.py", "metrics/kernel.py", "metrics/__init__.py"])
def test_any_changed_source_changes_it(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    before, other = code_digest("types", "metrics"), code_digest("nn")
    changed = tmp_path / "changed"
    shutil.copytree(tree, changed)
    with (changed / file).open("a") as source:
        source.write("\n")
    monkeypatch.setattr(cache, "PACKAGE", changed)
    assert code_digest("types", "metrics") != before and code_digest("nn") == other


def test_a_new_file_and_another_version_of_torch_change_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_digest("metrics")
    changed = tmp_path / "changed"
    shutil.copytree(tree, changed)
    (changed / "metrics" / "more.py").touch()
    monkeypatch.setattr(cache, "PACKAGE", changed)
    assert code_digest("metrics") != before
    again = tmp_path / "again"
    shutil.copytree(tree, again)
    monkeypatch.setattr(cache, "PACKAGE", again)
    monkeypatch.setattr(cache, "version", lambda name: "0.0")
    assert code_digest("metrics") != before


def test_an_unknown_module_raises() -> None:
    with pytest.raises(ValueError, match=r"no module metrics\.nothing"):
        code_digest("metrics.nothing")
