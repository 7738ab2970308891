"""check_math on generated pairs of answers: the same in other words is correct, a near miss never is."""

import os
from collections import Counter

import pytest
from equivalence import KINDS, pairs

from r1kit.tasks.mathematics.check import check_math_batch
from r1kit.tasks.mathematics.checker_pool import wait_until_ready

SEED = int(os.environ.get("R1KIT_SEED", "11"))
PAIRS = pairs(SEED, 18)


@pytest.fixture(scope="module", autouse=True)
def _ready():
    assert wait_until_ready()


def test_the_suite_is_large_and_half_of_it_are_near_misses():
    assert len(PAIRS) >= 1500
    assert 0.4 < sum(pair.same for pair in PAIRS) / len(PAIRS) < 0.6
    assert set(Counter(pair.kind for pair in PAIRS)) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_answers_are_correct_and_near_misses_wrong_both_ways(kind):
    chosen = [pair for pair in PAIRS if pair.kind == kind]
    cases = [(pair.gold, pair.said, pair.same) for pair in chosen]
    cases += [(pair.said, pair.gold, pair.same) for pair in chosen if not pair.one_way]
    verdicts = check_math_batch(
        [gold for gold, _, _ in cases], [f"\\boxed{{{said}}}" for _, said, _ in cases]
    )
    wrong = [
        (gold, said, verdict.outcome)
        for (gold, said, same), verdict in zip(cases, verdicts, strict=True)
        if verdict.outcome
        not in (["correct"] if same else ["wrong", "unverifiable"] if kind == "texts" else ["wrong"])
    ]
    assert wrong == [], f"R1KIT_SEED={SEED}: {wrong}"
