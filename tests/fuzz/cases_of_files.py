"""Damaged files of kinema's own: checkpoints, models, what the cache holds, features and results."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import CPU, Case, Wrong
from read_mutated import mutate

import kinema.sampling.model as sampling
from kinema.cli.main import main as command_line
from kinema.codecs.transform import TransformConfig
from kinema.data.clips import DataConfig, FolderSource
from kinema.data.writing import write_video
from kinema.evaluation.clip_sets import FolderClipSet
from kinema.evaluation.rows import measure_clips
from kinema.evaluation.saved import load_features
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig
from kinema.metrics.features import load_network
from kinema.sampling.request import GenerateRequest
from kinema.training import checkpoint
from kinema.training.latents import LatentSource
from kinema.training.loop import Trainer, train
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo.files import write_manifest

COUNT = 4000  # cases of a kind
CLIPS, FRAMES, SIDE, RATE = 4, 12, 16, 16000
EXPERIMENT = Experiment(
    LatentDiTConfig(codec="transform", hidden=16, depth=1, heads=2, patch=(1, 1)),
    DataConfig(frames=9, height=SIDE, width=SIDE),
    TrainConfig(steps=1, batch=2, optimizer="muon"),
)


def prepare(folder: Path) -> None:
    """Make the valid files, unless they are there."""
    if (folder / "kept/ready").exists():
        return
    kept = folder / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    (kept / "clips").mkdir(parents=True)
    train(EXPERIMENT, kept / "run", source=ShapeMotion(9, SIDE, SIDE), runtime=CPU)
    for clip in range(CLIPS):
        draw = np.random.default_rng(clip)
        pixels = draw.integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
        sound = draw.uniform(-1, 1, int(FRAMES / 10 * RATE)).astype(np.float32)
        write_video(kept / f"clips/{clip}.mp4", pixels, 10.0, sound)
    commands = [
        ["export", str(kept / "run"), "--out", str(kept / "exported/x.safetensors")],
        ["evaluate", "shape-motion", "--clips", "4", "--frames", "4", "--height", "16", "--width", "16", "--force",
         "--out", str(kept / "results"), "--save-features", str(kept / "features/x.npz")],
    ]  # fmt: skip
    for words in commands:
        with redirect_stdout(StringIO()):
            assert command_line(words) == 0, words
    for name, read in (("clips", read_clips), ("latents", read_latents), ("measured", read_measures)):
        read(kept / "clips", kept / f"cache of {name}")
    (kept / "ready").touch()


def damaged(valid: Path, copy: Path, number: int, pattern: str = "**/*") -> tuple[Path, str]:
    """A copy of a folder with one of its files mutated, which depends on the number alone; and how it was."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(valid, copy)
    random = np.random.default_rng(number)
    files = sorted(path for path in copy.glob(pattern) if path.is_file() and path.suffix != ".lock")
    path = files[random.integers(len(files))]
    before = path.read_bytes()
    content, how = mutate(before, random)
    path.write_bytes(content)
    return path, "nothing" if content == before else f"{path.name}: {how}"


def cases(valid: Path, use: Callable[[Path, str, int], None], pattern: str = "**/*") -> list[Case]:
    """Cases of copies of a folder with one file damaged, named by their number: what is damaged is known once it is."""
    copy = valid.parent / "copy"

    def case(number: int) -> Case:
        def run() -> None:
            _, how = damaged(valid, copy, number, pattern)
            try:
                use(copy, how, number)
            except ValueError:
                raise
            except Exception as error:
                error.add_note(how)
                raise

        return Case(f"{valid.name} {number}", run)

    return [case(number) for number in range(COUNT)]


