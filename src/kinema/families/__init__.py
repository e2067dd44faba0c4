"""The families, by name; a family's module is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module

from kinema.family import FamilyConfig

__all__ = ["FAMILIES", "config_class"]

FAMILIES = {
    "latent-dit": "kinema.families.latent_dit:LatentDiTConfig",
    "mocogan": "kinema.families.mocogan:MoCoGANConfig",
    "svg-lp": "kinema.families.svg_lp:SVGLPConfig",
    "tgan": "kinema.families.tgan:TGANConfig",
    "token-transformer": "kinema.families.token_transformer:TokenTransformerConfig",
    "vgan": "kinema.families.vgan:VGANConfig",
    "video-vae": "kinema.families.video_vae:VideoVAEConfig",
}


def config_class(name: str) -> type[FamilyConfig]:
    """The configuration class of the family called `name`; raises ValueError, with the names there are."""
    if name not in FAMILIES:
        raise ValueError(f"there is no family {name!r}; there are {', '.join(FAMILIES)}")
    module, attribute = FAMILIES[name].split(":")
    return getattr(import_module(module), attribute)
