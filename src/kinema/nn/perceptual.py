"""LPIPS: the distance of two images in the features of a classification network.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, arXiv 1801.03924,
with VGG16 (Simonyan and Zisserman, arXiv 1409.1556). The weights come from a file that the user provides. They
are not trained and belong to no module, so checkpoints do not hold them.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

__all__ = ["perceptual_distance", "perceptual_loss"]

STAGES = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)  # channels of the convolutions, with pooling between stages
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, in [0, 1]
EPSILON = 1e-10  # against division by 0
CONVERT = (
    'python -c "import sys, torch; from safetensors.torch import save_file; save_file({k: v for f in sys.argv[1:] for '
    "k, v in torch.load(f, weights_only=True).items() if k.startswith(('features', 'lin'))}, 'vgg16.safetensors')\" "
    "vgg16.pth lpips.pth"
)

Stage = list[tuple[Tensor, Tensor]]  # the weight and the bias of each convolution


def perceptual_distance(
    path: str, predicted: Float[Tensor, "*N 3 H W"], truth: Float[Tensor, "*N 3 H W"]
) -> Float[Tensor, "*N"]:
    """The distance of each predicted image, in about [-1, 1], from the true one, float32 (equation 1).

    `path` is a safetensors file with VGG16's features under torchvision's names and optionally LPIPS's weights of
    their channels, `lin0.model.1.weight` to `lin4.model.1.weight`; without them every channel has weight 1. Gradients
    flow to `predicted` only. Sides must be 16 pixels or more. Raises ValueError where the file is missing or wrong.
    """
    stages, channels = _weights(path, predicted.device)
    x, y = (_normalise(images.float().reshape(-1, *images.shape[-3:])) for images in (predicted, truth))
    distance = torch.zeros(len(x), device=x.device)
    for number, (stage, weight) in enumerate(zip(stages, channels, strict=True)):
        x = _features(x, stage, number > 0)
        with torch.no_grad():
            y = _features(y, stage, number > 0)
        square = (_unit_length(x) - _unit_length(y)).square()  # [N, C, h, w]
        distance = distance + (square * weight).sum(1).mean((-2, -1))
    return distance.reshape(predicted.shape[:-3])


def perceptual_loss(
    path: str, predicted: Float[Tensor, "B T 3 H W"], truth: Float[Tensor, "B T 3 H W"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """The mean `perceptual_distance` of one random frame of each clip; all frames would cost T times as much."""
    clips, frames = predicted.shape[:2]
    index = torch.randint(frames, (clips,), generator=generator, device=predicted.device)
    clip = torch.arange(clips, device=predicted.device)
    return perceptual_distance(path, predicted[clip, index], truth[clip, index]).mean()


def _normalise(images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
    """Images in [-1, 1], normalised as in the network's training."""
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return (images / 2 + 0.5 - mean) / deviation


def _features(x: Tensor, stage: Stage, pooled: bool) -> Tensor:
    """The features of a stage from those of the stage before."""
    x = F.max_pool2d(x, 2) if pooled else x
    for weight, bias in stage:
        x = F.conv2d(x, weight, bias, padding=1).relu()
    return x


def _unit_length(features: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
    """The features, normalised to length 1 at each position."""
    features = features.float()
    return features / (features.square().sum(1, keepdim=True).clamp(min=EPSILON**2).sqrt() + EPSILON)


@cache
@torch.inference_mode(False)  # inference tensors cannot be trained through, and a metric may be the first caller
def _weights(path: str, device: torch.device) -> tuple[list[Stage], list[Tensor]]:
    """The convolutions of each stage and the weights [C, 1, 1] of its channels; read once in a process."""
    shapes, names, index, inputs = {}, [], 0, 3
    for widths in STAGES:
        names.append([])
        for width in widths:
            names[-1].append(f"features.{index}")
            shapes |= {f"features.{index}.weight": (width, inputs, 3, 3), f"features.{index}.bias": (width,)}
            index, inputs = index + 2, width  # torchvision numbers ReLUs too
        index += 1  # and poolings
    linear = {f"lin{number}.model.1.weight": (1, widths[-1], 1, 1) for number, widths in enumerate(STAGES)}
    try:
        with safe_open(path, framework="pt") as file:
            shapes |= linear if linear.keys() & set(file.keys()) else {}
            found = {name: file.get_tensor(name).float().to(device) for name in shapes}
    except (SafetensorError, OSError) as error:
        raise _wrong_file(path, (str(error).splitlines() or [type(error).__name__])[0]) from error
    if wrong := [name for name, shape in shapes.items() if found[name].shape != shape]:
        raise _wrong_file(path, f"{wrong[0]} is {list(found[wrong[0]].shape)}, not {list(shapes[wrong[0]])}")
    last = torch.channels_last
    stages = [
        [(found[f"{name}.weight"].contiguous(memory_format=last), found[f"{name}.bias"]) for name in stage]
        for stage in names
    ]
    return stages, [found[name][0] if name in found else torch.ones(1, 1, 1, device=device) for name in linear]


def _wrong_file(path: str, reason: str) -> ValueError:
    return ValueError(
        f"{path}: not the weights of a perceptual loss ({reason}); it should be a safetensors file with torchvision's "
        "features.0.weight to features.28.bias of VGG16 and, if you have them, LPIPS's lin0.model.1.weight to "
        f"lin4.model.1.weight; to make one of their .pth files: {CONVERT}"
    )
