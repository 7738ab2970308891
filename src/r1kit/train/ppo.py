"""Proximal Policy Optimization with a critic: what the paper compares GRPO with (DeepSeek-R1, Nature version,
supplement A.3, figure 4).

    L = -sum_t w_t min[rho_t A_t, clip(rho_t, 1-eps, 1+eps) A_t],  rho_t = pi(o_t) / pi_old(o_t)

(1707.06347, eq. 7). A_t comes from the critic (critic.py), which starts from the same model and is trained
along with the policy. The KL is in the reward. The paper finds lambda 0.95 considerably worse than GRPO and
lambda 1.0 nearly as good, and that a KL in the reward penalises long answers, while one in the loss does not.
The loop is rl_loop.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from r1kit.data.mixture import Mixture
from r1kit.rewards import WeightedReward
from r1kit.train.advantage_rows import policy_row
from r1kit.train.critic import Episode, ValueLoss, gae, padded, token_rewards, whitened
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.policy_loss import Aggregation, Divergence, PolicyLoss, PolicyLossConfig, token_weights
from r1kit.train.rl_loop import MakeLearner, RLConfig
from r1kit.train.rollouts import Phase, Policy, collect
from r1kit.train.surrogates import require_a_ratio
from r1kit.train.worker_thread import do_nothing
from r1kit.types import Rollout, Row

CRITIC = "critic"  # its name in a saved state


class PPOConfig(RLConfig, PolicyLossConfig):
    """Rollouts as in R1-Zero; lambda 1 is what the paper found best. epsilon 0.2 is PPO's own (1707.06347,
    table 3). Whitened advantages (mean 0, deviation 1 over an update's tokens), ``value_clip`` and the mean
    over tokens are how RLHF does it (2403.17031).

    ``critic_rate`` multiplies the critic's learning rate. ``kl_in: loss`` with ``kl: k3`` has the KL where
    GRPO has it."""

    key: ClassVar[str] = "ppo"
    algorithm: Literal["ppo"] = "ppo"  # the block's name
    epsilon: float = Field(default=0.2, ge=0.0)  # the ratio is bounded at 1 - epsilon and 1 + epsilon
    aggregation: Aggregation = "token"  # what a token's loss is divided by (policy_loss.py)
    kl: Divergence = "k1"
    kl_in: Literal["loss", "reward"] = "reward"
    gamma: float = Field(default=1.0, ge=0.0, le=1.0)  # discount of later rewards, per token
    gae_lambda: float = Field(default=1.0, ge=0.0, le=1.0)  # of the advantage estimate (R1, figure 4)
    whiten: bool = True  # advantages to mean 0 and deviation 1
    value_clip: float | None = Field(default=0.2, gt=0.0)
    critic_rate: float = Field(default=1.0, gt=0.0)

    @property
    def needs_reference(self) -> bool:
        """Whether the KL divergence has a weight."""
        return bool(self.beta)

    def build(self, policy: Policy, rewards: Sequence[WeightedReward], make_learner: MakeLearner) -> "PPO":
        """PPO with a critic that starts as the initial model."""
        return PPO(self, policy, rewards, make_learner(True))

    @model_validator(mode="after")
    def _reference_changes_between_phases(self) -> "PPOConfig":
        if self.reference_refresh % self.updates_per_rollout:
            raise ValueError(
                "reference_refresh: the KL is part of a phase's rewards, so the reference cannot "
                "change within one; "
                f"{self.reference_refresh} is no multiple of updates_per_rollout {self.updates_per_rollout}"
            )
        require_a_ratio(self.surrogate, self.updates_per_rollout)
        return self


@dataclass(frozen=True, slots=True)
class PPO:
    """PPO as an ``Algorithm``: an update learns from episodes, and the critic learns with the policy."""

    config: PPOConfig
    policy: Policy
    rewards: Sequence[WeightedReward]
    critic: LearnerProtocol

    def collect(self, mixture: Mixture, seed: int, on_poll: Callable[[], None] = do_nothing) -> Phase:
        return collect(self.policy, mixture, self.rewards, self.config, seed, on_poll)

    def prepare(self, phase: Phase, deals: Sequence[Sequence[int]]) -> tuple[list[list[Episode]], Metrics]:
        episodes_PG = appraise(self.policy, self.critic, phase, self.config)
        return [[episode for place in places for episode in episodes_PG[place]] for places in deals], {}

    def learn(self, part: Sequence[Episode], step: int, seed: int) -> Metrics:
        scale = self.config.schedule.scale(step, self.config.steps)
        return learn(self.policy.learner, self.critic, part, self.config, scale)

    def companions(self) -> dict[str, LearnerProtocol]:
        return {CRITIC: self.critic}


def appraise(policy: Policy, critic: LearnerProtocol, phase: Phase, config: PPOConfig) -> list[list[Episode]]:
    """The phase's rollouts by group, with values and advantages. Rollouts whose reward is nan (they could not
    be judged) are left out."""
    scored = [
        (r, s.total)
        for group, scores in zip(phase.groups, phase.scores_PG, strict=True)
        for r, s in zip(group, scores, strict=True)
    ]
    judged = [(rollout, total) for rollout, total in scored if not np.isnan(total)]
    rows = [policy_row(rollout, temperature=config.temperature) for rollout, _ in judged]
    seen = critic.values([replace(row, experts=None) for row in rows])
    values = [
        found[len(r.prompt_ids) - 1 : -1].astype(np.float64)
        for found, (r, _) in zip(seen, judged, strict=True)
    ]
    references = policy.reference.logprobs(rows) if policy.reference else [None] * len(rows)
    divergences = [
        _divergence(rollout, reference) for (rollout, _), reference in zip(judged, references, strict=True)
    ]
    beta = config.beta if config.kl_in == "reward" else 0.0
    rewards = [
        token_rewards(total, divergence_T, beta)
        for (_, total), divergence_T in zip(judged, divergences, strict=True)
    ]
    advantages_RT = gae(padded(rewards), padded(values), config.gamma, config.gae_lambda)
    episodes = iter(
        Episode(rollout, values_T, advantages_T[: len(values_T)], divergence_T, reference)
        for (rollout, _), values_T, advantages_T, divergence_T, reference in zip(
            judged, values, advantages_RT, divergences, references, strict=True
        )
    )
    return [[next(episodes) for score in scores if not np.isnan(score.total)] for scores in phase.scores_PG]


def learn(
    learner: LearnerProtocol,
    critic: LearnerProtocol,
    part: Sequence[Episode],
    config: PPOConfig,
    scale: float,
) -> Metrics:
    """One update of the policy and one of the critic on a part of a phase; no update if no rollout could be
    judged."""
    if not part:
        return {"rows": 0.0}
    policy_rows, critic_rows = make_rows(part, config)
    summed = learner.update(policy_rows, PolicyLoss(config), scale)
    judged = critic.update(critic_rows, ValueLoss(config.value_clip), scale * config.critic_rate)
    tokens = max(1.0, summed["tokens"])
    returns_N, errors_N, divergence_N = (
        np.concatenate(found)
        for found in zip(*((one.returns_T, one.advantages_T, one.divergence_T) for one in part), strict=True)
    )
    spread = float(returns_N.var())
    return {
        "policy/loss": summed["loss"],
        "policy/entropy": summed["entropy"] / tokens,
        "policy/clipped": summed["clipped"] / tokens,
        "policy/kl_ref": float(divergence_N.mean()),
        "sampling/logp_gap_mean": summed["gap"] / tokens,
        "critic/loss": judged["squares"] / tokens,
        "critic/clipped": judged["value_clipped"] / tokens,
        "critic/explained": 1.0 - float(errors_N.var()) / spread if spread else 0.0,
        "critic/grad_norm": judged["grad_norm"],
        "optim/grad_norm": summed["grad_norm"],
        "optim/skipped": max(summed["skipped"], judged["skipped"]),
        "rows": float(len(policy_rows)),
    }


def make_rows(part: Sequence[Episode], config: PPOConfig) -> tuple[list[Row], list[Row]]:
    """The rows of the policy, with one advantage per token, and those of the critic (see ValueLoss), which
    does not replay the engine's expert choices."""
    advantages = [episode.advantages_T for episode in part]
    if config.whiten and part:
        advantages = whitened(advantages)
    weights = token_weights(
        [len(episode.values_T) for episode in part], config.aggregation, config.max_tokens
    )
    policy_rows, critic_rows = [], []
    for episode, advantages_T, weight in zip(part, advantages, weights, strict=True):
        row, start = (
            policy_row(episode.rollout, 0.0, weight, episode.reference, config.temperature),
            len(episode.rollout.prompt_ids),
        )
        policy_rows.append(replace(row, advantage=_after(start, advantages_T)))
        returns_T, values_T = _after(start, episode.returns_T), _after(start, episode.values_T)
        critic_rows.append(replace(row, experts=None, advantage=returns_T, old_logprobs=values_T))
    return policy_rows, critic_rows


def _divergence(rollout: Rollout, reference: np.ndarray | None) -> np.ndarray:
    """log(pi_old / pi_ref) [T] of the sampled tokens; zeros without a reference."""
    old_T = rollout.completion.logprobs.astype(np.float64)
    return np.zeros(len(old_T)) if reference is None else old_T - reference[len(rollout.prompt_ids) :]


def _after(start: int, array_T: np.ndarray) -> np.ndarray:
    """An array of the sampled tokens, aligned with prompt and completion."""
    return np.concatenate([np.zeros(start), array_T]).astype(np.float32)
