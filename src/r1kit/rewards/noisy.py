"""Rewards that are wrong on purpose: what a control, or a study of verifiers, trains on.

``coin`` knows nothing of the response. ``wrong_labels`` checks a response against the gold answer of another
problem of its task. ``noisy_accuracy`` is the accuracy reward of a verifier that errs: it accepts a share
``false_positive`` of wrong responses, and rejects a share ``false_negative`` of right ones. All of them are
functions of the rollout and the option ``seed``, so a run that is repeated gets the same rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from r1kit.config import ConfigError
from r1kit.rewards.reward import CheckingTask, Reward, places_by_task
from r1kit.rewards.rules import accuracy, check_all
from r1kit.seeds import derive_seed
from r1kit.types import Problem, Rollout

_DRAWS = 1 << 20  # steps in which a chance is drawn from a hash


def coin(tasks: Mapping[str, CheckingTask], *, seed: int = 0) -> Reward:
    """Make the reward that is a fair coin for each rollout, whatever it says."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [float(_chance(seed, r.problem.id, r.index, "coin") < 0.5) for r in rollouts]

    return reward


def noisy_accuracy(
    tasks: Mapping[str, CheckingTask],
    *,
    false_positive: float = 0.0,
    false_negative: float = 0.0,
    seed: int = 0,
) -> Reward:
    """Make the accuracy reward of a verifier that accepts a share of wrong responses and rejects a share of
    right ones. Equal responses to a problem get the same verdict. Raises ConfigError for a rate outside
    0..1."""
    rates = {"false_positive": false_positive, "false_negative": false_negative}
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
            raise ConfigError(
                f"rewards.noisy_accuracy.{name}: a share from 0 to 1 is needed (given: {rate!r})"
            )
    exact = accuracy(tasks)

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [
            _flipped(value, false_negative if value else false_positive, rollout, seed)
            for value, rollout in zip(exact(rollouts), rollouts, strict=True)
        ]

    return reward


def _flipped(value: float | None, rate: float, rollout: Rollout, seed: int) -> float | None:
    """A verdict, turned into its opposite with probability ``rate``; what is no verdict stays as it is."""
    if value not in (0.0, 1.0) or _chance(seed, rollout.problem.id, rollout.text) >= rate:
        return value
    return 1.0 - value


def wrong_labels(tasks: Mapping[str, CheckingTask], *, seed: int = 0) -> Reward:
    """Make the accuracy reward whose gold answers are those of other problems of the same task, drawn once
    for each problem. Raises ConfigError for a task that has no training problems with another answer."""
    pools: dict[str, list[Problem]] = {}

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        values: list[float | None] = [None] * len(rollouts)
        for name, places in places_by_task(rollouts).items():
            task: Any = tasks[name]
            if name not in pools:
                pools[name] = [problem for problem in task.problems("train") if problem.answer is not None]
            judged = [
                replace(rollouts[place], problem=_another(rollouts[place].problem, pools[name], seed))
                for place in places
            ]
            for place, verdict in zip(places, check_all(task, judged), strict=True):
                values[place] = verdict.reward
        return values

    return reward


def _another(problem: Problem, pool: Sequence[Problem], seed: int) -> Problem:
    """A problem of ``pool`` with another answer, always the same one for a problem."""
    for attempt in range(100):
        found = pool[derive_seed(seed, problem.id, "label", attempt) % len(pool)] if pool else problem
        if found.answer != problem.answer:
            return found
    raise ConfigError(
        f"rewards.wrong_labels: task {problem.task!r} has no training problem with another answer than "
        f"{problem.answer!r}; the control needs tasks whose answers differ"
    )


def _chance(seed: int, *parts: int | str) -> float:
    """A number in [0, 1), a hash of the parts."""
    return derive_seed(seed, *parts) % _DRAWS / _DRAWS
