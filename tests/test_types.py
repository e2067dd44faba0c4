"""Noise is a clip's own, however it is drawn; conditions are cut along the batch."""

from __future__ import annotations

import pytest
import torch

from kinema.types import Conditions, Noise, mix

SHAPES = [(33,), (33, 1), (33, 10), (33, 3, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clip_has_the_same_noise_alone_and_in_a_batch(shape: tuple[int, ...]) -> None:
    together = Noise((5, 6, 7))
    for stream in ("content", "motion"):
        normal, integers = together.normal(stream, *shape), together.integers(stream, 1000, *shape)
        uniform = together.uniform(stream, *shape)
        for index, seed in enumerate(together.seeds):
            alone = Noise((seed,))
            torch.testing.assert_close(alone.normal(stream, *shape)[0], normal[index], rtol=0, atol=0)
            torch.testing.assert_close(alone.integers(stream, 1000, *shape)[0], integers[index], rtol=0, atol=0)
            torch.testing.assert_close(alone.uniform(stream, *shape)[0], uniform[index], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_are_the_whole(shape: tuple[int, ...]) -> None:
    whole, parts = Noise((0, 1)), Noise((0, 1))
    lengths = (1, 4, 16, 12)
    normal = [parts.normal("motion", length, *shape[1:]) for length in lengths]
    torch.testing.assert_close(torch.cat(normal, 1), whole.normal("motion", *shape), rtol=0, atol=0)
    integers = [parts.integers("other", 9, length, *shape[1:]) for length in lengths]
    torch.testing.assert_close(torch.cat(integers, 1), whole.integers("other", 9, *shape), rtol=0, atol=0)
    uniform = [parts.uniform("third", length, *shape[1:]) for length in lengths]
    torch.testing.assert_close(torch.cat(uniform, 1), whole.uniform("third", *shape), rtol=0, atol=0)


def test_streams_do_not_touch_each_other() -> None:
    noise, other = Noise((0,)), Noise((0,))
    noise.normal("content", 100)
    torch.testing.assert_close(noise.normal("motion", 20), other.normal("motion", 20), rtol=0, atol=0)
    assert not torch.equal(Noise((0,)).normal("content", 20), Noise((0,)).normal("motion", 20))


def test_a_stream_can_have_its_own_seeds() -> None:
    noise = Noise((0, 0), {"motion": (1, 2)})
    content, motion = noise.normal("content", 20), noise.normal("motion", 20)
    assert torch.equal(content[0], content[1])
    torch.testing.assert_close(motion, Noise((1, 2)).normal("motion", 20), rtol=0, atol=0)


def test_a_stream_needs_a_seed_for_every_clip() -> None:
    with pytest.raises(ValueError, match="stream 'motion' has 1 seeds for 2 clips"):
        Noise((0, 0), {"motion": (1,)})


def test_part_of_a_noise_starts_from_its_beginning() -> None:
    noise = Noise((0, 1, 2), {"motion": (3, 4, 5)})
    content, motion = noise.normal("content", 20), noise.normal("motion", 20)
    part = noise[1:]
    assert len(part) == 2
    torch.testing.assert_close(part.normal("content", 20), content[1:], rtol=0, atol=0)
    torch.testing.assert_close(part.normal("motion", 20), motion[1:], rtol=0, atol=0)


def test_noises_of_each_clip_begin_with_its_own() -> None:
    noise = Noise((0, 1), {"motion": (3, 4)})
    many = noise.each(3)
    content, motion = many.normal("content", 20), many.normal("motion", 20)
    assert torch.equal(content[::3], noise.normal("content", 20)) and torch.equal(
        motion[::3], noise.normal("motion", 20)
    )
    assert len(content.unique(dim=0)) == len(motion.unique(dim=0)) == len(many) == 6
    torch.testing.assert_close(noise[1:].each(3).normal("content", 20), content[3:], rtol=0, atol=0)


def test_normal_noise_is_standard_normal() -> None:
    values = Noise(tuple(range(64))).normal("x", 40, 27)
    assert values.shape == (64, 40, 27)
    assert values.dtype == torch.float32
    assert values.mean().abs() < 0.02
    assert (values.std() - 1).abs() < 0.02
    flat = values.flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(64)).abs().max() < 0.2  # seeds that are neighbours are strangers


def test_uniform_noise_is_uniform() -> None:
    values = Noise(tuple(range(64))).uniform("x", 100)
    assert values.dtype == torch.float32
    assert values.min() >= 0 and values.max() < 1
    shares = (values.flatten() * 5).long().bincount(minlength=5) / values.numel()
    assert (shares - 0.2).abs().max() < 0.03


def test_integers_are_uniform() -> None:
    values = Noise(tuple(range(64))).integers("x", 5, 100)
    assert values.dtype == torch.int64
    shares = values.flatten().bincount(minlength=5) / values.numel()
    assert (shares - 0.2).abs().max() < 0.03


def test_mix_is_a_function_of_every_part_of_its_key() -> None:
    keys = [(0, "content"), (1, "content"), (0, "motion"), (0, "content", 0), (10, 1), (1, 1), (1, 11)]
    assert len({mix(*key) for key in keys}) == len(keys)
    assert mix(0, "content") == mix(0, "content")
    assert all(0 <= mix(*key) < 2**63 for key in keys)


def test_conditions_are_cut_along_the_batch() -> None:
    given = Conditions(text=("a", "b", "c"), label=torch.tensor([0, 1, 2]), known=torch.rand(3, 2, 3, 4, 4))
    part = given[1:]
    assert part.text == ("b", "c")
    assert part.label is not None and part.label.tolist() == [1, 2]
    assert part.known is not None and given.known is not None
    assert torch.equal(part.known, given.known[1:])
    assert part.present == given.present == {"text", "label", "known"}
    assert Conditions()[1:].present == frozenset()
