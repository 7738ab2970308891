"""The policy's loss: a surrogate of ratio and advantage, a divergence from the reference, an entropy bonus,
and how tokens are averaged.

    L = - sum_t w_t m_t gain_t + beta sum_t w_t D_t - bonus sum_t w_t H_t + sum_t w_t penalty_t |log rho_t|

gain_t is surrogates.py's; the last term is KL-Cov's (2505.22617; the penalties are token_selection.py's).
m_t is 1 unless ``correction: sequence_mask`` is set (DeepSeek-V3.2, 2512.02556, eq. 8-9): then

    m_t = 0 if A_t < 0 and mean_t log(pi_old(o_t) / pi(o_t)) > delta,    the mean over the rollout's tokens

with pi the current policy at every update, and pi_old the engine's probability. So the mask sees both what
engine and learner disagree about and what the policy has moved since. It multiplies the gain only.

D_t, with rho = pi / pi_old and l = log pi_ref(o_t) - log pi(o_t), and what its gradient is in expectation
over o_t (tests/test_policy_loss.py enumerates all of it):

    k1             -l                     nothing on policy: E[grad log pi] = 0. Refused, unless unbiased
    k2             l^2 / 2                grad KL(pi || pi_ref) on policy
    k3             exp(l) - l - 1         grad KL(pi_ref || pi) on policy; its mean is KL(pi || pi_ref)
    unbiased k1/3  rho D_t                grad KL(pi || pi_ref), also off policy
    k1 in reward   r - beta sum_t k1_t    the gradient of the whole sequence's KL(pi || pi_ref)

k3 is GRPO's (2402.03300, eq. 4), the unbiased ones are DeepSeek-V3.2's (2512.02556), k1 in the reward is in
advantages.py. A term in the loss counts a token's own divergence with the prefixes as they were sampled; only
the one in the reward also counts what a token does to the divergence of those after it. k2 and k3 in the
reward are refused: their gradient vanishes to first order where pi is near pi_ref.

``aggregation``: what divides a token of a rollout: rollout, its length x the rollouts (GRPO); token, all
tokens of the update (DAPO 2503.14476, eq. 8); prompt, all tokens of its group x the groups (ScaleRL
2510.13786); constant, rollouts x max_tokens (Dr. GRPO 2503.20783); sequence, the rollouts (the policy
gradient itself; LUSPO 2602.05261)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.config import R1kitError
from r1kit.train.corrections import CorrectionConfig, weights_of
from r1kit.train.objectives import Needs, Predictions
from r1kit.train.packing import Batch
from r1kit.train.surrogates import Moves, SurrogateConfig, gain, row_mean, row_sum

Aggregation = Literal["rollout", "token", "prompt", "constant", "sequence"]
Divergence = Literal["k1", "k2", "k3"]
LARGE = 60.0  # exp of it is 1e26: larger than any useful ratio, and no overflow in float32


class PolicyLossConfig(SurrogateConfig):
    """The paper's values: k3 in the loss, beta 0.001 (DeepSeek-R1, Nature version, 2.1), no entropy bonus, a
    mean over each rollout."""

    beta: float = Field(default=0.001, ge=0.0)  # of the divergence; 0: no reference (R1, section 2.1)
    kl: Divergence = "k3"  # its estimator, at the top of the module (DeepSeekMath, 2402.03300)
    kl_in: Literal["loss", "reward"] = "loss"  # where the divergence counts; reward: k1 only
    kl_unbiased: bool = False  # weigh the divergence by the ratio (DeepSeek-V3.2, 2512.02556)
    entropy_bonus: float = Field(default=0.0, ge=0.0)  # weight of the entropy in the loss
    aggregation: Aggregation = "rollout"  # what a token's loss is divided by, at the top of the module

    @model_validator(mode="after")
    def _divergence_has_a_gradient(self) -> "PolicyLossConfig":
        problem = ""
        if self.kl_in == "reward" and self.kl != "k1":
            problem = (
                f"kl: {self.kl} in the reward does not pull towards the reference: its gradient vanishes "
                "near it. Use kl: k1 with kl_in: reward"
            )
        elif self.kl_in == "reward" and self.kl_unbiased:
            problem = (
                "kl_unbiased weighs a divergence in the loss; in the reward, k1 is unbiased as it is. Leave "
                "kl_unbiased out"
            )
        elif self.kl_in == "loss" and self.kl == "k1" and not self.kl_unbiased:
            problem = (
                "kl: k1 in the loss has no expected gradient on policy. Use k2 or k3, kl_unbiased: true, "
                "or kl_in: reward"
            )
        elif self.kl == "k2" and self.kl_unbiased:
            problem = (
                "kl: k2 is right without a weight, and wrong with one. Use kl: k3 (or k1) with "
                "kl_unbiased: true"
            )
        if self.beta and problem:
            raise ValueError(problem)
        return self

    @property
    def sequence_mask(self) -> float | None:
        """delta of the mask on the gain, None without one."""
        return None

    @property
    def weighs_in_loss(self) -> CorrectionConfig | None:
        """The correction whose weights the loss computes, where the policy is pi_old (corrections.py)."""
        return None


def token_weights(
    lengths: Sequence[int], aggregation: Aggregation, max_tokens: int, groups: Sequence[int] = ()
) -> list[float]:
    """The weight of each rollout's tokens, such that the sum over an update's tokens is the loss.

    ``lengths``: trained tokens of each rollout, group after group; ``groups``: rollouts in each group, which
    aggregation prompt needs (R1kitError where they do not add up)."""
    rollouts = len(lengths)
    if aggregation == "rollout":
        return [1.0 / (rollouts * max(1, length)) for length in lengths]
    if aggregation == "token":
        return [1.0 / max(1, sum(lengths))] * rollouts
    if aggregation in ("constant", "sequence"):
        return [1.0 / (rollouts * (max_tokens if aggregation == "constant" else 1)) for _ in lengths]
    if sum(groups) != rollouts:
        raise R1kitError(
            f"aggregation: prompt needs the size of every group: {list(groups)} are not {rollouts} rollouts"
        )
    starts = [sum(groups[:place]) for place in range(len(groups))]
    tokens = [sum(lengths[start : start + size]) for start, size in zip(starts, groups, strict=True)]
    return [
        1.0 / (len(groups) * max(1, total))
        for total, size in zip(tokens, groups, strict=True)
        for _ in range(size)
    ]


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The loss of ``config`` as an objective of the learner; see the equations on top.

    Statistics, summed over tokens: entropy; k3 to the reference; tokens whose gain has no gradient because of
    the surrogate's bound or the sequence mask; |log pi - log pi_old|, pi_old being the engine's probability
    where the loss weighs (``weighs_in_loss``)."""

    config: PolicyLossConfig
    needs: ClassVar[Needs] = Needs(("tokens", "entropy", "kl_ref", "clipped", "gap"), entropy=True)

    def __call__(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        config, mask_BT, logprobs_BT = self.config, batch.mask_BT, predictions.logprobs_BT
        engine_BT, batch = batch.old_logprobs_BT, self._weighed(predictions, batch)
        weights_BT = batch.weights_BT * mask_BT
        log_ratio_BT = (logprobs_BT - batch.old_logprobs_BT) * mask_BT
        gain_BT, cut_BT = self._gain(predictions, batch)
        loss = -(gain_BT * weights_BT).sum() + (batch.penalties_BT * log_ratio_BT.abs() * weights_BT).sum()
        log_ref_BT = (batch.ref_logprobs_BT - logprobs_BT) * mask_BT
        if config.beta and config.kl_in == "loss":
            divergence_BT = (
                unbiased(log_ratio_BT, log_ref_BT, config.kl)
                if config.kl_unbiased
                else divergence(log_ref_BT, config.kl)
            )
            loss = loss + config.beta * (divergence_BT * weights_BT).sum()
        if config.entropy_bonus:
            loss = loss - config.entropy_bonus * (predictions.entropy_BT * weights_BT).sum()
        with torch.no_grad():
            statistics = {
                "tokens": mask_BT.sum(),
                "entropy": (predictions.entropy_BT * mask_BT).sum(),
                "kl_ref": (divergence(log_ref_BT.clamp(max=LARGE), "k3") * mask_BT).sum()
                if config.beta
                else torch.zeros_like(loss),
                "clipped": cut_BT.sum(),
                "gap": ((logprobs_BT - engine_BT).abs() * mask_BT).sum(),
            }
        return loss, statistics

    def gain(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, Tensor]:
        """The gain [B, T] of each token, with gradient, and the trained tokens whose gain has none because of
        the surrogate's bound or the sequence mask [B, T]."""
        return self._gain(predictions, self._weighed(predictions, batch))

    def _weighed(self, predictions: Predictions, batch: Batch) -> Batch:
        correction = self.config.weighs_in_loss
        return on_policy(predictions.logprobs_BT.detach(), batch, correction) if correction else batch

    def _gain(self, predictions: Predictions, batch: Batch) -> tuple[Tensor, Tensor]:
        config, mask_BT, logprobs_BT = self.config, batch.mask_BT, predictions.logprobs_BT
        log_ratio_BT = (logprobs_BT - batch.old_logprobs_BT) * mask_BT
        advantages_BT, masked_BT = batch.advantages_BT, torch.zeros_like(mask_BT)
        if config.sequence_mask is not None:
            mean_BT = row_mean(log_ratio_BT.detach(), mask_BT, batch.rows_BT)
            masked_BT = (advantages_BT < 0) & (-mean_BT > config.sequence_mask)
            advantages_BT = advantages_BT.masked_fill(masked_BT, 0.0)  # every gain is then exactly 0
        moves = Moves(logprobs_BT, log_ratio_BT, advantages_BT, mask_BT, batch.rows_BT)
        gain_BT, cut_BT = gain(moves, config)
        return gain_BT, (cut_BT | masked_BT) & mask_BT


def on_policy(old_BT: Tensor, batch: Batch, correction: CorrectionConfig) -> Batch:
    """The batch with the learner's log-probabilities ``old_BT`` as the old policy's, and its tokens weighed
    for the mismatch with the engine's, which it had."""
    possible_BT = batch.mask_BT & (old_BT > -torch.inf)
    log_ratio_BT = torch.where(possible_BT, old_BT - batch.old_logprobs_BT, 0.0)
    log_ratio_BT = log_ratio_BT.masked_fill(batch.mask_BT & ~possible_BT, -torch.inf)
    total_BT = row_sum(log_ratio_BT, batch.rows_BT) if correction.correction == "sequence" else None
    factor_BT = weights_of(log_ratio_BT, correction, total_BT)
    return replace(batch, weights_BT=batch.weights_BT * factor_BT, old_logprobs_BT=old_BT)


def divergence(log_ratio: Tensor, kind: Divergence) -> Tensor:
    """Schulman's estimators of KL(pi || ref) from samples of pi, elementwise: log_ratio = log pi_ref - log pi
    (joschu.net/blog/kl-approx.html)."""
    if kind == "k1":
        return -log_ratio
    return log_ratio**2 / 2 if kind == "k2" else torch.exp(log_ratio) - log_ratio - 1


def unbiased(log_ratio: Tensor, log_ref: Tensor, kind: Divergence) -> Tensor:
    """rho D_t of k1 or k3, elementwise: log_ratio = log rho, log_ref = log pi_ref - log pi.

    rho k3 = pi_ref / pi_old - rho (l + 1), and its first part has no gradient. Where exp(l) is large the
    product is computed in this form, since a policy far below the reference has a small rho and a finite
    gradient -rho l, and 0 x inf would be nan."""
    ratio = torch.exp(log_ratio)
    if kind != "k3":
        return ratio * divergence(log_ref, kind)
    near = ratio * divergence(log_ref.clamp(max=LARGE), "k3")
    constant = torch.exp((log_ratio + log_ref).detach().clamp(max=LARGE))
    return torch.where(log_ref > LARGE, constant - ratio * (log_ref + 1), near)
