"""Group Relative Policy Optimization (DeepSeekMath 2402.03300, eq. 3-4; DeepSeek-R1 eq. 1-3).

    J = E (1/G) sum_i (1/|o_i|) sum_t { min[rho_it A_i, clip(rho_it, 1-eps, 1+eps) A_i] - beta D_it }
    rho_it = pi(o_it) / pi_old(o_it),   A_i = (r_i - mean(r)) / std(r) over the G rollouts of one problem
    D_it   = exp(l) - l - 1,  l = log pi_ref(o_it) - log pi(o_it)            (k3, never negative, in the loss)

The defaults are R1's published numbers; algorithms.py names the variants. rl_loop.py is the loop, rollouts.py
samples and scores, advantages.py computes advantages, advantage_rows.py makes the training rows, and
policy_loss.py is the loss."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from r1kit.data.mixture import Mixture
from r1kit.rewards import WeightedReward
from r1kit.train.advantage_rows import Recomputed, UpdateConfig, group_advantages, make_rows, policy_row
from r1kit.train.algorithms import ALGORITHMS
from r1kit.train.kept_updates import KeepConfig
from r1kit.train.learnable import Compared
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.policy_loss import PolicyLoss
from r1kit.train.rl_loop import MakeLearner, RLConfig
from r1kit.train.rollouts import Phase, Policy, collect
from r1kit.train.worker_thread import do_nothing
from r1kit.types import Row


class GRPOConfig(RLConfig, UpdateConfig):
    """``algorithm`` sets what the recipe does not (algorithms.py). ``off_policy``: by how many phases the
    engine's weights are behind, so that it samples while the policy learns from earlier phases
    (off_policy.py). ``why``: which updates ``r1kit why`` can replay."""

    key: ClassVar[str] = "grpo"
    algorithm: str = "grpo"
    off_policy: int = Field(default=0, ge=0, le=8)
    why: KeepConfig = KeepConfig()

    @property
    def needs_reference(self) -> bool:
        """Whether there is a divergence from a reference: ``beta`` is not 0."""
        return bool(self.beta)

    @property
    def compared(self) -> Compared:
        """Within groups, except by the advantages that compare further or look at each reward."""
        if self.advantage == "reinforce_pp":
            return "phase"
        return "parts" if self.advantage == "gdpo" else "groups"

    @property
    def needs_lagged(self) -> bool:
        """Whether the engine samples with older weights: ``off_policy`` is not 0."""
        return bool(self.off_policy)

    @property
    def lag(self) -> int:
        """``off_policy``."""
        return self.off_policy

    def build(self, policy: Policy, rewards: Sequence[WeightedReward], make_learner: MakeLearner) -> "GRPO":
        """GRPO, or the variant of this configuration."""
        return GRPO(self, policy, rewards)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_algorithm(cls, data: Any) -> Any:
        name = data.get("algorithm", "grpo") if isinstance(data, dict) else "grpo"
        if name not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {name!r}: known are {', '.join(ALGORITHMS)}")
        return {**ALGORITHMS[name], **data} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _advantages_can_differ(self) -> "GRPOConfig":
        if self.group == 1 and self.advantage != "reinforce_pp":
            raise ValueError(
                "group: 1 has no other rollout to compare with; every advantage would be zero. Use at least "
                "2, or advantage: reinforce_pp"
            )
        if self.advantage == "pass_at_k" and self.pass_k >= self.group:
            raise ValueError(
                f"pass_k: {self.pass_k} of a group of {self.group} leaves no two subsets to compare; "
                "every advantage would be zero"
            )
        if self.advantage == "gdpo" and self.beta and self.kl_in == "reward":
            raise ValueError(
                "advantage: gdpo normalises each reward and never looks at their sum, which kl_in: "
                "reward lowers; use kl_in: loss"
            )
        return self

    @model_validator(mode="after")
    def _lag_is_corrected(self) -> "GRPOConfig":
        if self.off_policy and self.correction == "none":
            raise ValueError(
                f"off_policy: {self.off_policy} learns from what older weights sampled; add correction: "
                "truncate (or mask, sequence, sequence_mask), which corrects for the difference"
            )
        if self.off_policy and self.correction == "sequence_mask" and self.surrogate == "reinforce":
            raise ValueError(
                f"off_policy: {self.off_policy} with correction: sequence_mask relies on the surrogate's "
                "ratio to correct for the older weights, and surrogate: reinforce has none; use surrogate: "
                "clip, or correction: truncate"
            )
        return self


@dataclass(frozen=True, slots=True)
class GRPO:
    """GRPO and its variants as an ``Algorithm``; an update learns from a part of the phase."""

    config: GRPOConfig
    policy: Policy
    rewards: Sequence[WeightedReward]

    def collect(self, mixture: Mixture, seed: int, on_poll: Callable[[], None] = do_nothing) -> Phase:
        return collect(self.policy, mixture, self.rewards, self.config, seed, on_poll)

    def prepare(self, phase: Phase, deals: Sequence[Sequence[int]]) -> tuple[list[Phase], Metrics]:
        phase, gap = recompute(self.policy, phase, self.config)
        return [phase.part(places) for places in deals], gap

    def learn(self, part: Phase, step: int, seed: int) -> Metrics:
        weights = {reward.name: reward.weight for reward in self.rewards}
        return learn(self.policy, part, self.config, weights, step, seed)

    def advantages(self, part: Phase) -> list[np.ndarray] | None:
        """The advantages of each group of an update, for the samples."""
        return group_advantages(part, self.config, {reward.name: reward.weight for reward in self.rewards})

    def companions(self) -> dict[str, LearnerProtocol]:
        return {}


def recompute(policy: Policy, phase: Phase, config: GRPOConfig) -> tuple[Phase, Metrics]:
    """Compute the log-probabilities of the phase under the learner before its first update, if a correction
    needs them (corrections.py) and the update itself does not compute them. Return the phase with them, and
    their mean |difference| from the engine's."""
    if not config.weighs_tokens or config.weighs_in_loss:
        return phase, {}
    rollouts = [rollout for group in phase.groups for rollout in group]
    rows = [policy_row(rollout, temperature=config.temperature) for rollout in rollouts]
    old = policy.learner.logprobs(rows)
    gaps = np.concatenate(
        [np.abs(own - row.old_logprobs)[row.mask] for own, row in zip(old, rows, strict=True)]
    )
    found = iter(old)
    return replace(phase, old_PG=[[next(found) for _ in group] for group in phase.groups]), {
        "sampling/logp_gap_mean": float(gaps.mean())
    }


