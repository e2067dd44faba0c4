"""Memory is measured where the system says how much is used, and is unknown elsewhere."""

from __future__ import annotations

import sys

import pytest
import torch

from kinema.runtime import memory
from kinema.runtime.memory import keep_freed_memory, peak_memory

CPU = torch.device("cpu")


def test_the_peak_is_in_bytes() -> None:
    first = peak_memory(CPU)
    assert first is not None and first > 50e6  # torch alone takes more
    kept = torch.ones(round(first / 4) + 25_000_000)  # float32: larger than all before
    second = peak_memory(CPU)
    assert second is not None and second >= first + 90e6
    del kept


def test_the_peak_is_unknown_without_the_module_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(CPU) is None


def test_the_peak_of_a_gpu_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    assert peak_memory(torch.device("cuda", 1)) == 7


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_only_glibc_is_told_to_keep_memory(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("a library is opened"))
    keep_freed_memory()


def test_a_linux_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libc.so.6: cannot open shared object file")

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", missing)
    keep_freed_memory()
