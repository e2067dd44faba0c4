"""Hostile settings: as plain values and in Python, in configurations of files, as flags and in the environment."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from case import CPU, Case, Wrong

import kinema.sampling.model as sampling
from kinema.cli import anomalies, evaluate, generate, metrics, sample
from kinema.cli.main import main as command_line
from kinema.codecs.transform import TransformConfig
from kinema.codecs.video_vae import VideoVAEConfig
from kinema.config import from_dict, to_dict
from kinema.data.cache import cache_limit
from kinema.data.clips import DataConfig
from kinema.data.writing import write_video
from kinema.evaluation.evaluate import EvaluationConfig
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig
from kinema.families.svg_lp import SVGLPConfig
from kinema.presets import PRESETS
from kinema.registry import CODECS, FAMILIES
from kinema.sampling.request import GenerateRequest, validate
from kinema.training.loop import train
from kinema.types import ClipSpec
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo.files import ModelFile
from kinema.zoo.tensors import TRAINING_COPIES, check_fits, outline

HUGE = 10**30
DIGITS = "7" * 5000
WORDS = ("0", "-1", "nan", "inf", "-inf", str(HUGE), "1e-320", "", "abc", DIGITS, "\ud800")  # after a flag
POSSIBLE = ("0", "-1", "1e-320")  # what some flag takes of them
NUMBERS: tuple[Any, ...] = (0, -1, 10**9, HUGE, -HUGE, 7 * 10**5000, 1e-320, float("nan"), float("inf"), -float("inf"))
OTHERS: tuple[Any, ...] = (None, True, [], {}, [HUGE], {"a": 1}, "", "abc", "\ud800", "\0", DIGITS, 0.5, [[1], [2]])
LARGEST = 2**63  # no number of a setting is beyond
SPEC = ClipSpec(17, 32, 32, 10.0, ("a", "b"), ("a", "red", "star"), 2, True)
ENVIRONMENT = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "KINEMA_CACHE", "KINEMA_CACHE_GB", "COLUMNS", "LINES")
SIZES = ["--data.frames", "8", "--data.height", "16", "--data.width", "16", "--train.batch", "2", "--steps", "1"]
SMALL = {
    "latent-dit": ["--preset", "pixels", "--family.patch", "1", "8", "--family.hidden", "16", "--family.depth", "2",
                   "--family.heads", "2"],
    "mocogan": ["--family.ngf", "4", "--family.ndf", "4", "--family.ndf-image", "4"],
    "svg-lp": ["--family.channels", "2", "--family.hidden", "8", "--family.code", "8", "--family.context-frames", "2"],
    "tgan": ["--family.ngf", "4", "--family.ndf", "4", "--family.ngf-path", "2"],
    "vgan": ["--family.ngf", "4", "--family.ndf", "4"],
    "video-vae": ["--family.hidden", "4", "--data.frames", "9"],
}  # fmt: skip


def shown(value: object) -> str:
    """A value, short; the digits of a very large number cannot be had."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return "nested, or a number of 5,001 digits, or what holds it"
    return text if len(text) < 60 else f"{text[:40]}... of {len(text)} letters"


