"""Training windows as a codec's latents, encoded once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float16

from kinema.data.cache import cache_folder, digest, whole, write_header
from kinema.data.clips import Progress, Source, shuffled
from kinema.family import Codec
from kinema.run import Run
from kinema.types import Batch, Conditions, mix

__all__ = ["LatentSource"]

VERSION = 2  # part of every key: raise it when the same windows would give other latents
SEED = mix("latents")  # that the windows are drawn with: no run's own, so that runs of all seeds share them
AT_ONCE = 16  # windows that are encoded together


class LatentSource:
    """`count` windows of another source's clips, as the latents that `codec` makes of them.

    The first use encodes them into files in the cache, named by all that decides what is in them, which later ones
    read from the disk as they need them; `progress` follows it. Of several processes the first encodes and the others
    wait. Latents are float16: rounded where they are Gaussian, and near enough to a token's code that its number is
    exact; so is sound. They come as they are kept, to be made float32 where they go: to a GPU it is half the way.
    Raises ValueError where the cache cannot be written.
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
        self._kept = kept

    def batch(self, step: int, size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The latents [size, L, C, h, w] of `size` windows, all windows once before any comes again; no frames.

        A pure function of its arguments.
        """
        latents, text, tensors = self._kept
        chosen = shuffled(len(latents), (step * ranks + rank) * size, size, seed)
        said = None if text is None else tuple(text[window] for window in chosen)
        given = {name: torch.from_numpy(values[chosen]) for name, values in tensors.items()}
        empty = torch.empty(size, 0, 3, self.facts.height, self.facts.width)
        return Batch(empty, Conditions(text=said, **given), torch.from_numpy(latents[chosen]))


class _Kept(NamedTuple):
    """What is on disk, read as it is needed: the latents, and the conditions of the same windows."""

    latents: Float16[np.ndarray, "N L C h w"]
    text: list[str] | None
    tensors: dict[str, np.ndarray]


def _identity(codec: Codec) -> str:
    """A name for what a codec makes of frames: of its configuration and its weights."""
    hashed = hashlib.blake2b(repr(codec.config).encode(), digest_size=16)
    for name, tensor in codec.state_dict().items():
        hashed.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _find(path: Path) -> _Kept | None:
    """What is in the cache at `path`; None where there is nothing or not all of it."""
    try:
        beside = json.loads(path.with_suffix(".json").read_text())
        latents, *tensors = (  # raises where a file is shorter than its header says
            np.load(file, mmap_mode="r") for file in (path, *(_of(path, name) for name in beside["tensors"]))
        )
        return _Kept(latents, beside["text"], dict(zip(beside["tensors"], tensors, strict=True)))
    except (OSError, ValueError, EOFError):
        return None


def _encode(
    path: Path, source: Source, codec: Codec, run: Run, count: int, report: Progress = lambda done, total: None
) -> None:
    """Draw the windows, those to come while others are encoded, and write latents and conditions."""
    facts, text, files = source.facts, [], dict[str, IO[bytes]]()
    length, height, width = codec.length(facts.frames), facts.height // codec.space, facts.width // codec.space
    codec.eval()
    with ExitStack() as opened:
        file = opened.enter_context(whole(path))  # closed, and so in its place, after all others
        write_header(file, "<f2", (count, length, codec.channels, height, width))
        ahead = opened.enter_context(ThreadPoolExecutor(1))
        coming = ahead.submit(source.batch, 0, AT_ONCE, seed=SEED)
        for first in range(0, count, AT_ONCE):
            batch, some = coming.result(), slice(count - first)
            coming = ahead.submit(source.batch, first // AT_ONCE + 1, AT_ONCE, seed=SEED)
            with torch.inference_mode(), run.autocast():
                latents, _ = codec.encode(batch.frames[some].to(run.device))
            file.write(latents.half().cpu().numpy().tobytes())
            given = batch.given[some]
            text += given.text or ()
            for name in sorted(given.present - {"text"}):
                values = getattr(given, name).numpy()
                values = values.astype(np.float16) if name == "audio" else values
                if name not in files:
                    files[name] = opened.enter_context(whole(_of(path, name)))
                    write_header(files[name], values.dtype.str, (count, *values.shape[1:]))
                files[name].write(values.tobytes())
            report(min(first + AT_ONCE, count), count)
        with whole(path.with_suffix(".json")) as beside:
            beside.write(json.dumps({"text": text or None, "tensors": list(files)}).encode())


def _of(path: Path, name: str) -> Path:
    """Where the condition of this name is kept."""
    return path.with_suffix(f".{name}")
