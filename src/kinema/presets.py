"""Complete configurations by family and name; every field can be overridden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.data.clips import DataConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig, LatentDiTSampling
from kinema.families.mocogan import MoCoGANConfig
from kinema.families.svg_lp import SVGLPConfig
from kinema.families.tgan import TGANConfig
from kinema.families.token_transformer import TokenTransformerConfig
from kinema.families.vgan import VGANConfig
from kinema.registry import FAMILIES

__all__ = ["PRESETS", "preset"]


def latent_dit_cpu() -> Experiment:
    """For a laptop: 17 frames of 64x64 as 5x16x16 latents of a transform that is fitted to the clips."""
    train = replace(_denoising(), batch=16, optimizer="muon", lr=2e-3, cooldown=0.4)
    # fresh noise, and many steps under much noise, where what moves is decided: benchmarks/sampling.py
    sampling = LatentDiTSampling(solver="ddpm", shift=16.0)
    family = LatentDiTConfig(codec="transform", patch=(1, 2), merged_hidden=384, local_conv=True, sampling=sampling)
    return Experiment(family, DataConfig(frames=17), train)


def latent_dit_pixels() -> Experiment:
    """For a laptop, without a codec: pixels of 16 frames at 64x64, patches of 2 frames of 8x8 pixels."""
    family = LatentDiTConfig(patch=(2, 8), attention="factorised", parameterisation="data", shift=4.0)
    return Experiment(family, DataConfig(), _denoising())


def latent_dit_latent() -> Experiment:
    """For a laptop, with a trained codec, in runs/codec or --family.codec: 17 frames of 64x64 as 5x8x8 latents."""
    return Experiment(LatentDiTConfig(codec="runs/codec"), DataConfig(frames=17), _denoising())


def latent_dit_sprites() -> Experiment:
    """The shipped model: the sprite world, 17 frames of 64x64, with video-vae's preset sprites in runs/codec."""
    sampling = LatentDiTSampling(steps=16, solver="ddpm", guidance=3.0, shift=3.0, stagger=0.25, candidates=4)
    family = LatentDiTConfig(
        codec="runs/codec",
        patch=(1, 2),
        hidden=256,
        depth=7,
        shift=6.0,
        context_rate=0.4,
        staggered_rate=0.7,
        sampling=sampling,
    )
    train = replace(_denoising(), batch=48, optimizer="muon", lr=2e-3, ema_decay=0.999)
    return Experiment(family, DataConfig("sprites", frames=17, cache_latents=64_000), train)


def latent_dit_gpu() -> Experiment:
    """For one GPU, with a codec in runs/codec: DiT-S with 384 channels and 12 blocks, 32 clips a step."""
    family = LatentDiTConfig(codec="runs/codec", hidden=384, depth=12, heads=6)
    return Experiment(family, DataConfig(frames=17), replace(_denoising(), batch=32, lr=3e-4, ema_decay=0.999))


def _denoising() -> TrainConfig:
    return TrainConfig(batch=8, lr=1e-3, betas=(0.9, 0.99), clip_norm=1.0, ema_decay=0.998)


def mocogan_paper() -> Experiment:
    """The authors' network and recipe at 64x64, 16 frames: 32 clips a step, noise in the critics, no moving average."""
    return Experiment(MoCoGANConfig(), DataConfig(), TrainConfig(batch=32, ema_decay=0.0))


def mocogan_cpu() -> Experiment:
    """For a laptop and tens to thousands of clips: in latents of a transform, relativistic loss with R1 and R2."""
    family = MoCoGANConfig(ngf=32, ndf=16, ndf_image=32, noise=0.0, **_adversarial())
    return Experiment(family, DataConfig(), _adversarial_training())


def mocogan_demo() -> Experiment:
    """For Shape Motion in two minutes on a laptop: 10 frames of 32x32, relativistic loss with R1 and R2."""
    family = MoCoGANConfig(
        ngf=32, coordinates=True, ndf=16, ndf_image=32, norm="none", noise=0.0, loss="relativistic", penalty=2.0
    )
    train = TrainConfig(batch=8, lr=1e-3, clip_norm=1.0, ema_decay=0.99)
    return Experiment(family, DataConfig(frames=10, height=32, width=32), train)


def mocogan_gpu() -> Experiment:
    """For one GPU: the authors' network and losses in pixels, with augmentation, and 64 clips a step."""
    return Experiment(MoCoGANConfig(augment=True), DataConfig(), TrainConfig(batch=64, ema_decay=0.999))


def _adversarial() -> dict[str, Any]:
    """The settings of the families with critics for a laptop."""
    return {
        "codec": "transform",
        "norm": "none",
        "loss": "relativistic",
        "penalty": 2.0,
        "penalty_decay_steps": 4000,
        "augment": True,
    }


