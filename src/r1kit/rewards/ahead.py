"""Rewards asked early: for groups that are complete while others are still being sampled.

Only rewards that say so (``WeightedReward.early``) are asked in portions of whole groups, in no order. What
they say is remembered and handed out when all rollouts are scored, so that scores, failures and their order
do not depend on when anything was complete. Where a reward raises, nothing is remembered: it is asked again
with the rest, and fails there as it would have."""

from collections.abc import Sequence

from r1kit.rewards.reward import Reward, WeightedReward
from r1kit.rewards.scoring import attempt
from r1kit.types import Rollout


class Ahead:
    """What the early ones of some rewards have said of rollouts so far."""

    def __init__(self, rewards: Sequence[WeightedReward]) -> None:
        self.rewards = rewards
        self._known: dict[str, dict[int, float | None]] = {
            reward.name: {} for reward in rewards if reward.early
        }

    def ask(self, rollouts: Sequence[Rollout]) -> None:
        """Ask the early rewards about whole groups."""
        for reward in self.rewards:
            if reward.early and isinstance(values := attempt(reward, rollouts), list):
                self._known[reward.name].update(zip(map(id, rollouts), values, strict=True))

    def informed(self) -> list[WeightedReward]:
        """The rewards, of which the early ones know what they have said: for the same rollouts, not for equal
        ones."""
        return [
            WeightedReward(one.name, one.weight, self._remembering(one)) if one.early else one
            for one in self.rewards
        ]

    def _remembering(self, reward: WeightedReward) -> Reward:
        known = self._known[reward.name]

        def remembered(rollouts: Sequence[Rollout]) -> list[float | None]:
            rest = [rollout for rollout in rollouts if id(rollout) not in known]
            values = reward.function(rest) if rest else []
            if len(values) != len(rest):
                return reward.function(rollouts)  # wrong, and told as of all of them
            fresh = iter(values)
            return [known[id(rollout)] if id(rollout) in known else next(fresh) for rollout in rollouts]

        return remembered
