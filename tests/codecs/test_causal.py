"""Causal layers: no output depends on later frames, and a video in chunks gives what it gives at once."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinema.codecs.causal import CausalConv3d, ChannelNorm, ConvCache


def video(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def layers() -> list[CausalConv3d]:
    torch.manual_seed(0)
    return [CausalConv3d(3, 4), CausalConv3d(4, 2)]


def run(layers: list[CausalConv3d], x: Tensor, past: ConvCache) -> Tensor:
    for layer in layers:
        x = layer(x, past)
    return x


def test_a_video_begins_after_copies_of_its_first_frame(layers: list[CausalConv3d]) -> None:
    x, layer = video(2, 3, 5, 6, 4), layers[0]
    padded = F.pad(F.pad(x, (0, 0, 0, 0, 2, 0), mode="replicate"), (1, 1, 1, 1))
    torch.testing.assert_close(layer(x, ConvCache()), F.conv3d(padded, layer.weight, layer.bias))


def test_no_output_depends_on_later_frames(layers: list[CausalConv3d]) -> None:
    x = video(1, 3, 8, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(run(layers, x, ConvCache())[:, :, 5].sum(), x)
    seen = gradient.abs().amax((0, 1, 3, 4)) > 0
    assert seen.tolist() == [False, *[True] * 5, False, False]  # two layers see two frames back each


@pytest.mark.parametrize("sizes", [(1,) * 7, (3, 4), (1, 2, 4), (6, 1)])
def test_chunks_give_the_output_of_the_complete_video(layers: list[CausalConv3d], sizes: tuple[int, ...]) -> None:
    x, state, parts = video(2, 3, 7, 4, 6), None, []
    for chunk in x.split(sizes, 2):
        past = ConvCache(state, keep=True)
        parts.append(run(layers, chunk, past))
        state = past.state
        assert [list(kept.shape) for kept in state] == [[2, 3, 2, 4, 6], [2, 4, 2, 4, 6]]
        assert all(kept.untyped_storage().nbytes() == 4 * kept.numel() for kept in state)  # not the chunk behind it
    torch.testing.assert_close(torch.cat(parts, 2), run(layers, x, ConvCache()))


def test_normalisation_is_over_channels_only() -> None:
    norm, x = ChannelNorm(6), 3 + 2 * video(2, 6, 3, 4, 5)
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt())


def test_channels_last_memory_stays_so(layers: list[CausalConv3d]) -> None:
    x = video(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    for past in (ConvCache(), ConvCache((x[:, :, :2],))):
        assert past.prepend(x, 2).is_contiguous(memory_format=torch.channels_last_3d)
    assert ChannelNorm(3)(x).is_contiguous(memory_format=torch.channels_last_3d)
