"""Reading arrays of frames: .npy, .npz and HDF5 files."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kinema.data.readers.base import NOMINAL_FPS, Clip, ClipInfo, Picture, Reader, ReadError

__all__ = ["ArrayReader"]

HDF5 = frozenset({".h5", ".hdf5"})
CHANNELS = (1, 3)  # of a frame
SMALLEST = 8  # pixels of a side; arrays with less are of something else, such as points
RATE = "fps"  # the name of an array with the frames a second of all clips in its file


class ArrayReader(Reader):
    """Reads arrays of frames: [T, H, W] (grey), [T, H, W, C], [T, C, H, W] or [C, T, H, W] with C 1 or 3.

    Arrays of five dimensions are many clips. Values are uint8, or floating-point numbers in [0, 1] or [-1, 1]. Every
    array of a .npz or HDF5 file with a shape of clips is one or many; a scalar `fps` is their rate, otherwise 25.
    """

    suffixes = frozenset({".npy", ".npz", *HDF5})

    def clips(self, path: Path) -> Sequence[Clip]:
        """A clip for each array of frames; none in a file of other numbers, such as actions, and in a bad file one."""
        try:
            with _arrays(path) as arrays:
                found = []
                for name, array in arrays.items():
                    if _layout(array.shape) is not None:
                        many = len(array.shape) == 5
                        names = [f"{name}[{k}]" for k in range(array.shape[0])] if many else [name]
                        found += [Clip(path, member) for member in names]
                return found
        except ReadError:
            return [Clip(path)]  # which is named when it is read

    def info(self, clip: Clip) -> ClipInfo:
        """The size, rate and number of frames."""
        with _arrays(clip.path) as arrays:
            array, layout = _frames_of(clip, arrays)
            fps = float(arrays[RATE].read(None)) if RATE in arrays else NOMINAL_FPS
            sizes = dict(zip(layout, array.shape[-len(layout) :], strict=True))
        if not 0 < fps < float("inf"):
            raise ReadError(clip.path, f"its fps is {fps:g}")
        return ClipInfo(sizes["W"], sizes["H"], fps, None, sizes["T"], sizes["T"] / fps)

    def recording(self, clip: Clip, threads: int = 0) -> Iterator[tuple[float, float, Picture]]:
        """Yield the frames as RGB."""
        fps = self.info(clip).fps
        with _arrays(clip.path) as arrays:
            array, layout = _frames_of(clip, arrays)
            values = array.read(int(clip.member.rpartition("[")[2][:-1]) if len(array.shape) == 5 else None)
        values = np.moveaxis(values, layout.index("T"), 0)
        if "C" not in layout:
            values = values[..., None]
        else:
            values = np.moveaxis(values, layout.replace("T", "").index("C") + 1, -1)
        convert = _conversion(clip, values)
        for k, frame in enumerate(values):
            yield k / fps, 1 / fps, partial(_to_rgb, frame, convert)


@dataclass(frozen=True, slots=True)
class _Stored:
    """An array in a file."""

    shape: tuple[int, ...]
    read: Callable[[int | None], np.ndarray]  # the entry of this number of axis 0, or all of it


@contextmanager
def _arrays(path: Path) -> Iterator[dict[str, _Stored]]:
    """The arrays of a file by name, "" in a .npy; their values are not read yet."""
    try:
        with ExitStack() as stack:
            if path.suffix.lower() in HDF5:
                yield _of_hdf5(path, stack)
            elif path.suffix.lower() == ".npz":
                yield _of_npz(stack.enter_context(zipfile.ZipFile(path)))
            else:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                yield {"": _Stored(array.shape, lambda k: array if k is None else array[k])}
    except ReadError:
        raise
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ReadError(path, f"its arrays cannot be read ({str(error).splitlines()[0]})") from error


def _of_npz(file: zipfile.ZipFile) -> dict[str, _Stored]:
    """The arrays of a .npz, whose headers say their shapes."""

    def read(name: str, k: int | None) -> np.ndarray:
        with file.open(name) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
        return array if k is None else array[k]

    found = {}
    for name in file.namelist():
        with file.open(name) as member:
            version = np.lib.format.read_magic(member)
            headers = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
            shape, _, _ = headers[version[0] > 1](member)
        found[name.removesuffix(".npy")] = _Stored(shape, partial(read, name))
    return found


def _of_hdf5(path: Path, stack: ExitStack) -> dict[str, _Stored]:
    """The datasets of an HDF5 file, those of its groups too."""
    try:
        import h5py
    except ImportError:
        raise ReadError(path, "HDF5 needs h5py: pip install 'kinema[hdf5]'") from None
    file, found = stack.enter_context(h5py.File(path, "r")), {}

    def add(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = _Stored(item.shape, lambda k: item[()] if k is None else item[k])

    file.visititems(add)
    return found


def _layout(shape: tuple[int, ...]) -> str | None:
    """The order of a clip's dimensions, such as "THWC"; None where these are not the dimensions of clips.

    Of the dimensions that may be the channels, the last counts, then the second, then the first.
    """
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
    layout = None if array is None else _layout(array.shape)
    if array is None or layout is None:
        shapes = ", ".join(str(one.shape) for one in arrays.values()) or "none"
        raise ReadError(clip.path, f"clips are arrays [T, H, W] or [T, H, W, 3], and its shapes are {shapes}")
    return array, layout


def _conversion(clip: Clip, values: np.ndarray) -> tuple[float, float]:
    """The number to add to values, and the number to multiply them with then, for levels of 0 to 255."""
    if values.dtype == np.uint8:
        return 0.0, 1.0
    if values.dtype == np.bool_:
        return 0.0, 255.0
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and low >= -1 and high <= 1:
        return (1.0, 127.5) if low < 0 else (0.0, 255.0)
    if low >= 0 and high <= 255:
        return 0.0, 1.0
    raise ReadError(
        clip.path,
        f"its values are {values.dtype} from {low:g} to {high:g}: give uint8, or numbers in [0, 1] or [-1, 1]",
    )


def _to_rgb(frame: np.ndarray, convert: tuple[float, float]) -> UInt8[np.ndarray, "H W 3"]:
    add, factor = convert
    if frame.dtype != np.uint8:
        frame = np.rint((frame.astype(np.float32) + add) * factor).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))