def _adversarial_training() -> TrainConfig:
    return TrainConfig(batch=8, lr=5e-4, betas=(0.0, 0.99), cooldown=0.3, ema_decay=0.998)


def svg_lp_paper() -> Experiment:
    """The authors' network and recipe for Moving MNIST: 5 of 15 frames known, 100 clips a step, no moving average."""
    return Experiment(
        SVGLPConfig(), DataConfig(frames=15), TrainConfig(batch=100, lr=2e-3, betas=(0.9, 0.999), ema_decay=0.0)
    )


def svg_lp_cpu() -> Experiment:
    """For a laptop: 5 of 16 frames known, half the channels, fewer clips a step and a moving average."""
    return Experiment(
        SVGLPConfig(channels=32), DataConfig(), TrainConfig(batch=16, lr=1e-3, betas=(0.9, 0.999), ema_decay=0.998)
    )


def tgan_paper() -> Experiment:
    """The authors' network and recipe at 64x64, 16 frames, 32 clips a step; AdamW in place of their RMSprop."""
    return Experiment(TGANConfig(), DataConfig(), TrainConfig(batch=32, lr=5e-5, betas=(0.0, 0.99), ema_decay=0.0))


def tgan_cpu() -> Experiment:
    """For a laptop: in latents of a transform, relativistic loss with R1 and R2 in place of clipping."""
    return Experiment(TGANConfig(ngf=32, ndf=32, clip_every=0, **_adversarial()), DataConfig(), _adversarial_training())


def token_transformer_cpu() -> Experiment:
    """For a laptop, with --family.codec RUN: 17 frames of 64x64 as 320 tokens, autoregressive, 6.6M weights."""
    return _tokens(TokenTransformerConfig())


def token_transformer_masked() -> Experiment:
    """The preset cpu with masked decoding: all tokens of a clip in 12 steps."""
    return _tokens(TokenTransformerConfig(mode="masked"))


def _tokens(family: TokenTransformerConfig) -> Experiment:
    train = TrainConfig(batch=16, lr=5e-4, betas=(0.9, 0.95), clip_norm=1.0, ema_decay=0.998)
    return Experiment(family, DataConfig(frames=17), train)


def vgan_paper() -> Experiment:
    """The authors' network and recipe: 64x64, 32 frames, 64 clips a step."""
    return Experiment(VGANConfig(), DataConfig(frames=32), TrainConfig(batch=64, ema_decay=0.0))


def vgan_cpu() -> Experiment:
    """For a laptop and tens to thousands of clips: in latents of a transform, relativistic loss with R1 and R2."""
    return Experiment(VGANConfig(ngf=32, ndf=32, **_adversarial()), DataConfig(), _adversarial_training())


def video_vae_cpu() -> Experiment:
    """For a laptop: 17 frames of 64x64 as 5x8x8 Gaussian latents; tokens with --family.levels 8 5 5 5."""
    return Experiment(
        VideoVAEConfig(),
        DataConfig(frames=17),
        TrainConfig(batch=8, lr=1e-3, betas=(0.9, 0.99), clip_norm=1.0, ema_decay=0.998),
    )


def video_vae_sprites() -> Experiment:
    """The codec of the shipped model: the sprite world, 17 frames as 5x8x8 latents, trained with noise."""
    family = VideoVAEConfig(fold=4, hidden=48, noise=0.4)
    return Experiment(family, DataConfig("sprites", frames=17), replace(video_vae_cpu().train, batch=4))


PRESETS: dict[str, dict[str, Callable[[], Experiment]]] = {
    "latent-dit": {
        "cpu": latent_dit_cpu,
        "gpu": latent_dit_gpu,
        "latent": latent_dit_latent,
        "pixels": latent_dit_pixels,
        "sprites": latent_dit_sprites,
    },
    "mocogan": {"cpu": mocogan_cpu, "demo": mocogan_demo, "gpu": mocogan_gpu, "paper": mocogan_paper},
    "svg-lp": {"cpu": svg_lp_cpu, "paper": svg_lp_paper},
    "tgan": {"cpu": tgan_cpu, "paper": tgan_paper},
    "token-transformer": {"cpu": token_transformer_cpu, "masked": token_transformer_masked},
    "vgan": {"cpu": vgan_cpu, "paper": vgan_paper},
    "video-vae": {"cpu": video_vae_cpu, "sprites": video_vae_sprites},
}


def preset(family: str, name: str = "cpu") -> Experiment:
    """The preset `name` of a family; raises ValueError, with the names that exist.

    A family of another package has one preset, "cpu", with its defaults.
    """
    config = FAMILIES[family]
    presets = PRESETS.get(family, {"cpu": lambda: Experiment(config())})
    if name not in presets:
        raise ValueError(f"{family} has no preset {name!r}; it has {', '.join(presets)}")
    return presets[name]()
