"""kinema's video encoder: its weights ship, it is small, and it is sensitive to time and pictures."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file

from kinema.data.writing import to_uint8
from kinema.metrics.corruptions import corrupted
from kinema.metrics.encoder import DIMENSIONS, WEIGHTS, Encoder, KinemaFeatures, prepared
from kinema.metrics.features import FeatureNetwork
from kinema.metrics.frechet import frechet_distance
from kinema.worlds.sprites import Sprites


def test_its_weights_are_complete_and_small() -> None:
    assert WEIGHTS.stat().st_size <= 6e6
    found, wanted = load_file(WEIGHTS), Encoder().state_dict()
    assert set(found) == {name for name in wanted if not name.endswith("num_batches_tracked")}
    assert all(tensor.isfinite().all() and tensor.shape == wanted[name].shape for name, tensor in found.items())


def test_features_do_not_depend_on_the_batch() -> None:
    network = KinemaFeatures()
    assert isinstance(network, FeatureNetwork) and len(network.checksum) == 64
    clips = torch.from_numpy(np.random.default_rng(0).integers(256, size=(3, 9, 40, 56, 3), dtype=np.uint8))
    together = network(clips)
    assert together.shape == (3, DIMENSIONS) and together.dtype == torch.float32
    assert torch.allclose(together[1:2], network(clips[1:2]), atol=1e-4)
    assert network(clips[:, :4]).isfinite().all()


def test_frames_are_resized_without_cropping() -> None:
    clips = torch.zeros(1, 4, 128, 32, 3, dtype=torch.uint8)
    clips[:, :, 64:] = 255
    found = prepared(clips)
    assert found.shape == (1, 3, 4, 64, 64)
    assert found[..., :31, :].eq(-1).all() and found[..., 33:, :].sub(1).abs().max() < 1e-6


def test_it_is_sensitive_to_time_and_space() -> None:
    clips = to_uint8(Sprites(16, 64, 64).batch(0, 128, seed=2**41).to(torch.device("cpu")).frames)
    network = KinemaFeatures()
    real, clean = (network(torch.from_numpy(part)).numpy() for part in (clips[::2], clips[1::2]))
    floor = frechet_distance(real, clean)
    for name in ("blur", "noise", "shuffle", "freeze"):
        changed = network(torch.from_numpy(corrupted(clips[1::2], name, 1.0))).numpy()
        assert frechet_distance(real, changed) > 2 * floor, name
