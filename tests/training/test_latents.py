"""Latents on disk are those of the frames, made once for all that decides them, and training on them is training."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinema import presets
from kinema.codecs.video_vae import Quantized, VideoVAE, VideoVAEConfig
from kinema.data.clips import DataConfig, FolderSource, Source, shuffled
from kinema.experiment import Experiment, TrainConfig
from kinema.families.mocogan import MoCoGANConfig
from kinema.family import Codec, LatentFamily, LatentFamilyConfig, Turn, encode_exactly
from kinema.registry import FAMILIES
from kinema.runtime.device import Runtime
from kinema.sampling.model import load
from kinema.training import checkpoint, latents, watch
from kinema.training.latents import BLOCK, SEED, LatentSource
from kinema.training.loop import Trainer, train
from kinema.types import Batch, ClipSpec, Conditions, Progress, Seeds, TrainStep, no_progress
from kinema.worlds.shape_motion import ShapeMotion

TINY = VideoVAEConfig(space=4, channels=3, hidden=4)
DATA = DataConfig(frames=9, height=16, width=32, cache_latents=20)


@dataclass(frozen=True)
class LinearConfig(LatentFamilyConfig):
    """The settings of `Linear`."""

    def build(self) -> Linear:
        return Linear(self)


class Linear(LatentFamily):
    """Predicts each latent from a noisy one, whose mean it adds by label; given one frame, as families that predict."""

    accepts = frozenset({"label", "known", "mask"})
    streams = frozenset({"latents"})
    context_frames = 1
    generator: nn.ModuleDict

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        channels = config.latents[1]
        self.generator = nn.ModuleDict({"linear": nn.Linear(channels, channels), "mean": nn.Embedding(2, channels)})

    def turns(self) -> Sequence[Turn]:
        return (Turn("generator", self.generator, self._loss),)

    def _loss(self, batch: Batch, step: TrainStep) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.latents is not None and batch.frames.shape[1] == 0
        assert batch.conditions.label is not None and len(batch.frames) == len(batch.latents)
        x = batch.latents.movedim(2, -1)
        noise = torch.randn(x.shape, generator=step.generator)
        mean = self.generator["mean"](batch.conditions.label)[:, None, None, None]
        loss = ((self.generator["linear"](x + noise) + mean).float() - x).square().mean()
        return loss, {"error": loss}

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Float[Tensor, "B t 3 H W"]]:
        assert conditions.known is not None and conditions.known.shape[1] == self.context_frames
        assert isinstance(self.codec, VideoVAE)
        yield from self.codec.generate(replace(conditions, label=None), frames, seeds)


@pytest.fixture
def linear(tiny_codec: Callable[..., str], monkeypatch) -> Callable[..., Experiment]:
    """Make the smallest experiment with a codec, registered as "linear"; the arguments are those of TrainConfig."""
    monkeypatch.setitem(FAMILIES._builtin, "linear", f"{__name__}:LinearConfig")
    family = LinearConfig(codec=tiny_codec())
    monkeypatch.setitem(presets.PRESETS, "linear", {"cpu": lambda: Experiment(family, DATA, TrainConfig(batch=4))})
    return lambda **settings: Experiment(family, DATA, TrainConfig(**{"batch": 4} | settings))


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many windows are encoded at each call of a codec, from here on."""
    calls: list[int] = []
    encode = VideoVAE.encode

    def counting(self: VideoVAE, frames: Tensor, state: tuple[Tensor, ...] | None = None):
        assert frames.dtype == torch.float32 and -1 <= frames.min() < frames.max() <= 1
        calls.append(len(frames))
        return encode(self, frames, state)

    monkeypatch.setattr(VideoVAE, "encode", counting)
    return calls


@pytest.fixture
def clips() -> ShapeMotion:
    return ShapeMotion(9, 16, 32)


def codec_of(seed: int = 0, config: VideoVAEConfig = TINY) -> VideoVAE:
    torch.manual_seed(seed)
    return config.fitted(ClipSpec(9, 16, 32)).build()


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / ".cache" / "latents").glob("*.npy"))


def in_order(source: Source, count: int) -> Batch:
    """All windows in the order of the file: the first epoch's, sorted, as a step is given them."""
    batch = source.batch(0, count, seed=0).to(torch.device("cpu"))
    order = np.argsort(shuffled(count, 0, count, 0))
    assert batch.latents is not None and batch.conditions.label is not None and batch.conditions.text is not None
    text = tuple(batch.conditions.text[k] for k in order)
    return Batch(batch.frames, Conditions(text=text, label=batch.conditions.label[order]), batch.latents[order])


