"""kinema generate: make a clip of what is said, shown, heard or done."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float32

from kinema import run
from kinema.commands.arguments import parse
from kinema.commands.parts import Parts, known_parts
from kinema.commands.sample import NOMINAL_FPS, parse_for
from kinema.conditions.audio import RATE
from kinema.conditions.text import words_of
from kinema.data.actions import read_actions
from kinema.data.video import read_audio
from kinema.data.write import FORMATS, write_video
from kinema.sample import Model, load
from kinema.types import Noise
from kinema.weights import shipped

LONGEST = 2000  # letters of a prompt
NAMED = 60  # words that are named to who used none of them


@dataclass(frozen=True)
class Arguments(Parts):
    """Make a clip of what a prompt says, or from an image, a video, sound or actions, or of several of these.

    Without --model by the model that ships; `kinema models` says what it was taught. The same seed gives the same clip.

    Example: kinema generate "a small red star bouncing, then a blue square moving left" -o out.mp4
    """

    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = None
    """What is to be seen."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "out.mp4"
    """The file to write, by its suffix a video, an animated gif or exact pixels; several are numbered."""
    model: str = "sprites"
    """The name of a model that ships, a run's folder, a checkpoint, or a generator.safetensors file."""
    image: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """The first frame; the last one with --keep-last 1, or all of them where --mask keeps it."""
    video: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A video of which parts are given: its first frames, or what --keep-last, --between and --mask say."""
    audio: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Sound to move by, of any format, from its beginning; it is put into the file as well."""
    label: str | None = None
    """The name or the number of a class."""
    actions: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """What is done on the way to each frame: a .csv or a .npy with a row of numbers for each."""
    frames: int | None = None
    """How many; as many as in training if not given."""
    seconds: float | None = None
    """How long, in place of --frames."""
    seed: int = 0
    """Of the first clip; the next one has the next seed."""
    count: int = 1
    """How many clips."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""


def main(words: Sequence[str]) -> None:
    """Parse, generate, write, and say what was written."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--model", nargs="?", default=Arguments.model)
    first.add_argument("--device", nargs="?", default=Arguments.device)
    found, _ = first.parse_known_args(words)
    if found.model == Arguments.model and not shipped():
        arguments = parse(Arguments, "kinema generate", words)
        raise ValueError(f"no model called {arguments.model} came with this installation: name yours with --model")
    model, arguments = parse_for(
        load(found.model or "", run.start(found.device or "auto")), Arguments, "kinema generate", words
    )
    run.keep_freed_memory()
    for path in generate(model, arguments):
        print(path)


def generate(model: Model, arguments: Arguments) -> list[Path]:
    """Make and write the clips that are asked for; return their files."""
    out, fps = Path(arguments.out), model.facts.fps or NOMINAL_FPS
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"{out}: clips are written as {', '.join(FORMATS)}: end --out in one of them")
    if arguments.count < 1:
        raise ValueError("nothing to make: --count is at least 1")
    frames = _frames(model, arguments, fps)
    prompt, audio = _prompt(model, arguments.prompt), _audio(model, arguments.audio, frames / fps)
    if arguments.image is not None and arguments.video is not None:
        raise ValueError("--image and --video both say what is given: choose one")
    known, mask = known_parts(
        model, arguments, "--image or --video", arguments.image or arguments.video, frames, clips=1
    )
    clips = model.clips(
        Noise(tuple(range(arguments.seed, arguments.seed + arguments.count))),
        frames,
        None if arguments.label is None else [arguments.label],
        None if prompt is None else [prompt],
        None if audio is None else audio[None],
        _actions(model, arguments.actions, frames),
        known,
        mask,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out.parent}: cannot be made ({error.strerror})") from None
    names = [out] if len(clips) == 1 else [out.with_stem(f"{out.stem}-{index:03d}") for index in range(len(clips))]
    return [write_video(name, clip, fps, audio) for name, clip in zip(names, clips, strict=True)]


def _frames(model: Model, arguments: Arguments, fps: float) -> int:
    if arguments.frames is not None and arguments.seconds is not None:
        raise ValueError("--frames and --seconds both say how long: choose one")
    if arguments.seconds is None:
        return model.facts.frames if arguments.frames is None else arguments.frames
    if not 0 < arguments.seconds < 1e5:
        raise ValueError(f"--seconds {arguments.seconds:g}: it must be above 0 and no more than a day")
    return max(1, round(arguments.seconds * fps))


def _prompt(model: Model, prompt: str | None) -> str | None:
    """The prompt, when what the model cannot read in it has been said on stderr."""
    if prompt is None:
        return None
    _wanted(model, "text", "a prompt")
    if not prompt.strip():
        raise ValueError("the prompt is empty: say what is to be seen, or leave it out")
    if len(prompt) > LONGEST:
        raise ValueError(f"the prompt has {len(prompt):,} letters: say it in {LONGEST:,} or fewer")
    unknown = model.family.unknown_words(prompt)
    if set(unknown) == set(words_of(prompt)):
        known = [word for word in model.facts.words if word.isalpha()]
        others = f" and {len(known) - NAMED} more" * (len(known) > NAMED)
        raise ValueError(f"the model knows no word of the prompt; it knows {', '.join(known[:NAMED])}{others}")
    if unknown:
        print(f"kinema: the model never saw these words, which tell it nothing: {', '.join(unknown)}", file=sys.stderr)
    return prompt


def _audio(model: Model, path: str | None, seconds: float) -> Float32[np.ndarray, " samples"] | None:
    """As much sound as the clip is long, with silence where it ends before."""
    if path is None:
        return None
    _wanted(model, "audio", "--audio")
    sound, samples = read_audio(Path(path).expanduser(), RATE, seconds), round(seconds * RATE)
    return np.pad(sound, (0, samples - len(sound)))


def _actions(model: Model, path: str | None, frames: int) -> Float32[np.ndarray, "1 t A"] | None:
    if path is None:
        return None
    _wanted(model, "actions", "--actions")
    table = read_actions(path)
    if len(table) < frames:
        raise ValueError(f"{path} has {len(table)} rows for {frames} frames: give a row for each, or ask for fewer")
    return table[None, :frames]


def _wanted(model: Model, name: str, flag: str) -> None:
    """Raise ValueError if a model cannot be told so."""
    if name not in model.family.accepts:
        usable = ", ".join(sorted(model.family.accepts - {"mask"})) or "nothing"
        raise ValueError(f"the model cannot be given {flag}, as it was trained with {usable}: leave it out")
