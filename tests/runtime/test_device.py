"""The runtime of machines that are not at hand: MPS, several GPUs, several ranks; with torch's answers replaced."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from kinema.runtime import device
from kinema.runtime.device import Runtime, detect_runtime, fast_bf16


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices on which a tensor is asked for, as if all were there."""
    devices: list[torch.device] = []
    monkeypatch.setattr(torch, "empty", lambda *_, device: devices.append(device))
    return devices


def test_auto_takes_mps_where_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch, allocated: list[torch.device]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    runtime = detect_runtime()
    assert runtime.device == torch.device("mps") and allocated == [runtime.device]
    assert runtime.precision == torch.float32


def test_auto_takes_the_cpu_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert detect_runtime().device == torch.device("cpu")


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_each_process_takes_the_gpu_of_its_local_rank(
    asked: str, monkeypatch: pytest.MonkeyPatch, allocated: list[torch.device]
) -> None:
    current: list[torch.device] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    runtime = detect_runtime(asked)
    assert runtime.device == torch.device("cuda", 3)
    assert current == allocated == [runtime.device]
    assert runtime.precision == torch.bfloat16


def test_a_gpu_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch, allocated: list[torch.device]) -> None:
    current: list[torch.device] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert detect_runtime("cuda:1").device == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 1)]


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_a_device_that_cannot_be_used_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^device '{name}' cannot be used here \(.*\): try --device cpu$"):
        detect_runtime(name)


def test_any_asks_a_tensor_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read one on the GPU at every step would wait for the whole step."""
    reduced: list[torch.Tensor] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        reduced.append(tensor)
        tensor += 1  # another rank says yes

    monkeypatch.setattr(device.dist, "all_reduce", all_reduce)
    runtime = Runtime(torch.device("meta"), torch.float32, rank=0, ranks=2)
    assert runtime.any(False) is True
    assert [tensor.device.type for tensor in reduced] == ["cpu"]
    assert Runtime(torch.device("meta"), torch.float32).any(False) is False


def test_average_is_the_mean_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.dist, "all_reduce", lambda flat: flat.mul_(3))
    tensors = [torch.tensor([1.0, 2.0]), torch.tensor([[4.0]])]
    Runtime(torch.device("cpu"), torch.float32, ranks=2).average(tensors)
    assert tensors[0].tolist() == [1.5, 3.0] and tensors[1].tolist() == [[6.0]]


def test_the_randomness_of_a_step() -> None:
    """A function of seed, step, turn and rank; `shared` is the same on all ranks."""

    def drawn(*key, rank: int = 0) -> list[float]:
        step = Runtime(torch.device("cpu"), torch.float32, rank, 2).train_step(*key)
        return [float(torch.rand((), generator=g)) for g in (step.generator, step.shared)] + [float(torch.rand(()))]

    first = drawn(0, 1, "critic")
    assert drawn(0, 1, "critic") == first
    for other in (drawn(1, 1, "critic"), drawn(0, 2, "critic"), drawn(0, 1, "generator")):
        assert all(a != b for a, b in zip(first, other, strict=True))
    own, shared, of_torch = drawn(0, 1, "critic", rank=1)
    assert own != first[0] and shared == first[1] and of_torch != first[2]


def test_float32_has_no_autocast() -> None:
    assert isinstance(Runtime(torch.device("cpu"), torch.float32).autocast(), nullcontext)
    with Runtime(torch.device("cpu"), torch.bfloat16).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_bfloat16_is_fast_where_there_are_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("flags: avx512f amx_bf16", True), ("flags: avx512_bf16", True), ("flags: avx2", False)):
        monkeypatch.setattr(device.Path, "exists", lambda _: True)
        monkeypatch.setattr(device.Path, "read_text", lambda _, flags=flags: flags)
        assert fast_bf16(torch.device("cpu")) is expected
    assert not fast_bf16(torch.device("mps"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", v) for v in ("abc", "", "0", "-1", "1e3", "9" * 30, "9" * 5000)] + [("RANK", "1"), ("RANK", "x")],
)
def test_what_torchrun_would_not_set_is_refused_in_one_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"^\${name} is '.*': it must be .*; unset it to train alone$") as error:
        detect_runtime("cpu")
    assert len(str(error.value)) < 200


def test_processes_that_cannot_be_joined_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^the 2 processes of \$WORLD_SIZE cannot be joined \(.*\): start them with"):
        detect_runtime("cpu")
