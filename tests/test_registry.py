"""Installed packages add families, codecs, worlds and readers by entry points, and kinema uses them as its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kinema.registry import CODECS, FAMILIES, READERS, WORLDS, Registry

MODULE = '''
"""A family, a codec, a world and a reader of another package."""

from dataclasses import dataclass

from functools import partial

import numpy as np
import torch

from kinema.codecs.video_vae import VideoVAEConfig
from kinema.data.readers.base import ClipInfo, Reader
from kinema.family import Family, FamilyConfig, Turn
from kinema.types import Batch, ClipSpec, no_progress


@dataclass(frozen=True)
class MeanConfig(FamilyConfig):
    level: float = 0.5
    """How light clips are at first."""

    def build(self):
        return Mean(self)


class Colour(torch.nn.Module):
    def __init__(self, level):
        super().__init__()
        self.value = torch.nn.Parameter(torch.full((3, 1, 1), level))

    def forward(self, frames):
        return (frames - self.value).square().mean()


class Mean(Family):
    accepts = streams = frozenset()

    def __init__(self, config):
        super().__init__()
        self.config, self.generator = config, Colour(config.level)

    def turns(self):
        return (Turn("generator", self.generator, self._loss),)

    def _loss(self, batch, step):
        error = self.generator(batch.frames)
        return error, {"error": error}

    def generate(self, conditions, frames, seeds, progress=no_progress):
        size = self.config.required("height", "width")
        yield self.generator.value.expand(len(seeds), frames, 3, *size).clamp(-1, 1)


@dataclass(frozen=True)
class OtherVAEConfig(VideoVAEConfig):
    """Another codec, which is trained as a family of this name too."""


class Dark:
    """Clips that are all of one dark level."""

    skipped, key = (), "dark"

    def __init__(self, frames, height, width):
        self.spec = ClipSpec(frames, height, width, fps=5.0)

    def batch(self, step, size, *, seed, rank=0, ranks=1):
        spec = self.spec
        return Batch(torch.full((size, spec.frames, 3, spec.height, spec.width), 20, dtype=torch.uint8))


class LevelReader(Reader):
    """Reads files of one level a line."""

    suffixes = frozenset({".levels"})

    def info(self, clip):
        return ClipInfo(16, 16, 10.0, None)

    def recording(self, clip, threads=0):
        for k, line in enumerate(clip.path.read_text().split()):
            yield k / 10, 1 / 10, partial(np.full, (16, 16, 3), int(line), np.uint8)
'''
ENTRY_POINTS = """
[kinema.families]
mean = other_package:MeanConfig
other-vae = other_package:OtherVAEConfig
broken = other_package:Nothing
mocogan = other_package:MeanConfig
[kinema.codecs]
other-vae = other_package:OtherVAEConfig
[kinema.worlds]
dark = other_package:Dark
[kinema.readers]
levels = other_package:LevelReader
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed the package."""
    folder = tmp_path_factory.mktemp("package")
    wheel, about = folder / "other_package-1.0-py3-none-any.whl", "other_package-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other_package.py", MODULE)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/entry_points.txt", ENTRY_POINTS)
        archive.writestr(f"{about}/RECORD", "")
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--target"]
    subprocess.run([*pip, str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder / "site"


SCRIPT = """
import json
import sys
from pathlib import Path

from kinema.cli.main import main
from kinema.data.clips import DataConfig, open_source
from kinema.registry import CODECS, FAMILIES, READERS, WORLDS
from kinema.sampling.model import load
from kinema.sampling.request import GenerateRequest

out = Path(sys.argv[1])
found = {"names": [registry.names for registry in (FAMILIES, CODECS, WORLDS, READERS)]}
size = "--data.frames 9 --data.height 16 --data.width 16 --train.batch 2 --device cpu".split()
assert main(["train", "mean", "--data", "dark", "--out", f"{out}/x", "--steps", "2", "--train.lr", "0.5", *size]) == 0
model = load(out / "x")
found["loaded"] = [type(model.family).__name__, model.spec.fps, model.experiment.data.source]
found["level"] = int(model.generate(GenerateRequest()).max())
assert main(["sample", f"{out}/x", "--out", f"{out}/clips", "--count", "1"]) == 0

vae = "--family.space 4 --family.channels 3 --family.hidden 4".split()
assert main(["train", "other-vae", "--data", "dark", "--out", f"{out}/vae", "--steps", "1", *vae, *size]) == 0
dit = f"--family.codec {out}/vae --family.patch 1 2 --family.hidden 16 --family.depth 2 --family.heads 2".split()
dit += ["--family.merged-hidden", "0"]
assert main(["train", "latent-dit", "--data", "dark", "--out", f"{out}/dit", "--steps", "1", *dit, *size]) == 0
found["codec"] = type(load(out / "dit").experiment.family.codec_settings).__name__

(out / "clips-of-levels").mkdir()
(out / "clips-of-levels" / "a.levels").write_text("10 20 30")
source = open_source(DataConfig(f"{out}/clips-of-levels", frames=3, height=16, width=16))
found["read"] = source.batch(0, 1, seed=0).frames[0, :, 0, 0, 0].tolist()

found["mocogan"] = FAMILIES["mocogan"].__name__
try:
    FAMILIES["broken"]
except ValueError as error:
    found["broken"] = str(error)
print(json.dumps(found))
"""


def test_an_installed_package_adds_to_every_registry(site: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [names[-len(new) :] for names, new in zip(found["names"], ADDED, strict=True)] == ADDED
    assert found["loaded"] == ["Mean", 5.0, "dark"]
    assert 0 < found["level"] < 190  # from 0.5, which is 191, towards the clips' 20
    assert found["codec"] == "OtherVAEConfig"
    assert found["read"] == [10, 20, 30]
    assert found["mocogan"] == "MoCoGANConfig"  # kinema's own names cannot be taken
    assert found["broken"].startswith("family 'broken' of other-package cannot be loaded: ")


ADDED = [["broken", "mean", "other-vae"], ["other-vae"], ["dark"], ["levels"]]


@pytest.mark.parametrize("registry", [FAMILIES, CODECS, WORLDS, READERS], ids=lambda registry: registry.kind)
def test_a_name_that_there_is_not_is_an_error_with_those_there_are(registry: Registry) -> None:
    with pytest.raises(ValueError, match=rf"^there is no {registry.kind} 'nothing'; there are {registry.names[0]}"):
        registry["nothing"]
    assert "nothing" not in registry and registry.names[0] in registry


def test_a_class_knows_its_name() -> None:
    for name in FAMILIES.names:
        assert FAMILIES.name_of(FAMILIES[name]) == name
    with pytest.raises(ValueError, match=r"builtins:int is no registered family: register it by an entry point"):
        FAMILIES.name_of(int)
