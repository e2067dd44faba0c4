"""Registries of families, codecs, worlds and readers, which installed packages can extend by entry points.

For example in a package's pyproject.toml:

    [project.entry-points."kinema.families"]
    my-family = "my_package.model:MyConfig"

The groups are kinema.families, kinema.codecs, kinema.worlds and kinema.readers.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ["CODECS", "FAMILIES", "READERS", "WORLDS", "Registry"]


class Registry:
    """Objects by name, imported on first use."""

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind, self.group, self._builtin = kind, group, dict(builtin)

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        found = entry_points(group=self.group)
        for point in found:
            if point.name in self._builtin:
                package = point.dist.name if point.dist else point.value
                warnings.warn(
                    f"{package} adds a {self.kind} {point.name!r}, which is kinema's own: ignored", stacklevel=2
                )
        return {point.name: point for point in found if point.name not in self._builtin}

    @property
    def names(self) -> tuple[str, ...]:
        """All names, kinema's own first."""
        return (*self._builtin, *sorted(self._installed))

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._installed

    def __getitem__(self, name: str) -> Any:
        """The object called `name`; raises ValueError if there is none or its package fails to load."""
        if name in self._builtin:
            module, attribute = self._builtin[name].split(":")
            return getattr(import_module(module), attribute)
        if name not in self._installed:
            raise ValueError(f"there is no {self.kind} {name!r}; there are {', '.join(self.names)}")
        point = self._installed[name]
        try:
            return point.load()
        except Exception as error:  # another package's code may raise anything
            package = point.dist.name if point.dist else point.value
            raise ValueError(f"{self.kind} {name!r} of {package} cannot be loaded: {error}") from error

    def _loads_as(self, name: str, value: type) -> bool:
        try:
            return self[name] is value
        except ValueError:  # a package that fails to load is not the one that is looked for
            return False

    def name_of(self, value: type) -> str:
        """The name of a registered class; raises ValueError for another one."""
        place = f"{value.__module__}:{value.__qualname__}"
        places = self._builtin | {name: point.value for name, point in self._installed.items()}
        for name, other in places.items():
            if other == place or (name in self._installed and self._loads_as(name, value)):
                return name
        raise ValueError(f"{place} is no registered {self.kind}: register it by an entry point in {self.group}")


FAMILIES = Registry(  # subclasses of FamilyConfig
    "family",
    "kinema.families",
    {
        "latent-dit": "kinema.families.latent_dit.model:LatentDiTConfig",
        "mocogan": "kinema.families.mocogan:MoCoGANConfig",
        "svg-lp": "kinema.families.svg_lp:SVGLPConfig",
        "tgan": "kinema.families.tgan:TGANConfig",
        "token-transformer": "kinema.families.token_transformer.model:TokenTransformerConfig",
        "vgan": "kinema.families.vgan:VGANConfig",
        "video-vae": "kinema.codecs.video_vae:VideoVAEConfig",
    },
)
CODECS = Registry(  # CodecConfig classes
    "codec",
    "kinema.codecs",
    {
        "transform": "kinema.codecs.transform:TransformConfig",
        "video-vae": "kinema.codecs.video_vae:VideoVAEConfig",
    },
)
WORLDS = Registry(  # Source classes, called with frames, height and width
    "world",
    "kinema.worlds",
    {
        "shape-motion": "kinema.worlds.shape_motion:ShapeMotion",
        "sprites": "kinema.worlds.sprites:Sprites",
    },
)
READERS = Registry(  # Reader classes
    "reader",
    "kinema.readers",
    {
        "video": "kinema.data.readers.video:VideoReader",
        "frames": "kinema.data.readers.frames:FramesReader",
        "image": "kinema.data.readers.image:ImageReader",
        "array": "kinema.data.readers.array:ArrayReader",
        "lerobot": "kinema.data.readers.lerobot:LeRobotReader",
        "webdataset": "kinema.data.readers.webdataset:WebDatasetReader",
        "dicom": "kinema.data.readers.dicom.reader:DICOMReader",
    },
)
