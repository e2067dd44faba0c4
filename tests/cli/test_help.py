"""Help is instant and has the commonest flags first; wrong flags are answered before weights are read."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kinema.cli.main import COMMANDS
from kinema.experiment import Experiment
from kinema.presets import PRESETS
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.training.loop import train
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import files

COMMONEST = {  # five flags of each command, or as many as it has
    "generate": ["--out", "--model", "--image", "--seed", "--count"],
    "demo": ["--out"],
    "train": ["--data", "--out", "--minutes", "--resume", "--preset"],
    "plan": ["--data", "--out", "--minutes", "--resume", "--preset"],
    "sample": ["--out", "--count", "--seed", "--frames", "--label"],
    "evaluate": ["--against", "--out", "--save-features", "--device", "--clips"],
    "compare": ["--against", "--out", "--device", "--clips", "--frames"],
    "metrics audit": ["--on", "--out", "--clips", "--frames", "--height"],
    "anomalies": ["--out", "--normal", "--threshold", "--device"],
    "caption": ["--device"],
    "models": [],
    "export": ["--out", "--half"],
    "export-clips": ["--out", "--format", "--outside"],
    "data check": ["--out", "--data.source", "--data.frames", "--data.height", "--data.width"],
}
HEAVY = {
    "torch",
    "numpy",
    "av",
    "cv2",
    "PIL",
    "scipy",
    "safetensors",
    "pydantic",
    "tyro",
    "rich",
    "jaxtyping",
    "einops",
}


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["nonsense"]], ids=str)
def test_the_list_of_commands_waits_for_no_package(words: list[str]) -> None:
    code = "import sys; from kinema.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert HEAVY & {*done.stdout.splitlines()[-1].split()} == set()


def test_help_names_every_command_and_an_example(kinema) -> None:
    for words in ([], ["--help"], ["-h"]):
        status, out, err = kinema(*words)
        assert (status, err) == (0, "")
        assert all(name in out for name in COMMANDS) and "kinema train --data clips/" in out
    assert re.fullmatch(r"kinema \d+\.\d+\.\d+\S*\n", kinema("--version")[1])


def flags_in(help_text: str) -> list[str]:
    return re.findall(r"^│ (?:-\w [A-Z]+, )?(--[\w.-]+)", help_text, re.MULTILINE)


def test_the_table_has_every_command() -> None:
    assert COMMONEST.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commonest_flags_come_first(command: str, kinema) -> None:
    status, out, err = kinema(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert flags_in(out)[:5] == COMMONEST[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command, kinema) -> None:
    status, out, err = kinema(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert f"\nExample: kinema {command}" in out  # not indented
    assert "type: ignore" not in out and "MISSING" not in out
    flags = flags_in(out)
    common = [flag for flag in flags if "." not in flag]
    assert "--out" in common or command in ("caption", "models")
    assert flags[: len(common)] == common, "the common flags come first"


def test_help_of_train_has_the_presets_and_the_settings_of_the_family(kinema) -> None:
    _, out, _ = kinema("train", "mocogan", "--preset", "paper", "--help")
    assert all(f"{name} (" in out for name in ("cpu", "demo", "gpu", "paper"))
    assert re.search(r"--family\.ngf INT[^-]*?\(default: 64\)", out)  # the preset's own


@pytest.fixture
def run(tiny: Callable[..., Experiment], world: ShapeMotion, cpu: Runtime, tmp_path: Path) -> Path:
    train(tiny(steps=1), tmp_path / "run", source=world, runtime=cpu)
    return tmp_path / "run"


@pytest.fixture
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of weights may be read."""
    monkeypatch.setattr(files, "read_tensors", lambda file: pytest.fail(f"{file} is read"))


@pytest.mark.usefixtures("_unread")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sample", "RUN", "--cuont", "3", "--out", "out"], "--cuont is no flag here: did you mean --count?"),
        (["sample", "RUN", "--count", "many", "--out", "out"], "--count"),
        (["sample", "RUN"], "missing --out"),
        (["generate", "--model", "RUN", "--lable", "up"], "--lable is no flag here: did you mean --label?"),
        (["generate", "--model", "RUN", "--keep-frist", "1"], "did you mean --keep-first?"),
        (["caption", "RUN", "clips", "--devise", "cpu"], "--devise is no flag here: did you mean --device?"),
        (["anomalies", "RUN", "a.mp4", "--out", "out", "--treshold", "1"], "did you mean --threshold?"),
        (["export", "RUN", "--half", "--outt", "x.safetensors"], "--out"),
        (["train", "mocogan", "--out", "RUN", "--resume", "--stesp", "3"], "did you mean --steps?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_flags_are_answered_without_reading_weights(words: list[str], says: str, run: Path, refused) -> None:
    assert says in refused(*[str(run) if word == "RUN" else word for word in words])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--family.nfg", "--family.ngf"),
        ("--famly.ngf", "--family.ngf"),
        ("--data.hieght=32", "--data.height"),
        ("--train.ema-deacy", "--train.ema-decay"),
        ("--minuets", "--minutes"),
    ],
)
def test_a_misspelt_flag_suggests_the_nearest(wrong: str, right: str, refused, tmp_path: Path) -> None:
    says = refused("train", "mocogan", "--out", tmp_path / "x", "--steps", 1, wrong, 4)
    assert says == f"kinema: {wrong} is no flag here: did you mean {right}? (kinema train --help lists all)\n"
    assert not (tmp_path / "x").exists()


def test_a_misspelt_sampling_setting_suggests_the_nearest(refused, tmp_path: Path) -> None:
    out = ["--out", tmp_path / "x"]
    assert "did you mean --family.sampling.steps?" in refused("train", "latent-dit", "--family.sampling.stpes", 3, *out)
    assert "did you mean --guidance?" in refused("sample", "sprites", "--guidence", 3, *out)


def test_help_says_what_each_family_is_for(kinema) -> None:
    text = " ".join(kinema("train", "--help")[1].split())
    for name in PRESETS:
        about = FAMILIES[name].about
        assert about.endswith(".") and f"{name}: {about}" in text
