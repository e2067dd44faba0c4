"""Does MoCoGAN's clip critic see that a shape changes its colour? What keeping content has to be learned from.

    python benchmarks/critic_sight.py --run runs/shape-motion/mocogan-0 --steps 2000

The first table is of a run that benchmarks/shape_motion.py has trained: the mean of the clip critic's logits for clips
of Shape Motion, for the same clips wronged in some way, and for the run's own; "below" is the share of them that it
finds less real than the clip they were made of (of the run's own: than some real one).

The second is of the same critic untrained, which is then taught this alone: to tell clips from others whose shape goes
evenly from its own colour to another clip's, 8 of both a step with that run's loss and learning rate. It is the share
of 64 held-out clips that it finds more real than the same ones wronged: 0.5 is blind.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from shape_motion import FRAMES, MOCOGAN, SIDE
from torch import Tensor, nn

from kinema import checkpoint, run
from kinema.families.mocogan import MoCoGAN
from kinema.metrics.acd import shape_colour
from kinema.nn.adversarial import Penalty, critic_loss
from kinema.train import Experiment, Trainer
from kinema.types import Noise
from kinema.worlds.shape_motion import ShapeMotion

CLIPS = 64
HELD_OUT = 1_000  # the seed of clips that are judged; training's is 0
BATCH, LR, BETAS = 8, 1e-3, (0.5, 0.999)  # as that run's

Clips = Float[Tensor, "B T 3 H W"]


def recoloured(clips: Clips, share: Float[Tensor, " T"]) -> Clips:
    """The clips with so much of another clip's colour in each frame: the next one's."""
    colour = shape_colour(clips) / 255  # [B, T, 3]
    mixed = colour + share[:, None] * (colour.roll(1, 0) - colour)
    values = (clips + 1) / 2
    cover = values.amax(2, keepdim=True) / colour.amax(2).clamp(min=1e-3)[..., None, None, None]  # of a pixel
    return cover.clamp(max=1) * mixed[..., None, None] * 2 - 1


def sliding(clips: Clips) -> Clips:
    """The clips with a shape that goes evenly from its own colour to another's."""
    return recoloured(clips, torch.linspace(0, 1, clips.shape[1]))


WRONGED: dict[str, Callable[[Clips], Clips]] = {
    "its own colour, drawn as the next": lambda clips: recoloured(clips, torch.zeros(clips.shape[1])),
    "colour goes evenly to another": sliding,
    "colour jumps half-way": lambda clips: recoloured(
        clips, (torch.arange(clips.shape[1]) >= clips.shape[1] // 2) * 1.0
    ),
    "frames shuffled": lambda clips: clips[
        :, torch.randperm(clips.shape[1], generator=torch.Generator().manual_seed(0))
    ],
}


def judged(critic: nn.Module, clips: Clips) -> Float[Tensor, " B"]:
    """The critic's mean logit for real of each clip."""
    with torch.no_grad():
        return critic(clips.transpose(1, 2), torch.Generator().manual_seed(0))[:, 0].flatten(1).mean(1)


def of_run(path: Path, real: Clips) -> Table:
    """What a run's critic says of real, wronged and generated clips."""
    last, place = checkpoint.find(path), run.Run(torch.device("cpu"), torch.float32)
    experiment, _ = Experiment.from_dict(json.loads((last / checkpoint.CONFIG).read_text()), str(last))
    trainer = Trainer(experiment, ShapeMotion(FRAMES, SIDE, SIDE), place)
    trainer.restore(checkpoint.load(last))
    family = trainer.family.eval()
    assert isinstance(family, MoCoGAN)
    table = Table(title=f"the clip critic of {path} after {trainer.step:,} steps, {len(real)} clips each")
    for header in ("clips", "logit", "sd", "below"):
        table.add_column(header, justify="left" if header == "clips" else "right")
    truth = judged(family.video_critic, real)
    with trainer.averaged() as averaged:
        labels = torch.arange(len(real)) % 2
        given = ShapeMotion(FRAMES, SIDE, SIDE).batch(0, len(real), seed=HELD_OUT).given
        own = torch.cat(list(averaged.generate(type(given)(label=labels), FRAMES, Noise(tuple(range(len(real)))))), 1)
    rows = {"real": real, **{name: wrong(real) for name, wrong in WRONGED.items()}, "generated": own}
    for name, clips in rows.items():
        found = judged(family.video_critic, clips.detach())
        below = "" if clips is real else f"{(found < truth).float().mean():.2f}"
        table.add_row(name, f"{found.mean():.2f}", f"{found.std():.2f}", below)
    return table


def taught(penalty: float, steps: int, marks: Sequence[int]) -> list[float]:
    """How many held-out clips the critic tells apart after each of `marks` steps."""
    torch.manual_seed(0)
    world, place, generator = ShapeMotion(FRAMES, SIDE, SIDE), run.start(), torch.Generator().manual_seed(0)
    family = MOCOGAN.fitted(world.facts).build()
    critic = family.video_critic
    optimizer = torch.optim.AdamW(critic.parameters(), LR, BETAS, weight_decay=0.0)
    real = world.batch(0, CLIPS, seed=HELD_OUT).frames
    wrong, found, penalise = sliding(real), [], Penalty(penalty)
    for step in range(steps):
        clips = (world.batch(step, BATCH, seed=0).frames, sliding(world.batch(step, BATCH, seed=1).frames))
        right, slid = (x.transpose(1, 2) for x in clips)
        with place.autocast():

            def see(x: Tensor) -> Tensor:
                return critic(x, generator)[:, 0]

            loss = critic_loss("relativistic", see(right), see(slid)) + penalise(see, right, slid)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        if step + 1 in marks:
            found.append((judged(critic, real) > judged(critic, wrong)).float().mean().item())
    return found


def main() -> None:
    """Judge, teach, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="of MoCoGAN on Shape Motion; without it the first table is left out")
    parser.add_argument("--steps", type=int, default=2000, help="that a critic is taught for (%(default)s)")
    parser.add_argument(
        "--penalty", type=float, nargs="+", default=[0.0, MOCOGAN.penalty * FRAMES], help="%(default)s if not given"
    )
    arguments = parser.parse_args()
    if arguments.steps < 8:
        parser.error("--steps must be at least 8")
    console = Console(width=120)
    if arguments.run:
        console.print(of_run(arguments.run, ShapeMotion(FRAMES, SIDE, SIDE).batch(0, CLIPS, seed=HELD_OUT).frames))
    marks = [arguments.steps // k for k in (8, 4, 2, 1)]
    table = Table(title="taught to tell a colour that stays from one that goes to another: share told apart")
    table.add_column("penalty of a clip")
    for mark in marks:
        table.add_column(f"{mark:,} steps", justify="right")
    for penalty in arguments.penalty:
        table.add_row(f"{penalty:g}", *(f"{share:.2f}" for share in taught(penalty, arguments.steps, marks)))
    console.print(table)


if __name__ == "__main__":
    main()
