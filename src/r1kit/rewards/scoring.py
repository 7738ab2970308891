"""Scores: the weighted sum of the rewards that apply, and what happens where one fails.

A rollout that a reward failed on gets the total nan and is left out of training. Its traceback or reason is
recorded, and more than ``FAILURE_LIMIT`` of failed rollouts stop the run."""

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1kit.config import ConfigError, R1kitError
from r1kit.rewards.reward import Explained, Failed, WeightedReward
from r1kit.types import Rollout, Score
from r1kit.watchdog import HungError, deadline

FAILURE_LIMIT = 0.05  # of the rollouts; beyond that the reward itself is probably broken


@dataclass(frozen=True, slots=True)
class Failure:
    """A rollout that a reward failed on: ``problem``, ``group`` and ``index`` are the rollout's key,
    ``detail`` is the traceback or the reason."""

    problem: str
    group: int
    index: int
    reward: str
    detail: str

    @property
    def rollout(self) -> tuple[str, int, int]:
        """The rollout's key (Rollout.key)."""
        return self.problem, self.group, self.index


class TooManyFailuresError(R1kitError):
    """More than FAILURE_LIMIT of the rollouts could not be judged."""


def score(
    rollouts: Sequence[Rollout], rewards: Sequence[WeightedReward], failures: list[Failure] | None = None
) -> list[Score]:
    """Score rollouts: one Score per rollout, in the order of ``rollouts``.

    ``parts`` holds the unweighted rewards; ``total`` is the weighted sum of those that apply, or nan where
    one of them failed: leave such a rollout out of training. Failures are appended to ``failures``. Raises
    TooManyFailuresError above FAILURE_LIMIT."""
    failed: list[Failure] = []
    columns = {reward.name: _apply(reward, rollouts, failed) for reward in rewards}
    without = {failure.rollout for failure in failed}
    if failures is not None:
        failures.extend(failed)
    if len(without) > max(1, FAILURE_LIMIT * len(rollouts)):
        raise TooManyFailuresError(
            f"{len(without)} of {len(rollouts)} rollouts could not be judged (limit {FAILURE_LIMIT:.0%}). "
            f"The first failure, of reward {failed[0].reward!r} on problem {failed[0].problem!r}:\n"
            f"{failed[0].detail}\nA rollout without a reward cannot be trained on, so the run stops. Fix the "
            "reward, its checker or its endpoint, then run the same command: it continues from the last "
            "saved state."
        )
    return [
        _total(rewards, {name: values[place] for name, values in columns.items()})
        for place in range(len(rollouts))
    ]


def _total(rewards: Sequence[WeightedReward], values: Mapping[str, float | None]) -> Score:
    total = sum(reward.weight * value for reward in rewards if (value := values[reward.name]) is not None)
    parts = {
        name: None if value is None or math.isnan(value) else float(value) for name, value in values.items()
    }
    reasons = {name: value.reason for name, value in values.items() if isinstance(value, Explained)}
    return Score(float(total), parts, reasons)


def _apply(reward: WeightedReward, rollouts: Sequence[Rollout], failed: list[Failure]) -> list[float | None]:
    """The values of one reward, nan where it failed; failures are appended to ``failed``."""
    values = _values(reward, rollouts)
    for rollout, value in zip(rollouts, values, strict=True):
        if value is not None and math.isnan(value):
            detail = (
                value.reason
                if isinstance(value, Failed)
                else "the reward was nan: it could not be determined"
            )
            failed.append(Failure(*rollout.key, reward.name, detail))
    return values


def _values(reward: WeightedReward, rollouts: Sequence[Rollout]) -> list[float | None]:
    """The values of one reward. If it raises, each rollout is tried alone to find the ones that raise. The
    others are then judged together again, because a reward may compare the rollouts of a group."""
    values = attempt(reward, rollouts)
    if isinstance(values, list):
        return values
    alone = [attempt(reward, [rollout]) for rollout in rollouts]
    sound = [place for place, value in enumerate(alone) if isinstance(value, list)]
    together = (
        attempt(reward, [rollouts[place] for place in sound]) if 0 < len(sound) < len(rollouts) else values
    )
    found: list[float | None] = [
        Failed(together if isinstance(value, list) and isinstance(together, str) else str(value))
        for value in alone
    ]
    if isinstance(together, list):
        for place, value in zip(sound, together, strict=True):
            found[place] = value
    return found


def attempt(reward: WeightedReward, rollouts: Sequence[Rollout]) -> list[float | None] | str:
    """The values that a reward returns, checked, or the traceback of what it raises. Errors that the user has
    to fix (a ConfigError, a reward that hangs) are raised."""
    try:
        return _checked(reward, rollouts)
    except (ConfigError, HungError):
        raise
    except Exception:
        return traceback.format_exc()


def _checked(reward: WeightedReward, rollouts: Sequence[Rollout]) -> list[float | None]:
    with deadline(
        f"reward {reward.name!r} has not returned for {len(rollouts)} rollouts; give it a time-out of its own"
    ):
        values = reward.function(rollouts)
    if len(values) != len(rollouts):
        raise R1kitError(
            f"reward {reward.name!r} returned {len(values)} values for {len(rollouts)} rollouts; it "
            "must return one each"
        )
    checked = [
        value if value is None or isinstance(value, Failed | Explained) else float(value) for value in values
    ]
    if any(value is not None and math.isinf(value) for value in checked):
        raise R1kitError(f"reward {reward.name!r} returned an infinite value")
    return checked
