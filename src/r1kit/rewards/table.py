"""The rewards that a recipe may name, and the user's own functions, also those written for TRL."""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1kit.chat import is_conversational, messages_of
from r1kit.config import ConfigError, suggest
from r1kit.rewards.gold import gold_score
from r1kit.rewards.judge import judge
from r1kit.rewards.lengths import cosine, length, repetition, soft_overlong
from r1kit.rewards.lint import lint
from r1kit.rewards.noisy import coin, noisy_accuracy, wrong_labels
from r1kit.rewards.reward import CheckingTask, Reward, WeightedReward
from r1kit.rewards.rules import accuracy, format_, language, reasoning_steps
from r1kit.rewards.speed import speed
from r1kit.rewards.taste import taste
from r1kit.types import Rollout
from r1kit.user_code import ANY, Shape, load_name

# Each entry makes a reward from the tasks of the recipe and its own options.
REWARDS: dict[str, Callable[..., Reward]] = {
    "accuracy": accuracy,
    "format": format_,
    "language": language,
    "judge": judge,
    "gold_score": gold_score,
    "taste": taste,
    "soft_overlong": soft_overlong,
    "cosine": cosine,
    "length": length,
    "repetition": repetition,
    "reasoning_steps": reasoning_steps,
    "speed": speed,
    "lint": lint,
    # wrong on purpose, for controls
    "coin": coin,
    "noisy_accuracy": noisy_accuracy,
    "wrong_labels": wrong_labels,
}

OWN_REWARD = Shape(
    "a reward",
    "a function (rollouts), or TRL's (completions, **columns), that returns a number for each",
    functions=(("rollouts",), (ANY, "completions", ANY), (ANY, "completion_ids", ANY)),
)
_TRL_NAMES = {"prompts", "completions", "completion_ids", "trainer_state"}  # a function of TRL's has one
# Columns that TRL does not pass by name; ``messages`` is part of the prompt.
_NO_COLUMNS = {"prompt", "completion", "completion_ids", "messages"}

# Rewards that wait for a sandbox, checkers or the network can run while other groups are sampled.
# Not ``speed``: it measures time, so nothing else should run then.
EARLY = frozenset({"accuracy", "cosine", "judge", "length", "noisy_accuracy", "wrong_labels"})


def load_rewards(spec: Mapping[str, Any], tasks: Any) -> list[WeightedReward]:
    """Build the rewards that a recipe names: ``{accuracy: 1.0, "my_rewards.py:brevity": 0.5, cosine: {weight:
    1, limit: 4096}}``.

    ``tasks`` is a mapping by name or a sequence of tasks. A name with ":" is the user's own function, either
    a reward over rollouts or one written for TRL (``completions, **columns``); it also takes ``early: true``.
    Raises ConfigError for an unknown name or option."""
    by_name = dict(tasks) if isinstance(tasks, Mapping) else {task.name: task for task in tasks}
    return [_load_reward(name, entry, by_name) for name, entry in spec.items()]


def _load_reward(name: str, entry: Any, tasks: Mapping[str, CheckingTask]) -> WeightedReward:
    options = dict(entry) if isinstance(entry, Mapping) else {"weight": entry}
    weight = options.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ConfigError(f"rewards.{name}: the weight must be a finite number (given: {weight!r})")
    if ":" in name:
        early = options.pop("early", False)
        if options or not isinstance(early, bool):
            given = ", ".join(options) or f"early: {early!r}"
            raise ConfigError(
                f"rewards.{name}: your own function takes a weight, and early: true or false (given: {given})"
            )
        return WeightedReward(name, float(weight), adapt(load_name(name, OWN_REWARD)), early)
    if name not in REWARDS:
        hint = suggest(name, REWARDS, f"known: {', '.join(REWARDS)}; your own function is file.py:function")
        raise ConfigError(f"rewards: unknown reward {name!r}: {hint}")
    known = [p.name for p in inspect.signature(REWARDS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"rewards.{name}: unknown option {option!r}; known: {', '.join(['weight', *known])}"
            )
    return WeightedReward(name, float(weight), REWARDS[name](tasks, **options), name in EARLY)


def adapt(function: Callable[..., Any]) -> Reward:
    """Make a reward of a user's function: one over rollouts as it is, one with TRL's signature through its
    keyword arguments.

    A function of TRL's names one of TRL's arguments or takes ``**columns``, and so everything; else only what
    it names is passed."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_all and _TRL_NAMES.isdisjoint(parameters):
        return function

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        available = trl_arguments(rollouts)
        result = function(
            **{name: value for name, value in available.items() if takes_all or name in parameters}
        )
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        return list(result)

    return reward


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What of TRL's ``trainer_state`` there is here: ``global_step``, the updates that the weights had had
    when they sampled these rollouts."""

    global_step: int


def trl_arguments(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """The keyword arguments that TRL (1.16) gives a reward function: ``prompts``, ``completions``,
    ``completion_ids`` and each column of the data, one list entry per rollout (None for a missing column);
    ``trainer_state``, ``log_extra`` and ``log_metric``.

    Where a row's prompt is a conversation, its prompt is the list of messages and its completion a list of
    one, the assistant's; else both are texts. A completion begins with what the prompt opened, such as
    "<think>". ``answer`` is the data's column of that name, else the problem's gold answer. What a function
    logs is not kept."""
    columns = {name for rollout in rollouts for name in rollout.problem.columns} - _NO_COLUMNS
    return {
        **{name: [rollout.problem.columns.get(name) for rollout in rollouts] for name in sorted(columns)},
        "answer": [rollout.problem.columns.get("answer", rollout.problem.answer) for rollout in rollouts],
        "prompts": [
            messages_of(rollout.problem) if is_conversational(rollout.problem) else rollout.problem.prompt
            for rollout in rollouts
        ],
        "completions": [
            [{"role": "assistant", "content": rollout.text}]
            if is_conversational(rollout.problem)
            else rollout.text
            for rollout in rollouts
        ],
        "completion_ids": [rollout.completion.token_ids.tolist() for rollout in rollouts],
        "trainer_state": TrainerState(max((rollout.completion.version for rollout in rollouts), default=0)),
        "log_extra": _log_nothing,
        "log_metric": _log_nothing,
    }


def _log_nothing(name: str, value: Any) -> None:
    """Accept what a function written for TRL logs."""
