"""Causal layers: nothing comes from later frames, and chunks give what the whole gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinema.nn.causal import CausalConv3d, ChannelNorm, Past


def video(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def layers() -> list[CausalConv3d]:
    torch.manual_seed(0)
    return [CausalConv3d(3, 4), CausalConv3d(4, 2)]


def walk(layers: list[CausalConv3d], x: Tensor, past: Past) -> Tensor:
    for layer in layers:
        x = layer(x, past)
    return x


def test_a_video_begins_after_copies_of_its_first_frame(layers: list[CausalConv3d]) -> None:
    x, layer = video(2, 3, 5, 6, 4), layers[0]
    padded = F.pad(F.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate"), (1, 1, 1, 1))
    torch.testing.assert_close(layer(x, Past()), F.conv3d(padded, layer.weight, layer.bias))


def test_no_later_frame_is_seen(layers: list[CausalConv3d]) -> None:
    x = video(1, 3, 8, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(walk(layers, x, Past())[:, :, 5].sum(), x)
    seen = gradient.abs().amax((0, 1, 3, 4)) > 0
    assert seen.tolist() == [False, *[True] * 5, False, False]  # two layers see two frames back each


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 4), (1, 2, 4), (6, 1)])
def test_chunks_give_what_the_whole_gives(layers: list[CausalConv3d], sizes: tuple[int, ...]) -> None:
    x, state, parts = video(2, 3, 7, 4, 6), None, []
    for chunk in x.split(sizes, 2):
        past = Past(state, keep=True)
        parts.append(walk(layers, chunk, past))
        state = past.state
        assert [list(kept.shape) for kept in state] == [[2, 3, 2, 4, 6], [2, 4, 2, 4, 6]]
        assert all(kept.untyped_storage().nbytes() == 4 * kept.numel() for kept in state)  # not the chunk behind it
    torch.testing.assert_close(torch.cat(parts, 2), walk(layers, x, Past()))


def test_normalisation_is_over_channels_alone() -> None:
    norm, x = ChannelNorm(6), 3 + 2 * video(2, 6, 3, 4, 5)
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt())


def test_channels_last_memory_stays_so(layers: list[CausalConv3d]) -> None:
    x = video(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    for past in (Past(), Past((x[:, :, :2],))):
        assert past.join(x, 2).is_contiguous(memory_format=torch.channels_last_3d)
    assert ChannelNorm(3)(x).is_contiguous(memory_format=torch.channels_last_3d)