def numbers(value: object) -> Iterator[float]:
    """All numbers in plain values."""
    if isinstance(value, dict):
        yield from chain.from_iterable(map(numbers, value.values()))
    elif isinstance(value, list | tuple):
        yield from chain.from_iterable(map(numbers, value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def check_right(settings: object) -> None:
    """Raise Wrong unless all numbers are finite and of this world, and the settings survive being written and read."""
    plain = to_dict(settings)
    if bad := [number for number in numbers(plain) if not -LARGEST <= number <= LARGEST]:
        raise Wrong(f"{type(settings).__name__} has {shown(bad[0])}")
    if from_dict(type(settings), plain, "again") != settings:
        raise Wrong(f"{type(settings).__name__} is read as other settings than were written")


def use(settings: object) -> None:
    """Use settings as training does before the first step."""
    check_right(settings)
    if type(settings) in {FAMILIES[name] for name in FAMILIES.names}:
        family: Any = settings
        fitted = family.resolve_codec(lambda _: {"name": "video-vae", **to_dict(VideoVAEConfig())}, SPEC).fitted(SPEC)
        check_right(fitted)
        check_fits(outline(fitted), CPU.device, TRAINING_COPIES)


def read(cls: type, values: dict[str, Any]) -> object:
    """Settings from plain values, as those of a file."""
    if cls is not ClipSpec:
        return from_dict(cls, values, "x")
    whole = Experiment(FAMILIES["vgan"]()).to_dict(SPEC) | {"spec": values}
    return Experiment.from_dict(whole, "x")[1]


def settings_classes() -> list[Any]:
    """An instance of each dataclass of settings: its own defaults are valid."""
    found: list[Any] = [DataConfig(), TrainConfig(), EvaluationConfig(), TransformConfig(), SPEC]
    found += [FAMILIES[name]() for name in FAMILIES.names]
    found += [CODECS[name]() for name in CODECS.names if CODECS[name] not in {type(one) for one in found}]
    found += [one.sampling for one in found if is_dataclass(getattr(one, "sampling", None))]
    return found


def settings_cases(folder: Path) -> list[Case]:
    """Each hostile value for each field, read from plain values, and numbers from Python too."""
    cases = []
    for valid in settings_classes():
        cls, plain = type(valid), to_dict(valid)
        for field in fields(valid):
            for value in (*NUMBERS, *OTHERS):
                what = f"{cls.__name__}.{field.name} = {shown(value)}"
                cases.append(Case(what, lambda c=cls, p=plain, f=field.name, v=value: use(read(c, p | {f: v}))))
            if re.search(r"\b(int|float)\b", str(field.type)) and "dict" not in str(field.type) and cls is not ClipSpec:
                several = "tuple" in str(field.type)
                for value in NUMBERS:
                    what = f"{cls.__name__}({field.name}={shown(value)})"
                    given = (value, value) if several else value
                    cases.append(Case(what, lambda s=valid, f=field.name, v=given: use(replace(s, **{f: v}))))
    return cases + request_cases(folder)


def request_cases(folder: Path) -> list[Case]:
    """Hostile values for each field of a request."""
    model = sampling.load(folder / "latent-dit", CPU)
    arrays = [np.full((1, 8, 2), np.nan, np.float32), np.zeros((0, 0)), np.zeros((1, 8, 16, 16, 3), np.uint8)]
    cases = []
    for field in fields(GenerateRequest):
        values: list[Any] = [*NUMBERS, *OTHERS, *arrays]
        values += [(value,) for value in values] + [{"latents": (value,)} for value in NUMBERS]
        values += [{setting: value} for setting in ("steps", "guidance", "shift", "interval") for value in NUMBERS]
        for value in values:

            def run(name: str = field.name, value: Any = value) -> None:
                request = replace(GenerateRequest(), **{name: value})
                chosen = model.with_sampling(**request.sampling) if isinstance(request.sampling, dict) else model
                validate(request, chosen.family, chosen.spec)
                check_right(chosen.family.sampling)
                if any(not -LARGEST <= number <= LARGEST for number in numbers((request.seeds, request.frames or 0))):
                    raise Wrong("a seed or frames")

            cases.append(Case(f"GenerateRequest.{field.name} = {shown(value)}", run))
    return cases


def configuration_cases(folder: Path, count: int = 4000) -> list[Case]:
    """Configurations of a model's file, mutated in one to three places."""
    model = sampling.load_model(folder / "latent-dit")
    codec, values = sampling.load_model(folder / "video-vae"), model.config
    bases = [(model, values), (codec, codec.config)]
    for name, presets in PRESETS.items():  # no tensors of them are in the file
        made = next(iter(presets.values()))()
        try:
            family = made.family.resolve_codec(lambda _: {}, SPEC).fitted(SPEC)
        except ValueError:  # it needs a codec
            family = made.family
        bases.append((model, Experiment(family, made.data, made.train).to_dict(SPEC) | {}))
        assert bases[-1][1]["family"]["name"] == name

    def case(number: int) -> Case:
        draw = random.Random(number)
        file, valid = bases[draw.choice((0, 1, draw.randrange(len(bases))))]  # mostly those with tensors
        changed = copy.deepcopy(json.loads(json.dumps(valid)))
        done = ", ".join(mutate(changed, draw) for _ in range(draw.choice((1, 1, 2, 3))))

        def run() -> None:
            sampling.load_model = lambda name: ModelFile(changed, file.generator, file.codec)
            try:
                loaded = sampling.load("the file", CPU)
            except ValueError as error:
                if not str(error).startswith("the file: "):
                    raise Wrong(f"a refusal that does not name the file: {str(error)[:200]}") from error
                raise
            if loaded.spec.frames != loaded.experiment.family.frames:
                raise Wrong("the clips have another number of frames than the family")
            for settings in (loaded.experiment.family, loaded.experiment.data, loaded.experiment.train, loaded.spec):
                check_right(settings)

        return Case(f"configuration of {valid['family']['name']}: {done}", run)

    return [case(number) for number in range(count)]


def mutate(values: dict[str, Any], draw: random.Random) -> str:
    """Change one place of plain values; say which and how."""
    place: Any = values
    path = [draw.choice(sorted(place))] if place else [""]
    while isinstance(place.get(path[-1]), dict) and place[path[-1]] and draw.random() < 0.85:
        place = place[path[-1]]
        path.append(draw.choice(sorted(place)))
    key, name = path[-1], ".".join(path)
    how = draw.choice(("number", "number", "number", "other", "other", "remove", "add", "nest", "list", "factor"))
    old = place.get(key)
    if how == "remove" and key in place:
        del place[key]
    elif how == "add":
        place[draw.choice((DIGITS, "nmae", "\n", "__class__"))] = old
    elif how == "nest":
        for _ in range(1000):
            old = [old]
        place[key] = old
    elif how == "list":
        place[key] = [old] * draw.choice((0, 1, 1000))
    elif how == "factor" and isinstance(old, int | float) and not isinstance(old, bool):
        place[key] = old * draw.choice((2, 16, 1024)) + draw.choice((0, 1))
    else:
        place[key] = draw.choice(OTHERS if how == "other" else NUMBERS)
        how = shown(place[key])
    return f"{name} {how}"


def flag_cases(folder: Path) -> list[Case]:
    """Each hostile word after each flag that takes a number, of each command; and in the environment."""
    dit, svg = str(folder / "latent-dit"), str(folder / "svg-lp")
    commands: list[tuple[list[str], list[str]]] = []  # words of a valid command, and its flags

    def flags(cls: Any, prefix: str = "--") -> list[str]:
        kinds = [
            f for f in fields(cls) if re.search(r"\b(int|float)\b", str(f.type)) and "Annotated" not in str(f.type)
        ]
        return [prefix + field.name.replace("_", "-") for field in kinds]

    known = ["--keep-first", "--keep-last"]
    settings = flags(type(LatentDiTConfig().sampling))
    for name, words in SMALL.items():
        of = ["--steps", "--minutes", *flags(DataConfig, "--data."), *flags(TrainConfig, "--train.")]
        of += flags(FAMILIES[name], "--family.")
        commands.append((["train", name, "--out", "OUT", *SIZES, *words], of))
        commands.append((["plan", name, "--out", "OUT", *SIZES, *words], of))
    clips, film = str(folder / "clips"), str(folder / "clips/0.mp4")
    two, check = ["--count", "1", "--steps", "2"], ["data", "check", clips, "--out", "OUT/sheet.png"]
    check += ["--data.frames", "5", "--data.height", "20", "--data.width", "20"]
    commands += [
        (["generate", "--model", dit, "-o", "OUT/x.mp4", "--steps", "2"], [*flags(generate.Arguments), *settings]),
        (["generate", "--model", dit, "-o", "OUT/x.mp4", "--steps", "2", "--video", film], known),
        (["sample", dit, "--out", "OUT/x.mp4", *two], [*flags(sample.Arguments), *settings]),
        (["sample", svg, "--out", "OUT/x.mp4", "--count", "1", "--known", film], [*known, "--frames", "--count"]),
        (["evaluate", "shape-motion", "--clips", "4", "--frames", "4", "--height", "16", "--width", "16", "--force"],
         [*flags(evaluate.Arguments), *flags(EvaluationConfig)]),
        (["compare", clips, clips, "--clips", "2", "--frames", "4", "--force"], flags(EvaluationConfig)),
        (["metrics", "audit", "--on", "shape-motion", "--clips", "4", "--failures-only", "--features", "kinema"],
         flags(metrics.Arguments)),
        (["anomalies", svg, film, "--out", "OUT"], flags(anomalies.Arguments)),
        (check, flags(DataConfig, "--data.")),
        (["export", dit, "--out", "OUT/x.safetensors"], ["--half"]),
        (["export-clips", clips, "--out", "OUT/x"], ["--format"]),
        (["demo", "--out", "OUT/x"], ["--seed"]),
        (["caption", dit, film], ["--count"]),
    ]  # fmt: skip
    cases = []
    for words, own in commands:
        for flag in own:
            count = 2 if flag in ("--family.patch", "--interval", "--grid", "--train.betas") else 1
            for word in WORDS:
                what = f"{' '.join(words[:2])} {flag} {shown(word)}"
                given = [*words, *([f"{flag}={word}"] if count == 1 else [flag, *[word] * count])]
                cases.append(Case(what, lambda g=given, w=word: run_command(folder, g, {}, w in POSSIBLE)))
    for name in ENVIRONMENT:
        for word in (*WORDS, "2"):
            for words in [check, *([] if name.startswith("KINEMA") else [commands[0][0]])]:  # a world is not cached
                use = word in (*POSSIBLE, "", "2") or name in ("COLUMNS", "LINES", "KINEMA_CACHE")
                use |= name == "KINEMA_CACHE_GB" and word == str(HUGE)  # as much as the disk has
                what = f"{name}={shown(word)} {words[0]}"
                value = word.replace("\ud800", "\udcff")  # what the system calls text that is none
                cases.append(Case(what, lambda w=words, n=name, v=value, u=use: run_command(folder, w, {n: v}, u)))
    return cases


def run_command(folder: Path, words: list[str], variables: dict[str, str], possible: bool) -> None:
    """Run a command; raise ValueError where it refuses in one line, Wrong where it should have or says more."""
    out, before, place = folder / "out", dict(os.environ), Path.cwd()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    os.environ.update({"KINEMA_CACHE": str(folder / "cache")} | variables)
    os.chdir(out)
    cache_limit.cache_clear()  # it reads the environment once in a process
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            status = command_line([word.replace("OUT", str(out)) for word in words])
    except SystemExit as error:
        status = error.code
    finally:
        os.environ.clear()
        os.environ.update(before)
        os.chdir(place)
    last = said.getvalue().rstrip("\n").split("\n")[-1]
    if status == 2 and last.startswith("kinema: ") and "memory is full" not in last:
        raise ValueError(last)
    if status != 0 or not possible:
        raise Wrong(f"it ends with {status}: {last[:200]}")


def prepare(folder: Path) -> None:
    """Train the small models that the doors need, unless they are there."""
    if (folder / "ready").exists():
        return
    families = {
        "latent-dit": LatentDiTConfig(patch=(1, 8), hidden=16, depth=1, heads=2),
        "svg-lp": SVGLPConfig(channels=2, code=8, hidden=8, context_frames=2),
        "video-vae": VideoVAEConfig(hidden=4, time=1),
    }
    for name, family in families.items():
        experiment = Experiment(family, DataConfig(frames=8, height=16, width=16), TrainConfig(steps=1, batch=2))
        train(experiment, folder / name, source=ShapeMotion(8, 16, 16), runtime=CPU)
    (folder / "clips").mkdir()
    for clip in range(4):
        pixels = np.random.default_rng(clip).integers(0, 256, (12, 32, 32, 3), np.uint8)
        write_video(folder / f"clips/{clip}.mp4", pixels, 10.0)
    (folder / "ready").touch()
