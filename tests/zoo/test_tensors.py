"""Tensors of a file are those of the network, and a network that does not fit is refused before it is built."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from kinema.families.vgan import VGANConfig
from kinema.family import Family
from kinema.zoo.tensors import check_fits, check_tensors, outline

EXPECTED = {"a": torch.zeros(2, 3, device="meta"), "n": torch.zeros((), dtype=torch.int64, device="meta")}
FOUND = {"a": torch.ones(2, 3), "n": torch.tensor(5)}


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_tensors_may_have_half_the_precision(kind: torch.dtype) -> None:
    check_tensors(FOUND | {"a": FOUND["a"].to(kind)}, EXPECTED, "x")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"a": torch.ones(3, 2)}, r"^x: the tensor a is float32 \[3, 2\], not float32 \[2, 3\]$"),
        ({"a": torch.ones(2, 3).double()}, r"^x: the tensor a is float64 \[2, 3\], not float32 \[2, 3\]$"),
        ({"a": torch.ones(2, 3).int()}, r"^x: the tensor a is int32 \[2, 3\]"),
        ({"n": torch.tensor(5.0)}, r"^x: the tensor n is float32 \[\], not int64 \[\]$"),
        ({"n": torch.tensor(5, dtype=torch.int8)}, r"^x: the tensor n is int8"),
        ({"a": torch.full((2, 3), torch.nan)}, r"^x: the tensor a has values that are not finite$"),
        ({"a": torch.full((2, 3), -torch.inf).half()}, r"^x: the tensor a has values that are not finite$"),
        ({"b\n": torch.ones(1)}, r"^x: the tensor 'b\\n' float32 \[1\] is of no part of this network$"),
    ],
)
def test_what_differs_is_named_in_one_line(changed: dict[str, torch.Tensor], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_tensors(FOUND | changed, EXPECTED, "x")


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(ValueError, match=r"^x: the tensor a float32 \[2, 3\] is missing$"):
        check_tensors({"n": FOUND["n"]}, EXPECTED, "x")


CPU = torch.device("cpu")
FAMILY = VGANConfig(frames=8, height=16, width=16, ngf=2, ndf=2)


def _outlined(config: VGANConfig) -> Family:
    found = outline(config)
    assert found is not None
    return found


def test_an_outline_has_the_familys_tensors_and_no_memory() -> None:
    torch.manual_seed(0)
    draw = torch.rand(1)
    torch.manual_seed(0)
    outlined, built = _outlined(FAMILY).state_dict(), FAMILY.build().state_dict()
    check_tensors(built, outlined, "x")
    assert {x.device.type for x in outlined.values()} == {"meta"}
    torch.manual_seed(0)
    outline(FAMILY)
    assert torch.equal(torch.rand(1), draw)  # no random number is taken


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"ngf": 2**16},
            r"^these settings make a network of .*M weights, and its weights take .* GB, more than the .* GB",
        ),
        ({"ndf": 2**16}, r"GB that are free: make the settings of --family smaller"),
        ({"ngf": 2**16, "latent": 2**16, "frames": 8191, "height": 8192, "width": 8192}, "more weights than can be"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_built(settings: dict[str, int], says: str) -> None:
    check_fits(outline(FAMILY), CPU)
    with pytest.raises(ValueError, match=says):
        check_fits(outline(replace(FAMILY, **settings)), CPU)


def test_copies_need_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(x.numel() * x.element_size() for x in FAMILY.build().state_dict().values())
    monkeypatch.setattr("kinema.zoo.tensors.available_memory", lambda _: 3.5 * size)
    check_fits(outline(FAMILY), CPU, 3)
    with pytest.raises(ValueError, match=r"training them takes"):
        check_fits(outline(FAMILY), CPU, 4)


def test_a_family_that_cannot_be_outlined_is_not_checked() -> None:
    @dataclass(frozen=True)
    class OfAnotherPackage(VGANConfig):
        def build(self):
            torch.zeros(3).numpy()
            return super().build()

    assert outline(OfAnotherPackage(frames=8, height=16, width=16)) is None
    check_fits(None, CPU)


def test_what_is_frozen_is_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    family = _outlined(FAMILY)
    family.critic.requires_grad_(False)
    size = {part: sum(x.numel() for x in getattr(family, part).parameters()) for part in ("critic", "generator")}
    buffers = sum(x.numel() * x.element_size() for x in family.buffers())
    needed = 4 * (size["critic"] + 4 * size["generator"]) + buffers
    monkeypatch.setattr("kinema.zoo.tensors.available_memory", lambda _: needed)
    check_fits(family, CPU, 4)
    monkeypatch.setattr("kinema.zoo.tensors.available_memory", lambda _: needed - 1)
    with pytest.raises(ValueError, match="training them takes"):
        check_fits(family, CPU, 4)
