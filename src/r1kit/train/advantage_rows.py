"""From scored rollouts to training rows: who is better by how much, what each token weighs, and which
rollouts learn.

A rollout without advantage teaches nothing: it costs no forward pass, yet counts in the normalisation, as in
the equation. What must be asked of a learner first (log-probabilities under the policy that began the phase,
and under the reference) comes with the phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from r1kit.train.advantages import AdvantageConfig, estimate, penalised
from r1kit.train.corrections import CorrectionConfig, corrected
from r1kit.train.policy_loss import PolicyLossConfig, token_weights
from r1kit.train.rollouts import Phase, RolloutConfig
from r1kit.train.token_selection import TokensConfig, choose
from r1kit.types import Rollout, Row


class UpdateConfig(RolloutConfig, PolicyLossConfig, AdvantageConfig, CorrectionConfig, TokensConfig):
    """``overlong_filter``: rollouts cut at max_tokens stay in their group's statistics but are not learned
    from (DAPO, 2503.14476)."""

    overlong_filter: bool = False

    @property
    def learns_without_advantage(self) -> bool:
        """Whether a term of the loss asks something of every rollout, also of those that are no better than
        others."""
        return bool(self.entropy_bonus or (self.beta and self.kl_in == "loss") or self.tokens == "kl_cov")


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What a learner says of an update's rollouts, one after the other: arrays [T] beside prompt and
    completion; empty where nobody asked. ``references``: log-probabilities under the reference policy;
    ``entropies``: of the learner's own distributions."""

    references: Sequence[np.ndarray] = ()
    entropies: Sequence[np.ndarray] = ()


def make_rows(
    part: Phase, config: UpdateConfig, weights: Mapping[str, float], seen: Recomputed, seed: int
) -> list[Row]:
    """The training rows of one update: rollouts with an advantage, or all where a term of the loss needs
    them, save those whose reward is nan, our own failure, and those that ``overlong_filter`` leaves out:
    their tokens do not count in the normalisation, the rollouts do.

    ``weights``: each reward's weight by name; ``seed``: for tokens that are chosen at random.
    """
    rollouts = [rollout for group in part.groups for rollout in group]
    scores_PG = part.scores_PG
    if config.beta and config.kl_in == "reward":
        old_PG = part.old_PG or [[_aligned(rollout) for rollout in group] for group in part.groups]
        scores_PG = penalised(scores_PG, old_PG, _grouped(seen.references, part.groups), config.beta)
    advantages_R = np.concatenate([np.zeros(0), *estimate(scores_PG, config, weights)])
    filtered = [config.overlong_filter and rollout.completion.finish == "length" for rollout in rollouts]
    lengths = [
        0 if out else len(rollout.completion.token_ids)
        for rollout, out in zip(rollouts, filtered, strict=True)
    ]
    weights_R = token_weights(
        lengths, config.aggregation, config.max_tokens, [len(group) for group in part.groups]
    )
    old_R = [old for group in part.old_PG for old in group]
    entropies = [
        found[-len(r.completion.token_ids) :]
        for found, r in zip(seen.entropies, rollouts, strict=bool(seen.entropies))
    ]
    chosen = choose(config, [r.completion.logprobs for r in rollouts], advantages_R.tolist(), entropies, seed)
    rewards_R = [score.total for scores in scores_PG for score in scores]
    rows = []
    for index, rollout in enumerate(rollouts):
        teaches = advantages_R[index] != 0.0 or config.learns_without_advantage
        if not teaches or filtered[index] or np.isnan(rewards_R[index]):
            continue
        reference = seen.references[index] if seen.references else None
        row = policy_row(rollout, float(advantages_R[index]), weights_R[index], reference, config.temperature)
        if config.tokens != "all":
            blank = np.zeros(len(rollout.prompt_ids), dtype=np.float32)
            learns_T, penalty_T = (
                np.concatenate([blank, some_T]) for some_T in (chosen.learns[index], chosen.penalties[index])
            )
            row = replace(row, advantage=row.advantage * learns_T, penalty=penalty_T)
        rows.append(corrected(row, old_R[index], config) if old_R else row)
    return rows


def policy_row(
    rollout: Rollout,
    advantage: float = 0.0,
    weight: float = 1.0,
    reference: np.ndarray | None = None,
    temperature: float = 1.0,
) -> Row:
    """Prompt ids and the sampled ids, exactly as they were sampled; every sampled token is trained, the end
    token included."""
    prompt, completion = rollout.prompt_ids, rollout.completion
    mask = np.zeros(len(prompt) + len(completion.token_ids), dtype=bool)
    mask[len(prompt) :] = True
    return Row(
        token_ids=np.concatenate([prompt, completion.token_ids]).astype(np.int32),
        mask=mask,
        weight=weight,
        advantage=advantage,
        old_logprobs=_aligned(rollout),
        ref_logprobs=reference,
        temperature=temperature,
        experts=completion.experts,
        name=f"{rollout.problem.id}/{rollout.index}",
    )


def _aligned(rollout: Rollout) -> np.ndarray:
    """The engine's log-probabilities [T] float32 beside prompt and completion, zero at the prompt."""
    return np.concatenate([np.zeros(len(rollout.prompt_ids)), rollout.completion.logprobs]).astype(np.float32)


def _grouped(flat: Sequence[np.ndarray], groups: Sequence[Sequence[Rollout]]) -> list[list[np.ndarray]]:
    found = iter(flat)
    return [[next(found) for _ in group] for group in groups]
