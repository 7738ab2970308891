"""The policy's loss: a surrogate of the ratio and the advantage, a penalty towards a reference, and how tokens are averaged.

    clip    min[rho_it A_i, clip(rho_it, 1-eps_low, 1+eps_high) A_i],  rho_it = pi(o_it) / pi_old(o_it)     GRPO, PPO (1707.06347, eq. 7)
    k3      D_it = exp(l) - l - 1,  l = log pi_ref(o_it) - log pi(o_it),  in the loss, times beta           DeepSeekMath eq. 4

``aggregation``: rollout divides each token by its rollout's length, then by the number of rollouts (GRPO), token divides by all sampled tokens of
the update (DAPO, 2503.14476, eq. 8), constant by rollouts x max_tokens (Dr. GRPO).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from r1kit.config import Config
from r1kit.train.objectives import Predictions
from r1kit.train.packing import Batch

Aggregation = Literal["rollout", "token", "constant"]


class PolicyLossConfig(Config):
    """The paper's values: clip 10 is the first RL stage's (DeepSeek-R1, Nature version, 3.2.1), R1-Zero's was not published; beta 0.001.
    ``epsilon_high`` None is ``epsilon``."""

    epsilon: float = 10.0
    epsilon_high: float | None = None
    beta: float = 0.001
    aggregation: Aggregation = "rollout"


def token_weights(lengths: Sequence[int], aggregation: Aggregation, max_tokens: int) -> list[float]:
    """What each rollout's tokens weigh, so that the sum over an update's tokens is the loss."""
    if aggregation == "rollout":
        return [1.0 / (len(lengths) * max(1, length)) for length in lengths]
    if aggregation == "token":
        return [1.0 / max(1, sum(lengths))] * len(lengths)
    return [1.0 / (len(lengths) * max_tokens)] * len(lengths)


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss of ``config`` as an objective of the learner; see the equations on top."""

    config: PolicyLossConfig
    mtp_weight: float = 0.0
    balance_weight: float = 0.0
    wants_entropy: bool = True
    wants_values: bool = False
    names: tuple[str, ...] = ("tokens", "entropy", "kl_ref", "clipped", "gap")

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        low, high, beta = self.config.epsilon, self.config.epsilon_high, self.config.beta
        high = low if high is None else high
        logprobs_BT, advantages_BT = predictions.logprobs_BT, batch.advantages_BT
        weights_BT = batch.weights_BT * batch.mask_BT
        ratio_BT = torch.exp((logprobs_BT - batch.old_logprobs_BT) * batch.mask_BT)
        clipped_BT = ratio_BT.clamp(1 - low, 1 + high)
        gain_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
        loss = -(gain_BT * weights_BT).sum()
        k3_BT = torch.zeros_like(ratio_BT)
        if beta:
            k3_BT = k3((batch.ref_logprobs_BT - logprobs_BT) * batch.mask_BT)
            loss = loss + beta * (k3_BT * weights_BT).sum()
        with torch.no_grad():
            mask_BT = batch.mask_BT
            cut_BT = ((ratio_BT > 1 + high) & (advantages_BT > 0)) | ((ratio_BT < 1 - low) & (advantages_BT < 0))
            statistics = {
                "tokens": mask_BT.sum(),
                "entropy": (predictions.entropy_BT * mask_BT).sum(),
                "kl_ref": (k3_BT * mask_BT).sum(),
                "clipped": (cut_BT & mask_BT).sum(),
                "gap": ((logprobs_BT - batch.old_logprobs_BT).abs() * mask_BT).sum(),
            }
        return loss, statistics


def k3(log_ratio: Tensor) -> Tensor:
    """exp(l) - l - 1: Schulman's third estimator of KL(pi || ref) from samples of pi, with l = log pi_ref - log pi."""
    return torch.exp(log_ratio) - log_ratio - 1
