"""From scored rollouts to training rows: each rollout's advantage, the weight of its tokens, and which
rollouts are trained on.

A rollout whose advantage is zero has no policy gradient. It needs no forward pass, but it counts in the
normalisation, as in the equation. The log-probabilities that a learner computes beforehand come with the
phase and with ``Recomputed``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from pydantic import model_validator

from r1kit.train.advantages import AdvantageConfig, estimate, penalised, reinforce_pp
from r1kit.train.corrections import CorrectionConfig, corrected
from r1kit.train.policy_loss import PolicyLossConfig, token_weights
from r1kit.train.rollouts import Phase, RolloutConfig, teaches
from r1kit.train.surrogates import require_a_ratio
from r1kit.train.token_selection import TokensConfig, choose
from r1kit.types import Rollout, Row

Value = TypeVar("Value")


class UpdateConfig(RolloutConfig, PolicyLossConfig, AdvantageConfig, CorrectionConfig, TokensConfig):
    """``overlong_filter``: rollouts cut at max_tokens stay in their group's statistics but are not trained
    on, and their tokens are not counted (DAPO, 2503.14476). ``even_filter``: groups whose rewards are all
    equal leave the update: they count neither in its deviations nor in its averages (ScaleRL, 2510.13786)."""

    overlong_filter: bool = False
    even_filter: bool = False

    @model_validator(mode="after")
    def _rollouts_are_learned_from_with_a_ratio(self) -> "UpdateConfig":
        require_a_ratio(self.surrogate, self.updates_per_rollout)
        return self

    @property
    def learns_without_advantage(self) -> bool:
        """Whether the loss has a term for every rollout, also for a rollout whose advantage is zero."""
        return bool(self.entropy_bonus or (self.beta and self.kl_in == "loss") or self.tokens == "kl_cov")

    @property
    def sequence_mask(self) -> float | None:
        return self.correction_delta if self.correction == "sequence_mask" else None

    @property
    def weighs_in_loss(self) -> CorrectionConfig | None:
        """A reward that contains the divergence needs the learner's log-probabilities before the update; so
        do several updates for a phase, whose policy has moved since it began."""
        in_reward = bool(self.beta) and self.kl_in == "reward"
        once = self.updates_per_rollout == 1 and not in_reward
        return self if once and self.weighs_tokens else None


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the learners computed for the rollouts of an update, in their order: arrays [T] aligned with
    prompt and completion. A field is empty if the loss does not need it. ``references``: log-probabilities
    under the reference policy; ``entropies``: of the learner's own distributions."""

    references: Sequence[np.ndarray] = ()
    entropies: Sequence[np.ndarray] = ()


def make_rows(
    part: Phase, config: UpdateConfig, weights: Mapping[str, float], seen: Recomputed, seed: int
) -> list[Row]:
    """The training rows of one update: rollouts with an advantage, or all where a term of the loss needs
    them.

    Not trained on are rollouts whose reward is nan (they could not be judged), and those that
    ``overlong_filter`` leaves out. In the normalisation both count as rollouts. The tokens of a rollout with
    reward nan count too; those of one that is left out do not. Groups that ``even_filter`` removes count
    nowhere.

    ``weights``: each reward's weight by name; ``seed``: for tokens that are chosen at random.
    """
    if config.even_filter:
        part, seen = _without_even_groups(part, seen)
    return [
        _row(judged, config)
        for judged in _judged(part, config, weights, seen, seed)
        if (config.learns_without_advantage or np.any(judged.advantage))
        and not judged.left_out
        and not np.isnan(judged.total)
    ]


@dataclass(frozen=True, slots=True)
class _Judged:
    """A rollout with what an update needs for its row. ``advantage`` is one number or [T] for its sampled
    tokens, ``learns_T`` and ``penalty_T`` are theirs too; ``reference_T`` and ``old_T`` are aligned with
    prompt and completion, None where nothing needs them."""

    rollout: Rollout
    total: float
    left_out: bool
    advantage: float | np.ndarray
    weight: float
    learns_T: np.ndarray
    penalty_T: np.ndarray
    reference_T: np.ndarray | None
    old_T: np.ndarray | None


def _judged(
    part: Phase, config: UpdateConfig, weights: Mapping[str, float], seen: Recomputed, seed: int
) -> list[_Judged]:
    """Every rollout of the update, in the order of its groups."""
    rollouts = _flat(part.groups)
    left_out_R = [config.overlong_filter and rollout.completion.finish == "length" for rollout in rollouts]
    advantages_R = _advantages(part, config, weights, seen)
    weights_R = token_weights(
        [0 if out else _tokens(rollout) for rollout, out in zip(rollouts, left_out_R, strict=True)],
        config.aggregation,
        config.max_tokens,
        [len(group) for group in part.groups],
    )
    entropies = [
        found[len(rollout.prompt_ids) :]
        for found, rollout in zip(seen.entropies, rollouts, strict=bool(seen.entropies))
    ]
    chosen = choose(config, [r.completion.logprobs for r in rollouts], advantages_R, entropies, seed)
    absent: list[None] = [None] * len(rollouts)
    columns = (
        rollouts,
        [score.total for score in _flat(part.scores_PG)],
        left_out_R,
        advantages_R,
        weights_R,
        chosen.learns,
        chosen.penalties,
        seen.references or absent,
        _flat(part.old_PG) or absent,
    )
    return [_Judged(*values) for values in zip(*columns, strict=True)]


