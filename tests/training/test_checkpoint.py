"""A checkpoint is complete or absent; a damaged, foreign or hostile file is an error that names it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kinema.experiment import Experiment
from kinema.runtime.device import Runtime
from kinema.sampling.model import load
from kinema.training import checkpoint
from kinema.training.checkpoint import Checkpoint
from kinema.training.loop import Trainer
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import FORMAT, find_model_file, load_config, load_model
from kinema.zoo.files import read_tensors, write_manifest

FILES = ("generator.safetensors", "training.safetensors", "optimizers.pt", "progress.json")


@pytest.fixture
def state(tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime) -> Checkpoint:
    """The state of a run after its first step, when its optimizers have moments."""
    trainer = Trainer(tiny(), world, cpu)
    trainer.advance()
    return trainer.state()


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def one_line(error: pytest.ExceptionInfo[ValueError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_loading_gives_what_was_saved(state: Checkpoint, tmp_path: Path) -> None:
    loaded = checkpoint.load(checkpoint.save_step(tmp_path, state))
    for part in ("generator", "training", "optimizers"):
        torch.testing.assert_close(getattr(loaded, part), getattr(state, part), rtol=0, atol=0)
    assert (loaded.step, loaded.seconds) == (state.step, state.seconds)


def test_a_generator_file_is_enough_to_sample(state: Checkpoint, cpu: Runtime, tmp_path: Path) -> None:
    file = checkpoint.save_step(tmp_path, state) / "generator.safetensors"
    file = file.rename(tmp_path / "exported.safetensors")
    torch.testing.assert_close(dict(load(file, cpu).family.generator.state_dict()), state.generator, rtol=0, atol=0)


def test_the_newest_two_are_kept(state: Checkpoint, tmp_path: Path) -> None:
    for step in (9, 10, 100):
        checkpoint.save_step(tmp_path, replace(state, step=step), keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000100"]
    assert find_model_file(tmp_path).parent.name == "step-00000100"


def test_leftovers_of_a_killed_save_are_removed(state: Checkpoint, tmp_path: Path) -> None:
    left = tmp_path / ".step-00000007.4242"
    left.mkdir()
    (left / "generator.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="no model there"):
        find_model_file(tmp_path)
    checkpoint.save_step(tmp_path, state)
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize("manifest", ["as it was", "made again"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "foreign"])
def test_a_damaged_file_is_named(state: Checkpoint, tmp_path: Path, name: str, damage: str, manifest: str) -> None:
    file = checkpoint.save_step(tmp_path, state) / name
    if damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "emptied":
        os.truncate(file, 0)
    elif damage == "removed":
        file.unlink()
    else:
        file.write_bytes(b"GIF89a, or whatever else this may be")
    if manifest == "made again":
        write_manifest(file.parent, None)
    with pytest.raises(ValueError, match=name) as error:
        checkpoint.load(tmp_path)
    assert str(file) in one_line(error)


@pytest.mark.parametrize("name", [*FILES, "config.json", "manifest.json"])
def test_a_flipped_bit_is_found(state: Checkpoint, tmp_path: Path, name: str) -> None:
    file = checkpoint.save_step(tmp_path, state) / name
    content = file.read_bytes()
    for place in np.linspace(0, len(content) - 1, 12).astype(int):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(place) % 8
        file.write_bytes(flipped)
        with pytest.raises(ValueError, match=rf"{file.parent}") as error:
            checkpoint.load(tmp_path)
        one_line(error)
    file.write_bytes(content)
    assert checkpoint.load(tmp_path).step == state.step


def test_a_checkpoint_from_before_there_were_checksums_is_resumed(state: Checkpoint, tmp_path: Path) -> None:
    (checkpoint.save_step(tmp_path, state) / "manifest.json").unlink()
    assert checkpoint.load(tmp_path).step == state.step


@pytest.mark.parametrize("step", ["1e30", "-1", "1.5", "null", '"7"', "true", "[1]", "1" * 5000])
def test_a_step_that_is_none_is_refused(state: Checkpoint, tmp_path: Path, step: str) -> None:
    folder = checkpoint.save_step(tmp_path, state)
    (folder / "progress.json").write_text(f'{{"step": {step}, "seconds": 1.0}}')
    write_manifest(folder, None)
    with pytest.raises(ValueError, match=r"progress\.json") as error:
        checkpoint.load(tmp_path)
    one_line(error)


def test_the_newest_step_is_that_of_the_highest_number(state: Checkpoint, tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        checkpoint.save_step(tmp_path, replace(state, step=step))
    (tmp_path / "step-999999999").mkdir()  # empty
    assert checkpoint.load(tmp_path).step == 100_000_000


def test_a_foreign_generator_is_named(tmp_path: Path, cpu: Runtime) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="not a kinema model") as error:
        load(file, cpu)
    assert str(file) in one_line(error)


def test_weights_of_another_network_are_named(state: Checkpoint, tmp_path: Path, cpu: Runtime) -> None:
    family = {**state.config["family"], "ngf": 3}
    checkpoint.save_step(tmp_path, replace(state, config={**state.config, "family": family}))
    with pytest.raises(ValueError, match=": generator: the tensor ") as error:
        load(tmp_path, cpu)
    assert str(tmp_path) in one_line(error)


@pytest.mark.parametrize(
    ("number", "fix"),
    [(None, "format 1.*train it again"), (1, "format 1.*train it again"), (99, "format 99.*update kinema")],
)
@pytest.mark.parametrize("use", [checkpoint.load, load_config, load_model])
def test_another_format_is_one_clear_line(
    state: Checkpoint, tmp_path: Path, number: int | None, fix: str, use: Callable[[Path], object]
) -> None:
    step = checkpoint.save_step(tmp_path, state)
    assert json.loads((step / "config.json").read_text())["format"] == FORMAT
    metadata, tensors = read_tensors(step / "generator.safetensors")
    config = json.loads(metadata["kinema"])
    assert config.pop("format") == FORMAT
    config |= {} if number is None else {"format": number}
    save_file(tensors, step / "generator.safetensors", {"kinema": json.dumps(config)})
    write_manifest(step, None)
    with pytest.raises(ValueError, match=rf"it has {fix}") as error:
        use(tmp_path)
    assert str(step) in one_line(error)


def test_a_system_that_cannot_open_folders_can_save(
    state: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Windows, where opening a folder is an error."""
    monkeypatch.setattr(checkpoint, "os", SimpleNamespace(name="nt", getpid=os.getpid, fsync=os.fsync))
    checkpoint.save_step(tmp_path, state)
    assert checkpoint.load(tmp_path).step == state.step


