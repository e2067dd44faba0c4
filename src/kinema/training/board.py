"""Scalars and images for TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # it is made at run time
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

__all__ = ["Board"]


class Board:
    """An event file in `folder`, written at once and by no thread, so that a full disk is an error where it is used.

    Each call raises OSError if it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        path = folder / name
        self._writer = RecordWriter(path.open("ab"))
        try:
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add a number."""
        self._add(Summary.Value(tag=tag, simple_value=value), step)

    def add_image(self, tag: str, image: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        """Add a picture, as PNG."""
        stored, (height, width, _) = BytesIO(), image.shape
        Image.fromarray(image).save(stored, "PNG")
        encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=stored.getvalue())
        self._add(Summary.Value(tag=tag, image=encoded), step)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, value: Summary.Value, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()
