"""Surrogate objectives: the gain of a sampled token as a function of its advantage and of the ratio of the
current policy to the one that sampled it.

With rho_t = pi(o_t) / pi_old(o_t), s = exp(mean_t log rho_t) over the rollout, sg[x] = x without gradient:

    clip         min[rho_t A, clip(rho_t, 1-eps, 1+eps_high) A]                PPO (1707.06347, eq. 7), GRPO
      dual_clip  max[clip, c A] where A < 0                                    Dual-clip PPO (1912.09729)
    gspo         min[s A, clip(s, 1-eps, 1+eps_high) A]                        GSPO (2507.18071, section 4.1)
    gspo_token   the same of s_t = sg[s] pi(o_t) / sg[pi(o_t)]                 GSPO-token (section 4.3)
    gmpo         A exp(mean_t l_t), l_t = min or max[log rho_t, +-eps]         GMPO (2507.20673)
    cispo        sg[min(rho_t, cispo_max)] A log pi(o_t)                       CISPO (2506.13585, section 3.1)
    sapo         (4 / tau) sigmoid(tau (rho_t - 1)) A                          SAPO (2511.20347)
    reinforce    A log pi(o_t), no ratio: right for one update a rollout only  REINFORCE

gmpo's bound and sapo's tau depend on the sign of A; gspo_token allows an advantage a token. On policy
(rho = 1) all have one gradient, A grad log pi(o_t): they differ in what they do as the policy moves away.

Where the gradient is 0 by definition (beyond a bound, or A = 0), the log ratio is bounded before exp, just
outside the bound. Otherwise exp overflows above 88 in float32, and 0 x inf is nan. Where the definition
itself has no bound (A < 0 and a ratio that overflows) the gain is infinite, and the learner skips the
update."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import Config

Surrogate = Literal["clip", "gspo", "gspo_token", "gmpo", "cispo", "sapo", "reinforce"]
FLAT = 50.0  # sigmoid(x) is exactly 1 from here on, in float32 and float64, and its slope exactly 0


class SurrogateConfig(Config):
    """``epsilon``, ``epsilon_high`` (None: the same) bound the ratio at 1-epsilon and 1+epsilon_high, for
    gmpo its logarithm at -epsilon and +epsilon_high. The default 10 is from R1's first RL stage (Nature
    version, 3.2.1); R1-Zero's was not published."""

    surrogate: Surrogate = "clip"  # the objective of a token, at the top of the module
    epsilon: float = Field(default=10.0, gt=0.0)
    epsilon_high: float | None = Field(default=None, gt=0.0)
    dual_clip: float | None = Field(default=None, gt=1.0)  # c of Dual-clip PPO; null: none (1912.09729)
    cispo_max: float = Field(default=5.0, ge=1.0)  # CISPO's bound (ScaleRL, 2510.13786)
    sapo_positive: float = Field(default=1.0, gt=0.0)  # tau where A > 0 (SAPO, 2511.20347)
    sapo_negative: float = Field(default=1.05, gt=0.0)  # tau where A <= 0 (SAPO, 2511.20347)

    @model_validator(mode="after")
    def _dual_clip_has_a_clip(self) -> "SurrogateConfig":
        if self.dual_clip is not None and self.surrogate not in ("clip", "gspo", "gspo_token"):
            raise ValueError(
                "dual_clip bounds the ratio of surrogate clip, gspo or gspo_token, not that of "
                f"{self.surrogate}. Leave it out"
            )
        return self


def require_a_ratio(surrogate: Surrogate, updates_per_rollout: int) -> None:
    """Raise ValueError where several updates learn from the same rollouts without a ratio."""
    if surrogate == "reinforce" and updates_per_rollout > 1:
        raise ValueError(
            f"surrogate: reinforce has no ratio, so it is right only for the first update on a rollout; "
            f"updates_per_rollout is {updates_per_rollout}. Set updates_per_rollout: 1, or surrogate: clip"
        )


@dataclass(frozen=True, slots=True)
class Moves:
    """The change of the policy at each trained token: all [B, T], log_ratio_BT zero at positions that are not
    trained."""

    logprobs_BT: Tensor
    log_ratio_BT: Tensor
    advantages_BT: Tensor
    mask_BT: Tensor
    rows_BT: Tensor


Gain = tuple[
    Tensor, Tensor
]  # gain_BT, with gradient; cut_BT bool: tokens whose gradient the bound sets to zero


def gain(moves: Moves, config: SurrogateConfig) -> Gain:
    """The gain [B, T] of ``config.surrogate``, which is weighted, summed and maximised, and which tokens are
    clipped [B, T]."""
    return _SURROGATES[config.surrogate](moves, config)


