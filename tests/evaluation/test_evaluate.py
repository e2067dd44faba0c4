"""kinema evaluate and compare, from clips to reports."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from kinema.data import cache
from kinema.data import clips as clips_of
from kinema.data.clips import DataConfig, FolderClips
from kinema.data.readers.base import read_frames
from kinema.data.readers.video import VideoReader
from kinema.evaluation import rows as rows_module
from kinema.evaluation.clip_sets import ClipSet, FolderClipSet, GeneratedClipSet, WorldClipSet
from kinema.evaluation.evaluate import Evaluation, EvaluationConfig, evaluate
from kinema.experiment import Experiment, TrainConfig
from kinema.families.latent_dit import LatentDiTConfig, LatentDiTSampling
from kinema.families.mocogan import MoCoGAN, MoCoGANConfig
from kinema.metrics.paired import psnr
from kinema.metrics.protocol import Protocol, Result
from kinema.metrics.temporal import flicker
from kinema.sampling.model import load, load_experiment
from kinema.training.loop import train
from kinema.worlds.shape_motion import ShapeMotion
from kinema.zoo import export

TINY = MoCoGANConfig(content=4, motion=3, ngf=2, ndf=2, ndf_image=2)
SMALL = EvaluationConfig(clips=20, frames=8, height=32, width=32, features="kinema", force=True)  # the fastest features
WORDS = ["--clips", 20, "--frames", 8, "--height", 32, "--width", 32, "--features", "kinema", "--force"]


@pytest.fixture
def clips(make_clip, tmp_path) -> Path:
    """Five videos of 40 frames, of noise that goes by, each of them five windows."""
    rng = np.random.default_rng(0)
    for number in range(5):
        noise = rng.integers(256, size=(1, 32, 96, 3), dtype=np.uint8).repeat(40, 0)
        images = np.stack([np.roll(frame, t, 1)[:, :48] for t, frame in enumerate(noise)])
        make_clip(f"clips/{number}.mp4", images=images, rate=10)
    return tmp_path / "clips"


def one(found: tuple[list[Evaluation], Evaluation | None]) -> Result:
    return found[0][0].result


def test_a_folder_against_itself_is_at_no_distance(clips, cpu) -> None:
    result = one(evaluate([str(clips)], str(clips), SMALL, cpu))
    numbers = result.numbers
    assert (result.kind, result.protocol.clips) == ("folder", 20)
    assert numbers["FD kinema"].value == 0 and (numbers["FD kinema"].real or 0) > 0
    assert numbers["precision"].value == numbers["coverage"].value == 1
    assert all(number.value == pytest.approx(number.real) for number in numbers.values() if number.better == "near")
    assert numbers["flow distance"].value == numbers["direction distance"].value == 0
    note = numbers["FD kinema"].note
    assert "where 258 are needed" in note and "covariances are singular, of rank 19 in 128 dimensions" in note


def test_the_default_features_need_64_clips(clips, cpu) -> None:
    settings = replace(SMALL, frames=2, features=EvaluationConfig.features)
    numbers = one(evaluate([str(clips)], str(clips), settings, cpu)).numbers
    distance = numbers["FD imagenet"]
    assert distance.value == 0 and (distance.real or 0) > 0
    assert distance.note == "of 20 clips, where 64 are needed"


def test_what_is_measured_needs_no_cache(clips, cpu, tmp_path) -> None:
    expected = one(evaluate([str(clips)], None, SMALL, cpu)).per_clip
    shutil.rmtree(tmp_path / ".cache" / "measured")
    (tmp_path / ".cache" / "measured").touch()  # a file, so that nothing can be written below it
    with pytest.warns(UserWarning, match=r"what is measured is not kept: cannot write to .*measured") as warned:
        assert one(evaluate([str(clips)], None, SMALL, cpu)).per_clip == expected
    assert len(warned) == 1


def test_windows_do_not_overlap_and_alternate_between_files(clips) -> None:
    source = FolderClips(DataConfig(str(clips), frames=8, height=32, width=32))
    clip_set = FolderClipSet("x", source, seed=0)
    windows = clip_set.windows(99)
    assert len(windows) == len(set(windows)) == 25
    assert all(first % 8 == 0 for _, first in windows)
    assert all(len({clip for clip, _ in windows[k : k + 5]}) == 5 for k in range(0, 25, 5))
    assert (
        FolderClipSet("x", source, seed=1).windows(25) != windows
        and FolderClipSet("x", source, seed=0).windows(7) == windows[:7]
    )
    groups = [clip_set.group(k) for k in range(25)]
    assert groups[0] in groups[5:10] and len(set(groups)) == 5


def test_files_are_decoded_while_others_are_measured_and_no_more_than_are_needed(
    make_clip, cpu, tmp_path, monkeypatch
) -> None:
    for number in range(60):
        make_clip(f"many/{number:02d}.mp4", frames=8, size=(32, 32), rate=10)
    (tmp_path / "many" / "60.mp4").write_bytes(b"nothing")
    decoded, measured = list[str](), list[int]()
    read, of_clips = VideoReader.recording, rows_module._parallel_measures

    def reading(self, clip, *settings):
        decoded.append(clip.path.name)
        return read(self, clip, *settings)

    def measuring(frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        measured.append(len(decoded))
        return of_clips(frames)

    monkeypatch.setattr(clips_of, "PREFETCH", 2)
    monkeypatch.setattr(VideoReader, "recording", reading)
    monkeypatch.setattr(rows_module, "_parallel_measures", measuring)
    found = one(evaluate([str(tmp_path / "many")], None, replace(SMALL, clips=32), cpu))
    assert measured[0] < 60 and len(measured) == 2 and len(decoded) == len(set(decoded)) <= 34
    assert len(found.skipped) == 1 and "60.mp4" in found.skipped[0]
    all_of_it = one(evaluate([str(tmp_path / "many")], None, replace(SMALL, clips=99), cpu))
    assert all_of_it.protocol.clips == 60 and len(set(decoded)) == 60 and measured[-1] == 60
    assert all_of_it.per_clip["motion"][:32] == found.per_clip["motion"]


def test_as_many_clips_of_each_set_are_compared(clips, make_clip, cpu, tmp_path) -> None:
    for number in range(3):
        make_clip(f"few/{number}.mp4", frames=8, size=(32, 32), rate=10)
    (found,), real = evaluate([str(tmp_path / "few")], str(clips), SMALL, cpu)
    assert real is not None and found.result.protocol == real.result.protocol and real.result.protocol.clips == 3
    assert len(found.rows) == len(real.rows) == len(real.result.per_clip["motion"]) == 3
    whole = one(evaluate([str(clips)], None, SMALL, cpu))
    assert whole.per_clip["motion"][:3] == real.result.per_clip["motion"]


def test_other_clips_are_at_a_distance(clips, cpu) -> None:
    numbers = one(evaluate(["shape-motion"], str(clips), replace(SMALL, fps=6.25), cpu)).numbers
    distance = numbers["FD kinema"]
    assert distance.value > 5 * (distance.real or 0) and distance.low > 0
    assert numbers["precision"].value < 0.5
    for name in ("precision", "recall", "density", "coverage"):
        assert 0 <= numbers[name].low <= numbers[name].high and (name == "density" or numbers[name].high <= 1)


def test_nothing_is_computed_twice_and_an_interrupted_run_goes_on(clips, cpu, monkeypatch, tmp_path) -> None:
    seen: list[int] = []
    of_clips = rows_module._parallel_measures

    def counting(frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        seen.append(len(frames))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return of_clips(frames)

    monkeypatch.setattr(rows_module, "_parallel_measures", counting)
    with pytest.raises(KeyboardInterrupt):
        evaluate([str(clips)], None, SMALL, cpu)
    again = one(evaluate([str(clips)], None, SMALL, cpu))
    assert seen == [16, 4, 4]  # the second piece twice, as it was not finished
    more = one(evaluate([str(clips)], None, replace(SMALL, clips=25), cpu))
    assert seen == [16, 4, 4, 9]
    assert more.per_clip["motion"][:20] == again.per_clip["motion"]
    (path,) = (tmp_path / ".cache" / "measured").glob("*/00001-4.npz")
    path.write_bytes(path.read_bytes()[:100])
    assert one(evaluate([str(clips)], None, SMALL, cpu)).per_clip == again.per_clip and seen[-1] == 4
    before = len(seen)
    with np.load(path) as found:
        np.savez(path, **{name: values for name, values in found.items() if name != "classes"})
    assert (
        one(evaluate([str(clips)], None, SMALL, cpu)).per_clip == again.per_clip
    )  # a piece of an earlier kinema, measured again
    assert seen[before:] == [4]


def test_changed_code_measures_and_generates_again(clips, trained, cpu, monkeypatch, tmp_path) -> None:
    seen: list[int] = []
    of_clips = rows_module._parallel_measures

    def counting(frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        seen.append(len(frames))
        return of_clips(frames)

    monkeypatch.setattr(rows_module, "_parallel_measures", counting)
    first = one(evaluate([str(clips)], None, SMALL, cpu))
    assert one(evaluate([str(clips)], None, SMALL, cpu)).per_clip == first.per_clip and seen == [16, 4]

    model, world = load(trained, cpu), ShapeMotion(8, 16, 32)
    folder = FolderClips(DataConfig(str(clips), frames=8, height=32, width=32))

    def clip_sets() -> dict[str, ClipSet]:
        """By a file whose code makes their clips."""
        return {
            "families/mocogan.py": GeneratedClipSet(str(trained), model, 8, 0, None),
            "worlds/shape_motion.py": WorldClipSet("shape-motion", world, 0),
            "data/decoded.py": FolderClipSet("x", folder, 0),
        }

    before = clip_sets()
    for file in (*before, "evaluation/rows.py"):
        tree = tmp_path / file.replace("/", "-")
        shutil.copytree(cache.PACKAGE, tree, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
        with (tree / file).open("a") as source:
            source.write("\n")
        with monkeypatch.context() as patch:
            patch.setattr(cache, "PACKAGE", tree)
            after = clip_sets()
            assert [name for name in before if after[name].key != before[name].key] == [file] * (file in before)
            assert all(after[name].content == before[name].content for name in before)
            if file in ("evaluation/rows.py", "data/decoded.py"):
                seen.clear()
                assert one(evaluate([str(clips)], None, SMALL, cpu)).protocol == first.protocol and seen == [16, 4]


def test_a_moved_folder_has_the_same_protocol(clips, cpu, tmp_path) -> None:
    first = one(evaluate([str(clips)], str(clips), SMALL, cpu))
    clips.rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    assert one(evaluate([moved], moved, SMALL, cpu)).protocol.hash == first.protocol.hash
    other = one(evaluate([moved], moved, replace(SMALL, seed=1), cpu))
    assert other.protocol.hash != first.protocol.hash


@pytest.fixture
def trained(tiny, cpu, tmp_path) -> Path:
    """A generator of clips of 8 frames, 32x16."""
    train(tiny(steps=1), tmp_path / "run", runtime=cpu)
    return tmp_path / "run"


def test_a_model_is_measured_at_its_own_size(trained, cpu) -> None:
    settings = EvaluationConfig(clips=18, force=True)
    (found,), reference = evaluate([str(trained)], "shape-motion", settings, cpu)
    protocol = found.result.protocol
    assert (protocol.frames, protocol.height, protocol.width) == (8, 16, 32)
    assert found.result.kind == "generated" and reference is not None
    assert found.rows.samples.shape == (8, 8, 16, 32, 3)
    control = found.result.numbers["control"]
    assert control.clips == 18 and control.better == "higher" and 0 <= (control.real or 0) <= 1
    assert np.allclose(found.result.per_clip["flicker"][:8], flicker(found.rows.samples))
    with pytest.raises(ValueError, match="measured at the size of their clips"):
        evaluate([str(trained)], "shape-motion", replace(settings, height=32, width=32), cpu)


def test_frame_rates_must_be_one(clips, trained, cpu) -> None:
    with pytest.raises(ValueError, match=r"frames a second differ .*give --fps"):
        evaluate([str(trained)], str(clips), EvaluationConfig(clips=4), cpu)


def test_a_model_and_a_world_of_one_name(cpu, tmp_path, monkeypatch) -> None:
    """The shipped model gets the prompts of the world's clips, and how often it matches them is measured."""
    family = LatentDiTConfig(patch=(2, 8), hidden=16, depth=2, heads=2, sampling=LatentDiTSampling(steps=2))
    data, training = DataConfig("sprites", 8, 32, 32), TrainConfig(steps=1, batch=2)
    train(Experiment(family, data, training), tmp_path / "run", runtime=cpu)
    experiment, spec = load_experiment(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "zoo" / "sprites.safetensors", experiment.to_dict(spec))
    monkeypatch.setattr("kinema.zoo.files.FOLDER", tmp_path / "zoo")
    (found,), reference = evaluate(["sprites"], "sprites", EvaluationConfig(clips=16), cpu)
    assert reference is not None and (found.result.kind, reference.result.kind) == ("generated", "world")
    adherence = found.result.numbers["adherence"]
    assert adherence.real == 1 and adherence.value < 1
    assert found.rows.captions == reference.rows.captions and len(found.rows.captions) == 8
    assert "synchrony" in found.result.numbers


