"""The miniature's gold score as a function over rollouts: the stand-in for human judgement when general
prompts are evaluated. It is never trained on."""

from collections.abc import Mapping, Sequence

from r1kit.rewards.reward import CheckingTask, Reward
from r1kit.tasks.miniature.general import GENERAL_KINDS
from r1kit.tasks.miniature.general import gold_score as gold_score_of
from r1kit.types import Rollout


def gold_score(tasks: Mapping[str, CheckingTask]) -> Reward:
    """Make the gold score, 0 to 1, of answers to the miniature's general prompts; None for other
    problems."""

    def reward(rollouts: Sequence[Rollout]) -> list[float | None]:
        return [
            gold_score_of(rollout.problem, rollout.answer)
            if rollout.problem.columns.get("kind") in GENERAL_KINDS
            else None
            for rollout in rollouts
        ]

    return reward
