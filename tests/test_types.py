"""Seeds are values whose draws belong to a clip; conditions and batches are moved, sliced and cycled."""

from __future__ import annotations

import pytest
import torch

from kinema.types import Batch, Conditions, RandomStream, Seeds, TrainStep, hash_seed

SHAPES = [(33,), (33, 1), (33, 10), (33, 3, 7)]


def draws(stream: RandomStream, *shape: int) -> list[torch.Tensor]:
    """One of each kind."""
    return [stream.normal(*shape), stream.integers(1000, *shape), stream.uniform(*shape)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clip_has_the_same_draws_alone_and_in_a_batch(shape: tuple[int, ...]) -> None:
    together = Seeds((5, 6, 7))
    for stream in ("content", "motion"):
        of_all = draws(together.stream(stream), *shape)
        for index, seed in enumerate(together.values):
            for one, many in zip(draws(Seeds((seed,)).stream(stream), *shape), of_all, strict=True):
                torch.testing.assert_close(one[0], many[index], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_draws_in_chunks_are_those_of_one_draw(shape: tuple[int, ...]) -> None:
    seeds, lengths = Seeds((0, 1)), (1, 4, 16, 12)
    parts = seeds.stream("motion")
    normal = [parts.normal(length, *shape[1:]) for length in lengths]
    torch.testing.assert_close(torch.cat(normal, 1), seeds.stream("motion").normal(*shape), rtol=0, atol=0)
    parts = seeds.stream("other")
    integers = [parts.integers(9, length, *shape[1:]) for length in lengths]
    torch.testing.assert_close(torch.cat(integers, 1), seeds.stream("other").integers(9, *shape), rtol=0, atol=0)
    parts = seeds.stream("third")
    uniform = [parts.uniform(length, *shape[1:]) for length in lengths]
    torch.testing.assert_close(torch.cat(uniform, 1), seeds.stream("third").uniform(*shape), rtol=0, atol=0)


def test_seeds_are_a_value() -> None:
    seeds = Seeds((0, 1), {"motion": (2, 3)})
    first, again = (seeds.stream("motion", 4).normal(20) for _ in range(2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert seeds == Seeds((0, 1), {"motion": (2, 3)})


def test_streams_and_keys_are_independent() -> None:
    seeds = Seeds((0,))
    content = seeds.stream("content")
    content.normal(100)
    torch.testing.assert_close(seeds.stream("motion").normal(20), Seeds((0,)).stream("motion").normal(20))
    drawn = [seeds.stream(*key).normal(20) for key in (("content",), ("motion",), ("content", 0), ("content", 0, 1))]
    assert len(torch.cat(drawn).unique(dim=0)) == 4
    assert not torch.equal(content.normal(20), seeds.stream("content").normal(20))  # one stream goes on


def test_a_stream_can_have_its_own_seeds() -> None:
    seeds = Seeds((0, 0), {"motion": (1, 2)})
    content, motion = seeds.stream("content").normal(20), seeds.stream("motion").normal(20)
    assert torch.equal(content[0], content[1])
    torch.testing.assert_close(motion, Seeds((1, 2)).stream("motion").normal(20), rtol=0, atol=0)


def test_a_stream_needs_a_seed_for_every_clip() -> None:
    with pytest.raises(ValueError, match="stream 'motion' has 1 seeds for 2 clips"):
        Seeds((0, 0), {"motion": (1,)})


def test_a_slice_of_seeds_has_the_draws_of_its_clips() -> None:
    seeds = Seeds((0, 1, 2), {"motion": (3, 4, 5)})
    part = seeds[1:]
    assert len(part) == 2
    for stream in ("content", "motion"):
        expected = seeds.stream(stream).normal(20)[1:]
        torch.testing.assert_close(part.stream(stream).normal(20), expected, rtol=0, atol=0)


def test_candidates_begin_with_the_clips_own_seed() -> None:
    seeds = Seeds((0, 1), {"motion": (3, 4)})
    many = seeds.repeat_candidates(3)
    content, motion = many.stream("content").normal(20), many.stream("motion").normal(20)
    assert torch.equal(content[::3], seeds.stream("content").normal(20))
    assert torch.equal(motion[::3], seeds.stream("motion").normal(20))
    assert len(content.unique(dim=0)) == len(motion.unique(dim=0)) == len(many) == 6
    of_second = seeds[1:].repeat_candidates(3).stream("content").normal(20)
    torch.testing.assert_close(of_second, content[3:], rtol=0, atol=0)


def test_normal_draws_are_standard_normal() -> None:
    values = Seeds(tuple(range(64))).stream("x").normal(40, 27)
    assert values.shape == (64, 40, 27)
    assert values.dtype == torch.float32
    assert values.mean().abs() < 0.02
    assert (values.std() - 1).abs() < 0.02
    flat = values.flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(64)).abs().max() < 0.2  # neighbouring seeds are independent


def test_uniform_draws_are_uniform() -> None:
    values = Seeds(tuple(range(64))).stream("x").uniform(100)
    assert values.dtype == torch.float32
    assert values.min() >= 0 and values.max() < 1
    shares = (values.flatten() * 5).long().bincount(minlength=5) / values.numel()
    assert (shares - 0.2).abs().max() < 0.03


def test_integers_are_uniform() -> None:
    values = Seeds(tuple(range(64))).stream("x").integers(5, 100)
    assert values.dtype == torch.int64
    shares = values.flatten().bincount(minlength=5) / values.numel()
    assert (shares - 0.2).abs().max() < 0.03


def test_a_hashed_seed_is_a_function_of_every_part_of_its_key() -> None:
    keys = [(0, "content"), (1, "content"), (0, "motion"), (0, "content", 0), (10, 1), (1, 1), (1, 11)]
    assert len({hash_seed(*key) for key in keys}) == len(keys)
    assert hash_seed(0, "content") == hash_seed(0, "content")
    assert all(0 <= hash_seed(*key) < 2**63 for key in keys)


def test_a_training_step_is_a_function_of_its_seed() -> None:
    first, again, other = (TrainStep.from_seed(seed, 3) for seed in (0, 0, 1))
    for name in ("generator", "shared"):
        drawn = [torch.rand(8, generator=getattr(step, name)) for step in (first, again, other)]
        assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert first.index == 3


def test_conditions_are_sliced_along_the_batch() -> None:
    conditions = Conditions(text=("a", "b", "c"), label=torch.tensor([0, 1, 2]), known=torch.rand(3, 2, 3, 4, 4))
    part = conditions[1:]
    assert part.text == ("b", "c")
    assert part.label is not None and part.label.tolist() == [1, 2]
    assert part.known is not None and conditions.known is not None
    assert torch.equal(part.known, conditions.known[1:])
    assert part.present == conditions.present == {"text", "label", "known"}
    assert Conditions()[1:].present == frozenset()


def test_selected_conditions_are_cycled() -> None:
    conditions = Conditions(text=("a", "b"), actions=torch.arange(3)[:, None, None].float()).select(range(4, 9))
    assert conditions.text == ("a", "b", "a", "b", "a")
    assert conditions.actions is not None and conditions.actions.flatten().tolist() == [1, 2, 0, 1, 2]


def test_first_frames_are_known_everywhere() -> None:
    frames = torch.rand(2, 3, 3, 4, 4)
    conditions = Conditions(label=torch.tensor([0, 1])).with_first_frames(frames)
    assert conditions.known is frames and conditions.label is not None
    assert conditions.mask is not None and conditions.mask.shape == (2, 3, 1, 4, 4) and conditions.mask.all()


def test_a_batch_is_converted_on_the_device() -> None:
    """Bytes travel, a quarter of what floats are; on the device they are numbers in [-1, 1]."""
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 3, 1, 1)
    moved: list[torch.dtype] = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.Tensor.to:
                moved.append(args[0].dtype)
            return super().__torch_function__(function, types, args, kwargs or {})

    batch = Batch(pixels.as_subclass(Watched), latents=torch.ones(1, 1, 1, 1, 1, dtype=torch.float16))
    there = batch.to(torch.device("cpu"))
    assert moved == [torch.uint8]
    assert there.frames.flatten().tolist() == pytest.approx([-1, -0.6, 1]) and there.frames.dtype == torch.float32
    assert there.latents is not None and there.latents.dtype == torch.float32
    assert pixels.flatten().tolist() == [0, 51, 255]
    floats = Batch(torch.full((1, 1, 3, 1, 1), 0.25))
    assert torch.equal(floats.to(torch.device("cpu")).frames, floats.frames)
