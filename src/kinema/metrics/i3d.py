"""I3D, whose 400 Kinetics logits are the features of the Fréchet Video Distance, by the two public files of weights.

The network is Carreira and Zisserman 2017, arXiv 1705.07750, figure 3; the distance Unterthiner et al. 2018, arXiv
1812.01717. Both files have the weights of DeepMind's TensorFlow module i3d-kinetics-400, but their preprocessing
differs, and so do the distances:

- `I3DStyleGANV` resizes frames to 224x224 whatever their shape (Skorokhodov et al. 2022, arXiv 2112.14683);
- `I3DVideoGPT` keeps their shape and crops (Yan et al. 2021, arXiv 2104.10157). Its batch normalisation adds 1e-5 to
  the variance, where the TensorFlow module adds 1e-3; kinema does as VideoGPT does.

kinema downloads neither: no lasting address is published with a checksum by the files' authors.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from kinema.data.cache import cache_folder
from kinema.metrics.features import exact, first_line, sha256

__all__ = ["I3D", "I3DStyleGANV", "I3DVideoGPT"]

CLASSES = 400  # of Kinetics
SIDE = 224  # pixels
LEAST = 9  # frames: time is halved three times, rounded up, and the last pooling spans 2
EPSILON = 1e-5  # of VideoGPT's batch normalisation
MIXED = {  # channels of: 1x1 | 1x1, 3x3 | 1x1, 3x3 | 1x1 after pooling
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
ARGUMENTS = {"x", "rescale", "resize", "return_features"}  # of the program in StyleGAN-V's file

Triple = tuple[int, int, int]  # frames, rows, columns


class I3D(nn.Sequential):
    """Inception v1 inflated to three dimensions, under the names of VideoGPT's file of weights."""

    def __init__(self) -> None:
        layers: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": _Unit(3, 64, 7, stride=2),
            "MaxPool3d_2a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": _Unit(64, 64, 1),
            "Conv3d_2c_3x3": _Unit(64, 192, 3),
            "MaxPool3d_3a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
        }
        channels = 192
        for name, widths in MIXED.items():
            if name == "4b":
                layers["MaxPool3d_4a_3x3"] = _Pool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                layers["MaxPool3d_5a_2x2"] = _Pool((2, 2, 2), (2, 2, 2))
            layers[f"Mixed_{name}"] = _Mixed(channels, widths)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        layers["pool"] = nn.AvgPool3d((2, 7, 7), stride=1)
        layers["logits"] = _Logits(channels)
        super().__init__(OrderedDict(layers))

    def forward(self, clips: Float[Tensor, "B 3 T 224 224"]) -> Float[Tensor, "B 400"]:
        """The logits, averaged over time, of clips in [-1, 1] of 9 frames or more."""
        return super().forward(clips).mean((2, 3, 4))