def same(found: Any, expected: Any) -> bool:
    """Whether two nested structures of tensors, arrays and plain values are equal, bit for bit."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    return np.array_equal(found, expected) if isinstance(expected, np.ndarray) else found == expected


def parts(state: checkpoint.Checkpoint) -> tuple[object, ...]:
    return state.config, state.generator, state.training, state.optimizers, state.step, state.seconds, state.codec


def trainer() -> Trainer:
    return Trainer(EXPERIMENT, ShapeMotion(9, SIDE, SIDE), CPU)


def checkpoint_cases(folder: Path) -> list[Case]:
    """Checkpoints that are resumed: what is accepted is what was saved."""
    run, one = folder / "kept/run", trainer()
    expected = parts(checkpoint.load(run))

    def use(copy: Path, how: str, number: int) -> None:
        state = checkpoint.load(copy)
        one.restore(state)
        if not same(parts(state), expected):
            raise Wrong(f"accepted with {how}")

    return cases(run, use)


def resealed_cases(folder: Path) -> list[Case]:
    """The same with a manifest made for what is damaged, as by somebody who means harm: what is accepted can train."""
    run, one = folder / "kept/run", trainer()
    before = checkpoint.load(run)

    def use(copy: Path, how: str, number: int) -> None:
        for step in copy.glob("step-*"):
            write_manifest(step, copy / "codec.safetensors")
        one.restore(checkpoint.load(copy))
        one.advance()
        one.restore(before)

    return cases(run, use, "**/*[!n]")  # all but .json files


def model_cases(folder: Path) -> list[Case]:
    """Exported models."""
    valid = sampling.load_model(folder / "kept/exported/x.safetensors")

    def use(copy: Path, how: str, number: int) -> None:
        model = sampling.load(copy / "x.safetensors", CPU)
        file = sampling.load_model(copy / "x.safetensors")
        if not same((file.config, file.generator, file.codec), (valid.config, valid.generator, valid.codec)):
            raise Wrong(f"accepted with {how}")
        if number % 50 == 0:
            model.generate(GenerateRequest(sampling={"steps": 2}))

    return cases(folder / "kept/exported", use)


def source_of(clips: Path, cache: Path) -> FolderSource:
    return FolderSource(DataConfig(str(clips), 8, SIDE, SIDE, holdout=0, audio=True, cache=str(cache)))


def read_clips(clips: Path, cache: Path) -> tuple[object, ...]:
    """Batches of clips, decoded or from the cache."""
    batch = source_of(clips, cache).batch(0, CLIPS, seed=0)
    return batch.frames, batch.conditions.audio


def read_latents(clips: Path, cache: Path) -> tuple[object, ...]:
    """A batch of latents, encoded or from the cache."""
    codec = TransformConfig(space=4, time=1, channels=4).build()
    source = source_of(clips, cache)
    codec.calibrate([source.batch(0, CLIPS, seed=0).to(torch.device("cpu")).frames])
    batch = LatentSource(source, codec, CPU, 8, str(cache)).batch(0, 4, seed=0)
    return batch.latents, batch.conditions.audio


def read_measures(clips: Path, cache: Path) -> tuple[object, ...]:
    """Measures of clips, measured or from the cache."""
    source = FolderSource(DataConfig(str(clips), 8, SIDE, SIDE, holdout=0, short="skip", cache=str(cache)))
    network = load_network("kinema", None, CPU.device)
    rows = measure_clips(FolderClipSet("x", source, 0), CLIPS, network, cache=str(cache))
    return rows.features, rows.per_clip, rows.directions, rows.samples


def cache_cases(folder: Path, name: str, read: Callable[[Path, Path], tuple[object, ...]], pattern: str) -> list[Case]:
    clips, valid = folder / "kept/clips", folder / f"kept/cache of {name}"
    expected = read(clips, valid)

    def use(copy: Path, how: str, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not same(read(clips, copy), expected):
                raise Wrong(f"accepted with {how}")

    return cases(valid, use, pattern)


def clip_cases(folder: Path) -> list[Case]:
    """Decoded clips in the cache."""
    return cache_cases(folder, "clips", read_clips, "clips/*")


def latent_cases(folder: Path) -> list[Case]:
    """Latents in the cache."""
    return cache_cases(folder, "latents", read_latents, "latents/*")


def measure_cases(folder: Path) -> list[Case]:
    """Measures in the cache."""
    return cache_cases(folder, "measured", read_measures, "measured/*/*")


def result_cases(folder: Path) -> list[Case]:
    """Results that are compared, and features that clips are measured against."""
    kept = folder / "kept"

    def use_results(copy: Path, how: str, number: int) -> None:
        said = StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            status = command_line(["compare", str(copy / "results.json"), str(kept / "results/results.json")])
        if status:
            raise ValueError(said.getvalue().strip().splitlines()[-1])

    def use_features(copy: Path, how: str, number: int) -> None:
        features = load_features(copy / "x.npz").features
        if not same(features, load_features(kept / "features/x.npz").features):
            raise Wrong(f"accepted with {how}")

    results, features = cases(kept / "results", use_results, "results.json"), cases(kept / "features", use_features)
    return [one for pair in zip(results, features, strict=True) for one in pair]
