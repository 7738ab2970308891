"""Rewards: functions from rollouts to numbers, and their weighted sum.

``load_rewards`` builds those that a recipe names, ``score`` applies them; each kind has a file of its own.
"""

from r1kit.endpoints import complete_chat
from r1kit.rewards.ahead import Ahead
from r1kit.rewards.lengths import repeated_share
from r1kit.rewards.reward import Failed, Reward, WeightedReward
from r1kit.rewards.rules import check_all, format_reward
from r1kit.rewards.scoring import FAILURE_LIMIT, Failure, TooManyFailuresError, score
from r1kit.rewards.table import REWARDS, adapt, load_rewards

__all__ = [
    "FAILURE_LIMIT",
    "REWARDS",
    "Ahead",
    "Failed",
    "Failure",
    "Reward",
    "TooManyFailuresError",
    "WeightedReward",
    "adapt",
    "check_all",
    "complete_chat",
    "format_reward",
    "load_rewards",
    "repeated_share",
    "score",
]
