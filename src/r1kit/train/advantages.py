"""Advantages: how much better a rollout was than its group, or than the whole update.

With r the rewards of a group's G rollouts, mean and std theirs (std unbiased), and batch. the same over the
rollouts of all groups of the update:

    group_std              (r - mean) / std                  GRPO (2402.03300, section 4.1.2)
    group_mean             r - mean                          Dr. GRPO (2503.20783, section 3.2)
    rloo                   r_i - mean of the others          RLOO (2402.14740, section 3)
    maxrl                  (r - mean) / mean                 MaxRL (2602.02710)
    pass_at_k              see ``_pass_at_k``                Pass@k training (2508.10751)
    batch_std              (r - mean) / batch.std(r)         TRL's scale_rewards: batch
    reinforce_pp_baseline  (r - mean) / batch.std(r - mean)  REINFORCE++-baseline (2501.03262); ScaleRL
    (2510.13786)
    gdpo                   s / batch.std(s)                  GDPO (2601.05242)
    reinforce_pp           (a_t - mean) / std over tokens    REINFORCE++ (2501.03262, eq. 8)

s is the sum over the rewards of weight x group_std; a_t = r - beta sum_{i>=t} k_i, with k_i the divergence of
token i where the divergence is part of the reward. group_mean estimates (G-1)/G of the policy gradient, rloo
the policy gradient, maxrl tends to the gradient of log p(correct), pass_at_k points along that of the best of
k. reinforce_pp needs no group: G = 1 is enough.

Every std is + 1e-4, as in TRL. Mathematics on plain arrays, no model. A rollout whose reward is nan (it could
not be judged) takes no part: it enters no mean, and its advantage is zero. Where no rollout is better than
another (one rollout, equal rewards) the advantages are exactly zero; only reinforce_pp compares beyond the
group."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from r1kit.config import Config, R1kitError
from r1kit.types import Score

Estimator = Literal[
    "group_std",
    "group_mean",
    "rloo",
    "maxrl",
    "pass_at_k",
    "batch_std",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "gdpo",
]
GUARD = 1e-4  # added to every deviation, as in TRL
Numbers = NDArray[np.float64]


class AdvantageConfig(Config):
    """``advantage`` names the estimator; the paper's is group_std. ``pass_k`` is the k of pass_at_k, below
    the group's size."""

    advantage: Estimator = "group_std"
    pass_k: int = Field(default=4, ge=1)


def estimate(
    scores_PG: Sequence[Sequence[Score]], config: AdvantageConfig, weights: Mapping[str, float]
) -> list[np.ndarray]:
    """The advantages [G] float32 of each group of one update. Groups may differ in size, and may be empty.

    ``weights``: each reward's weight by name, used by gdpo alone, since it normalises each reward by itself.
    Raises R1kitError where rewards or weights do not suit the estimator. For reinforce_pp this treats each
    rollout as one token; the function ``reinforce_pp`` computes advantages per token."""
    rewards_PG = [np.array([score.total for score in scores], dtype=np.float64) for scores in scores_PG]
    if config.advantage == "reinforce_pp":
        one_token_PG = [[np.zeros(1)] * len(scores) for scores in scores_PG]
        tokens_PG = reinforce_pp(scores_PG, one_token_PG, 0.0)
        return [np.concatenate([np.zeros(0, np.float32), *tokens_G]) for tokens_G in tokens_PG]
    if config.advantage == "batch_std":
        found_PG = _divided(
            [_in_group(rewards_G, _group_mean) for rewards_G in rewards_PG], _spread(rewards_PG, rewards_PG)
        )
    elif config.advantage == "reinforce_pp_baseline":
        centred_PG = [_in_group(rewards_G, _group_mean) for rewards_G in rewards_PG]
        found_PG = _divided(centred_PG, _spread(centred_PG, rewards_PG))
    elif config.advantage == "gdpo":
        sums_PG = [
            _each_reward_normalised(scores, rewards_G, weights)
            for scores, rewards_G in zip(scores_PG, rewards_PG, strict=True)
        ]
        found_PG = _divided(sums_PG, _spread(sums_PG, rewards_PG))
    else:
        return [advantages(rewards_G, config.advantage, config.pass_k) for rewards_G in rewards_PG]
    return [_finished(found_G) for found_G in found_PG]


