"""Importance weights for the mismatch of engine and learner. The engine samples from mu, while the learner
treats the tokens as sampled from pi_old; the two programs round differently.

With l_t = log pi_old(o_t) - log mu(o_t), where mu is the engine's probability and pi_old the learner's before
the phase's first update, a token's whole loss is multiplied by

    truncate   min(exp(l_t), cap)                          truncated importance sampling by token; cap 2
    mask       exp(l_t) if low <= exp(l_t) <= high else 0  IcePop (masked importance sampling); 0.5 and 5
    sequence   min(exp(sum_t l_t), cap)                    one weight for the whole completion

sequence is unbiased unless its cap applies. No gradient flows through the weights. They multiply every term
of the loss, including the divergence and the entropy, because all terms are expectations over sampled tokens.
The ratio of the surrogate is then pi / pi_old, and mu appears in the weight only (decoupled, AReaL
2505.24298).

With one update for a phase (updates_per_rollout: 1) the policy that the update computes is pi_old. The loss
then takes the weights from its own log-probabilities, without gradient (``UpdateConfig.weighs_in_loss``), and
no pass over the rollouts is needed before it.

Two values weigh nothing here, and keep mu as the old policy, so that the surrogate's ratio is pi / mu:

    none           nothing else
    sequence_mask  the off-policy sequence mask of DeepSeek-V3.2, which compares mu with the current policy at
                   every update and multiplies the gain only: policy_loss.py"""

import math
from dataclasses import replace
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import Config
from r1kit.types import Row

Correction = Literal["none", "truncate", "mask", "sequence", "sequence_mask"]


class CorrectionConfig(Config):
    """``correction`` names one of the rules at the top of the module. The bounds 0.5 and 5 are IcePop's, the
    cap 2 is ours; ``correction_delta`` bounds the sequence mask, in nats a token."""

    correction: Correction = "none"
    correction_cap: float = Field(default=2.0, gt=0.0)  # of truncate and sequence
    correction_low: float = Field(default=0.5, ge=0.0)  # of mask
    correction_high: float = Field(default=5.0, gt=0.0)  # of mask
    correction_delta: float = Field(default=0.5, ge=0.0)

    @model_validator(mode="after")
    def _bounds_hold_one(self) -> Self:
        if self.correction == "mask" and not self.correction_low <= 1.0 <= self.correction_high:
            raise ValueError(
                f"correction_low {self.correction_low} and correction_high {self.correction_high} leave out "
                "weight 1, so tokens on which engine and learner agree would not be learned; use low <= 1 <= "
                "high"
            )
        return self

    @property
    def weighs_tokens(self) -> bool:
        """Whether the learner's log-probabilities before a phase's first update are needed."""
        return self.correction in ("truncate", "mask", "sequence")


def correct(old_T: np.ndarray, rollout_T: np.ndarray, config: CorrectionConfig) -> np.ndarray:
    """The weights [T] float32 of one completion's tokens, from their log-probabilities under learner and
    engine. A token that is impossible for both has weight 0, as in ``weights_of``."""
    old_T, rollout_T = np.asarray(old_T, dtype=np.float64), np.asarray(rollout_T, dtype=np.float64)
    log_ratio_T = np.full(len(old_T), -np.inf)
    np.subtract(old_T, rollout_T, out=log_ratio_T, where=old_T > -np.inf)
    found_T: np.ndarray = weights_of(torch.from_numpy(log_ratio_T), config).numpy().astype(np.float32)
    return found_T


def weights_of(log_ratio: Tensor, config: CorrectionConfig, total: Tensor | None = None) -> Tensor:
    """The weight of each token, by l = log pi_old - log mu, elementwise. ``total``: the sum of l over the
    completion that each token belongs to, for ``sequence``; by default the sum of all.

    A token that is impossible for the learner (l = -inf) has weight 0; with ``sequence`` the whole completion
    then has weight 0."""
    most = math.log(config.correction_cap)
    if config.correction == "truncate":
        return log_ratio.clamp(max=most).exp()
    if config.correction == "mask":
        ratio = log_ratio.clamp(max=80.0).exp()  # e^80 is masked anyway, and must not overflow
        kept = (ratio >= config.correction_low) & (ratio <= config.correction_high)
        return torch.where(kept, ratio, torch.zeros_like(ratio))
    if config.correction == "sequence":
        return (log_ratio.sum() if total is None else total).clamp(max=most).exp().expand(log_ratio.shape)
    return torch.ones_like(log_ratio)


def corrected(row: Row, old_T: np.ndarray, config: CorrectionConfig) -> Row:
    """The row with its tokens weighed for the mismatch, and the learner's log-probabilities as those of the
    old policy.

    ``old_T`` [T] are the learner's log-probabilities of the row before the phase's first update,
    ``row.old_logprobs`` the engine's. Where nothing is weighed the row is as it was: the surrogate's ratio
    then contains the mismatch too."""
    if not config.weighs_tokens or row.old_logprobs is None:
        return row
    mask_T = row.mask
    weight_T = np.broadcast_to(np.asarray(row.weight, dtype=np.float32), mask_T.shape).copy()
    weight_T[mask_T] *= correct(old_T[mask_T], row.old_logprobs[mask_T], config)
    return replace(row, weight=weight_T, old_logprobs=old_T.astype(np.float32))
