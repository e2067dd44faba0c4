"""The documentation is run: examples work, links lead somewhere, flags exist, tables are what was measured."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import textwrap
from dataclasses import replace
from datetime import date
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import kinema.families
from kinema import presets
from kinema.cli.main import COMMANDS, main
from kinema.data.clips import DataConfig, open_source
from kinema.experiment import Experiment
from kinema.family import FamilyConfig
from kinema.registry import FAMILIES
from kinema.sampling.model import load
from kinema.sampling.request import GenerateRequest
from kinema.types import TrainStep

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "add-a-family.md"
RUNS = r"^(?:\.venv/bin/kinema|kinema|torchrun .* -m kinema\.cli) (.+)$"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words after `kinema` of every command that a page shows, indented or in a block."""
    shown = re.findall(r"^    .+$", page.read_text().replace("\\\n", " "), re.MULTILINE) + blocks(page, "sh")
    lines = re.findall(RUNS, "\n".join(map(textwrap.dedent, shown)), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def help_flags(words: list[str], capsys) -> set[str]:
    """The flags in the help of the command that `words` begin with; fails where there is no such command."""
    name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), None)
    assert name, f"there is no kinema {words[0]}"
    family = [word for word in words[1:2] if name in ("train", "plan") and not word.startswith("-")]
    with contextlib.suppress(SystemExit):
        main([*name.split(), *family, "--help"])
    return set(re.findall(r"--[\w.-]+", capsys.readouterr().out))


def flags_in(words: list[str]) -> set[str]:
    return {word for word in words if word.startswith("--")}


def make_results():
    """The module docs/make_results.py."""
    spec = spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


README_EXAMPLES = blocks(ROOT / "README.md", "python")
RESULTS = make_results()
TABLES = RESULTS.load_tables()
RECORDS = [record for table in TABLES.values() for record in table["records"]]


@pytest.fixture
def new_family(tmp_path, monkeypatch) -> FamilyConfig:
    """The tiny instance of the family in docs/add-a-family.md, which is put where the page says."""
    module, name, preset, row, instance = blocks(PAGE, "python")
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "next_frame.py").write_text(module)
    monkeypatch.setattr(kinema.families, "__path__", [*kinema.families.__path__, str(tmp_path / "families")])
    monkeypatch.setitem(FAMILIES._builtin, "next-frame", ast.literal_eval("{" + name + "}")["next-frame"])
    config = FAMILIES["next-frame"]
    names = vars(presets) | {config.__name__: config, "Instance": lambda _, settings: config(**settings)}
    exec(preset, names)
    monkeypatch.setitem(presets.PRESETS, "next-frame", eval("{" + row + "}", names)["next-frame"])
    return eval("{" + instance + "}", names)["next-frame"]


def test_a_new_family_trains_and_samples(new_family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    training, sampling = commands(PAGE)
    budget = training.index("--minutes")
    small = "--steps 2 --data.frames 6 --data.height 16 --data.width 24 --train.batch 2 --train.ema-decay 0.5"
    training[budget : budget + 2] = small.split()
    assert main(training) == 0, capsys.readouterr().err
    assert main(sampling) == 0, capsys.readouterr().err
    assert len(list(Path("out/next-frame").glob("clip-*.mp4"))) == 4

    model = load("runs/next-frame")
    clips = torch.as_tensor(model.generate(GenerateRequest(seeds=(3, 4), frames=9))).float()
    assert clips.shape == (2, 9, 16, 24, 3)
    assert clips.diff(dim=1).abs().mean() > 1  # it moves
    single = torch.as_tensor(model.generate(GenerateRequest(seeds=(4,), frames=9))).float()
    torch.testing.assert_close(single[0], clips[1], atol=6, rtol=0)  # in bfloat16, whose sums differ with the batch


def test_a_new_family_learns(new_family):
    source = open_source(DataConfig(frames=6, height=16, width=16))
    torch.manual_seed(0)
    (turn,) = new_family.fitted(source.spec).build().turns()
    optimizer = torch.optim.AdamW(turn.module.parameters(), 1e-2)
    losses = []
    for step in range(30):
        batch = source.batch(step, 4, seed=0).to(torch.device("cpu"))
        loss, scalars = turn.loss(batch, TrainStep.from_seed(0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(scalars["nll"].item())
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    files = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [file for file in files if not (page.parent / file).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_exist(page, new_family, capsys):
    for words in commands(page):
        if words[0] not in ("COMMAND", "--help", "--version"):
            assert flags_in(words) <= help_flags(words, capsys), f"kinema {' '.join(words)}"


@pytest.mark.parametrize("page", RESULTS.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_what_the_records_say(page):
    assert page.read_text() == RESULTS.render(page, TABLES), "run python docs/make_results.py"


def test_every_table_is_on_a_page():
    placed = [name for page in RESULTS.PAGES for name in RESULTS.PLACE.findall(page.read_text())]
    assert set(placed) == {*TABLES, "summary"}


def test_records_are_complete():
    for record in RECORDS:
        where = f"{record['claim']}: {record}"
        values = [record, *(value for value in record.get("also", {}).values() if isinstance(value, dict))]
        for value in values:
            low, high = value.get("interval", ("-inf", "inf"))
            number = value["number"] or "0"  # a row may have no number of the first column
            assert float(low.replace(",", "")) <= float(number.replace(",", "")) <= float(high.replace(",", "")), where
        assert re.fullmatch(r"[0-9a-f]{7}", record["commit"]), where
        assert date.fromisoformat(record["date"]), where
        assert record["hardware"], where


@pytest.mark.parametrize("command", sorted({one for r in RECORDS for one in r["command"].split(" && ")}))
def test_commands_of_records_exist(command, capsys):
    program, first, *words = shlex.split(command)
    if program == "kinema":
        assert flags_in(words) <= help_flags([first, *words], capsys)
    elif program == "pytest":
        assert [first, *words[:-1]] == ["-s", "-m", "slow"]
        assert "pytest.mark.slow" in (ROOT / words[-1]).read_text()
    else:
        assert (program, first[:11]) == ("python", "benchmarks/")
        source = (ROOT / first).read_text() + (ROOT / "benchmarks" / "runs.py").read_text()
        assert [flag for flag in flags_in(words) if f'"{flag}"' not in source] == []


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