@pytest.mark.parametrize("config", [TINY, replace(TINY, levels=(7, 6, 5))], ids=["gaussian", "tokens"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_latents_and_conditions_are_those_of_the_windows(clips, config, precision) -> None:
    codec, runtime = codec_of(config=config), Runtime(torch.device("cpu"), precision)
    found = in_order(LatentSource(clips, codec.train(), runtime, 20), 20)
    truth = [clips.batch(step, BLOCK, seed=SEED) for step in (0, 1)]
    with torch.inference_mode(), runtime.autocast():
        frames = [batch.to(runtime.device).frames for batch in truth]
        expected = torch.cat([encode_exactly(codec.eval(), some) for some in frames])[:20].float()
    assert found.latents is not None and found.latents.shape == (20, 3, 3, 4, 8)
    torch.testing.assert_close(found.latents, expected, rtol=1e-3, atol=1e-6)
    if isinstance(codec.generator.bottleneck, Quantized):
        fsq = codec.generator.bottleneck.fsq
        assert torch.equal(fsq.tokens(found.latents), fsq.tokens(expected))
    text = truth[0].conditions.text, truth[1].conditions.text
    assert text[0] and text[1] and found.conditions.text == (text[0] + text[1])[:20]
    assert found.conditions.label is not None
    assert torch.equal(found.conditions.label, torch.cat([batch.conditions.label for batch in truth])[:20])
    batch = LatentSource(clips, codec, runtime, 20).batch(0, 5, seed=0)
    assert batch.frames.shape == (5, 0, 3, 16, 32) and batch.frames.dtype == torch.uint8


def test_conditions_that_the_clips_do_not_have_are_not_there(cpu, make_clip, tmp_path) -> None:
    make_clip("set/a.mp4", frames=9)
    source = FolderSource(DataConfig(str(tmp_path / "set"), frames=9, height=16, width=32))
    assert LatentSource(source, codec_of(), cpu, 3).batch(0, 3, seed=0).conditions == Conditions()


def test_latents_are_made_once_for_all_that_decides_them(clips, cpu, encoded, monkeypatch, tmp_path) -> None:
    def seen(source: Source = clips, codec: Codec | None = None, runtime: Runtime = cpu, count: int = 20) -> list[int]:
        encoded.clear()
        LatentSource(source, codec or codec_of(), runtime, count)
        return list(encoded)

    assert seen() == [16, 4] and len(cached(tmp_path)) == 1
    assert seen() == []
    others = [
        seen(ShapeMotion(9, 16, 48)),
        seen(codec=codec_of(seed=1)),
        seen(codec=codec_of(config=replace(TINY, levels=(4, 5, 3)))),
        seen(codec=codec_of(config=replace(TINY, levels=(5, 4, 3)))),  # weights of the same sizes
        seen(runtime=Runtime(torch.device("cpu"), torch.bfloat16)),
        seen(count=21),
    ]
    assert all(sum(other) >= 20 for other in others)
    assert len(cached(tmp_path)) == 7
    monkeypatch.setattr(latents, "code_digest", lambda *packages: f"other code of {packages}")
    assert seen() == [16, 4] and len(cached(tmp_path)) == 8


def test_the_key_of_a_folder_names_its_clips(make_clip, tmp_path) -> None:
    for name in ("a/0.mp4", "b/1.mp4"):
        make_clip(f"set/{name}", frames=9)

    def key(**changes) -> str:
        return FolderSource(replace(DataConfig(str(tmp_path / "set"), frames=4, height=16, width=16), **changes)).key

    first = key()
    assert key(cache_latents=8, cache=str(tmp_path / "other")) == first
    assert len({first, key(frames=5), key(height=32), key(flip=True), key(fps=12.5)}) == 5
    os.utime(tmp_path / "set" / "a" / "0.mp4", ns=(1, 1))
    assert key() == first
    shutil.copytree(tmp_path / "set", tmp_path / "moved")
    assert key(source=str(tmp_path / "moved")) == first
    make_clip("set/a/0.mp4", frames=10)
    changed = key()
    assert changed != first
    (tmp_path / "set" / "metadata.csv").write_text("file_name,caption\na/0.mp4,one\nb/1.mp4,two\n")
    assert len({first, changed, key()}) == 3


def test_damaged_files_are_made_again(clips, cpu, encoded, tmp_path) -> None:
    def values() -> Tensor:
        found = LatentSource(clips, codec_of(), cpu, 20).batch(0, 20, seed=0).latents
        assert found is not None
        return found

    complete = values()
    (path,) = cached(tmp_path)
    for damaged_message in (path, path.with_suffix(".label"), path.with_suffix(".json")):
        damaged_message.write_bytes(damaged_message.read_bytes()[:-3])
        encoded.clear()
        assert torch.equal(values(), complete)
        assert encoded == [16, 4]


def test_an_interrupted_encoding_leaves_nothing(clips, cpu, tmp_path) -> None:
    def stop(done: int, total: int) -> None:
        assert (done, total) == (16, 20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LatentSource(clips, codec_of(), cpu, 20, progress=stop)
    assert list((tmp_path / ".cache" / "latents").iterdir()) == []


def test_a_full_disk_names_the_cache_and_the_way_out(clips, cpu, monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(latents, "ArrayWriter", full)
    with pytest.raises(ValueError, match=r"cache.latents \(No space left on device\).*KINEMA_CACHE"):
        LatentSource(clips, codec_of(), cpu, 20)


def test_every_window_comes_once_an_epoch_however_many_ranks(clips, cpu) -> None:
    source = LatentSource(clips, codec_of(), cpu, 20)
    all_of_them = in_order(source, 20).latents
    assert all_of_them is not None and len(all_of_them.unique(dim=0)) == 20

    def windows(size: int, ranks: int, seed: int = 7) -> list[int]:
        batches = (source.batch(k, size, seed=seed, rank=r, ranks=ranks) for k in range(5) for r in range(ranks))
        values = torch.cat([batch.latents for batch in batches if batch.latents is not None])
        return [int((value == all_of_them).flatten(1).all(1).nonzero()) for value in values]

    single = windows(8, 1)
    assert sorted(single[:20]) == sorted(single[20:]) == list(range(20)) and single[:20] != single[20:]
    assert windows(4, 2) == single  # so the ranks' are disjoint
    assert windows(8, 1, seed=8) != single


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_resumed_run_equals_an_unbroken_one(clips, encoded, linear, precision, tmp_path) -> None:
    experiment, runtime = linear(), Runtime(torch.device("cpu"), precision)
    encoded.clear()  # of the codec's own training

    def go(steps: int, out: str, resume: bool = False) -> checkpoint.Checkpoint:
        changed = experiment.changed(train={"batch": 6, "steps": steps})
        return checkpoint.load(train(changed, tmp_path / out, source=clips, runtime=runtime, resume=resume))

    unbroken = go(5, "unbroken")
    assert sum(encoded) == 20
    go(2, "resumed")
    for path in cached(tmp_path):
        path.unlink()  # so it must be made again of the codec in the checkpoint
    resumed = go(5, "resumed", resume=True)
    assert sum(encoded) == 40
    for part in ("generator", "training", "optimizers", "codec"):
        torch.testing.assert_close(getattr(resumed, part), getattr(unbroken, part), rtol=0, atol=0)


def test_encoding_takes_no_training_time(clips, cpu, linear, monkeypatch, tmp_path) -> None:
    experiment, now = linear(steps=2), [0.0]
    monkeypatch.setattr("kinema.training.loop.time.monotonic", lambda: now[0])

    def hour(done: int, total: int) -> None:
        now[0] += 3600

    out = train(experiment, tmp_path / "x", source=clips, runtime=cpu, encoding=hour)
    assert checkpoint.load(out).seconds == 0 and now[0] == 7200


def test_sheets_show_what_real_clips_have(clips, cpu, linear) -> None:
    trainer = Trainer(linear(), clips, cpu)
    trainer.begin()
    trainer.cache_latents()
    trainer.advance()
    sheet = watch.draw_sheet(*watch.sample_clips(trainer))  # given first frames, which latents do not have
    assert sheet.shape[1] > 8 * 32


def test_the_command_shows_progress(linear, monkeypatch, kinema, tmp_path) -> None:
    monkeypatch.setattr("kinema.training.watch.LINES", 0.0)
    words = ["--out", tmp_path / "x", "--steps", 1, "--device", "cpu"]
    status, _, err = kinema("train", "linear", "--data.cache-latents", 40, *words)
    assert status == 0, err
    assert [line for line in err.splitlines() if line.startswith("encoded")] == [
        f"encoded {done} of 40 windows" for done in (16, 32, 40)
    ]
    assert load(tmp_path / "x").experiment.data.cache_latents == 40


def test_families_without_a_codec_are_refused(refused, clips, cpu, tmp_path) -> None:
    words = ["--data.frames", 8, "--data.height", 16, "--data.width", 16, "--family.ngf", 2, "--family.ndf", 2]
    words += ["--preset", "paper", "--steps", 1, "--data.cache-latents", 64]
    says = refused("train", "mocogan", "--out", tmp_path / "x", *words)
    assert "MoCoGAN learns from pixels" in says and "leave --data.cache-latents out" in says
    assert not (tmp_path / "x").exists()
    family = MoCoGANConfig(ngf=2, ndf=2)
    with pytest.raises(ValueError, match="so there are no latents to cache"):
        train(Experiment(family, DATA, TrainConfig(steps=1)), tmp_path / "x", source=clips, runtime=cpu)


def test_range() -> None:
    with pytest.raises(ValueError, match="cache_latents is -1"):
        DataConfig(cache_latents=-1)


@pytest.mark.parametrize("name", ["mocogan", "tgan", "vgan"])
def test_gans_train_on_cached_latents(tmp_path: Path, name: str) -> None:
    small = {"ngf": 2, "ndf": 2, "codec": "transform", "codec_options": {"channels": 6}, "norm": "none"}
    data = replace(DATA, cache=str(tmp_path))
    experiment = Experiment(FAMILIES[name](**small), data, TrainConfig(steps=1, batch=2))
    trainer = Trainer(experiment, ShapeMotion(9, 16, 32), Runtime(torch.device("cpu"), torch.float32))
    trainer.begin()
    trainer.cache_latents()
    before = [p.clone() for p in trainer.family.generator.parameters()]
    trainer.advance()
    after = trainer.family.generator.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert trainer.losses()