def row_mean(values_BT: Tensor, mask_BT: Tensor, rows_BT: Tensor) -> Tensor:
    """The mean [B, T] over the trained tokens of each position's row. A row is never split over lines, so
    packing does not change it."""
    counts_BT = row_sum(mask_BT.to(values_BT.dtype), rows_BT)
    return row_sum(values_BT * mask_BT, rows_BT) / counts_BT.clamp(min=1)


def row_sum(values_BT: Tensor, rows_BT: Tensor) -> Tensor:
    """The sum [B, T] over the positions of each position's row. Padding must be zero."""
    rows_N = rows_BT.clamp(min=0).flatten()
    sums_R = values_BT.new_zeros(int(rows_N.max()) + 1).index_add(0, rows_N, values_BT.flatten())
    return sums_R[rows_N].view_as(values_BT)


def _clip(moves: Moves, config: SurrogateConfig) -> Gain:
    return _bounded(moves.log_ratio_BT, moves.advantages_BT, config)


def _gspo(moves: Moves, config: SurrogateConfig) -> Gain:
    mean_BT = row_mean(moves.log_ratio_BT, moves.mask_BT, moves.rows_BT)
    return _bounded(mean_BT, moves.advantages_BT, config)


def _gspo_token(moves: Moves, config: SurrogateConfig) -> Gain:
    mean_BT = row_mean(moves.log_ratio_BT, moves.mask_BT, moves.rows_BT).detach()
    log_ratio_BT = mean_BT + moves.log_ratio_BT - moves.log_ratio_BT.detach()
    return _bounded(log_ratio_BT, moves.advantages_BT, config)


def _bounded(log_ratio_BT: Tensor, advantages_BT: Tensor, config: SurrogateConfig) -> Gain:
    low, high = config.epsilon, _high(config)
    most = math.inf if config.dual_clip is None else math.log(config.dual_clip) + 1
    most_BT = torch.where(advantages_BT < 0, most, math.log1p(high) + 1).to(log_ratio_BT.dtype)
    ratio_BT = torch.exp(log_ratio_BT.clamp(max=most_BT))
    clipped_BT = ratio_BT.clamp(1 - low, 1 + high)
    gain_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    cut_BT = ((ratio_BT > 1 + high) & (advantages_BT > 0)) | ((ratio_BT < 1 - low) & (advantages_BT < 0))
    if config.dual_clip is not None:
        negative_BT = advantages_BT < 0
        gain_BT = torch.where(negative_BT, torch.maximum(gain_BT, config.dual_clip * advantages_BT), gain_BT)
        cut_BT = cut_BT | (negative_BT & (ratio_BT > config.dual_clip))
    return gain_BT, cut_BT


def _gmpo(moves: Moves, config: SurrogateConfig) -> Gain:
    low, high = config.epsilon, _high(config)
    log_BT, positive_BT = moves.log_ratio_BT, moves.advantages_BT > 0
    bounded_BT = torch.where(positive_BT, log_BT.clamp(max=high), log_BT.clamp(min=-low))
    cut_BT = torch.where(positive_BT, log_BT > high, (log_BT < -low) & (moves.advantages_BT < 0))
    mean_BT = row_mean(bounded_BT, moves.mask_BT, moves.rows_BT)
    mean_BT = torch.where(moves.advantages_BT == 0, mean_BT.clamp(max=0), mean_BT)
    return moves.advantages_BT * torch.exp(mean_BT), cut_BT


def _cispo(moves: Moves, config: SurrogateConfig) -> Gain:
    ratio_BT = torch.exp(moves.log_ratio_BT.detach())
    coefficient_BT = ratio_BT.clamp(max=config.cispo_max)
    return coefficient_BT * moves.advantages_BT * moves.logprobs_BT, ratio_BT > config.cispo_max


def _sapo(moves: Moves, config: SurrogateConfig) -> Gain:
    tau_BT = torch.where(moves.advantages_BT > 0, config.sapo_positive, config.sapo_negative).to(
        moves.log_ratio_BT.dtype
    )
    ratio_BT = torch.exp(moves.log_ratio_BT.clamp(max=torch.log1p(FLAT / tau_BT)))
    gain_BT = torch.sigmoid(tau_BT * (ratio_BT - 1)) * 4 / tau_BT * moves.advantages_BT
    return gain_BT, torch.zeros_like(moves.mask_BT)


def _reinforce(moves: Moves, config: SurrogateConfig) -> Gain:
    return moves.advantages_BT * moves.logprobs_BT, torch.zeros_like(moves.mask_BT)


def _high(config: SurrogateConfig) -> float:
    return config.epsilon if config.epsilon_high is None else config.epsilon_high


_SURROGATES: Mapping[Surrogate, Callable[[Moves, SurrogateConfig], Gain]] = {
    "clip": _clip,
    "gspo": _gspo,
    "gspo_token": _gspo_token,
    "gmpo": _gmpo,
    "cispo": _cispo,
    "sapo": _sapo,
    "reinforce": _reinforce,
}
