"""Group Relative Policy Optimization (DeepSeekMath 2402.03300, eq. 3-4; DeepSeek-R1 eq. 1-3).

    J = E (1/G) sum_i (1/|o_i|) sum_t { min[rho_it A_i, clip(rho_it, 1-eps, 1+eps) A_i] - beta D_it }
    rho_it = pi(o_it) / pi_old(o_it),   A_i = (r_i - mean(r)) / std(r) over the G rollouts of one problem
    D_it   = exp(l) - l - 1,  l = log pi_ref(o_it) - log pi(o_it)            (k3, never negative, in the loss)

The defaults are R1's published numbers; the family's other members are names in algorithms.py. Each step of
the walk has its own page: rollouts.py plays and scores, advantages.py compares, rows.py weighs,
policy_loss.py is the loss; here stands the loop."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from r1kit.data.mixture import Mixture
from r1kit.log import Log
from r1kit.rewards import WeightedReward
from r1kit.seeds import derive_seed
from r1kit.train import checkpoint
from r1kit.train.advantage_rows import Recomputed, UpdateConfig, make_rows, policy_row
from r1kit.train.agreement_gate import GapAlarm
from r1kit.train.algorithms import ALGORITHMS
from r1kit.train.learner import LearnerProtocol, Metrics, tell_fault
from r1kit.train.off_policy import BEHIND, Phases, follow, hand_over, require_behind, version_of
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.policy_loss import PolicyLoss
from r1kit.train.rollouts import Phase, Player, Watch, agree, collect, describe, records, take_up

REFERENCE = "reference"  # its name in a saved state


class GRPOConfig(UpdateConfig):
    """A step is one update. ``updates_per_rollout`` updates share a rollout phase, whose questions are split
    at random among them. The reference follows the policy every ``reference_refresh`` updates (R1: 400; 0:
    never). ``save_every`` counts rollout phases. ``algorithm`` sets what the recipe does not (algorithms.py).
    ``off_policy``: by how many phases the engine's weights are behind, so that it plays one phase while the
    one before is learned from (off_policy.py). R1-Zero trained for 10,400 steps."""

    algorithm: str = "grpo"
    steps: int = Field(default=10_400, ge=1)
    reference_refresh: int = Field(default=400, ge=0)
    schedule: ScheduleConfig = ScheduleConfig()
    watch_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=10, ge=1)
    off_policy: int = Field(default=0, ge=0, le=1)

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
                "group: 1 has no group to be better than; every advantage would be zero. Use at least "
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
    def _lag_is_paid_for(self) -> "GRPOConfig":
        if self.off_policy and self.correction == "none":
            raise ValueError(
                "off_policy: 1 learns from what older weights sampled, as if the present ones had; add "
                "correction: truncate (or mask, sequence, "
                "sequence_mask), which pays for the difference"
            )
        return self


def train(
    config: GRPOConfig,
    player: Player,
    mixture: Mixture,
    rewards: Sequence[WeightedReward],
    seed: int,
    log: Log,
    out: Path,
    watch: Watch | None = None,
) -> None:
    """Run ``config.steps`` updates, and continue where an interrupted training saved its state in ``out``."""
    require_behind(player, config.off_policy)
    start, drawn = resume(player, config, out) if checkpoint.exists(out) else (0, 0)
    take_up(mixture, config, rewards, out, start, drawn)
    agree(player, mixture, config, seed, start, log)
    fall_back(player, config, start, out)
    alarm = GapAlarm(config)
    weights = {reward.name: reward.weight for reward in rewards}
    with Phases(
        lambda first, heed: collect(
            player, mixture.at(first), rewards, config, derive_seed(seed, "rollout", first), heed
        )
    ) as phases:
        for first in range(start, config.steps, config.updates_per_rollout):
            began, after = time.perf_counter(), first + config.updates_per_rollout
            phase = phases.take(first)
            drawn, stream = drawn + phase.drawn, mixture.saved()
            sampled = time.perf_counter()
            followed = follow(player, phase, config, first)
            looks = config.watch_every and first % config.watch_every == 0
            watched = watch(player, first) if watch and looks else {}
            if config.off_policy and after < config.steps:
                phases.begin(after)
            phase_metrics = describe(phase) | watched | {"time/rollout": sampled - began - phase.scoring_s}
            log.rollouts(first, records(phase, 32))
            phase, gap = recompute(player, phase, config)
            phase_metrics |= gap | followed
            for number, part in enumerate(
                split(phase, config, derive_seed(seed, "split", first))[: config.steps - first]
            ):
                began = time.perf_counter()
                refresh_reference(player, config, first + number)
                learned = learn(
                    player, part, config, weights, first + number, derive_seed(seed, "tokens", first + number)
                )
                if number == 0:
                    tell(log, alarm.feed(first, disagreement(phase_metrics | learned)))
                tell_fault(player.learner, learned, log)
                log.step(
                    first + number,
                    config.steps,
                    phase_metrics | learned | {"time/update": time.perf_counter() - began},
                )
            if not config.off_policy:
                hand_over(player, after)
            due = (first // config.updates_per_rollout + 1) % config.save_every == 0
            log.save_point(
                due,
                player.learner.save,
                out,
                {"step": after, "drawn": drawn},
                stream,
                companions(player, config, after),
            )


def disagreement(metrics: Metrics) -> float:
    """By how much engine and learner differ where both have the same weights."""
    return metrics.get("sampling/rounding_mean", metrics.get("sampling/logp_gap_mean", 0.0))


def tell(log: Log, warning: str) -> None:
    if warning:
        log.info(f"warning: {warning}")


def resume(player: Player, config: GRPOConfig, out: Path) -> tuple[int, int]:
    """Take up what an interrupted training saved in ``out``: policy, engine and reference as they were.
    Returns the next step, and how many problems were drawn before it."""
    progress = player.learner.restore(out)
    start = progress["step"]
    hand_over(player, start)
    for name, learner in moved_reference(player, config, start).items():
        learner.restore(out, name)
    return start, progress["drawn"]


def fall_back(player: Player, config: GRPOConfig, start: int, out: Path) -> None:
    """With a learner behind: take up the weights that are to sample the phase at ``start``, once engine and
    learner have been seen to agree."""
    if player.behind is not None and start:
        player.behind.restore(out, BEHIND)
        player.engine.load(player.behind.weights(), version_of(start, config.updates_per_rollout))


def refresh_reference(player: Player, config: GRPOConfig, step: int) -> None:
    """Every ``reference_refresh`` steps the policy becomes the reference."""
    if (
        player.reference is not None
        and config.reference_refresh
        and step
        and step % config.reference_refresh == 0
    ):
        player.reference.copy_from(player.learner)


def companions(player: Player, config: GRPOConfig, step: int) -> dict[str, LearnerProtocol]:
    """What belongs to the policy's state after ``step`` steps: a reference that has moved, and the weights
    that are behind."""
    return moved_reference(player, config, step) | (
        {BEHIND: player.behind} if player.behind is not None else {}
    )


def moved_reference(player: Player, config: GRPOConfig, step: int) -> dict[str, LearnerProtocol]:
    """The reference as a part of the state after ``step`` steps, where it is no longer the model that the
    stage began with."""
    if player.reference is None or not config.reference_refresh or step <= config.reference_refresh:
        return {}
    return {REFERENCE: player.reference}


def split(phase: Phase, config: GRPOConfig, seed: int) -> list[Phase]:
    """A phase's groups dealt at random to its updates."""
    order = np.random.default_rng(seed).permutation(len(phase.groups))
    deals = [
        order[number * config.problems : (number + 1) * config.problems]
        for number in range(config.updates_per_rollout)
    ]
    return [
        replace(
            phase,
            groups=[phase.groups[i] for i in deal],
            scores_PG=[phase.scores_PG[i] for i in deal],
            old_PG=[phase.old_PG[i] for i in deal] if phase.old_PG else (),
        )
        for deal in deals
    ]


