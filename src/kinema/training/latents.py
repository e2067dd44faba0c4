"""Training windows as a codec's latents, encoded once and cached on disk."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kinema.data.cache import atomic_write, cache_folder, cache_limit, class_digest, code_digest, digest
from kinema.data.clips import Source, shuffled
from kinema.data.stored import ArrayWriter, Damaged, StoredArray, read_metadata, write_metadata
from kinema.family import Codec, encode_exactly
from kinema.runtime.device import Runtime
from kinema.types import Batch, Conditions, Progress, hash_seed, no_progress

__all__ = ["LatentSource"]

CODE = (
    "types",
    "runtime",
    "nn",
    "codecs",
    "data",
    "worlds",
    "family",
    "training.latents",
)  # that decides what latents are
SEED = hash_seed("latents")  # of the windows: not the run's, so that runs of all seeds share them
BLOCK = 16  # windows that are encoded together


class LatentSource:
    """A source of `count` windows of another source's clips, as the latents that `codec` makes of them.

    The first use encodes them into files in the cache, whose name is a hash of all that decides what is in them; later
    ones read them from disk as they need them. `progress` follows the encoding. Of several ranks the first encodes
    while the others wait. Latents and sound are float16: continuous latents are rounded, codes of tokens stay near
    enough to theirs that the tokens are exact. Raises ValueError where the cache cannot be written.
    """

    def __init__(
        self,
        source: Source,
        codec: Codec,
        runtime: Runtime,
        count: int,
        cache: str | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.spec, self.skipped = source.spec, source.skipped
        windows = source.key, SEED, BLOCK, count
        self.key = digest(code_digest(*CODE), windows, _codec_digest(codec), str(runtime.precision))
        path = cache_folder(cache, "latents") / f"{self.key}.npy"

        def report(done: int, total: int) -> None:
            runtime.any(True)
            progress(done, total)

        if runtime.rank == 0 and _find(path) is None:
            _encode(path, source, codec, runtime, count, report)
            cache_limit(path.parent.parent).written(path.stat().st_size)
        while runtime.any(False):  # the others wait for every block's report: a long silence would end the run
            pass
        cached = _find(path)
        if cached is None:
            raise ValueError(
                f"{path.parent}: rank 0 wrote the latents, but this rank cannot see them: share --data.cache"
            )
        self._cached = cached

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The latents [size, L, C, h, w] of `size` windows without their frames; in an epoch each comes once.

        A pure function of its arguments. Raises ValueError where what was cached is damaged.
        """
        latents, text, tensors = self._cached
        if rank == 0:
            _touch(latents.path)
        windows = shuffled(latents.shape[0], (step * ranks + rank) * size, size, seed)
        try:
            conditions = Conditions(
                text=None if text is None else tuple(text[window] for window in windows),
                **{name: _windows(values, windows) for name, values in tensors.items()},
            )
            no_frames = torch.empty(size, 0, 3, self.spec.height, self.spec.width, dtype=torch.uint8)
            return Batch(no_frames, conditions, _windows(latents, windows))
        except Damaged as error:
            _remove(latents.path)
            raise ValueError(
                f"{error.path} was damaged, and is removed: continue with --resume, which encodes the windows again"
            ) from error


class _Cached(NamedTuple):
    """What is on disk, read as it is needed: the latents, and the conditions of the same windows."""

    latents: StoredArray  # float16 [N, L, C, h, w]
    text: list[str] | None
    tensors: dict[str, StoredArray]


def _windows(stored: StoredArray, windows: Sequence[int]) -> Tensor:
    """Some rows of what is on disk; raises Damaged."""
    return torch.from_numpy(np.concatenate([stored.read(window, window + 1) for window in windows]))


def _codec_digest(codec: Codec) -> str:
    """A digest of what decides a codec's latents: its code, its configuration and its weights."""
    hashed = hashlib.blake2b(f"{class_digest(type(codec))} {codec.config!r}".encode(), digest_size=16)
    for name, tensor in codec.inference_state().items():
        hashed.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _find(path: Path) -> _Cached | None:
    """What is in the cache at `path`; None where it is missing, and where it was damaged."""
    try:
        metadata = read_metadata(path.with_suffix(".json"))
        tensors = {name: StoredArray.open(_condition_path(path, name)).map() for name in metadata["tensors"]}
        return _Cached(StoredArray.open(path).map(), metadata["text"], tensors)
    except OSError:
        return None
    except Damaged as error:
        warnings.warn(f"{error.path} was damaged: its windows are encoded again", stacklevel=1)
        return None


def _touch(path: Path) -> None:
    """Mark what is in the cache as used now."""
    with suppress(OSError):  # of a cache that may only be read, or had no room for it: it is read from memory
        os.utime(path)


def _remove(path: Path) -> None:
    """Remove what is in the cache at `path`."""
    for file in path.parent.glob(f"{path.stem}.*"):
        with suppress(OSError):  # of a cache that may only be read
            file.unlink()


def _encode(path: Path, source: Source, codec: Codec, runtime: Runtime, count: int, progress: Progress) -> None:
    """Encode the windows, each block while the next one is read, and write latents and conditions."""
    spec, text, writers = source.spec, [], dict[str, ArrayWriter]()
    length, height, width = codec.length(spec.frames), spec.height // codec.space, spec.width // codec.space
    codec.eval()
    with ExitStack() as stack:
        file = stack.enter_context(atomic_write(path))  # closed, and so in its place, after all others
        writer = ArrayWriter(file, path, np.dtype(np.float16), (length, codec.channels, height, width))
        thread = stack.enter_context(ThreadPoolExecutor(1))
        coming = thread.submit(source.batch, 0, BLOCK, seed=SEED)
        for first in range(0, count, BLOCK):
            batch, block = coming.result(), slice(count - first)
            coming = thread.submit(source.batch, first // BLOCK + 1, BLOCK, seed=SEED)
            frames = Batch(batch.frames[block]).to(runtime.device).frames
            with torch.inference_mode(), runtime.autocast():
                latents = encode_exactly(codec, frames)
            writer.write(latents.half().cpu().numpy())
            conditions = batch.conditions[block]
            text += conditions.text or ()
            for name in sorted(conditions.present - {"text"}):
                values = getattr(conditions, name).numpy()
                values = values.astype(np.float16) if name == "audio" else values
                if name not in writers:
                    place = _condition_path(path, name)
                    opened = stack.enter_context(atomic_write(place))
                    writers[name] = ArrayWriter(opened, place, values.dtype, values.shape[1:])
                writers[name].write(values)
            progress(min(first + BLOCK, count), count)
        for one in (writer, *writers.values()):
            one.finish()
        write_metadata(path.with_suffix(".json"), {"text": text or None, "tensors": list(writers)})


def _condition_path(path: Path, name: str) -> Path:
    return path.with_suffix(f".{name}")
