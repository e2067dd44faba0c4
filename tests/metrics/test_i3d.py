"""I3D by both of its files, drawn at random under their names and shapes: padding, cropping, loading and refusals."""

from __future__ import annotations

import hashlib
import math
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinema.metrics import i3d
from kinema.metrics.i3d import I3D, I3DStyleGANV, I3DVideoGPT

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # StyleGAN-V's file cannot be had otherwise
    pytest.mark.filterwarnings("ignore:.*torch.jit:UserWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

# What TensorFlow's module has, variable by variable: inputs and outputs of each convolution, side of its kernel.
BLOCKS = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}


def shapes() -> dict[str, tuple[int, ...]]:
    units = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
    for block, (i, a, b, c, d, e, f) in BLOCKS.items():
        branches = {"b0": (i, a, 1), "b1a": (i, b, 1), "b1b": (b, c, 3), "b2a": (i, d, 1), "b2b": (d, e, 3)}
        units |= {f"{block}.{name}": unit for name, unit in (branches | {"b3b": (i, f, 1)}).items()}
    found = {}
    for name, (inputs, outputs, side) in units.items():
        found[f"{name}.conv3d.weight"] = (outputs, inputs, side, side, side)
        found |= {f"{name}.bn.{part}": (outputs,) for part in ("bias", "weight", "running_mean", "running_var")}
    return found | {"logits.conv3d.weight": (400, 1024, 1, 1, 1), "logits.conv3d.bias": (400,)}


def drawn() -> OrderedDict[str, Tensor]:
    """Weights such that activations keep their size, in the order and with the lack of counters of VideoGPT's file."""
    generator, weights = torch.Generator().manual_seed(0), OrderedDict()
    for name, shape in shapes().items():
        values = torch.randn(shape, generator=generator)
        if len(shape) == 5:
            values *= (2 / math.prod(shape[1:])) ** 0.5
        weights[name] = values.abs() + 0.5 if name.endswith(("running_var", "bn.weight")) else values
        if len(shape) == 1 and not name.endswith(("running_var", "bn.weight")):
            weights[name] = 0.1 * values
    return weights


@pytest.fixture(scope="module")
def weights() -> OrderedDict[str, Tensor]:
    return drawn()


