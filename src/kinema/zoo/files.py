"""Model files, which are safetensors with a configuration in their metadata, and the resolver of model names.

A run's folder holds `step-N/generator.safetensors` and, where the family has a codec, one `codec.safetensors` for all
steps. An exported file holds both, the codec's tensors with the prefix "codec.".
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kinema.data.atomic import atomic_path

__all__ = [
    "CODEC",
    "CONFIG",
    "FORMAT",
    "GENERATOR",
    "MANIFEST",
    "ModelFile",
    "check_files",
    "codec_file",
    "damaged_message",
    "encode_model",
    "export",
    "find_model_file",
    "is_model",
    "list_checkpoints",
    "load_codec",
    "load_config",
    "load_model",
    "read_model",
    "read_tensors",
    "shipped",
    "write_file",
    "write_manifest",
]

FORMAT = 3  # version of model files and checkpoints
GENERATOR, CODEC, CONFIG = "generator.safetensors", "codec.safetensors", "config.json"
MANIFEST = "manifest.json"
PREFIX = "codec."
BLOCK = 2**20  # bytes
FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The configuration, as plain values, and the sampling weights of a model."""

    config: dict[str, Any]  # family, data, train, spec
    generator: dict[str, Tensor]
    codec: dict[str, Tensor] | None = None


def shipped() -> dict[str, Path]:
    """The files of the shipped models, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def is_model(name: str | Path) -> bool:
    """Whether `name` is a shipped model, a run's folder, a checkpoint's folder or a .safetensors file."""
    return _resolve(name) is not None


def find_model_file(name: str | Path) -> Path:
    """The file with a model's generator and configuration.

    `name` is a shipped model, a run's folder (its newest step), a checkpoint's folder or a file. Raises ValueError if
    it is none of these.
    """
    if (file := _resolve(name)) is not None:
        return file
    names = f"; the models that ship are {', '.join(shipped())}" if shipped() else ""
    raise ValueError(
        f"{name}: no model there: name a run's folder with step-N folders in it, a checkpoint or a .safetensors file, "
        f"or train one with kinema train{names}"
    )


def _resolve(name: str | Path) -> Path | None:
    """The model file that `name` stands for; the name of a shipped model is a string, a Path is always a place."""
    if isinstance(name, str) and name in shipped():
        return shipped()[name]
    path = Path(name).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if (path / GENERATOR).is_file():
        return path / GENERATOR
    steps = list_checkpoints(path) if path.is_dir() else []
    return steps[-1] / GENERATOR if steps else None


def load_config(name: str | Path) -> dict[str, Any]:
    """The configuration of a model, as plain values, without reading its weights; raises ValueError as `load_model`."""
    file = find_model_file(name)
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(damaged_message(file, error)) from error
    return _decode_config(file, metadata)


def load_model(name: str | Path) -> ModelFile:
    """Read a model by name; raises ValueError, naming the file, if it is missing, damaged or no kinema model."""
    return read_model(find_model_file(name))


def read_model(file: Path) -> ModelFile:
    """Read a model's file and its codec; raises ValueError, naming the file, if one is damaged or no kinema model."""
    in_checkpoint = file.name == GENERATOR and (file.parent / MANIFEST).is_file()
    if in_checkpoint:
        check_files(file.parent, [GENERATOR, *[CODEC] * (codec_file(file) is not None)])
    metadata, tensors = read_tensors(file)
    config = _decode_config(file, metadata)
    generator = {n: tensor for n, tensor in tensors.items() if not n.startswith(PREFIX)}
    codec = {n.removeprefix(PREFIX): tensor for n, tensor in tensors.items() if n.startswith(PREFIX)}
    if config.get("family", {}).get("codec_config") and not codec:
        place = codec_file(file)
        if place is None:
            raise ValueError(
                f"{file}: its codec is missing: keep {CODEC} in the run's folder, above step-N, or use a file that "
                "kinema export wrote"
            )
        codec = read_tensors(place)[1]
    return ModelFile(config, generator, codec or None)


def codec_file(file: Path) -> Path | None:
    """The codec's file of a run, beside or above the folder of a model's `file`; None where there is none."""
    places = [folder / CODEC for folder in (file.parent, file.parent.parent)]
    return next((path for path in places if path.is_file()), None)