class _Unit(nn.Module):
    """A convolution that keeps the size but for its stride, batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel, kernel, kernel), (stride, stride, stride)
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv3d(_same(x, self.kernel, self.stride))).relu()


class _Pool(nn.Module):
    """Max pooling that keeps the size but for its stride; its input is the output of a ReLU, so it may pad with 0."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    """An Inception block: four branches side by side."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(inputs, widths[0], 1)
        self.b1a, self.b1b = _Unit(inputs, widths[1], 1), _Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = _Unit(inputs, widths[3], 1), _Unit(widths[3], widths[4], 3)
        self.b3a, self.b3b = _Pool((3, 3, 3), (1, 1, 1)), _Unit(inputs, widths[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class _Logits(nn.Module):
    """The last layer, in a module of its own for its name in the file."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


def _same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Padded with zeros as by TensorFlow's "SAME": ceil(side / stride) outputs, an odd zero at the end."""
    pads = []
    for side, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):  # F.pad begins with the last
        total = max((math.ceil(side / s) - 1) * s + k - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class I3DStyleGANV:
    """I3D by the file `i3d_torchscript.pt` of StyleGAN-V, which is the reference computation and is run as it is.

    `path` is the file; None looks in the folder `weights` of kinema's cache. A TorchScript file is a program that is
    executed: give only one that you trust. Its SHA-256 is the `checksum`; `git hash-object` of the copy in the
    repository JunyaoHu/common_metrics_on_video_quality is 93daef59c7ae0e9e8f76225521407e60cbafa6aa. Raises ValueError
    where the file is missing or another one.
    """

    name = "i3d-stylegan-v"
    preprocessing = "8-bit frames as they come; the program in the file resizes them to 224x224 and scales to [-1, 1]"
    dimensions = CLASSES
    least = 10  # as in published code, though the network itself would take 9

    def __init__(self, path: str | None = None, device: torch.device | str = "cpu") -> None:
        file = _file(
            path,
            "i3d_torchscript.pt",
            "StyleGAN-V (github.com/universome/stylegan-v), whose src/metrics/frechet_video_distance.py says where "
            "(https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt)",
        )
        self.checksum, self.device = sha256(file), torch.device(device)
        try:
            self._program = torch.jit.load(file, map_location=self.device).eval()
            arguments = {argument.name for argument in self._program.forward.schema.arguments}
        except Exception as error:  # a foreign file may raise anything
            raise ValueError(f"{file}: not a TorchScript program ({first_line(error)}); download it again") from error
        if lacking := sorted(ARGUMENTS - arguments):
            raise ValueError(f"{file}: a TorchScript program, but not StyleGAN-V's I3D (it takes no {lacking[0]})")

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 400"]:
        """The logits, averaged over time, in float32. Raises ValueError for fewer than 10 frames."""
        _enough(self.name, clips, self.least)
        x = rearrange(clips.to(self.device), "b t h w c -> b c t h w").contiguous()
        # not optimised: the first calls of a program would use other kernels, which round differently
        with exact(self.device), torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
            return self._program(x, rescale=True, resize=True, return_features=True)


class I3DVideoGPT:
    """I3D by the file `i3d_pretrained_400.pt` of VideoGPT, a dictionary of tensors; nothing else is unpickled.

    `path` is the file; None looks in the folder `weights` of kinema's cache. Its SHA-256 is the
    `checksum`; of the copies in the repositories songweige/TATS and JunyaoHu/common_metrics_on_video_quality, which are
    the same, `git hash-object` says a867b87ac3a9097d200598b1d48a1b890d8ec744. Raises ValueError where the file is
    missing or another one.
    """

    name = "i3d-videogpt"
    preprocessing = (
        "short side to 224 (bilinear, no antialiasing, the long side rounded up), centre crop to 224x224, to [-1, 1]"
    )
    dimensions = CLASSES
    least = LEAST

    def __init__(self, path: str | None = None, device: torch.device | str = "cpu") -> None:
        file = _file(
            path,
            "i3d_pretrained_400.pt",
            "VideoGPT (github.com/wilson1yan/VideoGPT), whose videogpt/download.py fetches it, or TATS "
            "(github.com/songweige/TATS), whose folder tats/fvd has it",
        )
        self.checksum, self.device = sha256(file), torch.device(device)
        network = I3D()
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
            found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        except Exception as error:  # a foreign file may raise anything
            raise ValueError(f"{file}: not a file of weights ({first_line(error)}); download it again") from error
        for name, tensor in network.state_dict().items():
            if not name.endswith("num_batches_tracked") and found.get(name) != tuple(tensor.shape):
                raise ValueError(
                    f"{file}: not VideoGPT's I3D ({name} is {found.get(name)}, not {tuple(tensor.shape)}); "
                    "download it again"
                )
        network.load_state_dict(dict(weights))  # a plain dictionary may lack num_batches_tracked, as theirs does
        self._network = network.eval().requires_grad_(False).to(self.device)

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 400"]:
        """The logits, averaged over time, in float32. Raises ValueError for fewer than 9 frames."""
        _enough(self.name, clips, self.least)
        with exact(self.device):
            return self._network(_cropped(clips.to(self.device)))


def _cropped(clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 3 T 224 224"]:
    """Clips in [-1, 1], preprocessed as by VideoGPT."""
    batch, _, height, width, _ = clips.shape
    frames = rearrange(clips, "b t h w c -> (b t) c h w").float() / 255
    scale = SIDE / min(height, width)
    # in floating point as theirs, where a side times its scale may round to above 224: 50 rows become 225
    size = (SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE)
    frames = F.interpolate(frames, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    frames = frames[..., top : top + SIDE, left : left + SIDE]
    return rearrange((frames - 0.5) * 2, "(b t) c h w -> b c t h w", b=batch).contiguous()


def _file(path: str | None, name: str, source: str) -> Path:
    """The path of the file of weights; raises ValueError where it is missing."""
    file = Path(path).expanduser() if path else cache_folder(None, "weights") / name
    if not file.is_file():
        raise ValueError(f"there is no file {file}: get {name} of {source}, and put it there or give its path")
    return file


def _enough(network: str, clips: Tensor, least: int) -> None:
    if clips.shape[1] < least:
        raise ValueError(f"{network} needs clips of {least} frames or more, not {clips.shape[1]}: give longer ones")