@pytest.fixture(scope="module")
def videogpt(weights: OrderedDict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "any.pt"
    torch.save(weights, path)
    return path


class Program(nn.Module):
    """With the interface of StyleGAN-V's file: a network behind what its arguments ask for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        x = x.float()
        if resize:
            x = F.interpolate(x, [x.shape[2], 224, 224], mode="trilinear", align_corners=False)
        if rescale:
            x = x / 255 * 2 - 1
        x = self.network(x)
        return x if return_features else x.softmax(1)


class Means(nn.Module):
    """The means of the channels over the whole clip, its frames, height and width, and 394 zeros."""

    def forward(self, x: Tensor) -> Tensor:
        sides = torch.ones(x.shape[0], 3) * torch.tensor([x.shape[2], x.shape[3], x.shape[4]])
        return F.pad(torch.cat([x.mean([2, 3, 4]), sides], 1), [0, 394])


def clips(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8))


def test_names_and_shapes_are_those_of_the_file() -> None:
    state = I3D().state_dict()
    assert {name: tuple(t.shape) for name, t in state.items() if not name.endswith("num_batches_tracked")} == shapes()


@pytest.mark.parametrize("sides", [(1, 7, 8), (5, 6, 9), (2, 3, 10)])
@pytest.mark.parametrize(("kernel", "stride"), [((7, 7, 7), (2, 2, 2)), ((1, 3, 3), (1, 2, 2)), ((2, 2, 2), (2, 2, 2))])
def test_same_padding_puts_every_window_where_tensorflow_does(
    sides: tuple[int, int, int], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    x = torch.rand(1, 1, *sides, generator=torch.Generator().manual_seed(0)) + 1
    found = F.max_pool3d(i3d._same(x, kernel, stride), kernel, stride)
    # by hand, window by window: the first begins at half of what the windows reach beyond the side, rounded down
    windows = []
    for side, k, s in zip(sides, kernel, stride, strict=True):
        count = -(-side // s)
        before = max((count - 1) * s + k - side, 0) // 2
        windows.append([slice(max(n * s - before, 0), min(n * s - before + k, side)) for n in range(count)])
    expected = torch.tensor([[[x[0, 0, a, b, c].max() for c in windows[2]] for b in windows[1]] for a in windows[0]])
    torch.testing.assert_close(found[0, 0], expected)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (120, 160), (333, 251), (50, 50), (31, 30)])
def test_frames_are_resized_and_cropped_as_by_an_independent_computation(height: int, width: int) -> None:
    given = clips(2, 3, height, width)
    found = i3d._cropped(given)
    assert found.shape == (2, 3, 3, 224, 224)
    scale = 224 / min(height, width)
    rows = 224 if height < width else math.ceil(height * scale)
    columns = math.ceil(width * scale) if height < width else 224

    def matrix(side: int, size: int, first: int) -> np.ndarray:
        """Linear interpolation between the centres of pixels, from output pixel `first` on."""
        centres = ((np.arange(first, first + 224) + 0.5) * side / size - 0.5).clip(0, side - 1)
        below = np.minimum(np.floor(centres).astype(int), side - 2)
        weights = np.zeros((224, side))
        weights[np.arange(224), below] = 1 - (centres - below)
        weights[np.arange(224), below + 1] += centres - below
        return weights

    down, across = matrix(height, rows, (rows - 224) // 2), matrix(width, columns, (columns - 224) // 2)
    values = given.numpy().astype(np.float64) / 127.5 - 1
    expected = np.einsum("yh,bthwc,xw->bctyx", down, values, across, optimize=True)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)  # float32 places the centres to about 1e-5 pixels


def test_both_dialects_agree_where_no_frame_is_resized(
    videogpt: Path, weights: OrderedDict[str, Tensor], tmp_path: Path
) -> None:
    network = I3D()
    network.load_state_dict(dict(weights))
    network.eval().requires_grad_(False)
    given = clips(1, 10, 224, 224)
    program = torch.jit.script(Program(torch.jit.trace(network, torch.rand(1, 3, 10, 224, 224), check_trace=False)))
    torch.jit.save(program, tmp_path / "i3d.pt")
    theirs = I3DStyleGANV(str(tmp_path / "i3d.pt"))
    ours = I3DVideoGPT(str(videogpt))
    found = ours(given)
    assert found.shape == (1, 400) and found.dtype == torch.float32 and found.std() > 0.05
    assert not found.requires_grad
    torch.testing.assert_close(theirs(given), found, rtol=1e-3, atol=1e-3)


def test_the_network_is_what_its_formulas_say(weights: OrderedDict[str, Tensor]) -> None:
    """Written anew from functions, in double precision; padding by the count of outputs."""

    def pad(x: Tensor, k: int, s: int) -> Tensor:
        """For the sides that occur here, which are 9 frames on their way to 2 and even numbers of pixels."""
        ends = {(7, 2, 9): (3, 3), (3, 2, 5): (1, 1), (2, 2, 3): (0, 1)}
        along = ends[k, s, x.shape[2]] if s == 2 else (k // 2, k // 2)
        beside = ((k - s) // 2, k - s - (k - s) // 2) if s == 2 else (k // 2, k // 2)
        return F.pad(x, [*beside, *beside, *along])

    def unit(x: Tensor, name: str, k: int, s: int = 1) -> Tensor:
        mean, variance, gain, bias = (
            double[f"{name}.bn.{part}"][:, None, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.conv3d(pad(x, k, s), double[f"{name}.conv3d.weight"], stride=s)
        return ((x - mean) / (variance + 1e-5).sqrt() * gain + bias).clamp(min=0)

    def mixed(x: Tensor, name: str) -> Tensor:
        branches = [unit(x, f"{name}.b0", 1)]
        branches += [unit(unit(x, f"{name}.{b}a", 1), f"{name}.{b}b", 3) for b in ("b1", "b2")]
        return torch.cat([*branches, unit(F.max_pool3d(x, 3, 1, 1), f"{name}.b3b", 1)], 1)

    double = {name: tensor.double() for name, tensor in weights.items()}
    network = I3D()
    network.load_state_dict(dict(weights))
    given = torch.rand(1, 3, 9, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        x = unit(given.double(), "Conv3d_1a_7x7", 7, 2)
        x = F.max_pool3d(F.pad(x, [0, 1, 0, 1]), (1, 3, 3), (1, 2, 2))
        x = unit(unit(x, "Conv3d_2b_1x1", 1), "Conv3d_2c_3x3", 3)
        x = F.max_pool3d(F.pad(x, [0, 1, 0, 1]), (1, 3, 3), (1, 2, 2))
        x = mixed(mixed(x, "Mixed_3b"), "Mixed_3c")
        x = F.max_pool3d(pad(x, 3, 2), 3, 2)
        for name in "bcdef":
            x = mixed(x, f"Mixed_4{name}")
        x = F.max_pool3d(pad(x, 2, 2), 2, 2)
        x = mixed(mixed(x, "Mixed_5b"), "Mixed_5c")
        assert x.shape == (1, 1024, 2, 7, 7)
        expected = double["logits.conv3d.weight"][:, :, 0, 0, 0] @ x.mean((2, 3, 4))[0] + double["logits.conv3d.bias"]
        found = network.eval()(given)[0].double()
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_stylegan_vs_program_is_asked_to_resize_and_scale_and_for_features(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Program(Means())), tmp_path / "i3d.pt")
    network = I3DStyleGANV(str(tmp_path / "i3d.pt"))
    given = clips(2, 10, 28, 56)  # each pixel becomes 8x4
    found = network(given)
    expected = given.double().mean((1, 2, 3)) / 127.5 - 1
    torch.testing.assert_close(found[:, :3].double(), expected, atol=3e-3, rtol=0)  # the edges count for more
    assert found[:, 3:6].tolist() == [[10, 224, 224]] * 2 and found[:, 6:].eq(0).all()
    torch.testing.assert_close(network(given), found, rtol=0, atol=0)


def test_a_file_in_the_cache_is_found_and_its_checksum_said(
    videogpt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINEMA_CACHE", str(tmp_path))
    place = tmp_path / "weights" / "i3d_pretrained_400.pt"
    with pytest.raises(ValueError, match="VideoGPT") as missing:
        I3DVideoGPT()
    assert str(place) in str(missing.value) and "\n" not in str(missing.value)
    with pytest.raises(ValueError, match="StyleGAN-V") as missing:
        I3DStyleGANV()
    assert str(place.with_name("i3d_torchscript.pt")) in str(missing.value)
    place.parent.mkdir()
    place.write_bytes(videogpt.read_bytes())
    assert I3DVideoGPT().checksum == hashlib.sha256(videogpt.read_bytes()).hexdigest()


@pytest.mark.parametrize("network", [I3DStyleGANV, I3DVideoGPT])
@pytest.mark.parametrize("content", [b"", b"<html>no such file</html>", b"PK\x03\x04 cut short"])
def test_what_is_no_such_file_is_refused_in_a_line(
    network: type[I3DStyleGANV] | type[I3DVideoGPT], content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"wrong\.pt: not a") as refused:
        network(str(path))
    assert "\n" not in str(refused.value)


def test_other_weights_and_other_programs_are_refused(
    weights: OrderedDict[str, Tensor], videogpt: Path, tmp_path: Path
) -> None:
    path = tmp_path / "other.pt"
    torch.save(weights | {"logits.conv3d.bias": torch.zeros(600)}, path)
    with pytest.raises(ValueError, match=r"logits\.conv3d\.bias is \(600,\), not \(400,\)"):
        I3DVideoGPT(str(path))
    torch.save(OrderedDict(list(weights.items())[1:]), path)
    with pytest.raises(ValueError, match=r"Conv3d_1a_7x7\.conv3d\.weight is None"):
        I3DVideoGPT(str(path))
    torch.jit.save(torch.jit.script(Means()), path)
    with pytest.raises(ValueError, match="not StyleGAN-V's I3D"):
        I3DStyleGANV(str(path))
    with pytest.raises(ValueError, match="not a file of weights"):  # the one dialect's file given for the other
        I3DVideoGPT(str(path))
    with pytest.raises(ValueError, match="not a TorchScript program"):
        I3DStyleGANV(str(videogpt))


class Deed:
    """What does something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    torch.save({"logits.conv3d.bias": Deed(tmp_path / "done")}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="not a file of weights"):
        I3DVideoGPT(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "done").exists()


def test_short_clips_are_refused(videogpt: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="i3d-videogpt needs clips of 9 frames or more, not 8"):
        I3DVideoGPT(str(videogpt))(clips(1, 8, 32, 32))
    torch.jit.save(torch.jit.script(Program(Means())), tmp_path / "i3d.pt")
    with pytest.raises(ValueError, match="i3d-stylegan-v needs clips of 10 frames or more, not 9"):
        I3DStyleGANV(str(tmp_path / "i3d.pt"))(clips(1, 9, 32, 32))
