"""Rollout and learner are two programs: what is sampled from mu is learned as if from pi_old, and the weights
here pay for the difference.

With l_t = log pi_old(o_t) - log mu(o_t), where mu is the engine's and pi_old the learner's probability under
the same weights, a token's loss is multiplied by

    truncate       min(exp(l_t), cap)                       truncated importance sampling, token by token; cap 2
    mask           exp(l_t) if low <= exp(l_t) <= high else 0        IcePop (masked importance sampling); 0.5 and 2
    sequence       min(exp(sum_t l_t), cap)                 one weight for the whole completion; unbiased as far as the cap does not bind
    sequence_mask  0 if A < 0 and mean_t(-l_t) > delta else 1        off-policy sequence mask, DeepSeek-V3.2 (2512.02556)

The weights are constants to the gradient. The ratio of the surrogate is then pi / pi_old, and only the weight
knows mu (decoupled, AReaL 2505.24298)."""

from dataclasses import replace
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from r1kit.config import Config
from r1kit.types import Row

Correction = Literal["none", "truncate", "mask", "sequence", "sequence_mask"]


class CorrectionConfig(Config):
    """``correction`` names the weight of the equations above; ``none`` learns from what the engine sampled as
    it stands."""

    correction: Correction = "none"
    correction_cap: float = Field(default=2.0, gt=0.0)
    correction_low: float = Field(default=0.5, ge=0.0)
    correction_high: float = Field(default=2.0, gt=0.0)
    correction_delta: float = Field(default=0.5, ge=0.0)

    @model_validator(mode="after")
    def _bounds_hold_one(self) -> Self:
        if self.correction == "mask" and not self.correction_low <= 1.0 <= self.correction_high:
            raise ValueError(
                f"correction_low {self.correction_low} and correction_high {self.correction_high} leave "
                "out weight 1, so that tokens on which "
                f"engine and learner agree would not be learned; use low <= 1 <= high"
            )
        return self


def correct(
    old_T: np.ndarray, rollout_T: np.ndarray, advantage: float | np.ndarray, config: CorrectionConfig
) -> np.ndarray:
    """The weights [T] float32 of one completion's tokens, from their log-probabilities under learner and
    engine.

    ``advantage`` is one number or [T]. A token that the learner holds for impossible (-inf) has weight 0
    where a ratio counts."""
    log_ratio_T = np.asarray(old_T, dtype=np.float64) - np.asarray(rollout_T, dtype=np.float64)
    weights_T = np.ones(len(log_ratio_T))
    if config.correction == "truncate":
        weights_T = np.exp(np.minimum(log_ratio_T, np.log(config.correction_cap)))
    elif config.correction == "mask":
        ratio_T = np.exp(
            np.minimum(log_ratio_T, 80.0)
        )  # beyond e^80 it is masked anyway, and must not overflow
        weights_T = np.where(
            (ratio_T >= config.correction_low) & (ratio_T <= config.correction_high), ratio_T, 0.0
        )
    elif config.correction == "sequence":
        weights_T[:] = np.exp(min(float(log_ratio_T.sum()), np.log(config.correction_cap)))
    elif config.correction == "sequence_mask" and len(log_ratio_T):
        strays = -log_ratio_T.mean() > config.correction_delta
        weights_T = np.where(strays & (np.asarray(advantage) < 0), 0.0, weights_T)
    return weights_T.astype(np.float32)


def corrected(row: Row, old_T: np.ndarray, config: CorrectionConfig) -> Row:
    """The row with its tokens weighed for the mismatch, and the learner's log-probabilities as those of the
    old policy.

    ``old_T`` [T] is what the learner says of the row before the phase's first update, ``row.old_logprobs``
    what the engine said. With ``none`` the row is as it was: the surrogate's ratio then holds the mismatch
    too."""
    if config.correction == "none" or row.old_logprobs is None:
        return row
    mask_T = row.mask
    advantage = row.advantage[mask_T] if isinstance(row.advantage, np.ndarray) else row.advantage
    weight_T = np.broadcast_to(np.asarray(row.weight, dtype=np.float32), mask_T.shape).copy()
    weight_T[mask_T] *= correct(old_T[mask_T], row.old_logprobs[mask_T], advantage, config)
    return replace(row, weight=weight_T, old_logprobs=old_T.astype(np.float32))
