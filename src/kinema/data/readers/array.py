"""Reading arrays of frames: .npy, .npz and HDF5 files."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kinema.data.array_headers import HEADER_LOCK, check_header
from kinema.data.limits import most_bytes, most_members
from kinema.data.readers.base import NOMINAL_FPS, Clip, ClipInfo, DecodeFrame, Reader, ReadError, by_rows, check_pixels

__all__ = ["ArrayReader"]

HDF5 = frozenset({".h5", ".hdf5"})
CHANNELS = (1, 3)  # of a frame
BEYOND = 0.05  # by which floating-point values may exceed their range, as after resizing
SMALLEST = 8  # pixels of a side; arrays with less are of something else, such as points
RATE = "fps"  # the name of an array with the frames a second of all clips in its file


class ArrayReader(Reader):
    """Reads arrays of frames: [T, H, W] (grey), [T, H, W, C], [T, C, H, W] or [C, T, H, W] with C 1 or 3.

    Arrays of five dimensions are many clips. Values are uint8, or floating-point numbers in [0, 1] or [-1, 1]. Every
    array of a .npz or HDF5 file with a shape of clips is one or many; a scalar `fps` is their rate, otherwise 25.
    """

    suffixes = frozenset({".npy", ".npz", *HDF5})
    states_rate = False

    def clips(self, path: Path) -> Sequence[Clip]:
        """A clip for each array of frames; none in a file of other numbers, such as actions, and in a bad file one."""
        try:
            with _arrays(path) as arrays:
                found = []
                for name, array in arrays.items():
                    if _layout(array) is not None:
                        many = len(array.shape) == 5
                        _check_count(path, array)
                        names = [f"{name}[{k}]" for k in range(array.shape[0])] if many else [name]
                        found += [Clip(path, member) for member in names]
                return found
        except ReadError:
            return [Clip(path)]  # which is named when it is read

    def fingerprint(self, clip: Clip) -> str:
        """A hash of the file, and of the clip's name in it."""
        stat = clip.path.stat()
        return hashlib.blake2b(
            f"{_fingerprint(clip.path, stat.st_mtime_ns)} {clip.member}".encode(), digest_size=16
        ).hexdigest()

    def info(self, clip: Clip) -> ClipInfo:
        """The size, rate and number of frames."""
        with _arrays(clip.path) as arrays:
            array, layout = _frames_of(clip, arrays)
            rate = arrays.get(RATE)
            if rate is not None and math.prod(rate.shape) != 1:
                raise ReadError(clip.path, f"its fps is an array of shape {rate.shape}: give one number")
            fps = float(np.ravel(rate.values(clip.path, None))[0]) if rate is not None else NOMINAL_FPS
            sizes = dict(zip(layout, array.shape[-len(layout) :], strict=True))
            check_pixels(clip.path, sizes["W"], sizes["H"])
        if not 0 < fps < float("inf"):
            raise ReadError(clip.path, f"its fps is {fps:g}")
        return ClipInfo(sizes["W"], sizes["H"], fps, None, sizes["T"], sizes["T"] / fps)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, DecodeFrame]]:
        """Yield the frames as RGB."""
        fps = self.info(clip).fps
        with _arrays(clip.path) as arrays:
            array, layout = _frames_of(clip, arrays)
            values = array.values(clip.path, _number(clip, array))
        values = np.moveaxis(values, layout.index("T"), 0)
        if "C" not in layout:
            values = values[..., None]
        else:
            values = np.moveaxis(values, layout.replace("T", "").index("C") + 1, -1)
        convert, _ = _conversion(clip, array, values)
        for k, frame in enumerate(values):
            yield k / fps, 1 / fps, partial(_to_rgb, frame, convert)

    def notes(self, clip: Clip) -> list[str]:
        """The range of values that is taken for black to white, where it is a guess."""
        with _arrays(clip.path) as arrays:
            array, _ = _frames_of(clip, arrays)
            if array.dtype == np.uint8:
                return []
            values = array.values(clip.path, _number(clip, array))
        return [f"values of {_conversion(clip, array, values)[1]} are black to white"]