def test_saved_features_stand_for_clips(clips, cpu, tmp_path, kinema, refused) -> None:
    features = tmp_path / "clips.npz"
    status, out, _ = kinema("evaluate", clips, *WORDS, "--save-features", features)
    assert status == 0 and f"wrote {features}" in out
    by_clips = one(evaluate(["shape-motion"], str(clips), replace(SMALL, fps=6.25), cpu)).numbers["FD kinema"]
    kinema("evaluate", clips, *WORDS, "--fps", 6.25, "--save-features", features)
    by_features = one(evaluate(["shape-motion"], str(features), replace(SMALL, fps=6.25), cpu)).numbers["FD kinema"]
    assert by_features.value == by_clips.value
    assert "frames" in refused("evaluate", "shape-motion", "--against", features, "--clips", 20, "--frames", 9)
    with np.load(features) as kept:
        broken = dict(kept)
    broken["features"][3, 2] = np.nan
    np.savez(features, **broken)
    assert "row 3" in refused("evaluate", features)
    features.write_text("nothing")
    assert "holds no features" in refused("evaluate", features)


def test_reports_and_results(clips, tmp_path, kinema) -> None:
    (clips / "bad.mp4").write_text("no video")
    out = tmp_path / "out"
    status, printed, err = kinema(
        "compare", "shape-motion", clips, "--against", clips, "--fps", 6.25, *WORDS, "--out", out
    )
    assert status == 0, err
    assert err.count("bad.mp4") == 1
    results = [Result.from_dict(values, "x") for values in json.loads((out / "results.json").read_text())]
    assert [result.source for result in results] == ["shape-motion", str(clips)]
    assert results[0].protocol.hash in printed
    assert len(results[0].skipped) == 1 and results[0].skipped[0].startswith(f"{clips}/bad.mp4: ")
    html, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "data:image/" in html and results[0].protocol.hash in html and results[0].protocol.hash in text
    assert "Differences" in printed


