"""How much of what prompts of the sprite world ask for is in the clips of a model, by the world's exact verifier.

    python benchmarks/adherence.py runs/sprites --prompts 500 --out out/adherence

Prompts are those of clips that no training step draws: one object, two at once, one after the other, and the
combinations of shape, colour and motion that training leaves out. "all right" is the share of clips with all
attributes of all objects right and nothing else in them; the other columns are shares of objects. The world's own clips
are measured too, which is the verifier's ceiling, and the model's against another clip's prompt, its floor. --steps
with several numbers makes a row of each, with the seconds a clip takes. Clips of a model of single frames show neither
motion nor order, which are left out. Writes the table, the shares by the motion that was asked for, and a sheet of the
first clips of each kind.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table

from kinema.data.writing import contact_sheet, write_image
from kinema.metrics.statistics import mean_interval
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load
from kinema.sampling.request import GenerateRequest
from kinema.worlds.sprite_verifier import Found, Verdict, verify
from kinema.worlds.sprite_words import Asked
from kinema.worlds.sprites import LENGTH, Scene, render, scene

KINDS = {
    "one": {"sprites": 1},
    "two": {"sprites": 2, "then": False},
    "one, then another": {"sprites": 2, "then": True},
    "one, unseen": {"sprites": 1, "unseen": True},
    "two, unseen": {"sprites": 2, "then": False, "unseen": True},
}
SEED = 2**40  # of the scenes: no training step's
SHOWN = 12  # clips on a sheet
HEADERS = ("clips", "objects", "prompts", "all right", "95 %", "found", "shape", "size", "motion", "extra", "s a clip")


def held_out(kind: str, prompts: int, frames: int, height: int, width: int) -> tuple[Scene, list[int]]:
    """Scenes of a kind and which of them, `prompts` in all, have as many objects as it says."""
    asked = KINDS[kind]
    rng = np.random.default_rng((SEED, list(KINDS).index(kind)))
    truth = scene(rng, 4 * prompts, max(frames, LENGTH), height, width, **asked)
    fitting = [n for n, prompt in enumerate(truth.asked) if len(prompt.sprites) == asked["sprites"]]
    return truth, fitting[:prompts]


def row(name: str, kind: str, verdicts: list[Verdict], asked: list[Asked], still: bool, seconds: str) -> list[str]:
    """The cells of a row."""

    def all_right(verdict: Verdict) -> bool:
        seen = all(found.found and found.shape and found.size for found in verdict.sprites) and not verdict.extra
        return seen if still else verdict.matches_prompt

    each: list[Found] = [found for verdict in verdicts for found in verdict.sprites]
    sized = [f.size for v, a in zip(verdicts, asked, strict=True) for f, s in zip(v.sprites, a.sprites, strict=True)
             if s.size]  # fmt: skip
    share, low, high = mean_interval(torch.tensor([float(all_right(verdict)) for verdict in verdicts]))
    shares = [np.mean([found.found for found in each]), np.mean([found.shape for found in each]), np.mean(sized)]
    motion = "-" if still else f"{np.mean([found.motion for found in each]):.3f}"
    extra = np.mean([bool(verdict.extra) for verdict in verdicts])
    ends = [f"{share:.3f}", f"{low:.3f} to {high:.3f}"]
    return [name, kind, f"{len(verdicts)}", *ends, *(f"{s:.3f}" for s in shares), motion, f"{extra:.3f}", seconds]


def generate(model: Model, captions: list[str], batch: int) -> tuple[UInt8[np.ndarray, "N T H W 3"], float]:
    """A clip of each caption, seeds from 0 on, and the seconds of a clip."""
    begun = time.perf_counter()
    clips = model.generate(GenerateRequest(tuple(range(len(captions))), text=captions), batch=batch)
    return clips, (time.perf_counter() - begun) / len(captions)


def main() -> None:
    """Measure, print one table, write the sheets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a run on the sprite world, or the name of a model that ships")
    parser.add_argument("--prompts", type=int, default=500, help="of each kind (%(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="of the solver, a row each")
    parser.add_argument("--guidance", type=float, help="by the prompt")
    parser.add_argument("--candidates", type=int, help="of each clip, of which the model keeps the best")
    parser.add_argument("--batch", type=int, default=16, help="clips at once (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/adherence"))
    arguments = parser.parse_args()
    keep_freed_memory()  # as `kinema generate` does

    model = load(arguments.model)
    if arguments.guidance is not None:
        model = model.with_sampling(guidance=arguments.guidance)
    if arguments.candidates is not None:
        model = model.with_sampling(candidates=arguments.candidates)
    spec, still = model.spec, model.spec.frames == 1
    kinds = [kind for kind in arguments.kinds if not (still and "then" in kind)]
    table = Table(*HEADERS, title=f"{arguments.model}: adherence to prompts")
    moved: dict[str | None, list[Found]] = {}  # what became of objects by the motion that was asked of them
    for kind in kinds:
        truth, which = held_out(kind, arguments.prompts, spec.frames, spec.height, spec.width)
        captions, asked = [truth.captions[n] for n in which], [truth.asked[n] for n in which]
        real = render(truth)[which].transpose(0, 1, 3, 4, 2)
        table.add_row(*row("the world's", kind, [*map(verify, real, asked)], asked, False, "-"))
        for steps in arguments.steps or [model.family.sampling.steps]:
            clips, seconds = generate(model.with_sampling(steps=steps), captions, arguments.batch)
            name, verdicts = f"{steps} steps", [*map(verify, clips, asked)]
            table.add_row(*row(name, kind, verdicts, asked, still, f"{seconds:.2f}"))
            for verdict, prompt in zip(verdicts, asked, strict=True):
                for found, sprite in zip(verdict.sprites, prompt.sprites, strict=True):
                    moved.setdefault(sprite.motion, []).append(found)
        others = asked[1:] + asked[:1]
        table.add_row(*row("of another prompt", kind, [*map(verify, clips, others)], others, still, "-"))
        sheet = contact_sheet(clips[:SHOWN], labels=[caption[:60] for caption in captions[:SHOWN]])
        print(write_image(arguments.out / f"{kind.replace(', ', '-').replace(' ', '-')}.png", sheet), flush=True)
    Console(width=140).print(table)
    if not still:
        table = Table("motion asked", "objects", "motion", "shape", title="Of all objects of the model, by motion")
        for motion, objects in sorted(moved.items(), key=lambda of: -np.mean([f.motion for f in of[1]])):
            shares = [f"{np.mean([getattr(found, name) for found in objects]):.2f}" for name in ("motion", "shape")]
            table.add_row(motion or "none", f"{len(objects)}", *shares)
        Console().print(table)


if __name__ == "__main__":
    main()
