"""The contract of sessions, kept by the smallest world that can be played: counters that actions move."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kinema.families.vgan import VGANConfig
from kinema.family import Family, Playable, Session, Turn
from kinema.types import ClipSpec, Conditions, Progress, Seeds, no_progress

HEIGHT, WIDTH = 2, 3


class CounterSession(Session):
    """Frames of one brightness: a count that each step raises by the action, and a little noise of the seed."""

    def __init__(self) -> None:
        self._seeds, self._steps, self._count = torch.empty(0, dtype=torch.int64), 0, torch.empty(0)

    def start(self, conditions: Conditions, seeds: Seeds) -> Tensor:
        self._seeds, self._steps, self._count = torch.tensor(seeds.values), 0, torch.zeros(len(seeds))
        return self._frame()

    def step(self, actions: Tensor | None) -> Tensor:
        if actions is None or actions.shape != (len(self._count), 1):
            raise ValueError(f"give one number for each of {len(self._count)} videos")
        self._steps, self._count = self._steps + 1, self._count + actions[:, 0]
        return self._frame()

    def save(self) -> dict[str, Tensor]:
        return {"seeds": self._seeds.clone(), "steps": torch.tensor(self._steps), "count": self._count.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        if state.keys() != self.save().keys():
            raise ValueError(f"this state holds {', '.join(state)}: it is of another kind of session")
        self._seeds, self._count = state["seeds"].clone(), state["count"].clone()
        self._steps = int(state["steps"])

    def branch(self) -> Session:
        other = CounterSession()
        other.restore(self.save())
        return other

    def _frame(self) -> Tensor:
        noise = Seeds(tuple(self._seeds.tolist())).stream("frame", self._steps).normal(1, 3, HEIGHT, WIDTH)
        return (self._count[:, None, None, None, None] / 100 + 0.001 * noise).clamp(-1, 1)


class Counter(Family):
    """A family that can only be played."""

    accepts, streams = frozenset({"actions"}), frozenset({"frame"})

    def turns(self) -> tuple[Turn, ...]:
        return ()

    def generate(
        self, conditions: Conditions, frames: int, seeds: Seeds, progress: Progress = no_progress
    ) -> Iterator[Tensor]:
        session = self.session()
        yield session.start(conditions, seeds)
        for frame in range(1, frames):
            yield session.step(None if conditions.actions is None else conditions.actions[:, frame])

    def session(self) -> Session:
        return CounterSession()


@pytest.fixture
def session() -> Session:
    return Counter().session()


def play(session: Session, *actions: float, clips: int = 2) -> Tensor:
    """The frames [B, T, 3, H, W] after each of the actions, the same in all videos."""
    return torch.cat([session.step(torch.full((clips, 1), action)) for action in actions], 1)


def test_a_family_with_sessions_is_playable_and_others_are_not() -> None:
    assert isinstance(Counter(), Playable)
    assert not isinstance(VGANConfig(ngf=1, ndf=1).fitted(ClipSpec(2, 16, 16)).build(), Playable)


def test_a_session_has_to_keep_the_complete_contract() -> None:
    class Half(Session):
        def start(self, conditions: Conditions, seeds: Seeds) -> Tensor:
            return torch.zeros(len(seeds), 1, 3, HEIGHT, WIDTH)

    with pytest.raises(TypeError, match="abstract"):
        Half()  # pyright: ignore[reportAbstractUsage]


def test_actions_decide_the_frames(session: Session) -> None:
    first = session.start(Conditions(), Seeds((0, 1)))
    assert first.shape == (2, 1, 3, HEIGHT, WIDTH)
    frames = torch.cat([first, play(session, 10.0, 10.0, -30.0)], 1)
    brightness = frames.mean((2, 3, 4))
    torch.testing.assert_close(brightness, torch.tensor([[0.0, 0.1, 0.2, -0.1]] * 2), atol=2e-3, rtol=0)


def test_the_same_seeds_and_actions_give_the_same_frames(session: Session) -> None:
    frames = []
    for seeds in (Seeds((0, 1)), Seeds((0, 1)), Seeds((0, 7))):
        frames.append(torch.cat([session.start(Conditions(), seeds), play(session, 1.0, 2.0, 3.0)], 1))
    assert torch.equal(frames[0], frames[1])
    assert torch.equal(frames[0][0], frames[2][0]) and not torch.equal(frames[0][1], frames[2][1])
    single = torch.cat([session.start(Conditions(), Seeds((1,))), play(session, 1.0, 2.0, 3.0, clips=1)], 1)
    assert torch.equal(single[0], frames[0][1])


@pytest.mark.parametrize("into", [lambda session: session, lambda _: Counter().session()], ids=["same", "new"])
def test_a_restored_session_continues_where_it_was_saved(session: Session, into: Callable[[Session], Session]) -> None:
    session.start(Conditions(), Seeds((0, 1)))
    play(session, 1.0, 2.0)
    state = session.save()
    assert all(isinstance(value, Tensor) for value in state.values())
    expected = play(session, 3.0, 4.0)
    again = into(session)
    again.restore(state)
    assert torch.equal(play(again, 3.0, 4.0), expected)
    again.restore(state)  # a state is a value: playing on has not changed it
    assert torch.equal(play(again, 3.0, 4.0), expected)
    with pytest.raises(ValueError, match="another kind of session"):
        again.restore({"latents": torch.zeros(1)})


def test_a_branch_goes_on_by_itself(session: Session) -> None:
    session.start(Conditions(), Seeds((0, 1)))
    play(session, 1.0)
    branch = session.branch()
    left, right = play(session, 5.0, 5.0), play(branch, -5.0, -5.0)
    assert not torch.equal(left, right)
    other = Counter().session()
    other.start(Conditions(), Seeds((0, 1)))
    assert torch.equal(play(other, 1.0, -5.0, -5.0)[:, 1:], right)


def test_actions_of_another_size_are_errors(session: Session) -> None:
    session.start(Conditions(), Seeds((0, 1)))
    for actions in (torch.zeros(2, 2), torch.zeros(1, 1), None):
        with pytest.raises(ValueError, match="one number for each of 2 videos"):
            session.step(actions)


def test_a_played_video_is_the_generated_one(session: Session) -> None:
    actions = torch.tensor([0.0, 10.0, -20.0, 5.0]).expand(2, -1)[..., None]
    generated = torch.cat(list(Counter().generate(Conditions(actions=actions), 4, Seeds((0, 1)))), 1)
    played = torch.cat([session.start(Conditions(), Seeds((0, 1))), play(session, 10.0, -20.0, 5.0)], 1)
    assert torch.equal(played, generated)