def test_results_of_other_protocols_are_not_compared(clips, tmp_path, kinema, refused) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        kinema("evaluate", clips, *WORDS, "--seed", seed, "--out", tmp_path / name)
    a, b, c = (tmp_path / name / "results.json" for name in "abc")
    status, out, _ = kinema("compare", a, b)
    assert status == 0 and "sharpness" in out
    assert "different protocols (seed: 0 and 1)" in refused("compare", a, c)
    values = json.loads(a.read_text())
    values[0]["protocol"]["frames"] = 9
    a.write_text(json.dumps(values))
    assert "the protocol was changed" in refused("compare", a, b)
    a.write_text("[{}]")
    assert "holds no results" in refused("compare", a, b)


def test_predictions_are_compared_with_their_truth(clips, make_clip, tmp_path, cpu, vgg16) -> None:
    """Files of the same names, a little darker."""
    for path in sorted(clips.glob("*.mp4")):
        frames = np.stack([*read_frames(path)])
        make_clip(f"darker/{path.name}", images=(frames * 0.8).astype(np.uint8), rate=10, codec="ffv1")
    settings = replace(SMALL, paired=True, lpips=str(vgg16))
    (found,), _ = evaluate([str(tmp_path / "darker")], str(clips), settings, cpu)
    source, truth = (
        FolderClips(DataConfig(str(f), frames=8, height=32, width=32)) for f in (tmp_path / "darker", clips)
    )
    window = FolderClipSet("x", source, 0).windows(1)
    assert FolderClipSet("y", truth, 0).windows(1) == window
    expected = psnr(*(one.read(window).to(cpu.device).frames for one in (source, truth)))[0]
    assert found.rows.per_frame["PSNR"][0] == pytest.approx(expected.numpy())
    assert found.result.per_clip["PSNR"][0] == pytest.approx(float(expected.mean()))
    assert 0 < found.result.numbers["SSIM"].value < 1 and found.result.numbers["LPIPS"].value > 0
    (tmp_path / "darker" / "0.mp4").unlink()
    with pytest.raises(ValueError, match="are not pairs"):
        evaluate([str(tmp_path / "darker")], str(clips), settings, cpu)
    with pytest.raises(ValueError, match="name it with --against"):
        evaluate([str(clips)], None, settings, cpu)


