"""What a reward is: a function ``(Sequence[Rollout]) -> list[float | None]``.

    a number   the reward of that rollout
    None       the reward does not apply to it (another task, an answer that only a judge can score)
    nan        it could not be judged (a dead checker, an endpoint that is down)

A reward that does not apply is left out of the sum. A rollout with a nan is not trained on.

A failure is never a 0, because the model did not cause it. ``Failed`` is a nan with the reason; ``Explained``
is a number with the reason, which is kept with the samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from r1kit.types import Problem, Rollout, Verdict


class Reward(Protocol):
    """A reward function: rollouts in, a number (or None) for each in the same order out."""

    def __call__(self, rollouts: Sequence[Rollout], /) -> list[float | None]:
        """The reward of each rollout."""
        ...


class Failed(float):
    """A nan in the place of a reward, with the reason why the rollout could not be judged."""

    reason: str

    def __new__(cls, reason: str) -> Self:
        value = super().__new__(cls, math.nan)
        value.reason = reason
        return value


class Explained(float):
    """A reward with the reason that its checker gives for it."""

    reason: str

    def __new__(cls, value: float, reason: str) -> Self:
        found = super().__new__(cls, value)
        found.reason = reason
        return found


class CheckingTask(Protocol):
    """What the accuracy reward needs of a task."""

    name: str

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an answer to a problem."""
        ...


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward as a recipe names it.

    ``early``: its values for a group depend on that group alone, so it may be computed for some groups while
    others are still being sampled. Any other is called once with all rollouts of a phase, in the order of the
    groups."""

    name: str
    weight: float
    function: Reward
    early: bool = False


def places_by_group(rollouts: Sequence[Rollout]) -> dict[tuple[str, int], list[int]]:
    """The places of each group's rollouts. Two groups of one problem are two groups."""
    places: dict[tuple[str, int], list[int]] = {}
    for place, rollout in enumerate(rollouts):
        places.setdefault(rollout.group_key, []).append(place)
    return places


def places_by_task(rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
    """The places of each task's rollouts."""
    places: dict[str, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        places.setdefault(rollout.problem.task, []).append(place)
    return places


def token_count(rollout: Rollout) -> int:
    """The number of sampled tokens."""
    return len(rollout.completion.token_ids)
