"""Shipped weights, model files, and the resolver of model names."""

from kinema.zoo.files import (
    FORMAT,
    ModelFile,
    export,
    find_model_file,
    is_model,
    load_codec,
    load_config,
    load_model,
    shipped,
)

__all__ = [
    "FORMAT",
    "ModelFile",
    "export",
    "find_model_file",
    "is_model",
    "load_codec",
    "load_config",
    "load_model",
    "shipped",
]
