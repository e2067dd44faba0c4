"""Video transformers drawn at random and saved as the hub has them: what they are shown, what they give and refuse."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kinema.metrics.pretrained import v_jepa, videomae

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
MAKERS = {"videomae": videomae, "v-jepa": v_jepa}


def clips(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder of each network, for frames of 32x32."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    encoder = transformers.VideoMAEConfig(
        image_size=32, patch_size=16, num_frames=16, intermediate_size=48, use_mean_pooling=False, **SIZES
    )
    predictor = {f"pred_{key}": value for key, value in SIZES.items()} | {"pred_num_mask_tokens": 2}
    jepa = transformers.VJEPA2Config(patch_size=16, crop_size=32, frames_per_clip=8, **SIZES, **predictor)
    models = {
        "videomae": transformers.VideoMAEForPreTraining(encoder),  # what the hub has, whose encoder is a part
        "v-jepa": transformers.VJEPA2Model(jepa),
    }
    folders = {}
    for name, short in (("videomae", 32), ("v-jepa", 36)):
        folder = tmp_path_factory.mktemp(name)
        models[name].save_pretrained(folder)
        values = {"crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": short}, "resample": 2}
        values |= {"image_mean": MEAN, "image_std": DEVIATION, "do_resize": True}
        kind = "video_" if name == "v-jepa" else ""
        (folder / f"{kind}preprocessor_config.json").write_text(json.dumps(values))
        folders[name] = str(folder)
    return folders


@pytest.mark.parametrize(("name", "frames", "short"), [("videomae", 16, 32), ("v-jepa", 8, 36), ("v-jepa", 4, 36)])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (67, 33), (32, 32), (20, 31)])
def test_features_are_the_mean_token_of_frames_that_pil_resized(
    folders: dict[str, str], name: str, frames: int, short: int, height: int, width: int
) -> None:
    import transformers  # pyright: ignore[reportMissingImports]

    network = MAKERS[name](folders[name])
    given = clips(2, frames, height, width)
    found = network(given)
    assert (
        found.shape == (2, network.dimensions) == (2, 24) and found.dtype == torch.float32 and not found.requires_grad
    )

    scale = short / min(height, width)
    rows, columns = int(height * scale + 1e-9), int(width * scale + 1e-9)
    top, left = (rows - 32) // 2, (columns - 32) // 2
    resized = [
        Image.fromarray(f).resize((columns, rows), Image.Resampling.BILINEAR) for f in given.flatten(0, 1).numpy()
    ]
    pixels = torch.from_numpy(np.stack(resized))[:, top : top + 32, left : left + 32]
    pixels = (pixels.double() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
    pixels = pixels.permute(0, 3, 1, 2).unflatten(0, (2, frames)).float()
    shown = network._prepared(given)
    torch.testing.assert_close(shown, pixels, rtol=0, atol=2.02 / 255 / min(DEVIATION))  # PIL rounds otherwise, twice

    model = {"videomae": transformers.VideoMAEModel, "v-jepa": transformers.VJEPA2Model}[name]
    model = model.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        expected = model(shown).last_hidden_state.mean(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_it_says_what_it_is(folders: dict[str, str]) -> None:
    for name, make in MAKERS.items():
        network = make(folders[name])
        content = (Path(folders[name]) / "model.safetensors").read_bytes()
        assert network.name == name and network.checksum == hashlib.sha256(content).hexdigest()
    assert network.least == 2 and "short side to 36" in network.preprocessing and "32x32" in network.preprocessing
    assert "2 frames to 8, a multiple of 2" in network.preprocessing


def test_weights_in_parts_count_whole(folders: dict[str, str], tmp_path: Path) -> None:
    import transformers  # pyright: ignore[reportMissingImports]

    transformers.VideoMAEModel.from_pretrained(folders["videomae"]).save_pretrained(tmp_path, max_shard_size="30KB")
    (tmp_path / "preprocessor_config.json").write_bytes(
        (Path(folders["videomae"]) / "preprocessor_config.json").read_bytes()
    )
    parts = sorted(tmp_path.glob("*.safetensors"))
    assert len(parts) > 1
    network = videomae(str(tmp_path))
    assert network.checksum == hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    given = clips(1, 16, 32, 32)
    torch.testing.assert_close(network(given), videomae(folders["videomae"])(given), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "frames"), [("videomae", 15), ("videomae", 32), ("v-jepa", 7), ("v-jepa", 10)])
def test_frames_that_do_not_fit_are_refused(folders: dict[str, str], name: str, frames: int) -> None:
    with pytest.raises(ValueError, match=f"{name} takes clips of .*, not of {frames}"):
        MAKERS[name](folders[name])(clips(1, frames, 32, 32))


def test_another_network_is_refused(folders: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is a vjepa2, not a videomae"):
        videomae(folders["v-jepa"])


def test_weights_that_are_not_whole_are_refused(folders: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in Path(folders["v-jepa"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if name.startswith("encoder.layer.1"))
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lack {lost}"):
        v_jepa(str(tmp_path))


@pytest.mark.parametrize("change", [{"resample": 3}, {"do_center_crop": False}, {"size": {"height": 3}}, None])
def test_preprocessing_that_cannot_be_followed_is_refused(
    folders: dict[str, str], tmp_path: Path, change: dict[str, object] | None
) -> None:
    for file in Path(folders["videomae"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "preprocessor_config.json"
    values = json.loads(path.read_text())
    path.unlink() if change is None else path.write_text(json.dumps(values | change))
    with pytest.raises(ValueError, match=r"no preprocessor_config\.json that can be followed"):
        videomae(str(tmp_path))


def test_a_folder_without_a_network_is_refused_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="no video network can be had from") as refused:
        videomae(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_weights_cut_short_are_refused(folders: dict[str, str], tmp_path: Path) -> None:
    for file in Path(folders["videomae"]).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ValueError, match="no video network can be had from"):
        videomae(str(tmp_path))


def test_weights_that_would_be_unpickled_are_not_read(folders: dict[str, str], tmp_path: Path) -> None:
    for file in Path(folders["videomae"]).iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no video network can be had from .*safetensors"):
        videomae(str(tmp_path))


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    for make in MAKERS.values():
        with pytest.raises(ValueError, match=r'pip install "kinema\[text\]"'):
            make("any")
