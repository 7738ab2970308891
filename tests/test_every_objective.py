"""Every surrogate x every advantage x every divergence, from rewards to gradient, over every group of three
rollouts that can be drawn.

15 sequences give 3375 groups. r1kit's side goes through all of them, estimates their advantages and
differentiates one loss in which each rollout has its group's probability. The other side counts: given a
rollout, its two neighbours are right as often as a binomial says; definitions.py does the rest in plain
arithmetic, and central differences give the gradient."""

import functools
import itertools
import math

import enumerated as world
import numpy as np
import pytest
import torch
from definitions import DEFINITIONS, PENALTIES, by_counts
from enumerated import SEQUENCES
from torch import Tensor

from r1kit.train.advantages import AdvantageConfig, Estimator, estimate
from r1kit.train.policy_loss import PolicyLoss, PolicyLossConfig
from r1kit.types import Score

GROUP, BETA = 3, 0.3
OLD, REF = world.logits(0), world.logits(1)
MOVED = world.logits(2, near=OLD, distance=0.5)
RIGHT = [sum(sequence) % 2 == 1 for sequence in SEQUENCES]
CHANCES = world.sequence_probabilities(OLD).tolist()
GROUPS = list(itertools.product(range(len(SEQUENCES)), repeat=GROUP))
DRAWN = tuple(sequence for group in GROUPS for sequence in group)
GROUP_CHANCES = np.repeat([math.prod(CHANCES[sequence] for sequence in group) for group in GROUPS], GROUP)
ROWS_N = world.places_of(DRAWN)[1]


def estimated(estimator: Estimator) -> Tensor:
    """The advantage of each rollout of each group, by r1kit, each group an update of its own."""
    config, found = AdvantageConfig(advantage=estimator, pass_k=2), {}
    for rights in itertools.product((False, True), repeat=GROUP):
        found[rights] = estimate(
            [[Score(float(right), {"accuracy": float(right)}) for right in rights]], config, {"accuracy": 1.0}
        )[0]
    return torch.from_numpy(
        np.concatenate([found[tuple(RIGHT[sequence] for sequence in group)] for group in GROUPS])
    ).double()


def counted(estimator: str) -> list[list[tuple[float, float]]]:
    """For each sequence the advantages that it may get, each with its probability."""
    p = sum(chance for chance, right in zip(CHANCES, RIGHT, strict=True) if right)
    found = []
    for right in RIGHT:
        ways = [math.comb(GROUP - 1, c) * p**c * (1 - p) ** (GROUP - 1 - c) for c in range(GROUP)]
        pairs = [by_counts(estimator, c + right, GROUP - c - right) for c in range(GROUP)]
        found.append([(pair[0] if right else pair[1], way) for pair, way in zip(pairs, ways, strict=True)])
    return found


@functools.cache
def pull(penalty: str) -> Tensor:
    """The gradient of the expected divergence."""
    of_token, then_O, ref_O = PENALTIES[penalty][1], world.by_sequence(OLD), world.by_sequence(REF)

    def divergence(theta: Tensor) -> float:
        total = 0.0
        for now, then, ref, chance in zip(world.by_sequence(theta), then_O, ref_O, CHANCES, strict=True):
            total += chance * sum(of_token(*values) for values in zip(now, then, ref, strict=True)) / len(now)
        return total

    return world.differences(divergence, MOVED)


@pytest.mark.parametrize("estimator", Estimator.__args__)  # type: ignore[attr-defined]
def test_the_expected_gradient_is_that_of_the_definition(estimator: Estimator) -> None:
    advantages_R, outcomes = estimated(estimator), counted(estimator)
    lengths_R = world.LENGTHS[list(DRAWN)]
    weights_R = torch.from_numpy(GROUP_CHANCES) / (GROUP * lengths_R)
    batch = world.batch_of(DRAWN, OLD, REF, advantages_R[ROWS_N], weights_R[ROWS_N])
    then_O, here_O = world.by_sequence(OLD), world.by_sequence(MOVED)

    def gains(surrogate: str, theta: Tensor) -> float:
        gain, total = DEFINITIONS[surrogate][1], 0.0
        for now, here, then, chance, pairs in zip(
            world.by_sequence(theta), here_O, then_O, CHANCES, outcomes, strict=True
        ):
            total += (
                chance
                * sum(way * sum(gain(now, here, then, advantage)) for advantage, way in pairs if advantage)
                / len(now)
            )
        return total

    for surrogate, (keys, _) in DEFINITIONS.items():
        push = world.differences(lambda theta, surrogate=surrogate: gains(surrogate, theta), MOVED)  # type: ignore[misc]
        assert float(push.abs().max()) > 1e-3
        for penalty, (penalty_keys, _) in PENALTIES.items():
            config = PolicyLossConfig.parse(
                {"beta": BETA, "epsilon": 0.2, "epsilon_high": 0.28, "cispo_max": 1.2} | keys | penalty_keys,
                f"{surrogate}, {penalty}",
            )
            off = (
                (
                    world.expected_gradient(PolicyLoss(config), MOVED, batch, DRAWN)
                    - (BETA * pull(penalty) - push)
                )
                .abs()
                .max()
            )
            assert float(off) < 1e-6, (surrogate, penalty)
