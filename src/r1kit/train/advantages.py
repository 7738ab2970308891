"""Advantages: how much better a rollout was than its group.

    group_std    A_i = (r_i - mean(r)) / (std(r) + 1e-4)         GRPO (DeepSeekMath 2402.03300, section 4.1.2; DeepSeek-R1 eq. 3)
    group_mean   A_i = r_i - mean(r)                              Dr. GRPO (2503.20783, section 3.2)

Mathematics on plain arrays, no model. Whatever the estimator, a group whose rewards are all equal gets exactly zeros, and a reward that
is nan (our own failure) takes no part: its advantage is zero.
"""

from typing import Literal

import numpy as np

from r1kit.config import Config

Estimator = Literal["group_std", "group_mean"]


class AdvantageConfig(Config):
    """``advantage`` names the estimator; the paper's is group_std."""

    advantage: Estimator = "group_std"


def advantages(rewards_G: np.ndarray, estimator: Estimator) -> np.ndarray:
    """The advantages [G] float32 of one group. The standard deviation is the unbiased one, + 1e-4 as in TRL."""
    rewards_G = np.asarray(rewards_G, dtype=np.float64)
    judged = rewards_G[~np.isnan(rewards_G)]
    if len(judged) < 2 or np.ptp(judged) == 0.0:
        return np.zeros(len(rewards_G), dtype=np.float32)
    centred_G = rewards_G - judged.mean()
    if estimator == "group_std":
        centred_G = centred_G / (judged.std(ddof=1) + 1e-4)
    advantages_G: np.ndarray = np.nan_to_num(centred_G).astype(np.float32)
    return advantages_G