def test_one_clip_is_refused(make_clip, tmp_path, refused) -> None:
    make_clip("one/0.mp4", frames=9)
    assert "1 clip cannot be measured" in refused("evaluate", tmp_path / "one", *WORDS)


def test_too_few_clips_are_marked_or_refused(clips, cpu) -> None:
    plain = one(evaluate([str(clips)], str(clips), replace(SMALL, force=False), cpu)).numbers
    assert np.isnan(plain["FD kinema"].value) and "--force" in plain["FD kinema"].note
    assert plain["motion"].value > 0 and plain["motion"].note == "the interval is of 5 files only"


def test_a_protocols_hash_is_of_all_of_it() -> None:
    protocol = Protocol(4, 8, None, 16, 16, "so", {"name": "x"}, "abc", 0)
    kinds = {int: 99, float: 99.0, str: "other", bool: True, type(None): 8.0, dict: {"name": "y"}}
    others = {field.name: kinds[type(getattr(protocol, field.name))] for field in fields(Protocol)}
    assert len({protocol.hash, *(replace(protocol, **{n: v}).hash for n, v in others.items())}) == 1 + len(others)


def test_a_single_video_has_no_halves(make_clip, tmp_path, cpu) -> None:
    rng = np.random.default_rng(0)
    make_clip("one/0.mp4", images=rng.integers(256, size=(160, 32, 32, 3), dtype=np.uint8), rate=10)
    numbers = one(evaluate([str(tmp_path / "one")], str(tmp_path / "one"), SMALL, cpu)).numbers
    assert np.isnan(numbers["KD kinema"].value) and "halves by files would have 0 clips" in numbers["KD kinema"].note
    assert "one clip or file" in numbers["motion"].note