def load_codec(name: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration, with its name, and the weights of a trained codec or of a latent model's codec.

    Raises ValueError as `load_model`.
    """
    model = load_model(name)
    family = model.config.get("family", {})
    if model.codec is not None:
        return family["codec_config"], model.codec
    return family, model.generator


def export(name: str | Path, out: Path, config: dict[str, Any], half: bool = False) -> Path:
    """Write a model's generator and codec with `config` to the file `out`; return its path.

    `half` converts the weights to float16. Raises ValueError if a weight exceeds float16's range or the file cannot be
    written.
    """
    model = load_model(name)
    tensors = model.generator | {PREFIX + n: tensor for n, tensor in (model.codec or {}).items()}
    if half:
        tensors = {n: x.half() if x.is_floating_point() else x for n, x in tensors.items()}
        if broken := [n for n, x in tensors.items() if not x.isfinite().all()]:
            raise ValueError(f"{name}: {broken[0]} has weights that float16 cannot hold: export without --half")
    with atomic_path(out) as unfinished:
        write_file(unfinished, encode_model(tensors, config, checksum=True))
    return out


def encode_model(tensors: Mapping[str, Tensor], config: dict[str, Any], checksum: bool = False) -> bytes:
    """The bytes of a model file; `checksum` adds one (CRC-32) of the configuration and the tensors.

    What a checkpoint holds has its checksums in the manifest.
    """
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"kinema": json.dumps({"format": FORMAT, **config})}
    if checksum:
        metadata["crc32"] = _content_checksum(metadata, packed)
    return save(packed, metadata=metadata)


def _content_checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """The CRC-32 of a model's configuration and of its tensors, on the CPU, with their names, types and shapes."""
    found = zlib.crc32(metadata.get("kinema", "").encode())
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def write_file(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_manifest(folder: Path, codec: Path | None) -> None:
    """Write the checksums (CRC-32) of all files of a checkpoint, and of the run's codec."""
    files = [*sorted(folder.iterdir()), *([] if codec is None else [codec])]
    checksums = {file.name: _checksum(file) for file in files}
    write_file(folder / MANIFEST, json.dumps({"crc32": checksums}, indent=2).encode())


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raise ValueError, naming the file, unless files of a checkpoint are those of its manifest; CODEC is the run's."""
    try:
        checksums = dict(json.loads((folder / MANIFEST).read_bytes())["crc32"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(damaged_message(folder / MANIFEST, error)) from error
    for name in names:
        file = codec_file(folder / GENERATOR) if name == CODEC else folder / name
        try:
            if file is None or _checksum(file) != checksums.get(name):
                raise ValueError("it is not what was saved, by manifest.json")
        except (OSError, ValueError) as error:
            raise ValueError(damaged_message(file or folder / name, error)) from error


def _checksum(file: Path) -> str:
    """The CRC-32 of a file, as 8 hexadecimal digits."""
    found = 0
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            found = zlib.crc32(block, found)
    return f"{found:08x}"


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, the oldest first: those named step-N with a checkpoint's file in them."""
    found = [p for p in run.glob("step-*") if re.fullmatch(r"step-\d+", p.name) and p.is_dir()]
    found = [p for p in found if (p / GENERATOR).is_file() or (p / CONFIG).is_file()]
    return sorted(found, key=lambda p: int(p.name.removeprefix("step-")))


def read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; raises ValueError if it is damaged or missing."""
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        stated = [value for key, value in metadata.items() if key not in {"kinema", "format"}]  # one, or none
        if stated and stated != [_content_checksum(metadata, tensors)]:
            raise ValueError("it is not what was saved, by its checksum")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(damaged_message(file, error)) from error
    return metadata, tensors


def damaged_message(file: Path, error: Exception) -> str:
    """The error message for a file of a checkpoint that cannot be read."""
    step = file.parent
    if file.name == CODEC:
        fix = "put a copy of it there, or train again: all steps of the run need it"
    elif not re.fullmatch(r"step-\d+", step.name):
        fix = "copy it, or export it, again"
    elif len(list_checkpoints(step.parent)) > 1:
        fix = f"to resume from the checkpoint before it, remove {step}"
    elif file.name == GENERATOR:
        fix = "put a copy of it there, or train again"
    else:
        fix = f"it cannot be resumed, but sampled and started from: --train.init-from {step}"
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return f"{file}: damaged or not a kinema file ({reason}); {fix}"


def _decode_config(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    try:
        config = json.loads(metadata["kinema"])
    except (KeyError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{file}: not a kinema model (its metadata holds no kinema configuration)")
    found = config.pop("format", 1)
    if type(found) is not int or found != FORMAT:
        fix = "update kinema" if type(found) is int and found > FORMAT else "train it again, or use the older kinema"
        raise ValueError(f"{file}: it has format {found!r}, and this kinema reads format {FORMAT}: {fix}")
    if not isinstance(config.get("family"), dict) or not isinstance(config["family"].get("name"), str):
        raise ValueError(f"{file}: not a kinema configuration (family with a name, data, train and spec)")
    return config
