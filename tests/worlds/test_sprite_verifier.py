"""The verifier: it reads real clips without a fault, and sees each thing that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from kinema.worlds.sprite_drawing import SHAPES
from kinema.worlds.sprite_verifier import bounce_frames, tracks, verify
from kinema.worlds.sprite_words import Asked
from kinema.worlds.sprites import COLOURS, MOTIONS, SIZES, Scene, render, scene

KINDS = {
    "one": {"sprites": 1},
    "two": {"sprites": 2, "then": False},
    "then": {"sprites": 2, "then": True},
    "three": {"sprites": 3},
    "unseen": {"sprites": 1, "unseen": True},
}


def real(clips: int = 40, seed: int = 0, frames: int = 16, side: int = 64, **asked) -> tuple[np.ndarray, Scene]:
    """Clips uint8 [B, T, H, W, 3] and their truth."""
    truth = scene(np.random.default_rng(seed), clips, frames, side, side, **asked)
    return render(truth).transpose(0, 1, 3, 4, 2), truth


def share_right(clips: np.ndarray, prompts: Sequence[Asked]) -> float:
    return float(np.mean([verify(clip, prompt).matches_prompt for clip, prompt in zip(clips, prompts, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("frames", "side"), [(16, 64), (17, 64), (24, 96)])
def test_real_clips_are_right(kind: str, frames: int, side: int) -> None:
    clips, truth = real(120, frames=frames, side=side, **KINDS[kind])
    assert share_right(clips, truth.asked) >= 0.99


def test_captions_of_other_clips_are_wrong() -> None:
    clips, truth = real(300, sprites=1)
    assert share_right(clips, truth.asked[1:] + truth.asked[:1]) <= 0.02


@pytest.mark.parametrize("blur", [0.6, 1.0])
def test_a_little_blur_or_noise_is_forgiven(blur: float) -> None:
    clips, truth = real(60, sprites=1)
    rng = np.random.default_rng(0)
    kernel = np.exp(-((np.arange(64)[:, None] - np.arange(64)) ** 2) / (2 * blur**2))
    kernel /= kernel.sum(1, keepdims=True)
    blurred = np.einsum("yi,xj,ntijc->ntyxc", kernel, kernel, clips.astype(np.float32), optimize=True)
    noisy = (blurred + rng.normal(0, 6, clips.shape)).clip(0, 255).astype(np.uint8)
    assert share_right(noisy, truth.asked) >= 0.9


@pytest.mark.parametrize(
    ("attribute", "others"),
    [("shape", SHAPES), ("colour", tuple(COLOURS)), ("motion", MOTIONS), ("size", tuple(SIZES))],
)
def test_a_wrong_attribute_is_seen_and_no_other_is_blamed(attribute: str, others: tuple[str, ...]) -> None:
    clips, truth = real(60, sprites=1)
    for clip, asked in zip(clips, truth.asked, strict=True):
        (sprite,) = asked.sprites
        if attribute == "size" and sprite.size is None:
            continue
        for other in set(others) - {getattr(sprite, attribute), "wander"}:
            if attribute == "motion" and sprite.motion in ("wander", "appear"):
                continue  # it may wander any way, and what appears is not there at first
            verdict = verify(clip, replace(asked, sprites=(replace(sprite, **{attribute: other}),)))
            assert not verdict.matches_prompt
            (found,) = verdict.sprites
            if attribute == "colour":
                assert not found.found and verdict.extra == (sprite.colour,)
            else:
                wrong = {name for name in ("found", "shape", "size", "motion") if not getattr(found, name)}
                assert wrong == {attribute} and not verdict.extra


def test_attributes_that_are_swapped_between_two_are_seen() -> None:
    clips, truth = real(60, sprites=2, then=False)
    for clip, asked in zip(clips, truth.asked, strict=True):
        a, b = asked.sprites if len(asked.sprites) == 2 else (None, None)
        if a is None or b is None or a.shape == b.shape:
            continue
        swapped = (replace(a, shape=b.shape), replace(b, shape=a.shape))
        assert not verify(clip, replace(asked, sprites=swapped)).matches_prompt


def test_the_order_in_time_matters() -> None:
    clips, truth = real(40, sprites=2, then=True)
    for clip, asked in zip(clips, truth.asked, strict=True):
        if asked.then:
            assert not verify(clip, replace(asked, sprites=asked.sprites[::-1])).matches_prompt
            assert not verify(clip, replace(asked, then=False)).matches_prompt


def test_one_too_many_and_one_too_few() -> None:
    clips, truth = real(40, sprites=2, then=False)
    for clip, asked in zip(clips, truth.asked, strict=True):
        if len(asked.sprites) == 2:
            verdict = verify(clip, replace(asked, sprites=asked.sprites[:1]))
            assert verdict.extra == (asked.sprites[1].colour,) and not verdict.matches_prompt
    clips, truth = real(20, sprites=1)
    for clip, asked in zip(clips, truth.asked, strict=True):
        another = replace(asked.sprites[0], colour=next(c for c in COLOURS if c != asked.sprites[0].colour))
        verdict = verify(clip, replace(asked, sprites=(*asked.sprites, another)))
        assert [found.found for found in verdict.sprites] == [True, False]


@pytest.mark.parametrize("level", [0, 30, 255])
def test_empty_clips_and_noise_show_nothing(level: int) -> None:
    _, truth = real(5)
    blank = np.full((16, 64, 64, 3), level, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, blank.shape).astype(np.uint8)
    assert not any(verify(clip, asked).matches_prompt for clip in (blank, noise) for asked in truth.asked)
    if level < 255:
        assert tracks(blank) == ()


def test_tracks_are_where_the_sprites_are() -> None:
    clips, truth = real(60, sprites=1)
    for n, clip in enumerate(clips):
        (track,) = tracks(clip)
        seen = truth.seen[n, :, 0] > 0
        assert np.array_equal(track.visible, seen)
        off = np.abs(track.centres - truth.centres[n, :, 0])[seen]
        assert off.max() < 0.6 and off.mean() < 0.15
        area = np.pi * truth.radius[n, seen, 0] ** 2
        large = area > 60  # smaller ones are a few pixels
        np.testing.assert_allclose(track.area[seen][large], area[large], rtol=0.12)


def test_bounces_are_found_at_their_frames() -> None:
    clips, truth = real(300, sprites=1)
    right = total = 0
    for n, clip in enumerate(clips):
        if truth.asked[n].sprites[0].motion != "bounce":
            continue
        (track,) = tracks(clip)
        found = bounce_frames(track, 64, 64)
        for frame in np.flatnonzero(truth.bounced[n, :, 0]):
            total += 1
            right += any(abs(frame - other) <= 1 for other in found)
    assert total > 10 and right / total > 0.9


def test_a_frozen_clip_does_not_move() -> None:
    clips, truth = real(40, sprites=1)
    frozen = np.repeat(clips[:, 8:9], 16, 1)
    moving = [n for n, asked in enumerate(truth.asked) if asked.sprites[0].motion not in ("appear", "wander")]
    assert not any(verify(frozen[n], truth.asked[n]).sprites[0].motion for n in moving)
