"""The documentation is run: what a page shows works, what it links to is there, the flags it names exist."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kinema.families
from kinema import presets
from kinema.cli import COMMANDS, main
from kinema.data.clips import DataConfig, open_source
from kinema.run import start
from kinema.sample import load, stream
from kinema.train import Experiment, train
from kinema.types import Noise

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
TINY = ["--data.frames", "8", "--data.height", "16", "--data.width", "16", "--train.batch", "2"]


def fences(page: Path, language: str) -> list[str]:
    """The blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of every kinema command that a page shows, in a block or indented, without the name."""
    lines = re.findall(r"^(?:    |\$ )?(?:\.venv/bin/)?kinema (.+)$", page.read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def new_family(tmp_path, monkeypatch):
    """The family of docs/add-a-family.md, in place as the page says."""
    module, name, function, row, tiny = fences(ROOT / "docs/add-a-family.md", "python")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "next_frame.py").write_text(module)
    monkeypatch.setattr(kinema.families, "__path__", [*kinema.families.__path__, str(tmp_path / "package")])
    monkeypatch.setattr(kinema.families, "FAMILIES", kinema.families.FAMILIES | ast.literal_eval("{" + name + "}"))
    importlib.invalidate_caches()
    config = kinema.families.config_class("next-frame")
    namespace = vars(presets) | {config.__name__: config}
    exec(function, namespace)
    monkeypatch.setitem(presets.PRESETS, "next-frame", eval("{" + row + "}", namespace)["next-frame"])
    monkeypatch.setattr("kinema.train.FAMILIES", kinema.families.FAMILIES)
    monkeypatch.setattr("kinema.commands.train.FAMILIES", kinema.families.FAMILIES, raising=False)
    return eval("{" + tiny + "}", namespace)["next-frame"]


def test_a_new_family_trains_and_samples(new_family, tmp_path):
    experiment = presets.preset("next-frame", "cpu")
    data = DataConfig(frames=6, height=16, width=24)
    experiment = Experiment(new_family, data, replace(experiment.train, steps=2, batch=3, average=0.5))
    run = start("cpu")
    train(experiment, open_source(data), tmp_path / "run", run)
    model = load(tmp_path / "run", run)
    chunks = list(stream(model.family, run, Noise((3, 4)), 9))
    clips = torch.cat(chunks, 1)
    assert clips.shape == (2, 9, 3, 16, 24) and clips.abs().max() <= 1
    alone = torch.cat(list(stream(model.family, run, Noise((4,)), 9)), 1)
    torch.testing.assert_close(alone[0], clips[1], atol=0.02, rtol=0)  # a batch of one may be summed in another order


def test_a_new_family_learns(new_family):
    source = open_source(DataConfig(frames=6, height=16, width=16))
    torch.manual_seed(0)
    family = new_family.fitted(source.facts).build()
    (turn,) = family.turns()
    optimizer = torch.optim.AdamW(turn.player.parameters(), 1e-2)
    losses = []
    for step in range(30):
        loss, _ = turn.loss(source.batch(step, 4, seed=0), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.5


def test_the_commands_of_the_page_run(new_family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training, sampling = commands(ROOT / "docs/add-a-family.md")
    budget = training.index("--minutes")
    training[budget : budget + 2] = ["--steps", "2", *TINY]
    assert main(training) == 0, capsys.readouterr().err
    assert main(sampling) == 0, capsys.readouterr().err
    out = Path(sampling[sampling.index("--out") + 1])
    assert len(list(out.glob("clip-*.mp4"))) == 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    files = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_exist(page, new_family, capsys):
    for words in commands(page):
        if words[0] in ("COMMAND", "--help", "--version"):
            continue
        name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), None)
        assert name, f"{page.name} shows kinema {' '.join(words)}, which is no command"
        family = words[1:2] if name == "train" and words[1:2] and not words[1].startswith("-") else []
        with contextlib.suppress(SystemExit):
            main([*name.split(), *family, "--help"])
        known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - known
        assert not unknown, f"{page.name} shows kinema {' '.join(words)}"


def readme_examples() -> list[str]:
    return fences(ROOT / "README.md", "python")


@pytest.mark.parametrize("number", range(len(readme_examples())))
def test_the_readme_runs(number, make_clip, tmp_path, monkeypatch):
    """Its Python examples, in a folder with `clips/` and, where they do not train it themselves, a run in `runs/x`."""

    def shrunk(function):
        def tiny() -> Experiment:
            experiment = function()
            family = experiment.family
            if hasattr(family, "ngf"):
                family = replace(family, ngf=4, ndf=4)
            data = replace(experiment.data, frames=8, height=16, width=16)
            return Experiment(family, data, replace(experiment.train, batch=2))

        return tiny

    code = readme_examples()[number]
    code = re.sub(r"\bminutes=[\d.]+", "steps=2", code)
    code = re.sub(r"\bsteps=\d+", "steps=2", code)
    code = re.sub(r"\b(count|clips)=\d+", r"\1=2", code)
    for k in range(3):
        make_clip(f"clips/{k}.mp4", frames=20)
    for family, named in presets.PRESETS.items():
        monkeypatch.setitem(presets.PRESETS, family, {name: shrunk(function) for name, function in named.items()})
    monkeypatch.chdir(tmp_path)
    if not re.search(r"\btrain\(", code):
        assert main(["train", "mocogan", "--data", "clips", "--out", "runs/x", "--steps", "1"]) == 0
    exec(compile(code, f"README.md, Python block {number}", "exec"), {"__name__": "__main__"})
