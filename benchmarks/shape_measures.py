"""Measures for Shape Motion alone: the colour of its shape, and a classifier of its motion.

Shape colour is the content of MoCoGAN's Average Content Distance (Tulyakov et al., CVPR 2018, arXiv 1707.04993, section
4, Table 1). How the authors segment the shape and scale its colour is not stated; the protocol here is:

1. A pixel's brightness is its largest channel, black being 0.
2. The shape is where the brightness is at least half of the frame's largest, so dark shapes count as bright ones do,
   and a black frame counts as a black shape.
3. The shape loses its outermost ring of pixels, so that antialiased or blurred edges do not count as a change of
   colour. A shape without an interior is kept as it is.
4. The content is the mean RGB over what is left, from 0 to 255 a channel.

Real clips of Shape Motion have a distance of 0.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from kinema.data.clips import Source
from kinema.runtime.device import Runtime, channels_last

WIDTHS = (3, 16, 32, 64)
AT_ONCE = 32  # clips in memory


def shape_colour(frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B T 3"]:
    """The average RGB in 0..255 of the shape in each frame, over black, of `frames` in [-1, 1]."""
    colour = (frames + 1) * 127.5
    brightness = colour.amax(2)  # [B, T, H, W]
    shape = brightness >= brightness.amax((-2, -1), keepdim=True) / 2
    interior = F.max_pool2d((~shape).to(colour.dtype), kernel_size=3, stride=1, padding=1) == 0
    shape = torch.where(interior.any(-1).any(-1)[..., None, None], interior, shape)
    weights = shape.to(colour.dtype) / shape.sum((-2, -1), keepdim=True)
    return torch.einsum("btchw,bthw->btc", colour, weights)


class MotionClassifier(nn.Module):
    """Clips [B, T, 3, H, W] to a logit a class [B, K], for any T from 2 on and sides of 8 pixels or more.

    Three 3D convolutions that halve the frames' sides, on the clip and its frame differences, the mean over all
    places and times, and a linear layer.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o in pairwise((2 * WIDTHS[0], *WIDTHS[1:])):
            layers += [nn.Conv3d(i, o, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(o), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classes = nn.Linear(WIDTHS[-1], classes)

    def forward(self, frames: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B K"]:
        clip = torch.cat([frames[:, 1:], frames.diff(dim=1)], 2)
        return self.classes(self.features(rearrange(clip, "b t c h w -> b c t h w")).mean((2, 3, 4)))


def train_classifier(
    source: Source, runtime: Runtime, *, steps: int = 300, batch: int = 32, seed: int = 0
) -> MotionClassifier:
    """A trained classifier of the labelled clips of `source`; raises ValueError if they have no labels."""
    if not source.spec.classes:
        raise ValueError("a motion classifier learns from labelled clips, and these have no labels")
    torch.manual_seed(seed)
    generator = torch.Generator(runtime.device).manual_seed(seed)
    classifier = MotionClassifier(len(source.spec.classes)).to(runtime.device)
    channels_last(classifier)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        clips = source.batch(step, batch, seed=seed).to(runtime.device)
        assert clips.conditions.label is not None
        # of any brightness, so that dim or blurred shapes are classified as well as real ones
        level = torch.rand(batch, 1, 1, 1, 1, generator=generator, device=runtime.device) * 0.9 + 0.1
        with runtime.autocast():
            logits = classifier((clips.frames + 1) * level - 1)
        loss = F.cross_entropy(logits.float(), clips.conditions.label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.inference_mode()
def motion_control(
    classifier: MotionClassifier, frames: Float[Tensor, "B T 3 H W"], requested: Int64[Tensor, " B"], runtime: Runtime
) -> Float[Tensor, " B"]:
    """1 for each clip in [-1, 1] that is classified as the motion that was requested, else 0."""
    device = next(classifier.parameters()).device
    with runtime.autocast():
        logits = torch.cat([classifier(part.to(device)) for part in frames.split(AT_ONCE)])
    return (logits.argmax(1) == requested.to(device)).float().cpu()
