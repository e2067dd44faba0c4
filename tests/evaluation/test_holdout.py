"""Evaluation of models beside held-out clips, copies of the last given frame and the nearest training clips."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kinema.data.clips import DataConfig, FolderClips
from kinema.data.folder import scan
from kinema.data.holdout import held_out
from kinema.evaluation.clip_sets import CopyClipSet, FolderClipSet
from kinema.evaluation.evaluate import EvaluationConfig, evaluate
from kinema.evaluation.rows import clip_measures
from kinema.experiment import Experiment, TrainConfig
from kinema.families.mocogan import MoCoGAN, MoCoGANConfig
from kinema.families.svg_lp import SVGLPConfig
from kinema.metrics.paired import psnr
from kinema.metrics.temporal import changes
from kinema.sampling.model import load_experiment
from kinema.training.loop import train
from kinema.zoo import export

CONFIG = EvaluationConfig(clips=60, force=True)
GIVEN = 2


@pytest.fixture
def clips(make_clip, tmp_path) -> Path:
    """Ten videos of noise that goes by, each of six windows; its amount tells them apart."""
    rng = np.random.default_rng(0)
    for number in range(10):
        noise = rng.integers(20 * number + 40, size=(16, 96, 3), dtype=np.uint8)
        images = np.stack([np.roll(noise, t, 1)[:, :32] for t in range(48)])
        make_clip(f"clips/{number}.mkv", images=images, codec="ffv1", pixels="bgr0", rate=10)
    return tmp_path / "clips"


@pytest.fixture
def data(clips) -> DataConfig:
    return DataConfig(str(clips), frames=8, height=16, width=32, holdout=0.3)


@pytest.fixture
def run(data, cpu, tmp_path) -> Path:
    """A model of the folder that has seen seven of its files."""
    family = MoCoGANConfig(content=4, motion=3, ngf=2, ndf=2, ndf_image=2)
    train(Experiment(family, data, TrainConfig(steps=1, batch=4)), tmp_path / "run", runtime=cpu)
    return tmp_path / "run"


@pytest.fixture
def predictor(data, cpu, tmp_path) -> Path:
    """A model of the folder that is given two frames."""
    family = SVGLPConfig(context_frames=GIVEN, channels=2, code=4, hidden=4, latent=2)
    sizes = replace(data, height=32, width=32)
    train(Experiment(family, sizes, TrainConfig(steps=1, batch=2)), tmp_path / "predictor", runtime=cpu)
    return tmp_path / "predictor"


def folder_clips(data: DataConfig, part) -> FolderClipSet:
    return FolderClipSet("x", FolderClips(data, part), 0)


def test_a_model_is_measured_against_what_it_was_trained_on_beside_held_out_clips(run, clips, data, cpu) -> None:
    (found,), reference = evaluate([str(run)], str(clips), CONFIG, cpu)
    (baseline,) = found.baselines
    assert (baseline.result.source, baseline.result.kind) == ("held-out real clips", "baseline")
    assert reference is not None and (len(reference.rows), len(baseline.rows), len(found.rows)) == (42, 18, 42)
    for rows, part in ((reference.rows, "training"), (baseline.rows, "held out")):
        expected = folder_clips(data, part)
        assert {*rows.groups.tolist()} == {expected.group(k) for k in range(len(rows))}
    assert not {*reference.rows.groups.tolist()} & {*baseline.rows.groups.tolist()}
    numbers, held = baseline.result.numbers, folder_clips(data, "held out")
    assert numbers["motion"].clips == 18 and numbers["motion"].value == pytest.approx(
        np.mean([changes(held.clip(k)[None]).mean() for k in range(18)])
    )
    assert np.isfinite(numbers["KD imagenet"].value) and "where 64 are needed" in numbers["KD imagenet"].note
    assert np.median(baseline.rows.per_clip["nearest training clip"]) == pytest.approx(1)


def test_copies_of_training_clips_are_found_and_shown(run, clips, data, cpu, monkeypatch) -> None:
    training = folder_clips(data, "training")
    frames = torch.from_numpy(training.read(0, 16).frames).movedim(-1, 2) / 127.5 - 1

    def copy(self, conditions, count, seeds, progress=None):
        """Training clips where a seed is below 4, and else noise."""
        noise = torch.rand(len(seeds), count, 3, 16, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        yield torch.stack([frames[seed] if seed < 4 else clip for seed, clip in zip(seeds.values, noise, strict=True)])

    monkeypatch.setattr(MoCoGAN, "generate", copy)
    (found,), _ = evaluate([str(run)], str(clips), CONFIG, cpu)
    ratios = found.rows.per_clip["nearest training clip"]
    assert (ratios[:4] < 0.01).all() and (ratios[4:] > 0.3).all()
    assert found.result.numbers["nearest training clip"].real == 1
    assert found.nearest is not None
    assert sorted(found.nearest.numbers.tolist()) == [0, 1, 2, 3] and (np.diff(found.nearest.ratios) >= 0).all()
    made, nearest = found.nearest.frames()
    assert np.array_equal(made, nearest)
    assert not {*found.nearest.files()} & held_out(scan(clips), 0.3)


def test_another_folder_and_an_unsplit_one_are_measured_as_they_are(run, clips, cpu, tmp_path) -> None:
    clips.rename(tmp_path / "others")
    (found,), reference = evaluate([str(run)], str(tmp_path / "others"), CONFIG, cpu)
    assert reference is not None and len(reference.rows) == 60
    assert not found.baselines and found.nearest is None and "nearest training clip" not in found.rows.per_clip


def test_an_exported_model_knows_its_folder_by_name(run, clips, cpu, tmp_path) -> None:
    experiment, spec = load_experiment(run)
    file = export(run, tmp_path / "x.safetensors", experiment.portable().to_dict(spec))
    moved = tmp_path / "elsewhere" / clips.name
    moved.parent.mkdir()
    clips.rename(moved)
    (found,), reference = evaluate([str(file)], str(moved), CONFIG, cpu)
    assert reference is not None and len(reference.rows) == 42 and len(found.baselines) == 1


def test_without_held_out_files_distances_are_of_training_files(clips, data, cpu, tmp_path) -> None:
    family = MoCoGANConfig(content=4, motion=3, ngf=2, ndf=2, ndf_image=2)
    train(Experiment(family, replace(data, holdout=0.0), TrainConfig(steps=1, batch=4)), tmp_path / "all", runtime=cpu)
    (found,), reference = evaluate([str(tmp_path / "all")], str(clips), CONFIG, cpu)
    assert reference is not None and len(reference.rows) == 60
    assert not found.baselines and np.isfinite(found.rows.per_clip["nearest training clip"]).all()


def test_a_folder_as_a_source_is_all_of_it(run, clips, cpu) -> None:
    (whole, _), reference = evaluate([str(clips), str(run)], str(clips), CONFIG, cpu)
    assert reference is not None and len({*whole.rows.groups.tolist()}) == 10 and not whole.baselines
    assert len({*reference.rows.groups.tolist()}) == 7


def test_given_frames_are_measured_nowhere(predictor, clips, data, cpu) -> None:
    (found,), reference = evaluate([str(predictor)], str(clips), CONFIG, cpu)
    assert reference is not None and found.result.protocol.given == GIVEN
    for one in (found, reference, *found.baselines):
        assert one.rows.samples.shape[1] == 8  # shown whole
        expected, directions = clip_measures(one.rows.samples[:, GIVEN:])
        shown = len(one.rows.samples)
        for name, values in expected.items():
            np.testing.assert_allclose(one.rows.per_clip[name][:shown], values, err_msg=name)
        np.testing.assert_allclose(one.rows.directions[:shown], directions)
    assert found.rows.per_frame["PSNR"].shape[1] == 8 - GIVEN
    with pytest.raises(ValueError, match="none to measure after 2 given ones"):
        evaluate([str(predictor)], str(clips), replace(CONFIG, frames=2), cpu)


def test_a_prediction_is_read_beside_a_copy_of_the_last_given_frame(predictor, clips, data, cpu) -> None:
    (found,), reference = evaluate([str(predictor)], str(clips), CONFIG, cpu)
    assert [one.result.source for one in found.baselines] == ["held-out real clips", "copy of the last given frame"]
    copied, real = found.baselines[1], folder_clips(replace(data, height=32, width=32), "training").read(0, 16).frames
    assert copied.result.numbers["motion"].value == 0 and copied.result.numbers["freeze"].value == 1
    x, y = (
        torch.from_numpy(frames).movedim(-1, 2).float() / 127.5 - 1 for frames in (real[:, [1] * 6], real[:, GIVEN:])
    )
    np.testing.assert_allclose(copied.rows.per_frame["PSNR"][:16], psnr(x, y), rtol=1e-5)
    assert reference is not None and np.array_equal(copied.rows.groups, reference.rows.groups)


def test_a_copy_keeps_the_given_frames(data) -> None:
    real = folder_clips(data, "all")
    copy, frames = CopyClipSet(real, 3).read(0, 16), real.read(0, 16).frames
    assert np.array_equal(copy.frames[:, :3], frames[:, :3]) and (copy.frames[:, 3:] == frames[:, 2:3]).all()
    assert copy.truth is not None and np.array_equal(copy.truth, frames[:, 3:])
    assert CopyClipSet(real, 3).key != CopyClipSet(real, 2).key


def test_windows_of_one_group_are_one_unit(data, clips) -> None:
    """As the intervals are by groups, patients with many files count once."""
    rows = "".join(f"{k}.mkv,{k % 5}\n" for k in range(10))
    (clips / "metadata.csv").write_text("file_name,patient\n" + rows)
    clip_set = folder_clips(data, "all")
    assert len({clip_set.group(k) for k in range(60)}) == 5


def test_reports_show_baselines_and_pairs(run, predictor, clips, tmp_path, kinema) -> None:
    words = ["--clips", 60, "--force", "--out"]
    status, printed, err = kinema("evaluate", run, "--against", clips, *words, tmp_path / "a")
    assert status == 0, err
    assert "held-out real" in printed and "nearest training clip" in printed
    text = (tmp_path / "a" / "report.html").read_text()
    assert (
        f"Nearest training clips of {run}" in text
        and len(re.findall(r"<small[^>]*>distance [\d.]+</small>", text)) == 4
    )
    kinds = [result["kind"] for result in json.loads((tmp_path / "a" / "results.json").read_text())]
    assert kinds == ["generated", "baseline"]
    status, printed, err = kinema("compare", tmp_path / "a" / "results.json", tmp_path / "a" / "results.json")
    assert status == 0 and printed.count("held-out real") == 1
    status, printed, err = kinema("evaluate", predictor, "--against", clips, *words, tmp_path / "b")
    assert status == 0, err
    assert "copy of the last given frame" in (tmp_path / "b" / "report.md").read_text()