def recompute(player: Player, phase: Phase, config: GRPOConfig) -> tuple[Phase, Metrics]:
    """Where rollout and learner are to be corrected for (corrections.py): what the learner says of the
    rollouts before it changes, and by how much it differs from what the engine said, per token."""
    if config.correction == "none":
        return phase, {}
    rollouts = [rollout for group in phase.groups for rollout in group]
    rows = [policy_row(rollout, temperature=config.temperature) for rollout in rollouts]
    old = player.learner.logprobs(rows)
    gaps = np.concatenate(
        [np.abs(own - row.old_logprobs)[row.mask] for own, row in zip(old, rows, strict=True)]
    )
    found = iter(old)
    return replace(phase, old_PG=[[next(found) for _ in group] for group in phase.groups]), {
        "sampling/logp_gap_mean": float(gaps.mean())
    }


def learn(
    player: Player, part: Phase, config: GRPOConfig, weights: Mapping[str, float], step: int, seed: int
) -> Metrics:
    """One update on an update's part of a phase; none where no rollout has anything to teach."""
    sampled = [
        policy_row(rollout, temperature=config.temperature) for group in part.groups for rollout in group
    ]
    seen = Recomputed(
        references=player.reference.logprobs([replace(row, experts=None) for row in sampled])
        if player.reference
        else (),
        entropies=player.learner.entropies(sampled) if config.tokens == "entropy" else (),
    )
    rows = make_rows(part, config, weights, seen, seed)
    if not rows:
        return {"rows": 0.0}
    summed = player.learner.update(rows, PolicyLoss(config), config.schedule.scale(step, config.steps))
    tokens = max(1.0, summed["tokens"])
    metrics = {f"policy/{name}": summed[name] / tokens for name in ("entropy", "kl_ref", "clipped")}
    metrics |= {
        "policy/loss": summed["loss"],
        "optim/grad_norm": summed["grad_norm"],
        "optim/skipped": summed["skipped"],
    }
    if not part.old_PG:
        metrics["sampling/logp_gap_mean"] = summed["gap"] / tokens
    return metrics | {"rows": float(len(rows))}
