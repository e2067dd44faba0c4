"""Features of self-supervised video transformers from the Hugging Face hub: V-JEPA 2 and VideoMAE.

I3D was trained to name actions, for which a few sharp frames are often enough, so its distances are less sensitive to
bad motion than to bad frames; self-supervised features are more so (Ge et al. 2024, arXiv 2404.12391; Luo et al. 2024,
arXiv 2410.05203). Here they are the mean over all tokens of the last hidden state, and so differ from published ones:
the first paper uses a VideoMAE v2 fine-tuned on actions; JEDi, of the second, uses the first V-JEPA with an attention
probe trained on Something-Something v2.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from kinema.metrics.features import exact, first_line, sha256

__all__ = ["VideoTransformer", "v_jepa", "videomae"]

FILES = ["config.json", "*preprocessor_config.json", "model.safetensors", "model-*.safetensors", "*.index.json"]
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")  # of a preprocessor, each true by default
BILINEAR = 2  # the number of that resampling


def v_jepa(model: str | None = None, device: torch.device | str = "cpu") -> VideoTransformer:
    """V-JEPA 2 (Assran et al. 2025, arXiv 2506.09985), whose rotary positions take clips of many lengths.

    The number of frames must be even and at most that of its training (64). `model` is a name on the hub or a folder;
    None is facebook/vjepa2-vitl-fpc64-256. Raises ValueError where it cannot be loaded or is another network.
    """
    network, folder = _load(model or "facebook/vjepa2-vitl-fpc64-256", "vjepa2")
    step = network.config.tubelet_size
    counts = range(step, network.config.frames_per_clip + 1, step)
    return VideoTransformer("v-jepa", network, folder, counts, {"skip_predictor": True}, device)


def videomae(model: str | None = None, device: torch.device | str = "cpu") -> VideoTransformer:
    """VideoMAE (Tong et al. 2022, arXiv 2203.12602), which takes clips of 16 frames only: it has no other positions.

    `model` is a name on the hub or a folder; None is MCG-NJU/videomae-base. Raises ValueError where it cannot be loaded
    or is another network.
    """
    network, folder = _load(model or "MCG-NJU/videomae-base", "videomae")
    frames = network.config.num_frames
    return VideoTransformer("videomae", network, folder, range(frames, frames + 1), {}, device)


class VideoTransformer:
    """A network of the hub with the preprocessing of its own files; made by `v_jepa` and `videomae`."""

    def __init__(
        self, name: str, network: Any, folder: Path, counts: range, settings: dict[str, Any], device: torch.device | str
    ) -> None:
        self.name, self.device = name, torch.device(device)
        self.dimensions, self.least = network.config.hidden_size, counts[0]
        self.checksum = sha256(*_weights(folder))
        self._network, self._counts, self._settings = network.to(self.device), counts, settings
        self._short, self._crop, self._mean, self._deviation = _preprocessing(folder)
        self._lengths = f"{counts[0]} frames"
        if len(counts) > 1:
            self._lengths += f" to {counts[-1]}, a multiple of {counts.step}"
        height, width = self._crop
        self.preprocessing = (
            f"clips of {self._lengths}; short side to {self._short} (bilinear with antialiasing, in 8 bits), "
            f"centre crop to {width}x{height}, less {self._mean}, divided by {self._deviation}; mean over tokens"
        )

    def __call__(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B D"]:
        """The mean of the last hidden state over tokens. Raises ValueError for a number of frames it cannot take."""
        if clips.shape[1] not in self._counts:
            raise ValueError(f"{self.name} takes clips of {self._lengths}, not of {clips.shape[1]}: cut them to fit")
        with exact(self.device):
            return self._network(self._prepared(clips), **self._settings).last_hidden_state.mean(1)

    def _prepared(self, clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B T 3 h w"]:
        """Preprocessed clips."""
        batch, _, height, width, _ = clips.shape
        frames = rearrange(clips.cpu(), "b t h w c -> (b t) c h w")  # 8 bits can be resized on a CPU only
        short = self._short
        size = (int(short * height / width), short) if width <= height else (short, int(short * width / height))
        frames = F.interpolate(frames, size, mode="bilinear", align_corners=False, antialias=True)
        top, left = ((side - crop) // 2 for side, crop in zip(size, self._crop, strict=True))
        frames = frames[..., top : top + self._crop[0], left : left + self._crop[1]].to(self.device) / 255
        mean, deviation = (frames.new_tensor(of)[:, None, None] for of in (self._mean, self._deviation))
        return rearrange((frames - mean) / deviation, "(b t) c h w -> b t c h w", b=batch)


def _load(name: str, kind: str) -> tuple[Any, Path]:
    """The network of this name, frozen and in float32, and the folder of its files; nothing is unpickled."""
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
        from transformers import AutoModel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(f'to measure by {name}, install transformers: pip install "kinema[text]"') from error
    try:
        folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(name, allow_patterns=FILES))
        network, said = AutoModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # a foreign file may raise anything
        raise ValueError(
            f"{name} cannot be loaded as a video network ({first_line(error)}): give a name on the Hugging Face hub, "
            "or a folder with config.json, preprocessor_config.json and model.safetensors"
        ) from error
    if network.config.model_type != kind:
        raise ValueError(f"{name} is a {network.config.model_type}, not a {kind}: give the name of one")
    if lacking := sorted(said["missing_keys"]):  # transformers initialises these at random
        raise ValueError(f"the weights of {name} lack {lacking[0]}: download them again")
    return network.float().eval().requires_grad_(False), folder


def _weights(folder: Path) -> list[Path]:
    """The file of weights, or its shards in order."""
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("model-*.safetensors"))


def _preprocessing(folder: Path) -> tuple[int, tuple[int, int], tuple[float, ...], tuple[float, ...]]:
    """The short side, the height and width of the crop, and the channels' mean and deviation, from the files."""
    found = [folder / f"{kind}preprocessor_config.json" for kind in ("video_", "")]
    try:
        values = json.loads(next(path for path in found if path.is_file()).read_text())
        if values["resample"] != BILINEAR or not all(values.get(step, True) for step in STEPS):
            raise ValueError("it does not resize bilinearly, crop, rescale and normalise")
        crop = values["crop_size"]["height"], values["crop_size"]["width"]
        return values["size"]["shortest_edge"], crop, tuple(values["image_mean"]), tuple(values["image_std"])
    except (StopIteration, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else "there is none"
        raise ValueError(
            f"{folder}: no preprocessor_config.json that can be followed ({reason}): download it again"
        ) from error