def advantages(rewards_G: np.ndarray, estimator: Estimator, pass_k: int = 4) -> np.ndarray:
    """The advantages [G] float32 of one group, by an estimator that compares within the group only."""
    if estimator == "pass_at_k":
        return _finished(_in_group(rewards_G, lambda judged_G: _pass_at_k(judged_G, pass_k)))
    if estimator not in _GROUP_RULES:
        raise R1kitError(
            f"advantage: {estimator} is estimated over all groups of an update at once; use estimate"
        )
    return _finished(_in_group(rewards_G, _GROUP_RULES[estimator]))


def reinforce_pp(
    scores_PG: Sequence[Sequence[Score]], divergences_PG: Sequence[Sequence[np.ndarray]], beta: float
) -> list[list[np.ndarray]]:
    """REINFORCE++'s advantages [T] float32 of each rollout's tokens (2501.03262, eq. 8): the reward to go,
    normalised over all tokens of the update.

    ``divergences_PG``: log pi_old - log pi_ref of each rollout's sampled tokens [T]. The reward comes at the
    end, so the reward to go from token t is r - beta sum_{i>=t} k_i: a token does not pay for the divergence
    of earlier tokens, which it cannot change."""
    to_go_PG = [
        [
            score.total - beta * np.cumsum(np.asarray(divergence_T, dtype=np.float64)[::-1])[::-1]
            for score, divergence_T in zip(scores, divergences, strict=True)
        ]
        for scores, divergences in zip(scores_PG, divergences_PG, strict=True)
    ]
    to_go_N = np.concatenate([np.zeros(0), *(to_go_T for to_go_G in to_go_PG for to_go_T in to_go_G)])
    found_N = _finished(_in_group(to_go_N, _group_std))
    ends = np.cumsum([len(to_go_T) for to_go_G in to_go_PG for to_go_T in to_go_G])
    found = iter(np.split(found_N, ends[:-1]) if len(ends) else ())
    return [[next(found) for _ in to_go_G] for to_go_G in to_go_PG]


def penalised(
    scores_PG: Sequence[Sequence[Score]],
    old_PG: Sequence[Sequence[np.ndarray]],
    references_PG: Sequence[Sequence[np.ndarray]],
    beta: float,
) -> list[list[Score]]:
    """Scores with beta x sum_t (log pi_old - log pi_ref), the k1 estimate of the sequence's KL, subtracted
    from the total (RLHF 2203.02155, eq. 2).

    ``old_PG``, ``references_PG``: each rollout's log-probabilities [T] of the tokens it sampled, zero at
    other places. On policy the gradient of such a reward is exactly that of E[r] - beta KL(pi || pi_ref). Not
    for maxrl, pass_at_k and gdpo, which are not linear in the reward."""
    return [
        [
            replace(score, total=score.total - beta * float(np.sum(old_T.astype(np.float64) - reference_T)))
            for score, old_T, reference_T in group
        ]
        for group in (
            zip(*groups, strict=True) for groups in zip(scores_PG, old_PG, references_PG, strict=True)
        )
    ]


def _in_group(rewards_G: np.ndarray, rule: Callable[[Numbers], Numbers]) -> Numbers:
    """Apply ``rule`` to the rewards that are not nan. The others get zero; all get zero if the rewards are
    equal."""
    rewards_G = np.asarray(rewards_G, dtype=np.float64)
    judged_G = ~np.isnan(rewards_G)
    found_G = np.zeros(len(rewards_G))
    if judged_G.any() and np.ptp(rewards_G[judged_G]) > 0.0:
        found_G[judged_G] = rule(rewards_G[judged_G])
    return found_G


def _group_mean(rewards_G: Numbers) -> Numbers:
    return rewards_G - float(rewards_G.mean())


def _group_std(rewards_G: Numbers) -> Numbers:
    return _group_mean(rewards_G) / (float(rewards_G.std(ddof=1)) + GUARD)


def _rloo(rewards_G: Numbers) -> Numbers:
    others_G = (float(rewards_G.sum()) - rewards_G) / (len(rewards_G) - 1)
    return rewards_G - others_G


