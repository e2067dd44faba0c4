"""Requests are validated in one place, clips come in chunks, and a generation can be watched and cancelled."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from kinema.cli.writing import write_clips
from kinema.data.clips import DataConfig, Source
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig, LatentDiTSampling
from kinema.families.mocogan import MoCoGANConfig
from kinema.families.vgan import VGAN, VGANConfig
from kinema.family import FamilyConfig
from kinema.runtime.device import Runtime
from kinema.sampling.model import Model
from kinema.sampling.request import GenerateRequest
from kinema.training.checkpoint import save_step
from kinema.training.loop import Trainer
from kinema.types import Conditions, Progress, Seeds, no_progress
from kinema.worlds.shape_motion import ShapeMotion
from kinema.worlds.sprites import Sprites

DIT = {"patch": (1, 8), "hidden": 16, "depth": 1, "heads": 2, "sampling": LatentDiTSampling(steps=3)}
CPU = Runtime(torch.device("cpu"), torch.float32)


def untrained(family: FamilyConfig, clips: Source, **data: Any) -> tuple[Model, Trainer]:
    experiment = Experiment(family, DataConfig(**data), TrainConfig(batch=2))
    trainer = Trainer(experiment, clips, CPU)
    return Model(trainer.family, trainer.experiment, trainer.spec, CPU), trainer


@pytest.fixture(scope="module")
def sprites() -> tuple[Model, Trainer]:
    """A model that accepts text, sound, actions and known frames."""
    return untrained(LatentDiTConfig(**DIT), Sprites(8, 32, 32), source="sprites", frames=8, height=32, width=32)


@pytest.fixture(scope="module")
def labelled() -> Model:
    """A model that accepts labels and makes any number of frames."""
    family = MoCoGANConfig(content=4, motion=3, ngf=2, ndf=2, ndf_image=2)
    return untrained(family, ShapeMotion(8, 16, 32), frames=8, height=16, width=32)[0]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (GenerateRequest(seeds=()), "there are no seeds"),
        (GenerateRequest(text=[]), "text is empty: give one for each clip, or leave it out"),
        (GenerateRequest(labels=[]), "labels is empty"),
        (GenerateRequest(audio=np.zeros((0, 16000), np.float32)), "audio is empty"),
        (GenerateRequest(actions=np.zeros((0, 8, 2), np.float32)), "actions is empty"),
        (GenerateRequest(known=np.zeros((0, 1, 32, 32, 3), np.uint8)), "known is empty"),
        (GenerateRequest(mask=np.ones((1, 32, 32), bool)), "give known too"),
        (GenerateRequest(text=[" "]), "the prompt is empty"),
        (GenerateRequest(text=["red " * 501]), "the prompt has 2,004 letters"),
        (GenerateRequest(text=["xyzzy"]), "knows no word of the prompt; it knows and"),
        (GenerateRequest(labels=[0]), "cannot use label; it accepts actions, audio"),
        (GenerateRequest(frames=0), "frames is 0: it must be 1 to"),
        (GenerateRequest(streams={"motion": (1,)}), "no stream of noise called motion; it has latents"),
        (GenerateRequest(streams={"latents": (1, 2)}), "has 2 seeds for 1 clips"),
        (GenerateRequest(sampling={"temperature": 1}), "no sampling settings temperature; it has "),
        (GenerateRequest(sampling={"steps": 0}), "steps is 0: it must be 1 to 10,000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_an_error(sprites: tuple[Model, Trainer], request_: GenerateRequest, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        sprites[0].generate(request_)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("labels", [["sideways"], [2], ["2"], [-1]])
def test_a_label_that_there_is_not_is_an_error(labelled: Model, labels: list[str | int]) -> None:
    with pytest.raises(ValueError, match=r"has no label .*: its labels are up, left"):
        labelled.generate(GenerateRequest(labels=labels))


def test_labels_are_names_or_numbers_and_are_cycled(labelled: Model) -> None:
    seeds = (0, 1, 2)
    names, numbers, digits = (
        labelled.generate(GenerateRequest(seeds, labels=labels)) for labels in (["left", "up"], [1, 0], ["1", "0"])
    )
    assert np.array_equal(names, numbers) and np.array_equal(names, digits)
    cycled = labelled.generate(GenerateRequest(seeds, labels=[1, 0, 1]))
    assert np.array_equal(names, cycled)


def test_a_request_is_a_value(sprites: tuple[Model, Trainer]) -> None:
    model, request = sprites[0], GenerateRequest((3, 4), text=["a red circle"])
    first = model.generate(request)
    assert first.shape == (2, 8, 32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, model.generate(request))
    assert np.array_equal(first, model.generate(request, batch=1))


LONG = " ".join(["a red circle moving left and"] * 8) + " over a square"  # 51 words; 48 are read


def test_the_end_of_a_long_prompt_is_warned_of(sprites: tuple[Model, Trainer]) -> None:
    model = sprites[0]
    with pytest.warns(UserWarning, match=r"^the prompt is longer than the model reads; its end is ignored: ") as found:
        model.generate(GenerateRequest((0, 1), text=[LONG, LONG]))
    assert [str(warning.message).endswith(": over a square") for warning in found] == [True]
    with pytest.warns(UserWarning, match=r"^the model does not know these words, which are ignored: dragon$"):
        model.generate(GenerateRequest(text=["a red dragon"]))


def test_the_command_warns_in_one_line(sprites: tuple[Model, Trainer], kinema, tmp_path: Path) -> None:
    save_step(tmp_path / "run", sprites[1].state())
    words = ["--device", "cpu", "-o", tmp_path / "a.npy", "--model", tmp_path / "run"]
    status, _, err = kinema("generate", LONG, *words)
    assert (status, err) == (
        0,
        "kinema: the prompt is longer than the model reads; its end is ignored: over a square\n",
    )
    assert kinema("generate", LONG.removesuffix(" over a square"), *words)[2] == ""


def test_a_long_clip_comes_in_chunks(labelled: Model) -> None:
    request = GenerateRequest((0, 1, 2), frames=100)
    chunks = list(labelled.stream(request, batch=2))
    for clip in (0, 2):
        own = [chunk for chunk in chunks if chunk.first_clip == clip]
        assert len(own) > 2
        assert [chunk.first_frame for chunk in own] == np.cumsum([0, *(c.frames.shape[1] for c in own)])[:-1].tolist()
        assert {len(chunk.frames) for chunk in own} == {2 if clip == 0 else 1}
    complete = np.concatenate(
        [np.concatenate([chunk.frames for chunk in chunks if chunk.first_clip == clip], 1) for clip in (0, 2)]
    )
    assert complete.shape == (3, 100, 16, 32, 3)
    assert np.array_equal(complete, labelled.generate(request, batch=2))


def test_progress_is_told_between_solver_steps(sprites: tuple[Model, Trainer]) -> None:
    model, calls = sprites[0], []
    model.generate(GenerateRequest((0, 1, 2)), lambda done, total: calls.append((done, total)), batch=2)
    assert calls == [(step, 6) for step in range(1, 7)]  # three steps for each of two batches
    calls.clear()
    model.generate(GenerateRequest(frames=20), lambda done, total: calls.append((done, total)))
    total = calls[-1][1]
    assert total > 3 and calls == [(step, total) for step in range(1, total + 1)]  # over windows too


class Cancelled(Exception):
    pass


def test_an_exception_from_progress_cancels(sprites: tuple[Model, Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = sprites[0], []
    network, forward = model.family.generator, type(model.family.generator).forward
    monkeypatch.setattr(type(network), "forward", lambda *args, **kw: calls.append(1) or forward(*args, **kw))

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled

    chunks = model.stream(GenerateRequest(sampling={"steps": 50, "solver": "euler"}), cancel)
    with pytest.raises(Cancelled):
        next(chunks)
    assert len(calls) == 2
    assert next(chunks, None) is None
    assert model.generate(GenerateRequest()).shape == (1, 8, 32, 32, 3)  # the model is as before


class Chunked(VGAN):
    """Makes clips frame by frame, and notes how many chunks are still held when the next one is made."""

    def __init__(self, config: VGANConfig) -> None:
        super().__init__(config)
        self.max_frames = None
        self.held: list[int] = []

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        made: list[weakref.ref] = []
        for _ in range(0, frames, 8):
            chunk = torch.zeros(len(seeds), 8, 3, 16, 32)
            made.append(weakref.ref(chunk))
            yield chunk
            del chunk
            self.held.append(sum(ref() is not None for ref in made))


def test_written_chunks_are_not_held(tmp_path: Path) -> None:
    family = Chunked(VGANConfig(ngf=2, ndf=2, frames=8, height=16, width=32))
    spec = ShapeMotion(8, 16, 32).spec
    model = Model(family, Experiment(VGANConfig()), spec, CPU)
    names = [tmp_path / f"{k}.mp4" for k in range(2)]
    write_clips(model, GenerateRequest((0, 1), frames=160), names, 25.0)
    assert len(family.held) == 20 and max(family.held) <= 1
    assert all(path.stat().st_size for path in names)


PEAK = """
import sys
import torch
from kinema.cli.main import main
from kinema.runtime.memory import peak_memory
assert main(sys.argv[1:]) == 0
print(peak_memory(torch.device("cpu")))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    family = MoCoGANConfig(content=4, motion=3, ngf=2, ndf=2, ndf_image=2)
    _, trainer = untrained(family, ShapeMotion(8, 64, 64), frames=8)
    save_step(tmp_path / "run", trainer.state())

    def peak(frames: int) -> float:
        words = f"sample {tmp_path / 'run'} --frames {frames} --count 4 --device cpu --out {tmp_path / str(frames)}"
        done = subprocess.run([sys.executable, "-c", PEAK, *words.split()], capture_output=True, text=True, check=True)
        return float(done.stdout.splitlines()[-1])

    few, many = peak(200), peak(2000)
    assert many - few < 40e6  # 1,800 more frames of four clips are 88 MB as bytes and 354 MB as float32


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"seeds": 3}, "seeds are a tuple of integers"),
        ({"seeds": (1.5,)}, r"not \(1.5,\)"),
        ({"seeds": (True,)}, r"not \(True,\)"),
        ({"frames": "8"}, "frames is '8': it must be a whole number"),
        ({"labels": "01"}, "labels is a list"),
        ({"text": ["a red ball", "a blue ball"]}, "text has 2 for 1 seeds"),
        ({"known": np.zeros((1, 2, 32, 32, 3), np.float32)}, "known is a NumPy array of uint8 with 5 axes"),
        ({"known": np.zeros((1, 2, 32, 32, 1), np.uint8)}, "known is uint8 RGB"),
        ({"known": np.zeros((1, 9, 32, 32, 3), np.uint8)}, "9 known frames for a clip of 8"),
        ({"known": np.zeros((2, 1, 32, 32, 3), np.uint8)}, "known has 2 for 1 seeds"),
        (
            {"known": np.zeros((1, 1, 32, 32, 3), np.uint8), "mask": np.ones((1, 32, 32), np.float32)},
            "mask is a NumPy array of bool",
        ),
        ({"audio": np.full((1, 16_000), np.nan, np.float32)}, "audio has values that are not finite"),
        ({"sampling": {"solver": "foo"}}, "sampling"),
        ({"sampling": {"steps": 2.5}}, "steps"),
        ({"sampling": {"steps": True}}, "steps"),
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused_at_once(
    values: dict[str, Any], says: str, sprites: tuple[Model, Trainer]
) -> None:
    request = GenerateRequest()
    for name, value in values.items():  # past the type checks that only tests make
        object.__setattr__(request, name, value)
    with pytest.raises(ValueError, match=says):
        next(sprites[0].stream(request))


def test_conditions_that_are_the_same_for_all_frames_are_encoded_for_two_groups(sprites: tuple[Model, Trainer]) -> None:
    encoder = sprites[0].family.generator.conditions
    short, long = (encoder(Conditions(text=("a red ball",)), frames, 1) for frames in (8, 8_000))
    assert short.groups.shape == long.groups.shape
    torch.testing.assert_close(long.slice(0, 8).groups, short.slice(0, 8).groups)
