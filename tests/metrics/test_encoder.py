"""kinema's video encoder: it ships, it is small, and it tells time and pictures apart."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file

from kinema.data.write import to_uint8
from kinema.metrics.corruptions import corrupted
from kinema.metrics.encoder import DIMENSIONS, WEIGHTS, Encoder, KinemaFeatures, prepared
from kinema.metrics.features import FeatureNetwork
from kinema.metrics.frechet import Moments, frechet
from kinema.worlds.sprites import Sprites


def test_it_ships_whole_and_small() -> None:
    assert WEIGHTS.stat().st_size <= 6e6
    found, wanted = load_file(WEIGHTS), Encoder().state_dict()
    assert set(found) == {name for name in wanted if not name.endswith("num_batches_tracked")}
    assert all(tensor.isfinite().all() and tensor.shape == wanted[name].shape for name, tensor in found.items())


def test_a_clips_features_are_its_own() -> None:
    network = KinemaFeatures()
    assert isinstance(network, FeatureNetwork) and len(network.checksum) == 64
    clips = torch.from_numpy(np.random.default_rng(0).integers(256, size=(3, 9, 40, 56, 3), dtype=np.uint8))
    together = network(clips)
    assert together.shape == (3, DIMENSIONS) and together.dtype == torch.float32
    assert torch.allclose(together[1:2], network(clips[1:2]), atol=1e-4)
    assert network(clips[:, :4]).isfinite().all()


def test_frames_are_resized_as_a_whole() -> None:
    clips = torch.zeros(1, 4, 128, 32, 3, dtype=torch.uint8)
    clips[:, :, 64:] = 255
    seen = prepared(clips)
    assert seen.shape == (1, 3, 4, 64, 64)
    assert torch.allclose(seen[..., :31, :], torch.tensor(-1.0)) and torch.allclose(
        seen[..., 33:, :], torch.tensor(1.0)
    )


def test_it_sees_time_and_space() -> None:
    clips = to_uint8(Sprites(16, 64, 64).batch(0, 128, seed=2**41).frames)
    network = KinemaFeatures()
    real, clean = (network(torch.from_numpy(part)).numpy() for part in (clips[::2], clips[1::2]))
    floor = frechet(Moments.of(real), Moments.of(clean)).value
    for name in ("blur", "noise", "shuffle", "freeze"):
        seen = network(torch.from_numpy(corrupted(clips[1::2], name, 1.0))).numpy()
        assert frechet(Moments.of(real), Moments.of(seen)).value > 2 * floor, name
