"""PPO's critic: a value for every token, the advantages that follow from it, and its loss.

    r_t     = -beta log(pi_old(o_t) / pi_ref(o_t)), plus the rollout's score at its last token
    delta_t = r_t + gamma V(s_t+1) - V(s_t),   A_t = sum_k (gamma lambda)^k delta_t+k
    L_V     = 1/2 sum_t w_t max[(V - R_t)^2, (clip(V, V_old - c, V_old + c) - R_t)^2],  R_t = A_t + V_old(s_t)

V(s_t) is the critic's value after the token before o_t; after the last token it is 0, also where a rollout
was cut off, since its score is final. A_t is GAE (1506.02438, eq. 16); at lambda 1 it is return minus
value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from r1kit.train.objectives import Needs, Predictions
from r1kit.train.packing import Batch
from r1kit.types import Rollout


def token_rewards(score: float, divergence_T: np.ndarray, beta: float) -> np.ndarray:
    """Rewards [T] of a rollout's tokens: -beta log(pi_old / pi_ref) for each token, plus the score at the
    last."""
    rewards_T: np.ndarray = -beta * divergence_T
    rewards_T[-1:] += score  # an empty completion has no token to reward
    return rewards_T


def gae(rewards_RT: np.ndarray, values_RT: np.ndarray, gamma: float, gae_lambda: float) -> np.ndarray:
    """Advantages [R, T] float64 by the recursion A_t = delta_t + gamma lambda A_t+1. Shorter rollouts are
    padded with zeros, in the arguments and in the result."""
    following_RT = np.concatenate([values_RT[:, 1:], np.zeros((len(values_RT), 1))], axis=1)
    advantages_RT: np.ndarray = rewards_RT + gamma * following_RT - values_RT
    for t in range(advantages_RT.shape[1] - 2, -1, -1):
        advantages_RT[:, t] += gamma * gae_lambda * advantages_RT[:, t + 1]
    return advantages_RT


def whitened(advantages: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Advantages with mean 0 and deviation 1 over all tokens of an update; if all are equal, only the mean is
    subtracted."""
    tokens_N = np.concatenate(advantages)
    mean, deviation = tokens_N.mean(), tokens_N.std() + 1e-8
    return [(advantages_T - mean) / deviation for advantages_T in advantages]


def padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack the arrays to [R, T] float64, padded with zeros."""
    found_RT = np.zeros((len(arrays), max(map(len, arrays), default=0)))
    for row_T, array in zip(found_RT, arrays, strict=True):
        row_T[: len(array)] = array
    return found_RT


@dataclass(frozen=True, slots=True)
class Episode:
    """A rollout as the critic saw it, [T] for its T sampled tokens: the value before each, its advantage, and
    log(pi_old / pi_ref). ``reference``: log-probabilities under the reference, aligned with prompt and
    completion; None without a reference."""

    rollout: Rollout
    values_T: np.ndarray
    advantages_T: np.ndarray
    divergence_T: np.ndarray
    reference: np.ndarray | None

    @property
    def returns_T(self) -> np.ndarray:
        returns_T: np.ndarray = self.advantages_T + self.values_T
        return returns_T


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """L_V as an objective of the critic. Its rows hold the return in ``advantage`` and the value at the time
    of the rollout in ``old_logprobs``."""

    clip: float | None
    needs: ClassVar[Needs] = Needs(("tokens", "squares", "value_clipped"), values=True)

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert predictions.values_BT is not None
        values_BT, old_BT, returns_BT, mask_BT = (
            predictions.values_BT,
            batch.old_logprobs_BT,
            batch.advantages_BT,
            batch.mask_BT,
        )
        free_BT = worst_BT = (values_BT - returns_BT) ** 2
        if self.clip is not None:
            near_BT = old_BT + (values_BT - old_BT).clamp(-self.clip, self.clip)
            worst_BT = torch.maximum(free_BT, (near_BT - returns_BT) ** 2)
        loss = 0.5 * (worst_BT * batch.weights_BT * mask_BT).sum()
        with torch.no_grad():
            statistics = {
                "tokens": mask_BT.sum(),
                "squares": (free_BT * mask_BT).sum(),
                "value_clipped": ((worst_BT > free_BT) & mask_BT).sum(),
            }
        return loss, statistics
