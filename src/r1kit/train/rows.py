"""From scored rollouts to training rows: who is better by how much, what each token weighs, and which rollouts learn.

A rollout without advantage teaches nothing: it costs no forward pass, yet counts in the normalisation, as in the equation. What the learner must
say first (log-probabilities under the policy that began the phase, and under the reference) comes as ``Recomputed``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r1kit.train.advantages import AdvantageConfig, advantages
from r1kit.train.policy_loss import PolicyLossConfig, token_weights
from r1kit.train.rollouts import RolloutConfig
from r1kit.types import Rollout, Row, Score

Groups = Sequence[Sequence[Rollout]]


class UpdateConfig(RolloutConfig, PolicyLossConfig, AdvantageConfig):
    """``overlong_filter``: rollouts cut at max_tokens stay in their group's statistics but are not learned from (DAPO, 2503.14476)."""

    overlong_filter: bool = False


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What a learner says of rollouts, in their order: arrays [T] aligned with prompt and completion; empty where nobody asked."""

    old: Sequence[np.ndarray] = ()
    references: Sequence[np.ndarray] = ()


def make_rows(groups: Groups, scores_PG: Sequence[Sequence[Score]], config: UpdateConfig, seen: Recomputed) -> list[Row]:
    """The training rows of one update: rollouts with an advantage, or all where a KL term needs them, save those whose reward is nan,
    our own failure, and those that ``overlong_filter`` leaves out, which do not count in the normalisation either."""
    rollouts = [rollout for group in groups for rollout in group]
    rewards_R = np.array([score.total for scores in scores_PG for score in scores])
    advantages_R = np.concatenate([advantages(np.array([s.total for s in scores]), config.advantage) for scores in scores_PG])
    filtered = [config.overlong_filter and rollout.completion.finish == "length" for rollout in rollouts]
    lengths = [0 if out else len(rollout.completion.token_ids) for rollout, out in zip(rollouts, filtered, strict=True)]
    weights_R = token_weights(lengths, config.aggregation, config.max_tokens)
    rows = []
    for index, rollout in enumerate(rollouts):
        if filtered[index] or np.isnan(rewards_R[index]) or (advantages_R[index] == 0.0 and not config.beta):
            continue
        reference = seen.references[index] if seen.references else None
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
