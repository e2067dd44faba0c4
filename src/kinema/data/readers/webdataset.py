"""Reading WebDataset shards: tar files whose members of one name belong to one clip."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
from jaxtyping import Float32

from kinema.data import tables
from kinema.data.limits import most_bytes, most_members
from kinema.data.readers.actions import read_actions
from kinema.data.readers.base import Clip, ClipInfo, DecodeFrame, Reader, ReadError, find_reader, registered_readers
from kinema.data.readers.image import SUFFIXES as PICTURES
from kinema.printable import as_text

__all__ = ["WebDatasetReader"]

CAPTION, LABEL, ROW, ACTIONS = "txt", "cls", "json", "npy"  # suffixes of members beside the clip
BESIDE = (CAPTION, LABEL, ROW, ACTIONS)
MOST_TEXT = 2**20  # bytes of a member that is not the clip
MOST_AT_ONCE = 2**24  # bytes; more are asked for only by a header that lies
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {  # by their first bytes
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
TAR = slice(257, 262), b"ustar"  # where the head of a tar says that it is one
MOST_TIMES = 4  # that a compressed shard may grow, where it is large


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
            samples = _samples(path, self.version(Clip(path)))
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
            _unpack(file, sample.others[ACTIONS], table)
            try:
                return read_actions(table)
            except ReadError as error:
                raise ReadError(clip.path, f"{clip.member}.{ACTIONS}: {error.reason}") from error

    def _sample(self, clip: Clip) -> _Sample:
        samples = _samples(clip.path, self.version(clip))
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
                _unpack(file, sample.clip, path)
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


def _samples(path: Path, version: Hashable) -> Mapping[str, _Sample]:
    """The samples with a clip, by name; raises ReadError for a bad shard, again without reading it again."""
    found = _index(path, version)
    if isinstance(found, ReadError):
        raise ReadError(path, found.reason)
    return found


@lru_cache(maxsize=64)
def _index(path: Path, version: Hashable) -> Mapping[str, _Sample] | ReadError:
    """The samples, or why there are none; `version` is another after a change."""
    try:
        return _read_index(path)
    except ReadError as error:
        return error


def _read_index(path: Path) -> Mapping[str, _Sample]:
    media = frozenset().union(*(reader.suffixes for reader in registered_readers())) - {".tar", f".{ACTIONS}"}
    samples: dict[str, _Sample] = {}
    most = most_members()
    with _reading(path) as file:
        for count, member in enumerate(file):
            if count == most:
                raise ReadError(
                    path, f"it has over {most} members: split it, or set $KINEMA_MOST_FRAMES above {10 * most}"
                )
            folder, _, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            if not member.isfile() or member.issparse() or not stem:  # a sparse one may be of any size
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
            found = json.loads(_text(file, sample.others[ROW]), parse_int=str)
            row = {str(key).lower(): value for key, value in found.items()} if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            row = {}

    def text(suffix: str) -> str | None:
        if suffix not in sample.others:
            return None
        return " ".join(_text(file, sample.others[suffix]).decode("utf-8", "replace").split()) or None

    return Clip(
        path,
        name,
        label=text(LABEL) or as_text(tables.cell(row, ("label",))),
        caption=text(CAPTION) or as_text(tables.cell(row, tables.CAPTION)),
        actions=path if ACTIONS in sample.others else None,
        group=as_text(
            tables.cell(row, tables.GROUP, f"{path.name}/{name}")
        ),  # or all of a shard would be held out or none
        split=as_text(tables.cell(row, tables.SPLIT)),
    )


@contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    """The shard, opened; errors of tar files become ReadErrors."""
    try:
        with path.open("rb") as raw:
            head, size = raw.read(512), raw.seek(0, 2)
        is_tar = head[TAR[0]] == TAR[1]  # whatever its first member is called
        unpack = next((of for magic, of in COMPRESSED.items() if head.startswith(magic) and not is_tar), None)
        with unpack(path) if unpack else path.open("rb") as content:
            most = max(most_bytes(), MOST_TIMES * size) if unpack else None
            with tarfile.open(mode="r:", fileobj=cast("IO[bytes]", _Limited(path, content, most))) as file:
                yield file
    except ReadError:
        raise
    except Exception as error:  # of many types
        raise ReadError(
            path, f"it cannot be read as a tar file ({(str(error) or 'it is empty').splitlines()[0]})"
        ) from error


class _Limited:
    """What tarfile reads of a shard: no more at once, nor farther into one that is compressed, than can be right."""

    def __init__(self, path: Path, content: BufferedIOBase, most: int | None) -> None:
        self.name, self._content, self._most = str(path), content, most

    def read(self, size: int) -> bytes:
        """The next bytes; raises ReadError where they are too many."""
        if size > MOST_AT_ONCE:
            raise ReadError(Path(self.name), f"it is damaged: a header in it states {size} bytes")
        self._check(self.tell() + size)
        return self._content.read(size)

    def seek(self, place: int) -> int:
        """Go to a place; the same."""
        self._check(place)
        return self._content.seek(place)

    def tell(self) -> int:
        """The place."""
        return self._content.tell()

    def _check(self, place: int) -> None:
        if self._most is not None and place > self._most:
            large = f"unpacked it has over {self._most / 1e9:.3g} GB"
            raise ReadError(Path(self.name), f"{large}: write it uncompressed, or set $KINEMA_MOST_GB higher")


def _stream(file: tarfile.TarFile, member: tarfile.TarInfo | None) -> tuple[Any, tarfile.TarInfo]:
    """The contents of a member."""
    stream = None if member is None else file.extractfile(member)
    if stream is None or member is None:
        raise ReadError(Path(str(file.name)), "a member of it is no file")
    return stream, member


def _text(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The first `MOST_TEXT` bytes of a member; raises ReadError where it is cut short."""
    stream, _ = _stream(file, member)
    content = stream.read(MOST_TEXT)
    if len(content) < min(member.size, MOST_TEXT):
        raise ReadError(Path(str(file.name)), f"it is cut short in {member.name}")
    return content


def _unpack(file: tarfile.TarFile, member: tarfile.TarInfo | None, path: Path) -> None:
    """Write a member to a file; raises ReadError where it is cut short."""
    stream, member = _stream(file, member)
    with path.open("wb") as out:
        shutil.copyfileobj(stream, out, MOST_AT_ONCE // 16)
    if path.stat().st_size < member.size:
        raise ReadError(Path(str(file.name)), f"it is cut short in {member.name}")
