"""Tensors of a file: those of the network, in name, shape and type, and finite."""

from __future__ import annotations

import pytest
import torch

from kinema.zoo.tensors import check_tensors

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
