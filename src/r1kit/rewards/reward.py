"""What a reward is: a function ``(Sequence[Rollout]) -> list[float | None]``.

    a number   the reward of that rollout
    None       the reward does not apply to it (another task, an answer that only a judge can score): the term is left out
    nan        we failed to judge it (a dead checker, an endpoint that is down): the rollout must not be trained on

A failure is never a 0: that would punish the model for our fault. ``Failed`` is a nan that says why.
"""

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
    """A nan in the place of a reward, with the reason why nobody could judge."""

    reason: str

    def __new__(cls, reason: str) -> Self:
        value = super().__new__(cls, math.nan)
        value.reason = reason
        return value


class CheckingTask(Protocol):
    """What the accuracy reward needs of a task."""

    name: str

    def check(self, problem: Problem, answer: str | None) -> Verdict:
        """Judge an answer to a problem."""
        ...


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward as a recipe names it.

    ``early``: what it says of a group depends on that group alone, so it may be asked about some groups while
    others are still being sampled. Any other is asked once about all rollouts of a phase, in the order of the
    problems."""

    name: str
    weight: float
    function: Reward
    early: bool = False


def places_by_problem(rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
    """Where the rollouts of each problem stand."""
    places: dict[str, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        places.setdefault(rollout.problem.id, []).append(place)
    return places


def places_by_task(rollouts: Sequence[Rollout]) -> dict[str, list[int]]:
    """Where the rollouts of each task stand."""
    places: dict[str, list[int]] = {}
    for place, rollout in enumerate(rollouts):
        places.setdefault(rollout.problem.task, []).append(place)
    return places


def token_count(rollout: Rollout) -> int:
    """The number of sampled tokens."""
    return len(rollout.completion.token_ids)
