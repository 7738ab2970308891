"""Group Relative Policy Optimization (DeepSeekMath 2402.03300, eq. 3-4; DeepSeek-R1 eq. 1-3).

    J = E (1/G) sum_i (1/|o_i|) sum_t { min[rho_it A_i, clip(rho_it, 1-eps, 1+eps) A_i] - beta D_it }
    rho_it = pi(o_it) / pi_old(o_it),   A_i = (r_i - mean(r)) / std(r) over the G rollouts of one problem
    D_it   = exp(l) - l - 1,  l = log pi_ref(o_it) - log pi(o_it)            (k3, never negative, in the loss)

The defaults are R1's published numbers; the family's other members are names in algorithms.py. Advantages are advantages.py's, the loss is
policy_loss.py's; here stands how they are put together.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from r1kit.chat import Chat
from r1kit.data.mixture import Mixture
from r1kit.engine import Engine
from r1kit.language import language_share
from r1kit.log import Log
from r1kit.rewards import WeightedReward, score
from r1kit.seeds import derive_seed
from r1kit.train import checkpoint
from r1kit.train.advantages import AdvantageConfig, advantages
from r1kit.train.algorithms import ALGORITHMS
from r1kit.train.learner import LearnerProtocol, Metrics
from r1kit.train.optimizers import ScheduleConfig
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig, token_weights
from r1kit.types import Problem, Rollout, Row, Sampling, Score


class GRPOConfig(PolicyLossConfig, AdvantageConfig):
    """R1-Zero's setting (DeepSeek-R1, Nature version, section 2.1): 32 questions x 16 rollouts per update, 16 updates per rollout phase,
    beta 0.001, reference refreshed every 400 updates, temperature 1; clip 10 is the first RL stage's (3.2.1), R1-Zero's was not published.

    A step is one update. ``updates_per_rollout`` rollout phases hold problems x updates_per_rollout questions, split at random into updates.
    ``save_every`` counts rollout phases. ``algorithm`` sets what the recipe does not (algorithms.py).
    """

    algorithm: str = "grpo"

    steps: int = Field(default=10_400, ge=1)
    problems: int = Field(default=32, ge=1)
    group: int = Field(default=16, ge=1)
    updates_per_rollout: int = Field(default=16, ge=1)
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = Field(default=32_768, ge=1)
    reference_refresh: int = Field(default=400, ge=1)
    schedule: ScheduleConfig = ScheduleConfig()
    watch_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=10, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_algorithm(cls, data: Any) -> Any:
        name = data.get("algorithm", "grpo") if isinstance(data, dict) else "grpo"
        if name not in ALGORITHMS:
            raise ValueError(f"unknown algorithm {name!r}: known are {', '.join(ALGORITHMS)}")
        return {**ALGORITHMS[name], **data} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _group_can_differ(self) -> "GRPOConfig":
        if self.group == 1:
            raise ValueError("group: 1 has no group to be better than; every advantage would be zero. Use at least 2")
        return self


def make_rows(
    groups: Sequence[Sequence[Rollout]], rewards_PG: np.ndarray, config: GRPOConfig, references: Sequence[np.ndarray] | None = None
) -> list[Row]:
    """The training rows of one update. Rollouts without advantage teach nothing and are left out (they still count in the
    normalisation), unless a KL term needs them; those whose reward is nan, our own failure, always are.
    ``references``: log-probabilities [T] per rollout under the reference policy."""
    rollouts = [rollout for group in groups for rollout in group]
    rewards_R = np.concatenate(rewards_PG)
    advantages_R = np.concatenate([advantages(rewards_G, config.advantage) for rewards_G in rewards_PG])
    weights_R = token_weights([len(r.completion.token_ids) for r in rollouts], config.aggregation, config.max_tokens)
    rows = []
    for index, rollout in enumerate(rollouts):
        if np.isnan(rewards_R[index]) or (advantages_R[index] == 0.0 and not config.beta):
            continue
        reference = None if references is None else references[index]
        rows.append(policy_row(rollout, float(advantages_R[index]), weights_R[index], reference))
    return rows


def policy_row(rollout: Rollout, advantage: float = 0.0, weight: float = 1.0, reference: np.ndarray | None = None) -> Row:
    """Prompt ids and the sampled ids, exactly as they were sampled; every sampled token is trained, the end token included."""
    prompt, completion = rollout.prompt_ids, rollout.completion
    blank = np.zeros(len(prompt), dtype=np.float32)
    return Row(
        token_ids=np.concatenate([prompt, completion.token_ids]).astype(np.int32),
        mask=np.concatenate([blank, np.ones(len(completion.token_ids))]).astype(bool),
        weight=weight,
        advantage=advantage,
        old_logprobs=np.concatenate([blank, completion.logprobs]).astype(np.float32),
        ref_logprobs=reference,
    )


@dataclass(frozen=True, slots=True)
class Player:
    """A policy that can play and learn: learner and engine share weights; ``reference`` is None where beta is 0."""

    learner: LearnerProtocol
    engine: Engine
    chat: Chat
    reference: LearnerProtocol | None = None


Watch = Callable[[Player], Metrics]  # what is measured beside the training, every ``watch_every`` steps


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
    """Run ``config.steps`` updates. Every ``updates_per_rollout`` steps, rollouts are drawn and scored, and split at random into updates."""
    start = resume(player, config, out) if checkpoint.exists(out) else 0
    per_phase = config.problems * config.updates_per_rollout
    mixture.draw(per_phase * (start // config.updates_per_rollout))
    loss = PolicyLoss(config)
    for first in range(start, config.steps, config.updates_per_rollout):
        began = time.perf_counter()
        groups = play(player, mixture.draw(per_phase), config, derive_seed(seed, "rollout", first))
        sampled = time.perf_counter()
        watched = watch(player) if watch and config.watch_every and first % config.watch_every == 0 else {}
        scores_PG = judge(groups, rewards)
        rollout_metrics = describe(groups, scores_PG) | watched | {"time/rollout": sampled - began, "time/reward": time.perf_counter() - sampled}
        log.rollouts(first, [record(r, s) for group, scores in zip(groups, scores_PG, strict=True) for r, s in zip(group, scores, strict=True)][:32])
        order = np.random.default_rng(derive_seed(seed, "split", first)).permutation(len(groups))
        for number in range(min(config.updates_per_rollout, config.steps - first)):
            step, chosen = first + number, order[number * config.problems : (number + 1) * config.problems]
            began = time.perf_counter()
            refresh_reference(player, config, step, out)
            learned = learn(player, [groups[i] for i in chosen], [scores_PG[i] for i in chosen], config, loss, step)
            log.step(step, config.steps, rollout_metrics | learned | {"time/update": time.perf_counter() - began})
        player.engine.load(player.learner.weights(), first + config.updates_per_rollout)
        if (first // config.updates_per_rollout + 1) % config.save_every == 0:
            player.learner.save(out, {"step": first + config.updates_per_rollout})


def resume(player: Player, config: GRPOConfig, out: Path) -> int:
    """Take up what an interrupted training saved in ``out``: policy, engine and reference as they were. Returns the next step."""
    start = player.learner.restore(out)["step"]
    player.engine.load(player.learner.weights(), start)
    refreshed = (start - 1) // config.reference_refresh * config.reference_refresh
    if player.reference is not None and refreshed > 0:
        player.reference.restore(out / f"{checkpoint.REFERENCE}{refreshed}")
    return start


def refresh_reference(player: Player, config: GRPOConfig, step: int, out: Path) -> None:
    """Every ``reference_refresh`` steps the policy becomes the reference, which is saved under the step, since it cannot be made again."""
    if player.reference is not None and step and step % config.reference_refresh == 0:
        player.reference.copy_from(player.learner)
        player.reference.save(out / f"{checkpoint.REFERENCE}{step}", {"step": step})


def play(player: Player, problems: Sequence[Problem], config: GRPOConfig, seed: int) -> list[list[Rollout]]:
    """A group of rollouts for each problem."""
    prompts = [player.chat.prompt_ids(problem) for problem in problems]
    sampling = Sampling(config.group, config.temperature, config.top_p, config.max_tokens)
    seeds = [derive_seed(seed, place, problem.id) for place, problem in enumerate(problems)]
    completions = player.engine.generate(prompts, sampling, seeds)
    return [player.chat.rollouts(problem, prompt, group) for problem, prompt, group in zip(problems, prompts, completions, strict=True)]


def judge(groups: Sequence[Sequence[Rollout]], rewards: Sequence[WeightedReward]) -> list[list[Score]]:
    """Scores by group; all rollouts are scored together, so that programs and judges work in batches."""
    flat = score([rollout for group in groups for rollout in group], rewards)
    found = iter(flat)
    return [[next(found) for _ in group] for group in groups]


def learn(
    player: Player, groups: Sequence[Sequence[Rollout]], scores_PG: Sequence[Sequence[Score]], config: GRPOConfig, loss: PolicyLoss, step: int
) -> Metrics:
    """One update on the rollouts of ``config.problems`` problems."""
    references = None
    if player.reference is not None:
        references = player.reference.logprobs([policy_row(rollout) for group in groups for rollout in group])
    rewards_PG = np.array([[score.total for score in scores] for scores in scores_PG])
    rows = make_rows(groups, rewards_PG, config, references)
    summed = player.learner.update(rows, loss, config.schedule.scale(step, config.steps))
    tokens = max(1.0, summed["tokens"])
    metrics = {f"policy/{name}": summed[name] / tokens for name in ("entropy", "kl_ref", "clipped")}
    metrics |= {"policy/loss": summed["loss"], "sampling/logp_gap_mean": summed["gap"] / tokens, "optim/grad_norm": summed["grad_norm"]}
    return metrics | {"optim/skipped": summed["skipped"], "rows": float(len(rows))}


def describe(groups: Sequence[Sequence[Rollout]], scores_PG: Sequence[Sequence[Score]]) -> Metrics:
    """What a rollout phase looked like: rewards, lengths, and how many groups had nothing to teach."""
    scores = [score for scores in scores_PG for score in scores]
    lengths = np.array([len(rollout.completion.token_ids) for group in groups for rollout in group])
    cut = [rollout.completion.finish == "length" for group in groups for rollout in group]
    totals = [np.array([score.total for score in scores]) for scores in scores_PG]
    metrics = {
        "reward/mean": float(np.nanmean(np.concatenate(totals))),
        "reward/zero_std_groups": float(np.mean([not advantages(total, "group_mean").any() for total in totals])),
        "completions/mean_length": float(lengths.mean()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(np.mean(cut)),
    }
    thinkings = [(r.thinking, r.problem.language) for group in groups for r in group if r.thinking]
    shares = [share for thinking, language in thinkings if (share := language_share(thinking, language)) is not None]
    if shares:
        metrics["lang/target_ratio"] = float(np.mean(shares))
    for name in scores[0].parts if scores else ():
        values = [value for score in scores if (value := score.parts[name]) is not None and not math.isnan(value)]
        if values:
            metrics[f"reward/{name}/mean"] = float(np.mean(values))
    return metrics


def record(rollout: Rollout, score: Score) -> dict[str, object]:
    """A rollout as one line of the sample store."""
    return {
        "problem": rollout.problem.id,
        "prompt": rollout.problem.prompt,
        "index": rollout.index,
        "text": rollout.text,
        "truth": rollout.problem.answer,
        "finish": rollout.completion.finish,
        "length": len(rollout.completion.token_ids),
        "reward": score.total,
        "parts": dict(score.parts),
    }
