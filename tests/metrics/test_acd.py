"""Average Content Distance: values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from kinema.metrics.acd import acd


def test_two_vectors_by_hand() -> None:
    # frames A, A, B: of the three pairs two differ, by the length of (30, 40, 0), which is 50
    content = torch.tensor([[[100.0, 50, 20], [100, 50, 20], [130, 90, 20]], [[7.0, 8, 9]] * 3])
    torch.testing.assert_close(acd(content), torch.tensor([50 * 2 / 3, 0.0]))


def test_it_is_the_mean_over_pairs() -> None:
    content = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0))
    for clip, distance in zip(content, acd(content), strict=True):
        pairs = [(clip[i] - clip[j]).norm() for i in range(5) for j in range(i)]
        assert distance.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)


def test_a_single_frame_raises() -> None:
    with pytest.raises(ValueError, match="2 frames"):
        acd(torch.zeros(1, 1, 3))
