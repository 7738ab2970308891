"""Proximal Policy Optimization with a critic: what the paper compares GRPO with (DeepSeek-R1, Nature version,
supplement A.3, figure 4).

    r_t     = -beta log(pi_old(o_t) / pi_ref(o_t)), plus the rollout's score at its last token        the KL is in the reward
    delta_t = r_t + gamma V(s_t+1) - V(s_t),   A_t = sum_k (gamma lambda)^k delta_t+k                 GAE (1506.02438, eq. 16)
    L_pi    = -sum_t w_t min[rho_t A_t, clip(rho_t, 1-eps, 1+eps) A_t]                                 1707.06347, eq. 7
    L_V     = 1/2 sum_t w_t max[(V - R_t)^2, (clip(V, V_old - c, V_old + c) - R_t)^2],  R_t = A_t + V_old(s_t)

V(s_t) is the critic's value after the token before o_t; after the last token it is 0, also where a rollout
was cut off, since its score is final. At lambda 1 the advantage is return minus value. The paper: lambda 0.95
does considerably worse than GRPO, 1.0 nearly as well; and a KL in the reward makes long answers dear, one in
the loss does not."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from r1kit.data.mixture import Mixture
from r1kit.log import Log
from r1kit.rewards import WeightedReward
from r1kit.seeds import derive_seed
from r1kit.train import checkpoint
from r1kit.train.advantage_rows import policy_row
from r1kit.train.agreement_gate import GapAlarm
from r1kit.train.learner import LearnerProtocol, Metrics, tell_fault
from r1kit.train.objectives import Predictions
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.packing import Batch
from r1kit.train.policy_loss import Aggregation, Divergence, PolicyLoss, PolicyLossConfig, token_weights
from r1kit.train.rollouts import (
    Phase,
    Player,
    RolloutConfig,
    Watch,
    agree,
    collect,
    describe,
    records,
    take_up,
)
from r1kit.types import Rollout, Row

CRITIC, REFERENCE = "critic", "reference"  # their names in a saved state


class PPOConfig(RolloutConfig, PolicyLossConfig):
    """Rollouts as in R1-Zero; lambda 1 is what the paper found best. epsilon 0.2 is PPO's own (1707.06347,
    table 3). Whitened advantages (mean 0, deviation 1 over an update's tokens), ``value_clip`` and the mean
    over tokens are how RLHF does it (2403.17031).

    ``critic_rate`` multiplies the critic's learning rate. ``kl_in: loss`` with ``kl: k3`` has the KL where
    GRPO has it."""

    epsilon: float = Field(default=0.2, ge=0.0)
    aggregation: Aggregation = "token"
    kl: Divergence = "k1"
    kl_in: Literal["loss", "reward"] = "reward"
    gamma: float = Field(default=1.0, ge=0.0, le=1.0)
    gae_lambda: float = Field(default=1.0, ge=0.0, le=1.0)
    whiten: bool = True
    value_clip: float | None = Field(default=0.2, gt=0.0)
    critic_rate: float = Field(default=1.0, gt=0.0)
    steps: int = Field(default=10_400, ge=1)
    reference_refresh: int = Field(default=400, ge=0)
    schedule: ScheduleConfig = ScheduleConfig()
    watch_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _reference_changes_between_phases(self) -> "PPOConfig":
        if self.reference_refresh % self.updates_per_rollout:
            raise ValueError(
                "reference_refresh: the KL is part of a phase's rewards, so the reference cannot "
                "change within one; "
                f"{self.reference_refresh} is no multiple of updates_per_rollout {self.updates_per_rollout}"
            )
        return self


def token_rewards(score: float, divergence_T: np.ndarray, beta: float) -> np.ndarray:
    """Rewards [T] of a rollout's tokens: minus beta x log(pi_old / pi_ref) of each, and the score at the
    last."""
    rewards_T: np.ndarray = -beta * divergence_T
    rewards_T[-1] += score
    return rewards_T


def gae(rewards_RT: np.ndarray, values_RT: np.ndarray, gamma: float, gae_lambda: float) -> np.ndarray:
    """Advantages [R, T] float64 by the recursion A_t = delta_t + gamma lambda A_t+1. Shorter rollouts end in
    zeros, in both."""
    following_RT = np.concatenate([values_RT[:, 1:], np.zeros((len(values_RT), 1))], axis=1)
    advantages_RT: np.ndarray = rewards_RT + gamma * following_RT - values_RT
    for t in range(advantages_RT.shape[1] - 2, -1, -1):
        advantages_RT[:, t] += gamma * gae_lambda * advantages_RT[:, t + 1]
    return advantages_RT


def whitened(advantages: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Advantages with mean 0 and deviation 1 over all tokens of an update; where they do not differ, only the
    mean is taken off."""
    tokens_N = np.concatenate(advantages)
    mean, deviation = tokens_N.mean(), tokens_N.std() + 1e-8
    return [(advantages_T - mean) / deviation for advantages_T in advantages]


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
    """L_V as an objective of the critic. In its rows the advantage carries the return, old_logprobs the value
    at the time of the rollout."""

    clip: float | None
    mtp_weight: float = 0.0
    balance_weight: float = 0.0
    wants_entropy: bool = False
    wants_values: bool = True
    names: tuple[str, ...] = ("tokens", "squares", "value_clipped")

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


def train(
    config: PPOConfig,
    player: Player,
    critic: LearnerProtocol,
    mixture: Mixture,
    rewards: Sequence[WeightedReward],
    seed: int,
    log: Log,
    out: Path,
    watch: Watch | None = None,
) -> None:
    """Run ``config.steps`` updates of policy and critic, and continue where an interrupted training saved
    both in ``out``."""
    start, drawn = resume(player, critic, config, out) if checkpoint.exists(out) else (0, 0)
    take_up(mixture, config, rewards, out, start, drawn)
    agree(player, mixture, config, seed, start, log)
    alarm = GapAlarm(config)
    for first in range(start, config.steps, config.updates_per_rollout):
        began = time.perf_counter()
        refresh_reference(player, config, first)
        phase = collect(player, mixture.at(first), rewards, config, derive_seed(seed, "rollout", first))
        drawn += phase.drawn
        sampled = time.perf_counter()
        looks = config.watch_every and first % config.watch_every == 0
        watched = watch(player, first) if watch and looks else {}
        phase_metrics = describe(phase) | watched | {"time/rollout": sampled - began - phase.scoring_s}
        log.rollouts(first, records(phase, 32))
        parts = deal(appraise(player, critic, phase, config), config, derive_seed(seed, "split", first))
        for number, part in enumerate(parts[: config.steps - first]):
            began = time.perf_counter()
            learned = learn(player, critic, part, config, config.schedule.scale(first + number, config.steps))
            if number == 0 and (warning := alarm.feed(first, learned.get("sampling/logp_gap_mean", 0.0))):
                log.info(f"warning: {warning}")
            tell_fault(player.learner, learned, log)
            log.step(
                first + number,
                config.steps,
                phase_metrics | learned | {"time/update": time.perf_counter() - began},
            )
        after = first + config.updates_per_rollout
        player.engine.load(player.learner.weights(), after)
        due = (first // config.updates_per_rollout + 1) % config.save_every == 0
        others = beside(player, critic, config, after)
        log.save_point(
            due, player.learner.save, out, {"step": after, "drawn": drawn}, mixture.saved(), others
        )


def beside(
    player: Player, critic: LearnerProtocol, config: PPOConfig, step: int
) -> dict[str, LearnerProtocol]:
    """What the policy's state after ``step`` steps holds beside it: the critic, and the reference where it is
    not the stage's first model."""
    found = {CRITIC: critic}
    if player.reference is not None and config.reference_refresh and step > config.reference_refresh:
        found[REFERENCE] = player.reference
    return found


def resume(player: Player, critic: LearnerProtocol, config: PPOConfig, out: Path) -> tuple[int, int]:
    """Take up what an interrupted training saved: policy, the critic of the same step, engine and reference.
    Returns the next step, and how many problems were drawn before it."""
    progress = player.learner.restore(out)
    start = progress["step"]
    player.engine.load(player.learner.weights(), start)
    for name, learner in beside(player, critic, config, start).items():
        learner.restore(out, name)
    return start, progress["drawn"]


def refresh_reference(player: Player, config: PPOConfig, step: int) -> None:
    """Every ``reference_refresh`` steps the policy becomes the reference."""
    if (
        player.reference is not None
        and config.reference_refresh
        and step
        and step % config.reference_refresh == 0
    ):
        player.reference.copy_from(player.learner)


def appraise(player: Player, critic: LearnerProtocol, phase: Phase, config: PPOConfig) -> list[list[Episode]]:
    """The phase's rollouts by group, with values and advantages. Those whose reward is nan, our own failure,
    are left out."""
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
    references = player.reference.logprobs(rows) if player.reference else [None] * len(rows)
    divergences = [
        _divergence(rollout, reference) for (rollout, _), reference in zip(judged, references, strict=True)
    ]
    beta = config.beta if config.kl_in == "reward" else 0.0
    rewards = [
        token_rewards(total, divergence_T, beta)
        for (_, total), divergence_T in zip(judged, divergences, strict=True)
    ]
    advantages_RT = gae(_padded(rewards), _padded(values), config.gamma, config.gae_lambda)
    found = {
        id(rollout): Episode(rollout, values_T, advantages_T[: len(values_T)], divergence_T, reference)
        for (rollout, _), values_T, advantages_T, divergence_T, reference in zip(
            judged, values, advantages_RT, divergences, references, strict=True
        )
    }
    return [[found[id(rollout)] for rollout in group if id(rollout) in found] for group in phase.groups]


def deal(episodes_PG: Sequence[Sequence[Episode]], config: PPOConfig, seed: int) -> list[list[Episode]]:
    """A phase's groups dealt at random to its updates."""
    order = np.random.default_rng(seed).permutation(len(episodes_PG))
    deals = [
        order[number * config.problems : (number + 1) * config.problems]
        for number in range(config.updates_per_rollout)
    ]
    return [[episode for index in chosen for episode in episodes_PG[index]] for chosen in deals]


def learn(
    player: Player, critic: LearnerProtocol, part: Sequence[Episode], config: PPOConfig, scale: float
) -> Metrics:
    """One update of the policy and one of the critic on an update's part of a phase; none where no rollout
    could be judged."""
    if not part:
        return {"rows": 0.0}
    policy_rows, critic_rows = make_rows(part, config)
    summed = player.learner.update(policy_rows, PolicyLoss(config), scale)
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
    """The policy's rows, whose advantages are one a token, and the critic's (ValueLoss says what those
    carry), which routes by itself."""
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


def _padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """[R, T] float64 with zeros after the end of shorter ones."""
    found_RT = np.zeros((len(arrays), max(map(len, arrays), default=0)))
    for row_T, array in zip(found_RT, arrays, strict=True):
        row_T[: len(array)] = array
    return found_RT


def _after(start: int, array_T: np.ndarray) -> np.ndarray:
    """An array of the sampled tokens, aligned with prompt and completion."""
    return np.concatenate([np.zeros(start), array_T]).astype(np.float32)
