"""The perceptual loss against a few lines of torch, with weights drawn at random under the names that files have."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kinema.nn.perceptual import CONVERT, perceptual_distance, perceptual_loss

VGG16 = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512]  # as torchvision lists it
SEEN = {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}  # the layers that LPIPS compares, and their channels


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, 3, 16, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def linear(vgg16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same features, and weights of their channels."""
    generator = torch.Generator().manual_seed(1)
    weights = {
        f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for k, width in enumerate(SEEN.values())
    }
    path = tmp_path_factory.mktemp("weights") / "linear.safetensors"
    save_file(load_file(vgg16) | weights, path)
    return path


def by_layers(path: Path, a: Tensor, b: Tensor) -> Tensor:
    """The distance of two images [N, 3, H, W] by torchvision's layers one after another."""
    weights, layers, width = load_file(path), [], 3
    for entry in VGG16:
        if isinstance(entry, int):
            layers += [nn.Conv2d(width, entry, 3, padding=1), nn.ReLU()]
            width = entry
        else:
            layers.append(nn.MaxPool2d(2, 2))
    network = nn.Sequential(*layers)
    network.load_state_dict({k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")})
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]  # LPIPS's own, for images in [-1, 1]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    a, b, total = (a - shift) / scale, (b - shift) / scale, torch.zeros(len(a))
    for index, layer in enumerate(network):
        a, b = layer(a), layer(b)
        if index in SEEN:
            difference = (nn.functional.normalize(a, dim=1) - nn.functional.normalize(b, dim=1)) ** 2
            weight = weights.get(f"lin{list(SEEN).index(index)}.model.1.weight", torch.ones(1, SEEN[index], 1, 1))
            total = total + (difference * weight).sum(1).mean((1, 2))
    return total


@torch.no_grad()
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_distance_of_the_layers(vgg16: Path, linear: Path, weighted: bool) -> None:
    path, a, b = linear if weighted else vgg16, images(0, 2, 2), images(1, 2, 2)
    found = perceptual_distance(str(path), a, b)
    assert found.shape == (2, 2) and found.min() > 0.01
    torch.testing.assert_close(found.flatten(), by_layers(path, a.flatten(0, 1), b.flatten(0, 1)), rtol=5e-3, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        half = perceptual_distance(str(path), a, b)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, found, rtol=0.05, atol=0)


def test_equal_images_have_distance_0_and_descent_brings_others_nearer(vgg16: Path) -> None:
    truth = images(0, 2)
    assert perceptual_distance(str(vgg16), truth, truth).eq(0).all()
    black = torch.full_like(truth, -1.0)
    assert perceptual_distance(str(vgg16), black, truth).isfinite().all()
    predicted = (truth + 0.1 * images(1, 2)).requires_grad_()
    before = perceptual_distance(str(vgg16), predicted, truth).mean()
    (gradient,) = torch.autograd.grad(before, predicted)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    step = predicted - 0.01 * gradient / gradient.square().mean().sqrt()
    assert perceptual_distance(str(vgg16), step, truth).mean() < before


def test_gradients_flow_after_a_metric_has_loaded_the_weights(vgg16: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.symlink_to(vgg16)
    predicted, truth = images(0, 1), images(1, 1)
    with torch.inference_mode():
        perceptual_distance(str(path), predicted, truth)
    perceptual_distance(str(path), predicted.requires_grad_(), truth).sum().backward()
    assert predicted.grad is not None and predicted.grad.abs().max() > 0


def test_the_loss_is_that_of_a_frame_of_each_clip(vgg16: Path) -> None:
    predicted, truth = images(0, 3, 4), images(1, 3, 4)
    every = perceptual_distance(str(vgg16), predicted, truth)
    drawn = torch.randint(4, (3,), generator=torch.Generator().manual_seed(5))
    assert len(drawn.unique()) > 1
    loss = perceptual_loss(str(vgg16), predicted, truth, torch.Generator().manual_seed(5))
    torch.testing.assert_close(loss, every[torch.arange(3), drawn].mean())


def test_files_that_hold_something_else_are_errors(vgg16: Path, linear: Path, tmp_path: Path) -> None:
    def message_of(path: Path) -> str:
        with pytest.raises(ValueError, match="not the weights of a perceptual loss") as error:
            perceptual_distance(str(path), images(0, 1), images(1, 1))
        message = str(error.value)
        assert message.startswith(f"{path}: ") and "\n" not in message and "python -c" in message
        return message

    message_of(tmp_path / "nowhere.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_text("no")
    message_of(foreign)
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, foreign)
    assert "features.0.bias" in message_of(foreign)
    weights = load_file(vgg16)
    save_file(weights | {"features.5.weight": torch.zeros(128, 64, 1, 1)}, foreign)
    assert "features.5.weight is [128, 64, 1, 1], not [128, 64, 3, 3]" in message_of(foreign)
    save_file({name: value for name, value in load_file(linear).items() if name != "lin4.model.1.weight"}, foreign)
    assert "lin4" in message_of(foreign)


def test_the_conversion_that_the_message_names(vgg16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(load_file(vgg16) | {"classifier.0.bias": torch.zeros(4)}, "vgg16.pth")
    torch.save({"lin0.model.1.weight": torch.ones(1, 64, 1, 1)}, "lpips.pth")
    words = shlex.split(CONVERT)
    assert words[0] == "python"
    subprocess.run([sys.executable, *words[1:]], check=True)
    assert set(load_file("vgg16.safetensors")) == {*load_file(vgg16), "lin0.model.1.weight"}
