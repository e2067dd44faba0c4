"""The sprite world: frames, sound, actions and captions agree with the scene behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kinema.conditions.audio import SAMPLE_RATE
from kinema.conditions.text import Vocabulary
from kinema.registry import WORLDS
from kinema.worlds.sprite_drawing import SHAPES, draw
from kinema.worlds.sprite_words import BACKGROUNDS, MOTION_WORDS, SHAPE_WORDS, SIZE_WORDS
from kinema.worlds.sprites import (
    COLOURS,
    FPS,
    HELD_OUT,
    MOTION_WEIGHTS,
    MOTIONS,
    PITCHES,
    SIZES,
    Sprites,
    render,
    scene,
    sound,
)


def drawn(
    seed: int | tuple[int, ...] = 0, clips: int = 64, frames: int = 16, height: int = 64, width: int = 64, **asked
):
    return scene(np.random.default_rng(seed), clips, frames, height, width, **asked)


def test_batch_is_a_function_of_seed_step_and_rank() -> None:
    first, again = (Sprites(8).batch(3, 4, seed=7, rank=1, ranks=2) for _ in range(2))
    assert torch.equal(first.frames, again.frames) and first.conditions.text == again.conditions.text
    for other in ({"step": 4}, {"seed": 8}, {"rank": 0}):
        batch = Sprites(8).batch(**{"step": 3, "size": 4, "seed": 7, "rank": 1, "ranks": 2} | other)
        assert not torch.equal(first.frames, batch.frames)


@pytest.mark.parametrize(("frames", "height", "width"), [(8, 32, 32), (17, 64, 64), (12, 48, 80)])
def test_batch_keeps_the_spec(frames: int, height: int, width: int) -> None:
    world = WORLDS["sprites"](frames=frames, height=height, width=width)
    batch = world.batch(0, 5, seed=0)
    conditions, spec = batch.conditions, world.spec
    assert batch.frames.shape == (5, frames, 3, height, width) and batch.frames.dtype == torch.uint8
    truth = drawn((0, 0, 0), 5, frames, height, width, often=MOTION_WEIGHTS)
    assert batch.frames.is_contiguous() and np.array_equal(batch.frames, render(truth))
    assert conditions.present == {"text", "audio", "actions"} and spec.audio and spec.fps == FPS
    assert conditions.actions is not None and conditions.actions.shape == (5, frames, spec.actions)
    assert conditions.audio is not None and conditions.audio.shape == (5, round(frames / FPS * SAMPLE_RATE))


def test_every_word_of_every_caption_is_in_the_vocabulary() -> None:
    world = Sprites()
    known = Vocabulary(world.spec.words)
    for step in range(20):
        for text in world.batch(step, 32, seed=1).conditions.text or ():
            assert known.unknown(text) == (), text
    said = {w for part in (SHAPE_WORDS, SIZE_WORDS, MOTION_WORDS, BACKGROUNDS) for ways in part.values() for w in ways}
    assert all(known.unknown(phrase) == () for phrase in said)


@pytest.mark.parametrize("then", [False, True])
def test_captions_say_what_is_there_in_its_order(then: bool) -> None:
    truth = drawn(sprites=2, then=then)
    for asked, text in zip(truth.asked, truth.captions, strict=True):
        places = []
        for sprite in asked.sprites:
            assert any(f"{sprite.colour} {word}" in text for word in SHAPE_WORDS[sprite.shape]), text
            assert any(way in text for way in MOTION_WORDS[sprite.motion]), text
            if sprite.size is not None:
                assert any(f"{word} {sprite.colour}" in text for word in SIZE_WORDS[sprite.size]), text
            places.append(text.index(sprite.colour))
        assert places == sorted(places)
        assert not asked.then or "then" in text
        assert text.startswith(("a ", "an ", "there is a", "first a"))
        assert "a orange" not in text and "an red" not in text


def test_there_are_as_many_sprites_as_asked_and_they_keep_apart() -> None:
    for count in (1, 2, 3):
        truth = drawn(sprites=count, then=False, clips=200)
        assert np.mean([len(asked.sprites) == count for asked in truth.asked]) > {1: 0.99, 2: 0.5, 3: 0.1}[count]
        for a in range(3):
            for b in range(a):
                both = (truth.seen[:, :, a] > 0) & (truth.seen[:, :, b] > 0)
                apart = np.hypot(*np.moveaxis(truth.centres[:, :, a] - truth.centres[:, :, b], -1, 0))
                assert (apart[both] > (truth.radius[:, :, a] + truth.radius[:, :, b])[both]).all()
    assert len({asked.then for asked in drawn(clips=200).asked}) == 2


def test_sprites_stay_within_the_frame() -> None:
    truth = drawn(clips=200, height=64, width=96)
    there = truth.seen > 0
    low = (truth.centres - truth.radius[..., None] * 0.75)[there]  # the flattest reach is that of the square's side
    high = (truth.centres + truth.radius[..., None] * 0.75)[there]
    assert low.min() >= 0 and (high <= (96, 64)).all()


def test_no_training_clip_has_a_held_out_combination_and_unseen_ones_all_have() -> None:
    held = {(SHAPES[s], MOTIONS[m], list(COLOURS)[HELD_OUT[s, m]]) for s in range(6) for m in range(len(MOTIONS))}
    seen = [sprite for asked in drawn(clips=2000, frames=8).asked for sprite in asked.sprites]
    assert not held & {(s.shape, s.motion, s.colour) for s in seen}
    unseen = [sprite for asked in drawn(sprites=1, unseen=True).asked for sprite in asked.sprites]
    assert {(s.shape, s.motion, s.colour) for s in unseen} <= held
    first = [asked.sprites[0] for asked in drawn(sprites=2, unseen=True).asked]
    assert {(s.shape, s.motion, s.colour) for s in first} <= held


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_shapes_have_their_area_their_place_and_their_colour(shape: int, angle: float) -> None:
    one = np.ones((1, 1, 1), np.float32)
    centre, paint = np.array([[[[20.3, 14.6]]]], np.float32), np.array([[COLOURS["white"]]], np.uint8)
    black = np.zeros((1, 32, 48), np.uint8)
    frame = draw(black, np.array([[shape]]), paint, centre, one * 7, one * angle, one)[0, 0, 0] / 245.0
    assert frame.sum() == pytest.approx(np.pi * 49, rel=0.02)
    y, x = np.mgrid[:32, :48] + 0.5
    assert (frame * x).sum() / frame.sum() == pytest.approx(20.3, abs=0.1)
    assert (frame * y).sum() / frame.sum() == pytest.approx(14.6, abs=0.1)
    assert frame.max() == 1 and frame.min() == 0


def test_what_is_not_seen_is_not_drawn_and_what_is_half_seen_is_half_drawn() -> None:
    one = np.ones((1, 1, 1), np.float32)
    centre = np.full((1, 1, 1, 2), 16, np.float32)
    grey, paint = np.full((1, 32, 32), 40, np.uint8), np.array([[(240, 240, 240)]], np.uint8)
    for seen, level in ((0.0, 40), (0.5, 140), (1.0, 240)):
        frame = draw(grey, np.zeros((1, 1), int), paint, centre, one * 6, one * 0, one * seen)
        assert frame[0, 0, 0, 16, 16] == level and frame[0, 0, 0, 0, 0] == 40


def test_every_bounce_clicks_at_its_frame_with_the_pitch_of_its_shape() -> None:
    truth = drawn(sprites=1, clips=300)
    waves, encoded = sound(truth), 0
    for clip in np.flatnonzero(truth.bounced.any((1, 2))):
        frames = np.flatnonzero(truth.bounced[clip, :, 0])
        if len(frames) > 1:
            continue
        start = round(frames[0] / FPS * SAMPLE_RATE)
        assert not waves[clip, :start].any() and not waves[clip, start + 2000 :].any()
        click = waves[clip, start : start + 960]
        crossings = (np.diff(np.sign(click)) != 0).sum() / 2 / 0.06
        assert crossings == pytest.approx(PITCHES[truth.shape[clip, 0]], rel=0.1)
        encoded += 1
    assert encoded > 5
    silent = ~truth.bounced.any((1, 2))
    assert silent.any() and not waves[silent].any()


def test_larger_ones_are_louder() -> None:
    truth = drawn(sprites=1, clips=600)
    waves = np.abs(sound(truth)).max(1)
    loud = [waves[(truth.size[:, 0] == size) & (waves > 0)] for size in range(len(SIZES))]
    assert loud[0].max() < loud[1].min() and loud[1].max() < loud[2].min()


def test_motions_are_drawn_as_often_as_is_said() -> None:
    for often in (None, MOTION_WEIGHTS):
        asked = [
            one.sprites[0].motion
            for one in drawn(clips=6_000, frames=8, height=32, width=32, sprites=1, often=often).asked
        ]
        weights = {name: (often or {}).get(name, 1) for name in MOTIONS}
        for name, weight in weights.items():
            assert asked.count(name) / len(asked) == pytest.approx(weight / sum(weights.values()), abs=0.02)


def test_actions_are_the_first_sprites_steps() -> None:
    batch, truth = Sprites(16, 32, 32).batch(5, 8, seed=3), drawn((3, 5, 0), 8, 16, 32, 32, often=MOTION_WEIGHTS)
    assert batch.conditions.actions is not None
    way = batch.conditions.actions.cumsum(1).numpy() * 32 / 64
    np.testing.assert_allclose(way, truth.centres[:, :, 0] - truth.centres[:, :1, 0], atol=1e-3)
    assert not batch.conditions.actions[:, 0].any()


def test_rendering_is_of_the_scene_alone() -> None:
    truth = drawn(clips=6)
    assert np.array_equal(render(truth), render(replace(truth, captions=("",) * 6)))
    assert render(truth).shape == (6, 16, 3, 64, 64)


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="frames of 32x32 or more"):
        Sprites(16, 16, 64)


def test_few_frames_are_cut_from_a_clip_with_their_sound_and_actions() -> None:
    whole = drawn((0, 0, 0), 300, often=MOTION_WEIGHTS)
    frames, steps = render(whole), np.diff(whole.centres[:, :, 0], axis=1, prepend=whole.centres[:, :1, 0])
    for count in (1, 3):
        batch = Sprites(count).batch(0, 300, seed=0)
        few = batch.frames.numpy()
        assert batch.conditions.actions is not None and batch.conditions.audio is not None
        starts = [
            [first for first in range(17 - count) if np.array_equal(frames[n, first : first + count], few[n])]
            for n in range(300)
        ]
        assert all(starts) and len({first[0] for first in starts if len(first) == 1}) == 17 - count
        for n, possible in enumerate(starts):
            done = batch.conditions.actions[n].numpy()
            assert any(np.allclose(steps[n, first : first + count], done) for first in possible)
        assert batch.conditions.audio.shape == (300, round(count / FPS * SAMPLE_RATE)) and batch.conditions.audio.any()