def test_a_folder_is_flushed_where_it_can_be(
    state: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, plain = [], os.open
    monkeypatch.setattr(os, "open", lambda path, *flags: opened.append(path) or plain(path, *flags))
    checkpoint.save_step(tmp_path, state)
    assert opened == [tmp_path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model there") as error:
        checkpoint.load(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in one_line(error)


def other_shapes(moments: dict[str, Tensor]) -> None:
    moments["exp_avg_sq"] = torch.zeros(3)


def other_type(moments: dict[str, Tensor]) -> None:
    moments["exp_avg"] = moments["exp_avg"].double()


def missing(moments: dict[str, Tensor]) -> None:
    del moments["exp_avg_sq"]


def not_finite(moments: dict[str, Tensor]) -> None:
    moments["exp_avg"] = torch.full_like(moments["exp_avg"], torch.nan)


def no_tensor(moments: dict[str, Tensor]) -> None:
    moments["step"] = "soon"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("change", [other_shapes, other_type, missing, not_finite, no_tensor])
def test_moments_that_do_not_fit_are_refused(
    state: Checkpoint, tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime, change: Callable[[dict], None]
) -> None:
    """The kernels of optimizers check no shapes: what does not fit would be written beyond its memory."""
    optimizers = copy.deepcopy(state.optimizers)
    change(next(iter(optimizers.values()))["state"][0])
    with pytest.raises(ValueError, match=r"does not fit.*optimizers\.pt: \w+: parameter 0: ") as error:
        Trainer(tiny(), world, cpu).restore(replace(state, optimizers=optimizers))
    one_line(error)


def test_moments_of_one_number_in_memory_are_copied(
    state: Checkpoint, tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime
) -> None:
    """A tensor may have the right shape and hold less: what an optimizer writes would be beyond it."""
    optimizers, trainer = copy.deepcopy(state.optimizers), Trainer(tiny(), world, cpu)
    first = next(iter(optimizers))
    moments = optimizers[first]["state"][0]
    moments["exp_avg"] = torch.zeros(()).expand(moments["exp_avg"].shape)
    trainer.restore(replace(state, optimizers=optimizers))
    own = next(iter(trainer.optimizers[first].state.values()))["exp_avg"]
    assert own.untyped_storage().nbytes() >= own.numel() * own.element_size()
    trainer.advance()


@pytest.mark.parametrize(
    "moments", [None, [], {}, {"state": None, "param_groups": []}, {"state": {}, "param_groups": 3}]
)
def test_no_state_of_an_optimizer_is_refused(
    state: Checkpoint, tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime, moments: object
) -> None:
    broken = replace(state, optimizers=dict.fromkeys(state.optimizers, moments))
    with pytest.raises(ValueError, match=r"optimizers\.pt: \w+: it is"):
        Trainer(tiny(), world, cpu).restore(broken)


@pytest.mark.parametrize("part", ["generator", "training"])
def test_weights_that_are_not_finite_are_not_resumed(
    state: Checkpoint, tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime, part: str
) -> None:
    name, values = next(iter(getattr(state, part).items()))
    broken = getattr(state, part) | {name: torch.full_like(values, torch.nan)}
    with pytest.raises(ValueError, match=rf"{name} has values that are not finite"):
        Trainer(tiny(), world, cpu).restore(replace(state, **{part: broken}))


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("write", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, protocol=2))])
def test_nothing_is_unpickled(state: Checkpoint, tmp_path: Path, write: Callable[[object, Path], object]) -> None:
    mark = tmp_path / "mark"
    file = checkpoint.save_step(tmp_path / "run", state) / "optimizers.pt"
    write(Hostile(mark), file)
    with pytest.raises(ValueError, match=r"optimizers\.pt") as error:
        checkpoint.load(tmp_path / "run")
    one_line(error)
    assert not mark.exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, which fails a write as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["training.safetensors", "optimizers.pt"])
def test_a_full_disk_leaves_the_run_as_it_was(state: Checkpoint, tmp_path: Path, name: str) -> None:
    before = checkpoint.save_step(tmp_path, state)
    with (
        largest_file((before / name).stat().st_size - 1),
        pytest.raises(ValueError, match="could not be saved") as error,
    ):
        checkpoint.save_step(tmp_path, replace(state, step=2))
    assert str(tmp_path) in one_line(error)
    assert names(tmp_path) == [before.name]
    assert checkpoint.load(tmp_path).step == 1


def test_a_command_on_a_full_disk_says_so(words: list[str], state: Checkpoint, tmp_path: Path) -> None:
    before = checkpoint.save_step(tmp_path, state)
    size = (before / "training.safetensors").stat().st_size - 1
    done = subprocess.run(
        [sys.executable, "-m", "kinema.cli", *words, "--resume", "--steps", "2", "--out", str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    *_, line = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    assert line.startswith(f"kinema: {tmp_path}: step 2 could not be saved")
    assert checkpoint.load(tmp_path).step == 1
    assert not list(tmp_path.glob(".step-*"))