@lru_cache(maxsize=256)  # of files with many clips
def _fingerprint(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _check_count(path: Path, array: _Stored) -> None:
    """Raise ReadError for an array of more clips than `most_members`."""
    if len(array.shape) == 5 and array.shape[0] > (most := most_members()):
        fix = f"split it, or set $KINEMA_MOST_FRAMES above {10 * most}"
        raise ReadError(path, f"it has an array of {array.shape[0]} clips, over {most}: {fix}")


def _number(clip: Clip, array: _Stored) -> int | None:
    """Which entry of an array of many clips a clip is; None where the array is one clip."""
    return int(clip.member.rpartition("[")[2].rstrip("]") or 0) if len(array.shape) == 5 else None


@dataclass(frozen=True, slots=True)
class _Stored:
    """An array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int | None], np.ndarray]  # the entry of this number of axis 0, or all of it
    least: int = 0  # bytes of memory that reading takes at least
    is_mapped: bool = False  # whether it takes none

    def values(self, path: Path, k: int | None) -> np.ndarray:
        """What is read of the file `path`; raises ReadError where it takes more memory than `most_bytes`."""
        size = max(self.least, math.prod(self.shape if k is None else self.shape[1:]) * self.dtype.itemsize)
        if size > (most := most_bytes()) and not self.is_mapped:
            takes = f"an array of {size / 1e9:.3g} GB, over {most / 1e9:g}"
            raise ReadError(path, f"reading it takes {takes}: save it as .npy, or set $KINEMA_MOST_GB higher")
        return np.asarray(self.read(k))  # HDF5 gives a number for a scalar


@contextmanager
def _arrays(path: Path) -> Iterator[dict[str, _Stored]]:
    """The arrays of a file by name, "" in a .npy; their values are not read yet."""
    try:
        with ExitStack() as stack:
            if path.suffix.lower() in HDF5:
                yield _of_hdf5(path, stack)
            elif path.suffix.lower() == ".npz":
                yield _of_npz(path, path.stat().st_mtime_ns)
            else:
                with HEADER_LOCK:
                    with path.open("rb") as file:
                        check_header(file)
                    array = np.load(path, mmap_mode="r", allow_pickle=False)
                read = lambda k: array if k is None else array[k]  # noqa: E731
                yield {"": _Stored(array.shape, array.dtype, read, is_mapped=True)}
    except ReadError:
        raise
    except Exception as error:  # of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ReadError(path, f"its arrays cannot be read ({reason})") from error


@lru_cache(maxsize=8)
def _of_npz(path: Path, changed: int) -> dict[str, _Stored]:
    """The arrays of a .npz, whose headers say their shapes; `changed` is another after a change."""
    found = {}
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            with suppress(ValueError), HEADER_LOCK, file.open(name) as member:  # what is no array says nothing
                check_header(member)
                version = np.lib.format.read_magic(member)
                headers = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
                shape, _, dtype = headers[version[0] > 1](member)
                read = partial(_read_npz, path, changed, name)
                whole = math.prod(shape) * dtype.itemsize  # which one entry needs too
                found[name.removesuffix(".npy")] = _Stored(shape, dtype, read, whole)
    return found


def _read_npz(path: Path, changed: int, name: str, k: int | None) -> np.ndarray:
    array = _whole_npz(path, changed, name)
    return array if k is None else array[k]


@lru_cache(maxsize=1)  # clips of one array are read one after another
def _whole_npz(path: Path, changed: int, name: str) -> np.ndarray:
    with HEADER_LOCK, zipfile.ZipFile(path) as file, file.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _of_hdf5(path: Path, stack: ExitStack) -> dict[str, _Stored]:
    """The datasets of an HDF5 file, those of its groups too."""
    try:
        import h5py
    except ImportError:
        raise ReadError(path, "HDF5 needs h5py: pip install 'kinema[hdf5]'") from None
    file, found = stack.enter_context(h5py.File(path, "r")), {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            if item.external or item.is_virtual:
                raise ReadError(path, f"its array {name} is in another file, which is not opened")
            chunk = math.prod(item.chunks or (0,)) * item.dtype.itemsize
            found[name] = _Stored(item.shape, item.dtype, lambda k: item[()] if k is None else item[k], chunk)

    file.visititems(add)
    return found


def _layout(array: _Stored) -> str | None:
    """The order of a clip's dimensions, such as "THWC"; None where an array is not of clips.

    Of the dimensions that may be the channels, the last counts, then the second, then the first.
    """
    shape = array.shape
    if array.dtype.kind not in "buif":
        return None
    one = shape[1:] if len(shape) == 5 else shape
    layouts = {3: ("THW",), 4: ("THWC", "TCHW", "CTHW")}.get(len(one), ())
    for layout in layouts:
        sizes = dict(zip(layout, one, strict=True))
        if min(shape) > 0 and min(sizes["H"], sizes["W"]) >= SMALLEST and sizes.get("C", 1) in CHANNELS:
            return layout
    return None


def _frames_of(clip: Clip, arrays: Mapping[str, _Stored]) -> tuple[_Stored, str]:
    """The array of a clip, all clips of it where there are many, and the order of a clip's dimensions."""
    array = arrays.get(clip.member) or arrays.get(clip.member.rpartition("[")[0])
    if array is None and not clip.member:  # the first array of frames
        array = next((one for one in arrays.values() if _layout(one) is not None), None)
    layout = None if array is None else _layout(array)
    if array is None or layout is None:
        shapes = ", ".join(str(one.shape) for one in arrays.values()) or "none"
        raise ReadError(clip.path, f"clips are arrays [T, H, W] or [T, H, W, 3], and its shapes are {shapes}")
    _check_count(clip.path, array)
    return array, layout


def _conversion(clip: Clip, array: _Stored, values: np.ndarray) -> tuple[tuple[float, float], str]:
    """The number to add to values and the number to multiply them with then, for levels of 0 to 255, and their range.

    Of an array of many clips, of which `values` are one, that of all of them counts.
    """
    if values.dtype == np.uint8:
        return (0.0, 1.0), "0 to 255"
    if values.dtype == np.bool_:
        return (0.0, 255.0), "false and true"
    if len(array.shape) == 5:
        low, high = _extremes(clip.path, clip.path.stat().st_mtime_ns, clip.member.rpartition("[")[0])
    else:
        low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and low >= -1 - BEYOND and high <= 1 + BEYOND:
        return ((1.0, 127.5), "-1 to 1") if low < -BEYOND else ((0.0, 255.0), "0 to 1")
    if low >= 0 and high <= 255:
        return (0.0, 1.0), "0 to 255"
    raise ReadError(
        clip.path,
        f"its values are {values.dtype} from {low:g} to {high:g}: give uint8, or numbers in [0, 1] or [-1, 1]",
    )


@lru_cache(maxsize=64)
def _extremes(path: Path, changed: int, name: str) -> tuple[float, float]:
    """The least and the greatest value of an array of many clips, read clip by clip."""
    with _arrays(path) as arrays:
        array = arrays[name]
        ends = [(float(one.min()), float(one.max())) for one in (array.values(path, k) for k in range(array.shape[0]))]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _to_rgb(frame: np.ndarray, convert: tuple[float, float]) -> UInt8[np.ndarray, "H W 3"]:
    add, factor = convert
    if frame.dtype != np.uint8:
        frame = by_rows(
            lambda rows: np.rint((rows.astype(np.float32) + add) * factor).clip(0, 255).astype(np.uint8), frame
        )
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))