def _maxrl(rewards_G: Numbers) -> Numbers:
    """The mean is the share of correct rollouts, an estimate of p; grad p / p = grad log p. So the rewards
    cannot be negative."""
    if rewards_G.min() < 0.0:
        raise R1kitError(
            "advantage: maxrl divides by the mean reward, so none may be negative; one is "
            f"{rewards_G.min():g}. Leave penalties out"
        )
    return _group_mean(rewards_G) / float(rewards_G.mean())


def _pass_at_k(rewards_G: Numbers, k: int) -> Numbers:
    """With best(S) the highest reward in a set S of k rollouts, and all C(G,k) such sets weighing the same,

        A_i = (mean of best over the sets with i - mean of best over all) / std of best over all:

    for rewards 0 and 1 Pass@k training's analytic advantage (2508.10751), for others its continuation (max@k,
    2505.15201). Sorted, the j-th reward from below is the best of C(j-1,k-1) sets, and of C(j-2,k-2) sets
    with a given lower one. Zeros where all sets have the same best."""
    group = len(rewards_G)
    k = min(k, group)  # fewer where rollouts could not be judged
    order_G = np.argsort(rewards_G, kind="stable")
    sorted_G = rewards_G[order_G]
    if sorted_G[k - 1] == sorted_G[-1]:
        return np.zeros(group)
    best_G = np.array([math.comb(place, k - 1) for place in range(group)]) / math.comb(group, k)
    mean = float(best_G @ sorted_G)
    spread = math.sqrt(float(best_G @ (sorted_G - mean) ** 2))
    above_G = np.array(
        [math.comb(place - 1, k - 2) if place and k > 1 else 0 for place in range(group)]
    ) / math.comb(group - 1, k - 1)
    beaten_G = np.append(
        np.cumsum((above_G * sorted_G)[::-1])[::-1][1:], 0.0
    )  # where a higher one is the best of the set
    itself_G = best_G * math.comb(group, k) / math.comb(group - 1, k - 1) * sorted_G
    found_G = np.empty(group)
    found_G[order_G] = (itself_G + beaten_G - mean) / spread
    return found_G


def _each_reward_normalised(
    scores: Sequence[Score], rewards_G: Numbers, weights: Mapping[str, float]
) -> Numbers:
    """Sum over the rewards of weight x group_std, so that a reward with a small spread counts as much as one
    with a large spread. A reward that does not apply (None) to a rollout is zero there."""
    sums_G = np.zeros(len(scores))
    for name in sorted({name for score in scores for name in score.parts}):
        if name not in weights:
            raise R1kitError(
                f"advantage: gdpo needs the weight of reward {name!r}; weights are given for "
                f"{', '.join(sorted(weights)) or 'none'}"
            )
        part_G = np.array(
            [math.nan if (part := score.parts.get(name)) is None else part for score in scores],
            dtype=np.float64,
        )
        sums_G += weights[name] * _in_group(np.where(np.isnan(rewards_G), math.nan, part_G), _group_std)
    return sums_G


def _judged(values_PG: Sequence[Numbers], rewards_PG: Sequence[Numbers]) -> Numbers:
    """The values of all rollouts whose reward is not nan, in one array."""
    return np.concatenate(
        [
            np.zeros(0),
            *(
                values_G[~np.isnan(rewards_G)]
                for values_G, rewards_G in zip(values_PG, rewards_PG, strict=True)
            ),
        ]
    )


def _spread(values_PG: Sequence[Numbers], rewards_PG: Sequence[Numbers]) -> float:
    """The unbiased standard deviation over all judged rollouts of the update, zero for fewer than two."""
    judged = _judged(values_PG, rewards_PG)
    return float(judged.std(ddof=1)) if len(judged) > 1 else 0.0


def _divided(values_PG: Sequence[Numbers], spread: float) -> list[Numbers]:
    return [values_G / (spread + GUARD) for values_G in values_PG]


def _finished(advantages_G: Numbers) -> np.ndarray:
    return np.nan_to_num(advantages_G).astype(np.float32)


_GROUP_RULES: Mapping[str, Callable[[Numbers], Numbers]] = {
    "group_std": _group_std,
    "group_mean": _group_mean,
    "rloo": _rloo,
    "maxrl": _maxrl,
}
