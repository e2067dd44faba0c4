"""The documentation is run: what a page shows works, what it links to is there, the flags it names exist."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kinema.families
from kinema import presets
from kinema.cli import COMMANDS, main
from kinema.data.clips import DataConfig, open_source
from kinema.family import FamilyConfig
from kinema.sample import load, stream
from kinema.train import Experiment
from kinema.types import Noise

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "add-a-family.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words after `kinema` of every command that a page shows, indented or in a block."""
    shown = re.findall(r"^    .+$", page.read_text().replace("\\\n", " "), re.MULTILINE) + blocks(page, "sh")
    lines = re.findall(r"^(?:\.venv/bin/)?kinema (.+)$", "\n".join(map(textwrap.dedent, shown)), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


README_EXAMPLES = blocks(ROOT / "README.md", "python")


@pytest.fixture
def new_family(tmp_path, monkeypatch) -> FamilyConfig:
    """The tiny instance of the family in docs/add-a-family.md, which is put where the page says."""
    module, name, preset, row, instance = blocks(PAGE, "python")
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "next_frame.py").write_text(module)
    monkeypatch.setattr(kinema.families, "__path__", [*kinema.families.__path__, str(tmp_path / "families")])
    monkeypatch.setitem(kinema.families.FAMILIES, "next-frame", ast.literal_eval("{" + name + "}")["next-frame"])
    config = kinema.families.config_class("next-frame")
    names = vars(presets) | {config.__name__: config, "Instance": lambda _, settings: config(**settings)}
    exec(preset, names)
    monkeypatch.setitem(presets.PRESETS, "next-frame", eval("{" + row + "}", names)["next-frame"])
    return eval("{" + instance + "}", names)["next-frame"]


def test_a_new_family_trains_and_samples(new_family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training, sampling = commands(PAGE)
    budget = training.index("--minutes")
    small = "--steps 2 --data.frames 6 --data.height 16 --data.width 24 --train.batch 2 --train.average 0.5"
    training[budget : budget + 2] = small.split()
    assert main(training) == 0, capsys.readouterr().err
    assert main(sampling) == 0, capsys.readouterr().err
    assert len(list(Path("out/next-frame").glob("clip-*.mp4"))) == 4

    model = load("runs/next-frame")
    clips = torch.cat(list(stream(model.family, model.run, Noise((3, 4)), 9)), 1)
    assert clips.shape == (2, 9, 3, 16, 24) and clips.abs().max() <= 1
    assert clips.diff(dim=1).abs().mean() > 0.01  # it moves
    alone = torch.cat(list(stream(model.family, model.run, Noise((4,)), 9)), 1)
    torch.testing.assert_close(alone[0], clips[1], atol=0.05, rtol=0)  # in bfloat16, whose sums differ with the batch


def test_a_new_family_learns(new_family):
    source = open_source(DataConfig(frames=6, height=16, width=16))
    torch.manual_seed(0)
    (turn,) = new_family.fitted(source.facts).build().turns()
    optimizer = torch.optim.AdamW(turn.player.parameters(), 1e-2)
    losses = []
    for step in range(30):
        loss, scalars = turn.loss(source.batch(step, 4, seed=0), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(scalars["nll"].item())
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    files = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page, new_family, capsys):
    for words in commands(page):
        name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), None)
        assert name or words[0] in ("COMMAND", "--help", "--version"), f"there is no kinema {words[0]}"
        if name is None:
            continue
        family = words[1:2] if name == "train" else []
        with contextlib.suppress(SystemExit):
            main([*name.split(), *family, "--help"])
        known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known, f"kinema {' '.join(words)}"


@pytest.mark.parametrize("number", range(len(README_EXAMPLES)))
def test_the_readme_runs(number, make_clip, tmp_path, monkeypatch, capsys):
    """In a folder with `clips/` and, where the example does not train, a run in `runs/x`; with tiny networks."""

    def shrunk(experiment: Experiment) -> Experiment:
        return Experiment(
            replace(experiment.family, ngf=4, ndf=4),
            replace(experiment.data, frames=8, height=16, width=16),
            replace(experiment.train, batch=2),
        )

    code = re.sub(r"(['\"]?)\b(?:minutes|steps)\b\1(\s*[:=]\s*)[\d.]+", r"\1steps\1\g<2>2", README_EXAMPLES[number])
    for k in range(3):
        make_clip(f"clips/{k}.mp4", frames=20)
    made = {name: lambda f=function: shrunk(f()) for name, function in presets.PRESETS["mocogan"].items()}
    monkeypatch.setitem(presets.PRESETS, "mocogan", made)
    monkeypatch.chdir(tmp_path)
    if not re.search(r"\btrain\(", code):
        assert main(["train", "mocogan", "--data", "clips", "--out", "runs/x", "--steps", "1"]) == 0
    exec(compile(code, f"README.md, Python example {number + 1}", "exec"), {"__name__": "__main__"})
