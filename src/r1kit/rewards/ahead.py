"""Rewards computed early: for groups that are complete while others are still being sampled.

Only rewards that allow it (``WeightedReward.early``) are called with some of the groups, in any order. Their
values are stored by rollout key and used when all rollouts are scored, so scores, failures and their order do
not depend on timing. If a reward raises, nothing is stored: it is called again with all remaining rollouts,
and the failure is recorded there."""

from collections.abc import Sequence

from r1kit.rewards.reward import Reward, WeightedReward
from r1kit.rewards.scoring import attempt
from r1kit.types import Rollout

Key = tuple[str, int, int]  # Rollout.key


class Ahead:
    """The values returned so far by the early rewards, for rollouts of one phase."""

    def __init__(self, rewards: Sequence[WeightedReward]) -> None:
        self.rewards = rewards
        self._known: dict[str, dict[Key, float | None]] = {
            reward.name: {} for reward in rewards if reward.early
        }

    def ask(self, rollouts: Sequence[Rollout]) -> None:
        """Call the early rewards with whole groups."""
        for reward in self.rewards:
            if reward.early and isinstance(values := attempt(reward, rollouts), list):
                keys = (rollout.key for rollout in rollouts)
                self._known[reward.name].update(zip(keys, values, strict=True))

    def informed(self) -> list[WeightedReward]:
        """The same rewards; early ones reuse the values they have already returned."""
        return [
            WeightedReward(one.name, one.weight, self._remembering(one)) if one.early else one
            for one in self.rewards
        ]

    def _remembering(self, reward: WeightedReward) -> Reward:
        known = self._known[reward.name]

        def remembered(rollouts: Sequence[Rollout]) -> list[float | None]:
            rest = [rollout for rollout in rollouts if rollout.key not in known]
            values = reward.function(rest) if rest else []
            if len(values) != len(rest):
                return reward.function(rollouts)  # the wrong number: report it for all of them
            fresh = iter(values)
            return [known[rollout.key] if rollout.key in known else next(fresh) for rollout in rollouts]

        return remembered