def _row(judged: _Judged, config: UpdateConfig) -> Row:
    rollout = judged.rollout
    row = policy_row(rollout, judged.advantage, judged.weight, judged.reference_T, config.temperature)
    if config.tokens != "all":
        learns_T, penalty_T = (
            _after_prompt(rollout, some_T) for some_T in (judged.learns_T, judged.penalty_T)
        )
        row = replace(row, advantage=row.advantage * learns_T, penalty=penalty_T)
    return row if judged.old_T is None else corrected(row, judged.old_T, config)


def policy_row(
    rollout: Rollout,
    advantage: float | np.ndarray = 0.0,
    weight: float = 1.0,
    reference: np.ndarray | None = None,
    temperature: float = 1.0,
) -> Row:
    """Prompt ids and the sampled ids, exactly as they were sampled; every sampled token is trained, the end
    token included. ``advantage`` is one number, or [T] for the sampled tokens."""
    prompt, completion = rollout.prompt_ids, rollout.completion
    mask = np.zeros(len(prompt) + len(completion.token_ids), dtype=bool)
    mask[len(prompt) :] = True
    return Row(
        token_ids=np.concatenate([prompt, completion.token_ids]).astype(np.int32),
        mask=mask,
        weight=weight,
        advantage=_after_prompt(rollout, advantage) if isinstance(advantage, np.ndarray) else advantage,
        old_logprobs=_after_prompt(rollout, completion.logprobs),
        ref_logprobs=reference,
        temperature=temperature,
        experts=completion.experts,
        name="/".join(map(str, rollout.key)),
    )


def _advantages(
    part: Phase, config: UpdateConfig, weights: Mapping[str, float], seen: Recomputed
) -> list[float | np.ndarray]:
    """The advantage of each rollout: one number, or [T] for its sampled tokens."""
    in_reward = bool(config.beta) and config.kl_in == "reward"
    scores_PG = part.scores_PG
    old_PG = part.old_PG or [
        [_after_prompt(rollout, rollout.completion.logprobs) for rollout in group] for group in part.groups
    ]
    references_PG = _grouped(seen.references, part.groups) if in_reward else old_PG
    if config.advantage == "reinforce_pp":
        divergences_PG = [
            [
                (old_T.astype(np.float64) - reference_T)[len(rollout.prompt_ids) :]
                for rollout, old_T, reference_T in zip(*groups, strict=True)
            ]
            for groups in zip(part.groups, old_PG, references_PG, strict=True)
        ]
        tokens_PG = reinforce_pp(scores_PG, divergences_PG, config.beta)
        return [tokens_T for tokens_G in tokens_PG for tokens_T in tokens_G]
    if in_reward:
        scores_PG = penalised(scores_PG, old_PG, references_PG, config.beta)
    return [float(one) for found_G in estimate(scores_PG, config, weights) for one in found_G]


def group_advantages(
    part: Phase, config: UpdateConfig, weights: Mapping[str, float]
) -> list[np.ndarray] | None:
    """The advantages [G] of each group of an update, for the sample store: those that ``make_rows`` uses,
    zero in groups that ``even_filter`` removes. None where they are not one number a rollout, or depend on
    a reference."""
    if config.advantage == "reinforce_pp" or (config.beta and config.kl_in == "reward"):
        return None
    trained = [
        not config.even_filter or teaches([score.total for score in scores]) for scores in part.scores_PG
    ]
    compared = [scores for scores, is_in in zip(part.scores_PG, trained, strict=True) if is_in]
    found = iter(estimate(compared, config, weights))
    return [
        next(found) if is_in else np.zeros(len(scores))
        for scores, is_in in zip(part.scores_PG, trained, strict=True)
    ]


def _without_even_groups(part: Phase, seen: Recomputed) -> tuple[Phase, Recomputed]:
    """The groups whose rewards differ, with what belongs to them."""
    kept = [place for place, scores in enumerate(part.scores_PG) if teaches([one.total for one in scores])]

    def of_kept(flat: Sequence[np.ndarray]) -> list[np.ndarray]:
        by_group = _grouped(flat, part.groups) if flat else []
        return [found for place in kept for found in by_group[place]] if flat else []

    return replace(
        part,
        groups=[part.groups[place] for place in kept],
        scores_PG=[part.scores_PG[place] for place in kept],
        old_PG=[part.old_PG[place] for place in kept] if part.old_PG else (),
    ), Recomputed(of_kept(seen.references), of_kept(seen.entropies))


def _flat(groups: Sequence[Sequence[Value]]) -> list[Value]:
    return [value for group in groups for value in group]


def _tokens(rollout: Rollout) -> int:
    return len(rollout.completion.token_ids)


def _after_prompt(rollout: Rollout, values_T: np.ndarray) -> np.ndarray:
    """Numbers [T] float32 of the sampled tokens, aligned with prompt and completion: zero at the prompt."""
    return np.concatenate([np.zeros(len(rollout.prompt_ids)), values_T]).astype(np.float32)


def _grouped(flat: Sequence[np.ndarray], groups: Sequence[Sequence[Rollout]]) -> list[list[np.ndarray]]:
    found = iter(flat)
    return [[next(found) for _ in group] for group in groups]
