"""Which pairs are labelled next, and how far annotators agree, against computations by hand."""

import math

import numpy as np
import pytest

from r1kit.config import R1kitError
from r1kit.data.label_agreement import agreement, verdict_table
from r1kit.data.label_choice import disagreement_order, margin_order, random_order, spread
from r1kit.data.labels import Label, judge, pair_of


def test_the_smallest_margin_of_either_sign_comes_first() -> None:
    assert margin_order(np.array([2.0, -0.1, 0.5, -3.0, 0.1])) == [1, 4, 2, 0, 3]


def test_models_that_disagree_come_before_models_that_agree_to_be_unsure() -> None:
    def probability(margin: float) -> float:
        return 1 / (1 + math.exp(-margin))

    margins = [[0.0, 0.0], [2.0, -2.0], [5.0, 5.5], [0.0, 1.0]]  # of each pair, by model
    deviations = []
    for pair in margins:
        one, other = map(probability, pair)
        mean = (one + other) / 2
        deviations.append(math.sqrt(((one - mean) ** 2 + (other - mean) ** 2) / 2))
    by_hand = sorted(range(4), key=lambda place: -deviations[place])
    assert disagreement_order(np.array(margins).T) == by_hand == [1, 3, 2, 0]
    # The margin of the mean would begin with the two pairs that average to 0.
    assert set(margin_order(np.array(margins).mean(axis=1))[:2]) == {0, 1}


def test_large_margins_do_not_overflow_and_odd_ones_are_refused() -> None:
    assert disagreement_order(np.array([[1e4, -1e4], [-1e4, -1e4]])) == [0, 1]
    with pytest.raises(R1kitError, match="no finite number"):
        margin_order(np.array([0.0, np.nan]))
    with pytest.raises(R1kitError, match="two reward models"):
        disagreement_order(np.zeros((1, 3)))


def test_random_order_has_each_place_once_and_follows_the_seed() -> None:
    order = random_order(50, 3)
    assert sorted(order) == list(range(50)) and order == random_order(50, 3) != random_order(50, 4)


def test_pairs_of_one_prompt_wait_for_those_of_others() -> None:
    groups = ["a", "a", "a", "b", "c", "b"]
    assert spread([0, 1, 2, 3, 4, 5], groups, 1) == [0, 3, 4, 1, 2, 5]
    assert spread([2, 1, 0, 5, 4, 3], groups, 2) == [2, 1, 5, 4, 3, 0]


def labels(*given: tuple[str, int, str]) -> list[Label]:
    return [judge(pair_of(f"p{pair}", "a", "b"), annotator, verdict, 0) for annotator, pair, verdict in given]


SHARED = labels(
    ("ann", 0, "better"), ("ben", 0, "better"), ("ann", 1, "better"), ("ben", 1, "worse"),
    ("ann", 2, "worse"), ("ben", 2, "worse"), ("ann", 3, "tie"), ("ben", 3, "tie"),
    ("ann", 4, "better"), ("ben", 5, "skip"), ("ann", 5, "tie"),
)  # fmt: skip


def test_pairs_of_one_annotator_and_skipped_ones_do_not_count() -> None:
    assert verdict_table(SHARED).shape == (2, 4)


def test_alpha_is_that_of_the_coincidences_counted_by_hand() -> None:
    pytest.importorskip("krippendorff")
    # 8 verdicts: better 3, worse 3, tie 2; one pair of four differs, which is 2 of 8 ordered coincidences.
    observed = 2 / 8
    expected = 1 - (3 * 2 + 3 * 2 + 2 * 1) / (8 * 7)
    found = agreement(SHARED)
    assert found.alpha == pytest.approx(1 - observed / expected) and (found.pairs, found.annotators) == (4, 2)
    assert found.in_words() == "agreement of 2 annotators on 4 pairs: Krippendorff's alpha 0.67"


def test_annotators_who_always_differ_are_below_chance() -> None:
    pytest.importorskip("krippendorff")
    other = {"better": "worse", "worse": "better"}
    given = [("ann", n, ("better", "worse")[n % 2]) for n in range(8)]
    opposed = labels(*given, *(("ben", n, other[verdict]) for _, n, verdict in given))
    alpha = agreement(opposed).alpha
    assert alpha is not None and alpha < -0.8


def test_agreement_says_why_there_is_none() -> None:
    assert "no pair has two annotators" in agreement(labels(("ann", 0, "tie"))).in_words()
    same = agreement(labels(("ann", 0, "tie"), ("ben", 0, "tie")))
    assert same.alpha is None and "the same verdict on all 1" in same.in_words()
