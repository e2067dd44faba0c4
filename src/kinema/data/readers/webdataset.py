"""Reading WebDataset shards: tar files whose members of one name belong to one clip."""

from __future__ import annotations

import json
import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float32

from kinema.data import tables
from kinema.data.readers.actions import read_actions
from kinema.data.readers.base import Clip, ClipInfo, DecodeFrame, Reader, ReadError, find_reader, registered_readers
from kinema.data.readers.image import SUFFIXES as PICTURES

__all__ = ["WebDatasetReader"]

CAPTION, LABEL, ROW, ACTIONS = "txt", "cls", "json", "npy"  # suffixes of members beside the clip
BESIDE = (CAPTION, LABEL, ROW, ACTIONS)
MOST_TEXT = 2**20  # bytes of a member that is not the clip


class WebDatasetReader(Reader):
    """Reads tar shards as the package webdataset writes them, without unpacking them first.

    Members that differ after the first full stop of their name are one sample: the one that another reader can read is
    the clip, `.txt` its caption, `.cls` its label, `.json` a row as that of a table, and `.npy` its actions.

    Source: https://github.com/webdataset/webdataset, the README's section on the format.
    """

    suffixes = frozenset({".tar"})
    groups_are = "sample"

    def clips(self, path: Path) -> Sequence[Clip]:
        """A clip for each sample; one for a bad shard."""
        try:
            samples = _index(path, self.version(Clip(path)))
            with _reading(path) as file:
                return [_clip(path, name, sample, file) for name, sample in samples.items()]
        except ReadError:
            return [Clip(path)]  # which is named when it is read

    def fingerprint(self, clip: Clip) -> str:
        """A hash of the sample's clip."""
        with self._unpacked(clip) as (reader, own):
            return reader.fingerprint(own)

    def info(self, clip: Clip) -> ClipInfo:
        """What the reader of the sample's clip says."""
        with self._unpacked(clip) as (reader, own):
            return reader.info(own)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the frames of the sample's clip."""
        with self._unpacked(clip) as (reader, own):
            yield from reader.recording(own, threads)

    def audio(self, clip: Clip, rate: int) -> Float32[np.ndarray, " samples"]:
        """The sound of the sample's clip."""
        with self._unpacked(clip) as (reader, own):
            return reader.audio(own, rate)

    def notes(self, clip: Clip) -> list[str]:
        """The notes of the reader of the sample's clip."""
        with self._unpacked(clip) as (reader, own):
            found = reader.notes(own)
        if unread := self._sample(clip).unread:
            found.append(f"members that are not read: {', '.join(unread)}")
        return found

    def actions(self, clip: Clip) -> Float32[np.ndarray, "T A"] | None:
        """The sample's actions, where no table gives others."""
        if clip.actions != clip.path:
            return super().actions(clip)
        sample = self._sample(clip)
        with tempfile.TemporaryDirectory() as folder, _reading(clip.path) as file:
            table = Path(folder, f"actions.{ACTIONS}")
            table.write_bytes(_bytes(file, sample.others[ACTIONS]))
            try:
                return read_actions(table)
            except ReadError as error:
                raise ReadError(clip.path, f"{clip.member}.{ACTIONS}: {error.reason}") from error

    def _sample(self, clip: Clip) -> _Sample:
        samples = _index(clip.path, self.version(clip))
        if clip.member not in samples:
            raise ReadError(clip.path, f"it has no sample {clip.member or 'with a clip'}")
        return samples[clip.member]

    @contextmanager
    def _unpacked(self, clip: Clip) -> Iterator[tuple[Reader, Clip]]:
        """The sample's clip as a file of its own, which is removed afterwards, and its reader."""
        sample = self._sample(clip)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"clip{sample.suffix}")
            with _reading(clip.path) as file:
                path.write_bytes(_bytes(file, sample.clip))
            try:
                reader = find_reader(path)
                inside = next(iter(reader.clips(path)), Clip(path))
                yield reader, replace(inside, start=clip.start, stop=clip.stop, fps=clip.fps)
            except ReadError as error:
                if not error.path.is_relative_to(folder):
                    raise
                raise ReadError(clip.path, error.reason) from error


@dataclass(slots=True)
class _Sample:
    """Where a sample's members are in a shard."""

    suffix: str = ""  # of the clip
    clip: tarfile.TarInfo | None = None
    others: dict[str, tarfile.TarInfo] = field(default_factory=dict)  # by suffix, without the full stop
    unread: list[str] = field(default_factory=list)


@lru_cache(maxsize=64)
def _index(path: Path, version: Hashable) -> Mapping[str, _Sample]:
    """The samples with a clip, by name; `version` is another after a change."""
    media = frozenset().union(*(reader.suffixes for reader in registered_readers())) - {".tar", f".{ACTIONS}"}
    samples: dict[str, _Sample] = {}
    with _reading(path) as file:
        for member in file:
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            if not member.isfile() or not stem:
                continue
            sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
            suffix = PurePosixPath(f"x.{extension}".lower()).suffix
            better = sample.clip is None or (sample.suffix in PICTURES and suffix not in PICTURES)
            if suffix in media and better:  # a video rather than a picture of it
                sample.unread += [] if sample.clip is None else [sample.clip.name]
                sample.clip, sample.suffix = member, suffix
            elif extension.lower() in BESIDE and extension.lower() not in sample.others:
                sample.others[extension.lower()] = member
            else:
                sample.unread.append(member.name)
    return {name: sample for name, sample in samples.items() if sample.clip is not None}


def _clip(path: Path, name: str, sample: _Sample, file: tarfile.TarFile) -> Clip:
    """A sample's clip with what its other members say; those that cannot be read say nothing."""
    row: dict[str, object] = {}
    if ROW in sample.others:
        try:
            found = json.loads(_bytes(file, sample.others[ROW], MOST_TEXT))
            row = {str(key).lower(): value for key, value in found.items()} if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            row = {}

    def text(suffix: str) -> str | None:
        if suffix not in sample.others:
            return None
        return " ".join(_bytes(file, sample.others[suffix], MOST_TEXT).decode("utf-8", "replace").split()) or None

    return Clip(
        path,
        name,
        label=text(LABEL) or tables.cell(row, ("label",)),
        caption=text(CAPTION) or tables.cell(row, tables.CAPTION),
        actions=path if ACTIONS in sample.others else None,
        group=tables.cell(row, tables.GROUP, f"{path.name}/{name}"),  # or all of a shard would be held out or none
        split=tables.cell(row, tables.SPLIT),
    )


@contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    """The shard, opened; errors of tar files become ReadErrors."""
    try:
        with tarfile.open(path, "r:*") as file:
            yield file
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(
            path, f"it cannot be read as a tar file ({(str(error) or 'it is empty').splitlines()[0]})"
        ) from error


def _bytes(file: tarfile.TarFile, member: tarfile.TarInfo | None, most: int | None = None) -> bytes:
    """The contents of a member, or its first bytes; raises ReadError where it is cut short."""
    stream = None if member is None else file.extractfile(member)
    if stream is None or member is None:
        raise ReadError(Path(str(file.name)), "a member of it is no file")
    content = stream.read(-1 if most is None else most)
    if len(content) < min(member.size, member.size if most is None else most):
        raise ReadError(Path(str(file.name)), f"it is cut short in {member.name}")
    return content
