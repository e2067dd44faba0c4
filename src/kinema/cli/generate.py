"""kinema generate: make a clip from a prompt, an image, a video, sound or actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float32

from kinema.cli.arguments import flag_value, parse, parse_with_sampling
from kinema.cli.known import KnownParts, read_known
from kinema.cli.say import say
from kinema.cli.writing import NOMINAL_FPS, write_clips
from kinema.conditions.audio import SAMPLE_RATE
from kinema.config import MOST_SEED, check_number
from kinema.data.readers.actions import read_actions
from kinema.data.readers.base import read_audio
from kinema.data.writing import FORMATS
from kinema.runtime.device import detect_runtime
from kinema.runtime.memory import keep_freed_memory
from kinema.sampling.model import Model, load, load_experiment
from kinema.sampling.request import MOST_CLIPS, MOST_FRAMES, GenerateRequest
from kinema.zoo import shipped


@dataclass(frozen=True)
class Arguments:
    """Make a clip from a prompt, an image, a video, sound or actions, or from several of these.

    The default is the shipped model; `kinema models` lists its conditions. The same seed gives the same clip.

    Example: kinema generate "a small red star bouncing, then a blue square moving left" -o out.mp4
    """

    prompt: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT")] = None
    """A description of the clip."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "out.mp4"
    """The file to write; its suffix selects video, animated gif or exact pixels. With --count, files are numbered."""
    model: str = "sprites"
    """A shipped model, a run's folder, a checkpoint, or a .safetensors file."""
    image: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """The known first frame; with --keep-last 1 the last frame, with --mask the region to keep in all frames."""
    seed: int = 0
    """Seed of the first clip; each further clip has the next seed."""
    count: int = 1
    """Number of clips."""
    seconds: float | None = None
    """Duration of a clip, instead of --frames."""
    frames: int | None = None
    """Frames of a clip; default: as many as in training."""
    video: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A video with known parts: its first frames, or those of --keep-last, --between and --mask."""
    audio: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Sound that conditions the clip, from its start, in any format; it is also written to the file."""
    label: str | None = None
    """Name or number of a class."""
    actions: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A .csv or .npy file with one row of actions for each frame."""
    device: str = "auto"
    """auto, cpu, or a torch device such as cuda:0."""
    parts: tyro.conf.OmitArgPrefixes[KnownParts] = KnownParts()


def main(words: Sequence[str]) -> None:
    """Generate the clips, write them, and print the files."""
    name = flag_value(words, "--model", Arguments.model)
    if name == Arguments.model and not shipped():
        arguments = parse(Arguments, "kinema generate", words)
        raise ValueError(f"no model called {arguments.model} came with this installation: name yours with --model")
    sampling = load_experiment(name)[0].family.sampling
    arguments, settings = parse_with_sampling(Arguments, sampling, "kinema generate", words)
    if Path(arguments.out).suffix.lower() not in FORMATS:
        raise ValueError(f"{arguments.out}: clips are written as {', '.join(FORMATS)}: end --out in one of them")
    check_number("--count", arguments.count, 1, MOST_CLIPS)
    check_number("--seed", arguments.seed, -MOST_SEED, MOST_SEED)
    if arguments.frames is not None:
        check_number("--frames", arguments.frames, 1, MOST_FRAMES)
    if arguments.image is not None and arguments.video is not None:
        raise ValueError("--image and --video both give known frames: choose one")
    if arguments.frames is not None and arguments.seconds is not None:
        raise ValueError("--frames and --seconds both say how long: choose one")
    if arguments.seconds is not None:
        check_number("--seconds", arguments.seconds, 0.001, 86_400.0)
    model = load(arguments.model, detect_runtime(arguments.device)).with_sampling(**settings)
    keep_freed_memory()
    for path in generate(model, arguments):
        say(path)


def generate(model: Model, arguments: Arguments) -> list[Path]:
    """Generate and write the requested clips; return their files."""
    out, fps = Path(arguments.out), model.spec.fps or NOMINAL_FPS
    frames = _frames(model, arguments, fps)
    audio = _audio(model, arguments.audio, frames / fps)
    if arguments.prompt is not None:
        _require(model, "text", "a prompt")
    clip = arguments.image or arguments.video
    known, mask = read_known(model, arguments.parts, "--image or --video", clip, frames, clips=1)
    request = GenerateRequest(
        seeds=tuple(range(arguments.seed, arguments.seed + arguments.count)),
        frames=frames,
        text=None if arguments.prompt is None else [arguments.prompt],
        labels=None if arguments.label is None else [arguments.label],
        audio=None if audio is None else audio[None],
        actions=_actions(model, arguments.actions, frames),
        known=known,
        mask=mask,
    )
    count = arguments.count
    names = [out] if count == 1 else [out.with_stem(f"{out.stem}-{index:03d}") for index in range(count)]
    return write_clips(model, request, names, fps, audio)


def _frames(model: Model, arguments: Arguments, fps: float) -> int:
    if arguments.seconds is not None:
        return max(1, round(arguments.seconds * fps))
    return model.spec.frames if arguments.frames is None else arguments.frames


def _audio(model: Model, path: str | None, seconds: float) -> Float32[np.ndarray, " samples"] | None:
    """The sound for the clip's duration, padded with silence."""
    if path is None:
        return None
    _require(model, "audio", "--audio")
    sound, samples = read_audio(Path(path).expanduser(), SAMPLE_RATE, seconds), round(seconds * SAMPLE_RATE)
    return np.pad(sound, (0, samples - len(sound)))


def _actions(model: Model, path: str | None, frames: int) -> Float32[np.ndarray, "1 t A"] | None:
    if path is None:
        return None
    _require(model, "actions", "--actions")
    table = read_actions(path)
    if len(table) < frames:
        raise ValueError(f"{path} has {len(table)} rows for {frames} frames: give a row for each, or ask for fewer")
    return table[None, :frames]


def _require(model: Model, name: str, flag: str) -> None:
    """Raise ValueError if a model does not accept a condition."""
    if name not in model.family.accepts:
        accepted = ", ".join(sorted(model.family.accepts - {"mask"})) or "nothing"
        raise ValueError(f"the model cannot use {flag}, as it was trained with {accepted}: leave it out")
