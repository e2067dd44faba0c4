"""The encoder of all conditions: each group of frames has what belongs to it, and what is dropped has no effect."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kinema.conditions.actions import ActionEncoder
from kinema.conditions.audio import AudioEncoder
from kinema.conditions.encoder import FRAME_WIDTH, ConditionEncoder, EncodedConditions
from kinema.conditions.labels import LabelEncoder
from kinema.conditions.text import TextEncoder, Vocabulary
from kinema.types import Conditions

CONDITIONS = Conditions(
    text=("a red ball", "a box"),
    label=torch.tensor([0, 2]),
    audio=torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0)).clamp(-1, 1),
    actions=torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(1)),
)
NAMES = ("text", "label", "audio", "actions")


def encoder(group: int = 4, single_first: bool = True) -> ConditionEncoder:
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {
        "label": LabelEncoder(3, 16),
        "text": TextEncoder(Vocabulary(("a", "red", "ball", "box")), 16, heads=2),
        "audio": AudioEncoder(FRAME_WIDTH, 8.0),
        "actions": ActionEncoder(2, FRAME_WIDTH),
    }
    made = ConditionEncoder(16, group, (group - 1) * single_first, encoders)
    for parameter in made.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return made.eval()


def context_of(encoded: EncodedConditions) -> tuple[Tensor, Tensor]:
    assert encoded.context is not None
    return encoded.context


def test_it_accepts_what_it_has_encoders_for() -> None:
    assert encoder().accepts == set(NAMES)
    unconditional = ConditionEncoder(16, 1, 0, {})
    assert unconditional.accepts == frozenset()
    encoded = unconditional(Conditions(), 4, 3)
    assert encoded.slice(0, 4).groups.shape == (3, 4, 16)
    assert not encoded.groups.any() and encoded.context is None


@pytest.mark.parametrize("name", NAMES)
def test_every_condition_matters_and_can_be_dropped_by_itself(name: str) -> None:
    encode, out = encoder(), torch.tensor([True, False])
    full = encode(CONDITIONS, 9, 2)
    partly = encode(CONDITIONS, 9, 2, {name: out})
    without = encode(replace(CONDITIONS, **{name: None}), 9, 2)
    torch.testing.assert_close(partly.groups[1], full.groups[1])
    torch.testing.assert_close(partly.groups[0], without.groups[0])
    assert not torch.allclose(full.groups[0], without.groups[0])
    if name == "text":
        assert not torch.allclose(context_of(full)[0][0], context_of(partly)[0][0])
    else:
        torch.testing.assert_close(context_of(full), context_of(partly))


@pytest.mark.parametrize(
    ("group", "single_first", "groups"), [(4, True, 3), (4, False, 3), (1, False, 9), (2, True, 5)]
)
@pytest.mark.parametrize("frame", [0, 1, 4, 8])
def test_the_action_of_a_frame_conditions_its_group(group: int, single_first: bool, groups: int, frame: int) -> None:
    encode = encoder(group, single_first)
    assert CONDITIONS.actions is not None
    other = CONDITIONS.actions.clone()
    other[:, frame] += 1
    plain, changed = encode(CONDITIONS, 9, 2).groups, encode(replace(CONDITIONS, actions=other), 9, 2).groups
    assert plain.shape == (2, groups, 16)
    where = (plain != changed).any(2)[0].nonzero().flatten().tolist()
    assert where == [-(-frame // group) if single_first else frame // group]


def test_a_slice_has_the_groups_of_a_window() -> None:
    encoded = encoder(1, False)(CONDITIONS, 9, 2)
    torch.testing.assert_close(encoded.slice(3, 4).groups, encoded.groups[:, 3:7])
    beyond = encoded.slice(7, 4).groups  # a window may reach beyond the clip that is asked for
    torch.testing.assert_close(beyond[:, 1:], encoded.groups[:, -1:].expand(-1, 3, -1))


def test_batches_are_concatenated_though_their_texts_have_other_lengths() -> None:
    encode = encoder()
    short, long = encode(replace(CONDITIONS, text=("a", "a red " * 5)), 9, 2), encode(CONDITIONS, 9, 2)
    assert context_of(short)[0].shape[1] != context_of(long)[0].shape[1]
    both = EncodedConditions.concatenate([short, long])
    for part, first in ((short, 0), (long, 2)):
        groups, tokens, mask = (each[first : first + 2] for each in (both.groups, *context_of(both)))
        torch.testing.assert_close(groups, part.groups)
        for clip in range(2):
            kept = context_of(part)[0][clip][context_of(part)[1][clip]]
            torch.testing.assert_close(tokens[clip][mask[clip]], kept)
    without_context = [EncodedConditions(short.groups), EncodedConditions(long.groups)]
    assert EncodedConditions.concatenate(without_context).context is None


def test_candidates_of_a_clip_follow_each_other() -> None:
    encoded = encoder()(CONDITIONS, 9, 2)
    three = encoded.repeat_interleave(3)
    for mine, theirs in zip((encoded.groups, *context_of(encoded)), (three.groups, *context_of(three)), strict=True):
        assert torch.equal(theirs, mine[[0, 0, 0, 1, 1, 1]])


def test_actions_are_normalised_by_those_of_training() -> None:
    encode = ActionEncoder(2, 8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        encode(100 * torch.randn(4, 9, 2, generator=generator) + 1000, 9, torch.ones(4, dtype=torch.bool))
    assert encode.norm.running_mean is not None and encode.norm.running_var is not None
    torch.testing.assert_close(encode.norm.running_mean, torch.full((2,), 1000.0), rtol=0.1, atol=0)
    torch.testing.assert_close(encode.norm.running_var.sqrt(), torch.full((2,), 100.0), rtol=0.1, atol=0)


@pytest.mark.parametrize("shape", [(2, 9, 3), (2, 8, 2)])
def test_actions_of_another_size_or_of_fewer_frames_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes 2 for each of 9"):
        encoder()(replace(CONDITIONS, actions=torch.zeros(shape)), 9, 2)