def learn(
    policy: Policy, part: Phase, config: GRPOConfig, weights: Mapping[str, float], step: int, seed: int
) -> Metrics:
    """One update on a part of a phase; no update if no rollout has an advantage. ``weights``: each reward's
    weight by name."""
    rows = rows_of(policy, part, config, weights, seed)
    if not rows:
        return {"rows": 0.0}
    summed = policy.learner.update(rows, PolicyLoss(config), config.schedule.scale(step, config.steps))
    return describe_update(summed, len(rows), has_gap=not part.old_PG)


def rows_of(
    policy: Policy, part: Phase, config: GRPOConfig, weights: Mapping[str, float], seed: int
) -> list[Row]:
    """The training rows of an update on a part of a phase, with what the learners compute for them."""
    sampled = [
        policy_row(rollout, temperature=config.temperature) for group in part.groups for rollout in group
    ]
    seen = Recomputed(
        references=policy.reference.logprobs([replace(row, experts=None) for row in sampled])
        if policy.reference
        else (),
        entropies=policy.learner.entropies(sampled) if config.tokens == "entropy" else (),
    )
    return make_rows(part, config, weights, seen, seed)


def describe_update(summed: Metrics, rows: int, has_gap: bool) -> Metrics:
    """The metrics of an update of so many rows from the learner's sums; with ``has_gap`` the difference from
    the log-probabilities of sampling is one of them."""
    tokens = max(1.0, summed["tokens"])
    metrics = {f"policy/{name}": summed[name] / tokens for name in ("entropy", "kl_ref", "clipped")}
    metrics |= {
        "policy/loss": summed["loss"],
        "optim/grad_norm": summed["grad_norm"],
        "optim/skipped": summed["skipped"],
    }
    if has_gap:
        metrics["sampling/logp_gap_mean"] = summed["gap"] / tokens
    return metrics | {"rows": float(rows)}
