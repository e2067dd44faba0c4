"""Training windows as a codec's latents, encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from kinema.data.cache import cache_folder, digest, whole, write_header
from kinema.data.clips import Progress, Source, shuffled
from kinema.family import Codec
from kinema.run import Run
from kinema.types import Batch, Conditions, mix

__all__ = ["LatentSource"]

VERSION = 1  # part of every key: raise it when the same windows would give other latents
SEED = mix("latents")  # that the windows are drawn with: no run's own, so that runs of all seeds share them
AT_ONCE = 16  # windows that are encoded together


class LatentSource:
    """`count` windows of another source's clips, as the latents that `codec` makes of them.

    The first use encodes them into one file in the cache, named by all that decides what is in it, which later ones
    read; `progress` follows it. Of several processes the first encodes and the others wait. The values are float16:
    rounded where latents are Gaussian, and near enough to a token's code that its number is exact. Raises ValueError
    where the cache cannot be written.
    """

    def __init__(
        self,
        source: Source,
        codec: Codec,
        run: Run,
        count: int,
        cache: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.facts, self.skipped = source.facts, source.skipped
        self.key = digest(VERSION, SEED, AT_ONCE, count, source.key, _identity(codec), str(run.precision))
        path = cache_folder(cache, "latents") / f"{self.key}.npy"

        def report(done: int, total: int) -> None:
            run.any(True)
            if progress:
                progress(done, total)

        if run.rank == 0 and _find(path) is None:
            _encode(path, source, codec, run, count, report)
        while run.any(False):  # the others wait, and hear of every part: a long silence would end the run
            pass
        kept = _find(path)
        if kept is None:  # on another machine, which has a disk of its own
            _encode(path, source, codec, run, count)
            kept = _find(path)
        assert kept is not None, path
        self._latents, self._given = kept

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The latents [size, L, C, h, w] of `size` windows, all windows once before any comes again; no frames.

        A pure function of its arguments.
        """
        chosen, given = shuffled(len(self._latents), (step * ranks + rank) * size, size, seed), self._given
        tensors = {name: getattr(given, name)[chosen] for name in given.present - {"text"}}
        text = None if given.text is None else tuple(given.text[window] for window in chosen)
        return Batch(
            torch.empty(size, 0, 3, self.facts.height, self.facts.width),
            Conditions(text=text, **tensors),
            torch.from_numpy(self._latents[chosen].astype(np.float32)),
        )


class _Kept(NamedTuple):
    """What is on disk: the latents, which are read as they are needed, and the conditions beside them."""

    latents: Float16[np.ndarray, "N L C h w"]
    given: Conditions


def _identity(codec: Codec) -> str:
    """A name for what a codec makes of frames: of its configuration and its weights."""
    hashed = hashlib.blake2b(repr(codec.config).encode(), digest_size=16)
    for name, tensor in codec.state_dict().items():
        hashed.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _find(path: Path) -> _Kept | None:
    """What is in the cache at `path`; None where there is nothing or not all of it."""
    try:
        latents = np.load(path, mmap_mode="r")  # raises where the file is shorter than its header says
        with safe_open(_beside(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get("text")
        return _Kept(latents, Conditions(text=None if text is None else tuple(json.loads(text)), **tensors))
    except (OSError, ValueError, EOFError, SafetensorError):
        return None


def _encode(
    path: Path, source: Source, codec: Codec, run: Run, count: int, report: Progress = lambda done, total: None
) -> None:
    """Draw the windows, encode them, and write latents and conditions."""
    facts, given = source.facts, []
    length, height, width = codec.length(facts.frames), facts.height // codec.space, facts.width // codec.space
    codec.eval()
    with whole(path) as file:
        write_header(file, "<f2", (count, length, codec.channels, height, width))
        for first in range(0, count, AT_ONCE):
            batch = source.batch(first // AT_ONCE, AT_ONCE, seed=SEED)
            some = slice(count - first)
            with torch.inference_mode(), run.autocast():
                latents, _ = codec.encode(batch.frames[some].to(run.device))
            file.write(latents.half().cpu().numpy().tobytes())
            given.append(batch.given[some])
            report(min(first + AT_ONCE, count), count)
        with whole(_beside(path)) as file_beside:  # before the latents, whose being there says that all is
            file_beside.write(_packed(given))


def _beside(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _packed(parts: Sequence[Conditions]) -> bytes:
    """The conditions of all windows as a file's content."""
    present = parts[0].present
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in present - {"text"}}
    text = [caption for part in parts for caption in part.text or ()]
    return save(tensors, metadata={"text": json.dumps(text)} if "text" in present else None)
