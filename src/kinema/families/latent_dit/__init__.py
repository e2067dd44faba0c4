"""Latent DiT: a diffusion transformer over a clip's latents, with a noise level for each frame."""

from kinema.families.latent_dit.model import LatentDiT, LatentDiTConfig
from kinema.families.latent_dit.sampling import LatentDiTSampling

__all__ = ["LatentDiT", "LatentDiTConfig", "LatentDiTSampling"]
