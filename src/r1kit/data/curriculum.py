"""A curriculum: a problem's last pass rate decides when the problem comes again.

    rate(x)   share of the last group's rollouts that were right, without those that could not be judged
    x rests   while rate(x) >= easy or rate(x) <= hard, for ``rest`` epochs of its task (0: for ever)

A group that is all right or all wrong gives no gradient (DAPO 2503.14476, section 3.2). Dynamic sampling
drops such a group after it has been sampled. A curriculum predicts it from the last group, as prioritised
sampling does (Kimi k1.5 2501.12599, section 2.3.4). Here a problem rests for whole epochs instead of being
drawn less often; every other problem comes once per epoch, as without a curriculum.

If a task's next epoch would be empty, or have only problems whose rollouts are still being sampled, all its
problems come back with their history cleared."""

import math
from collections.abc import Iterable, Sequence

from pydantic import Field, model_validator

from r1kit.config import Config, ConfigError
from r1kit.types import Problem, Score

CORRECTNESS = "accuracy"  # the reward that judges whether an answer is right


class CurriculumConfig(Config):
    """``easy``: a problem with at least this pass rate rests; ``hard``: one with at most this; null switches
    either off. ``rest``: how many epochs of its task a problem misses; 0 removes it. ``easiest_first``: the
    first epoch of a task goes by difficulty."""

    easy: float | None = Field(default=1.0, gt=0.0, le=1.0)
    hard: float | None = Field(default=None, ge=0.0, lt=1.0)
    rest: int = Field(default=2, ge=0)
    easiest_first: bool = False

    @model_validator(mode="after")
    def _some_problems_rest_and_others_do_not(self) -> "CurriculumConfig":
        if self.easy is None and self.hard is None and not self.easiest_first:
            raise ValueError(
                "with neither easy nor hard nor easiest_first nothing would change; set one of them or "
                "leave the curriculum out"
            )
        if self.easy is not None and self.hard is not None and self.hard >= self.easy:
            raise ValueError(
                f"hard: {self.hard:g} is not below easy: {self.easy:g}, so every problem would rest"
            )
        return self


class Curriculum:
    """Which problems rest. ``visits``: problem id -> (the epoch of its task in which it was drawn last, its
    pass rate there; None if not known). ``pending``: drawn problems without scores yet; empty between two
    phases."""

    def __init__(self, config: CurriculumConfig) -> None:
        self.config = config
        self.visits: dict[str, tuple[int, float | None]] = {}
        self.pending: set[str] = set()

    def rests(self, problem: Problem, epoch: int) -> bool:
        """Whether the problem is passed over in this epoch of its task."""
        config = self.config
        drawn, rate = self.visits.get(problem.id, (0, None))
        if rate is None or (config.rest and epoch > drawn + config.rest):
            return False
        return (config.easy is not None and rate >= config.easy) or (
            config.hard is not None and rate <= config.hard
        )

    def takes(self, problem: Problem, epoch: int) -> bool:
        """Whether the problem is drawn at its turn in this epoch, which is then its last visit."""
        if self.rests(problem, epoch):
            return False
        self.visits[problem.id] = (epoch, None)
        self.pending.add(problem.id)
        return True

    def observe(self, problem: Problem, scores: Sequence[Score]) -> None:
        """Note how the rollouts of the problem's last visit did."""
        epoch, _ = self.visits[problem.id]
        self.visits[problem.id] = (epoch, pass_rate(scores))
        self.pending.discard(problem.id)

    def wakes(self, problems: Sequence[Problem], epoch: int) -> bool:
        """Whether a task's problems all come back before this epoch, because it would otherwise be empty or
        have only pending problems."""
        if not all(problem.id in self.pending or self.rests(problem, epoch) for problem in problems):
            return False
        resting = {problem.id for problem in problems if self.rests(problem, epoch)}
        for problem in resting:
            del self.visits[problem]
        return bool(resting)


def pass_rate(scores: Sequence[Score]) -> float | None:
    """The share of right rollouts in a group. Rollouts that a reward failed on, or that only a judge can
    score, do not count; None if no rollout counts."""
    parts = [score.parts.get(CORRECTNESS) for score in scores if not math.isnan(score.total)]
    right = [part >= 1.0 for part in parts if part is not None]
    return sum(right) / len(right) if right else None


def require_correctness(rewards: Iterable[str]) -> None:
    """Raise ConfigError where none of the rewards, given by name, judges whether an answer is right."""
    names = list(rewards)
    if CORRECTNESS not in names:
        raise ConfigError(
            f"curriculum: a problem rests by its pass rate, which is the reward {CORRECTNESS!r}; the "
            f"rewards here are {', '.join(names) or 'none'}. "
            f"Add {CORRECTNESS!r} (with weight 0 if it must not count), or leave the curriculum out"
        )


def require_levels(problems: Iterable[Problem]) -> None:
    """Raise ConfigError if ``easiest_first`` is set and no problem has a difficulty."""
    if all(problem.difficulty is None for problem in problems):
        raise ConfigError(
            "curriculum.easiest_first: no problem states a difficulty; name the data set's column for "
            "it (difficulty: COLUMN)"
        )


def by_difficulty(problem: Problem) -> float:
    """A problem's place among those of its task: by its difficulty, and last without one."""
    return math.inf if problem.difficulty is None else problem.difficulty
