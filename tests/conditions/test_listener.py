"""The listener: each moment is told what belongs to it, and what is left out is as if it were not given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kinema.conditions.actions import ActionEncoder
from kinema.conditions.listener import Heard, Listener
from kinema.types import Conditions

GIVEN = Conditions(
    text=("a red ball", "a box"),
    label=torch.tensor([0, 2]),
    audio=torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1),
    actions=torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(1)),
)
CONDITIONS = ("text", "label", "audio", "actions")


def listener(group: int = 4, alone: bool = True) -> Listener:
    torch.manual_seed(0)
    made = Listener(16, 2, group, alone, 3, ("a", "red", "ball", "box"), 2, 8.0)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return made.eval()


def all_of(heard: Heard) -> tuple[Tensor, ...]:
    assert heard.context is not None
    return heard.moments, *heard.context


def test_it_hears_what_it_was_built_for() -> None:
    assert listener().hears == set(CONDITIONS)
    assert Listener(16, 2, 1, False).hears == frozenset()
    silent = Listener(16, 2, 1, False)(Conditions(), 4, 3)
    assert silent.moments.shape == (3, 4, 16) and not silent.moments.any() and silent.context is None


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_matters_and_can_be_left_out_by_itself(name: str) -> None:
    listen, out = listener(), torch.tensor([True, False])
    full = listen(GIVEN, 9, 2)
    partly = listen(GIVEN, 9, 2, {name: out})
    without = listen(replace(GIVEN, **{name: None}), 9, 2)
    torch.testing.assert_close(partly.moments[1], full.moments[1])
    torch.testing.assert_close(partly.moments[0], without.moments[0])
    assert not torch.allclose(full.moments[0], without.moments[0])
    if name == "text":
        assert not torch.allclose(all_of(full)[1][0], all_of(partly)[1][0])
    else:
        torch.testing.assert_close(all_of(full)[1:], all_of(partly)[1:])


@pytest.mark.parametrize(("group", "alone", "moments"), [(4, True, 3), (4, False, 3), (1, False, 9), (2, True, 5)])
@pytest.mark.parametrize("frame", [0, 1, 4, 8])
def test_what_is_done_on_the_way_to_a_frame_is_told_to_its_moment(
    group: int, alone: bool, moments: int, frame: int
) -> None:
    listen = listener(group, alone)
    assert GIVEN.actions is not None
    other = GIVEN.actions.clone()
    other[:, frame] += 1
    plain, changed = listen(GIVEN, 9, 2).moments, listen(replace(GIVEN, actions=other), 9, 2).moments
    assert plain.shape == (2, moments, 16)
    where = (plain != changed).any(2)[0].nonzero().flatten().tolist()
    assert where == [-(-frame // group) if alone else frame // group]


def test_a_window_is_told_its_own_moments() -> None:
    heard = listener(1, False)(GIVEN, 9, 2)
    torch.testing.assert_close(heard.cut(3, 4).moments, heard.moments[:, 3:7])
    beyond = heard.cut(7, 4).moments  # a window reaches beyond the clip that is asked for
    torch.testing.assert_close(beyond[:, 1:], heard.moments[:, -1:].expand(-1, 3, -1))


def test_clips_of_several_parts_are_told_together() -> None:
    listen = listener()
    short, long = listen(replace(GIVEN, text=("a", "a")), 9, 2), listen(GIVEN, 9, 2)
    joined = all_of(Heard.joined([short, long]))
    for part, first in ((short, 0), (long, 2)):
        moments, tokens, seen = (each[first : first + 2] for each in joined)
        torch.testing.assert_close(moments, part.moments)
        for clip in range(2):
            kept = all_of(part)[1][clip][all_of(part)[2][clip]]
            torch.testing.assert_close(tokens[clip][seen[clip]], kept)
    assert Heard.joined([Heard(short.moments), Heard(long.moments)]).context is None


def test_actions_are_normalised_by_those_of_training() -> None:
    encode = ActionEncoder(2, 8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        encode(100 * torch.randn(4, 9, 2, generator=generator) + 1000, 9, torch.ones(4, dtype=torch.bool))
    assert encode.norm.running_mean is not None and encode.norm.running_var is not None
    torch.testing.assert_close(encode.norm.running_mean, torch.full((2,), 1000.0), rtol=0.1, atol=0)
    torch.testing.assert_close(encode.norm.running_var.sqrt(), torch.full((2,), 100.0), rtol=0.1, atol=0)


@pytest.mark.parametrize("shape", [(2, 9, 3), (2, 8, 2)])
def test_actions_of_another_number_or_for_fewer_frames_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes 2 for each of 9"):
        listener()(replace(GIVEN, actions=torch.zeros(shape)), 9, 2)
