"""The objectives' definitions in plain arithmetic, one rollout at a time: what r1kit's losses and advantages
are checked against.

A gain's arguments: log-probabilities of a rollout's tokens now, here (the point at which the gradient is
taken, for what it must not flow through) and then (when they were sampled), and the rollout's advantage. So
the derivative by ``now`` at now = here is the gradient."""

import itertools
import math
from collections.abc import Callable, Sequence

Logprobs = Sequence[float]
Gain = Callable[[Logprobs, Logprobs, Logprobs, float], list[float]]


def clipped(ratio: float, advantage: float) -> float:
    return min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage)


def clip(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    return [clipped(math.exp(p - q), advantage) for p, q in zip(now, then, strict=True)]


def dual_clip(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    return [
        max(value, 1.3 * advantage) if advantage < 0 else value for value in clip(now, here, then, advantage)
    ]


def gspo(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    return [clipped((math.exp(sum(now)) / math.exp(sum(then))) ** (1 / len(now)), advantage)] * len(now)


def gspo_token(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    sequence = (math.exp(sum(here)) / math.exp(sum(then))) ** (1 / len(here))
    return [clipped(sequence * math.exp(p) / math.exp(q), advantage) for p, q in zip(now, here, strict=True)]


def gmpo(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    """The geometric mean of |min[rho A, clip(rho, e^-eps, e^eps) A]|, with the sign of A."""
    ratios = [math.exp(p - q) for p, q in zip(now, then, strict=True)]
    terms = [
        abs(min(ratio * advantage, min(max(ratio, math.exp(-0.2)), math.exp(0.28)) * advantage))
        for ratio in ratios
    ]
    return [math.copysign(math.prod(terms) ** (1 / len(terms)), advantage)] * len(now)


def cispo(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    return [min(math.exp(q - r), 1.2) * advantage * p for p, q, r in zip(now, here, then, strict=True)]


def sapo(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    tau = 1.0 if advantage > 0 else 1.05
    return [
        4 / tau / (1 + math.exp(-tau * (math.exp(p - q) - 1))) * advantage
        for p, q in zip(now, then, strict=True)
    ]


def reinforce(now: Logprobs, here: Logprobs, then: Logprobs, advantage: float) -> list[float]:
    return [advantage * p for p in now]


DEFINITIONS: dict[
    str, tuple[dict[str, object], Gain]
] = {  # with epsilon 0.2, epsilon_high 0.28, cispo_max 1.2
    "clip": ({}, clip),
    "dual clip": ({"dual_clip": 1.3}, dual_clip),
    "gspo": ({"surrogate": "gspo"}, gspo),
    "gspo_token": ({"surrogate": "gspo_token"}, gspo_token),
    "gmpo": ({"surrogate": "gmpo"}, gmpo),
    "cispo": ({"surrogate": "cispo"}, cispo),
    "sapo": ({"surrogate": "sapo"}, sapo),
    "reinforce": ({"surrogate": "reinforce"}, reinforce),
}


def k3(now: float, ref: float) -> float:
    return math.exp(ref - now) - (ref - now) - 1


PENALTIES: dict[
    str, tuple[dict[str, object], Callable[[float, float, float], float]]
] = {  # of log p now, then and under the reference
    "k2": ({"kl": "k2"}, lambda now, then, ref: (now - ref) ** 2 / 2),
    "k3": ({"kl": "k3"}, lambda now, then, ref: k3(now, ref)),
    "unbiased k1": (
        {"kl": "k1", "kl_unbiased": True},
        lambda now, then, ref: math.exp(now - then) * (now - ref),
    ),
    "unbiased k3": (
        {"kl": "k3", "kl_unbiased": True},
        lambda now, then, ref: math.exp(now - then) * k3(now, ref),
    ),
    "k1 in the reward": ({"kl": "k1", "kl_in": "reward"}, lambda now, then, ref: 0.0),
}


def by_counts(
    estimator: str, right: int, wrong: int, elsewhere: int = 0, groups: int = 1, k: int = 2
) -> tuple[float, float]:
    """The advantages of a right and of a wrong rollout in a group with ``right`` + ``wrong`` of them, in an
    update of ``groups`` (1 or 2) groups of one size, where the other has ``elsewhere`` right ones: rewards of
    0 and 1 reduce every estimator to counting."""
    group = right + wrong
    rollouts, share, total = group * groups, right / group, (right + elsewhere) / (group * groups)
    squares, other = (
        right * wrong / group,
        elsewhere * (group - elsewhere) / group,
    )  # sums of squares about each group's mean
    if estimator == "reinforce_pp":
        spread = math.sqrt(rollouts * total * (1 - total) / (rollouts - 1)) + 1e-4
        return (1 - total) / spread, -total / spread
    if not squares:
        return 0.0, 0.0
    if estimator == "pass_at_k":
        return best_of(k, right, wrong)
    own = math.sqrt(squares / (group - 1)) + 1e-4
    others = math.sqrt(other / (group - 1)) + 1e-4
    divisor = {
        "group_mean": 1.0,
        "rloo": (group - 1) / group,
        "maxrl": share,
        "group_std": own,
        "batch_std": math.sqrt(rollouts * total * (1 - total) / (rollouts - 1)) + 1e-4,
        "reinforce_pp_baseline": math.sqrt((squares + other) / (rollouts - 1)) + 1e-4,
        "gdpo": own * (math.sqrt((squares / own**2 + other / others**2) / (rollouts - 1)) + 1e-4),
    }[estimator]
    return (1 - share) / divisor, -share / divisor


def best_of(k: int, right: int, wrong: int) -> tuple[float, float]:
    """Pass@k's advantages by going through all sets of k of the group's rollouts, the right ones first."""
    sets = list(itertools.combinations(range(right + wrong), k))
    passes = [float(min(members) < right) for members in sets]
    mean = sum(passes) / len(sets)
    spread = math.sqrt(mean * (1 - mean))
    if spread == 0:
        return 0.0, 0.0

    def with_one(rollout: int) -> float:
        own = [passed for members, passed in zip(sets, passes, strict=True) if rollout in members]
        return sum(own) / len(own)

    return (with_one(0) - mean) / spread, (with_one(right) - mean) / spread
