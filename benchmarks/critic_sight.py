"""Whether MoCoGAN's clip critic sees that a shape changes its colour, which the generator has to learn from it.

    python benchmarks/critic_sight.py --run runs/shape-motion/mocogan-0 --steps 2000

The first table is of a run that benchmarks/shape_motion.py has trained: the mean of the clip critic's logits for clips
of Shape Motion, for the same clips changed in some way, and for the run's own; "below" is the share of them that it
finds less real than the clip they were made of (of the run's own: than a real one).

The second is of the same critic trained from the beginning on one task: to tell clips from others whose shape fades
from its own colour to another clip's, 8 of both a step with that run's loss and learning rate. It is the share of 64
held-out clips that it finds more real than the same ones changed: 0.5 is chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from runs import CPU
from shape_measures import shape_colour
from shape_motion import FRAMES, MOCOGAN, SIDE
from torch import Tensor, nn

from kinema.experiment import Experiment
from kinema.families.mocogan import MoCoGAN
from kinema.nn.adversarial import Penalty, critic_loss
from kinema.runtime.device import Runtime, detect_runtime
from kinema.training import checkpoint
from kinema.training.loop import Trainer
from kinema.types import Conditions, Seeds
from kinema.worlds.shape_motion import ShapeMotion

CLIPS = 64
HELD_OUT = 1_000  # the seed of clips that are measured; training's is 0
BATCH, LR, BETAS = 8, 1e-3, (0.5, 0.999)  # as that run's

Clips = Float[Tensor, "B T 3 H W"]


def recoloured(clips: Clips, share: Float[Tensor, " T"]) -> Clips:
    """The clips with a `share` of the next clip's colour in each frame."""
    colour = shape_colour(clips) / 255  # [B, T, 3]
    mixed = colour + share[:, None] * (colour.roll(1, 0) - colour)
    values = (clips + 1) / 2
    cover = values.amax(2, keepdim=True) / colour.amax(2).clamp(min=1e-3)[..., None, None, None]  # of a pixel
    return cover.clamp(max=1) * mixed[..., None, None] * 2 - 1


def fading(clips: Clips) -> Clips:
    """The clips with a shape that fades from its own colour to another's."""
    return recoloured(clips, torch.linspace(0, 1, clips.shape[1]))


CHANGES: dict[str, Callable[[Clips], Clips]] = {
    "its own colour, drawn as the next": lambda clips: recoloured(clips, torch.zeros(clips.shape[1])),
    "colour fades to another": fading,
    "colour jumps half-way": lambda clips: recoloured(
        clips, (torch.arange(clips.shape[1]) >= clips.shape[1] // 2) * 1.0
    ),
    "frames shuffled": lambda clips: clips[
        :, torch.randperm(clips.shape[1], generator=torch.Generator().manual_seed(0))
    ],
}


def logits_of(critic: nn.Module, clips: Clips) -> Float[Tensor, " B"]:
    """The critic's mean logit for real of each clip."""
    with torch.no_grad():
        return critic(clips.transpose(1, 2), torch.Generator().manual_seed(0))[:, 0].flatten(1).mean(1)


def of_run(path: Path, real: Clips) -> Table:
    """The logits of a run's critic for real, changed and generated clips."""
    state = checkpoint.load(path)
    experiment, _ = Experiment.from_dict(state.config, str(path))
    trainer = Trainer(experiment, ShapeMotion(FRAMES, SIDE, SIDE), Runtime(CPU, torch.float32))
    trainer.restore(state)
    family = trainer.family.eval()
    assert isinstance(family, MoCoGAN)
    table = Table(title=f"the clip critic of {path} after {trainer.step:,} steps, {len(real)} clips each")
    for header in ("clips", "logit", "sd", "below"):
        table.add_column(header, justify="left" if header == "clips" else "right")
    truth = logits_of(family.video_critic, real)
    with trainer.averaged() as averaged, torch.no_grad():
        labels = Conditions(label=torch.arange(len(real)) % 2)
        own = torch.cat(list(averaged.generate(labels, FRAMES, Seeds(tuple(range(len(real)))))), 1)
    rows = {"real": real, **{name: change(real) for name, change in CHANGES.items()}, "generated": own}
    for name, clips in rows.items():
        found = logits_of(family.video_critic, clips)
        below = "" if clips is real else f"{(found < truth).float().mean():.2f}"
        table.add_row(name, f"{found.mean():.2f}", f"{found.std():.2f}", below)
    return table


def train_critic(penalty: float, steps: int, marks: Sequence[int]) -> list[float]:
    """The share of held-out clips that the critic tells apart after each of `marks` steps."""
    torch.manual_seed(0)
    world, runtime, generator = ShapeMotion(FRAMES, SIDE, SIDE), detect_runtime(), torch.Generator().manual_seed(0)
    family = MOCOGAN.fitted(world.spec).build()
    critic = family.video_critic
    optimizer = torch.optim.AdamW(critic.parameters(), LR, BETAS, weight_decay=0.0)
    real = world.batch(0, CLIPS, seed=HELD_OUT).to(CPU).frames
    changed, found, gradient_penalty = fading(real), [], Penalty(penalty)
    for step in range(steps):
        first, other = (world.batch(step, BATCH, seed=seed).to(CPU).frames for seed in (0, 1))
        kept, faded = first.transpose(1, 2), fading(other).transpose(1, 2)
        with runtime.autocast():

            def judge(x: Tensor) -> Tensor:
                return critic(x, generator)[:, 0]

            loss = critic_loss("relativistic", judge(kept), judge(faded))
            loss = loss + gradient_penalty(judge, kept, faded, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
        optimizer.step()
        if step + 1 in marks:
            found.append((logits_of(critic, real) > logits_of(critic, changed)).float().mean().item())
    return found


def main() -> None:
    """Measure, train, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="of MoCoGAN on Shape Motion; without it the first table is left out")
    parser.add_argument("--steps", type=int, default=2000, help="that a critic is trained for (%(default)s)")
    parser.add_argument(
        "--penalty", type=float, nargs="+", default=[0.0, MOCOGAN.penalty * FRAMES], help="%(default)s if not given"
    )
    arguments = parser.parse_args()
    if arguments.steps < 8:
        parser.error("--steps must be at least 8")
    console = Console(width=120)
    if arguments.run:
        real = ShapeMotion(FRAMES, SIDE, SIDE).batch(0, CLIPS, seed=HELD_OUT).to(CPU).frames
        console.print(of_run(arguments.run, real))
    marks = [arguments.steps // k for k in (8, 4, 2, 1)]
    table = Table(title="trained to tell a colour that stays from one that fades to another: share told apart")
    table.add_column("penalty of a clip")
    for mark in marks:
        table.add_column(f"{mark:,} steps", justify="right")
    for penalty in arguments.penalty:
        table.add_row(f"{penalty:g}", *(f"{share:.2f}" for share in train_critic(penalty, arguments.steps, marks)))
    console.print(table)


if __name__ == "__main__":
    main()