def test_a_very_small_set_is_forced_without_an_end(clips, tmp_path, kinema) -> None:
    words = ["--clips", 8, *WORDS[2:], "--out", tmp_path / "few"]
    status, out, err = kinema("evaluate", clips, "--against", clips, *words)
    assert status == 0, err
    assert "not measured" in out and "motion" in out

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((tmp_path / "few" / "results.json").read_text(), parse_constant=refuse)


def test_a_model_of_broken_frames_is_refused(trained, cpu, monkeypatch) -> None:
    def broken(self, conditions, frames, seeds, progress=None):
        yield torch.full((len(seeds), frames, 3, 16, 32), torch.nan)

    monkeypatch.setattr(MoCoGAN, "generate", broken)
    with pytest.raises(ValueError, match="frames that are not finite"):
        evaluate([str(trained)], None, EvaluationConfig(clips=16), cpu)


def test_labels_are_matched_by_name(make_clip, cpu, tmp_path) -> None:
    """A folder that has the model's classes in another order, and one that the model does not know."""
    for label in ("left", "up"):
        for number in range(2):
            make_clip(f"real/{label}/{number}.mp4", frames=8, size=(32, 16), rate=Fraction(25, 4))
    train(
        Experiment(TINY, DataConfig(frames=8, height=16, width=32), TrainConfig(steps=1, batch=4)),
        tmp_path / "run",
        runtime=cpu,
    )
    model = load(tmp_path / "run", cpu)
    config = DataConfig(str(tmp_path / "real"), frames=8, height=16, width=32)
    reference = FolderClipSet("real", FolderClips(config), 0)
    assert (model.spec.classes, reference.classes) == (("up", "left"), ("left", "up"))
    generated = GeneratedClipSet(str(tmp_path / "run"), model, 8, 0, reference)
    real, made = reference.read(0, 4).conditions.label, generated.read(0, 4).conditions.label
    assert real is not None and made is not None and (made == 1 - real).all()
    assert (
        generated.read(0, 4).classes == reference.read(0, 4).classes == tuple(("left", "up")[number] for number in real)
    )
    make_clip("real/down/0.mp4", frames=8, size=(32, 16), rate=Fraction(25, 4))
    with pytest.raises(ValueError, match="not trained on clips of 'down'"):
        GeneratedClipSet(str(tmp_path / "run"), model, 8, 0, FolderClipSet("real", FolderClips(config), 0))


def test_saved_features_have_a_rate(clips, tmp_path, kinema, refused) -> None:
    kinema("evaluate", clips, *WORDS, "--save-features", tmp_path / "ten.npz")
    said = refused("evaluate", clips, "--against", tmp_path / "ten.npz", *WORDS, "--fps", 5)
    assert "frames a second differ" in said
