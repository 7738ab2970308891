"""Estimates of k samples against brute force, and errors of the comparison of two models."""

import itertools
import math

import numpy as np
import pytest

from r1kit.config import R1kitError
from r1kit.figures.statistics import (
    bootstrap_interval,
    clustered_stderr,
    crossing,
    mean_pass_at_k,
    paired_test,
    pass_at_k,
    rank_correlation,
    share_interval,
)


def pass_at_k_by_subsets(outcomes, k):
    drawn = list(itertools.combinations(outcomes, k))
    return sum(any(one) for one in drawn) / len(drawn)


@pytest.mark.parametrize("samples", range(1, 8))
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_sample(samples):
    for right in range(samples + 1):
        outcomes = [1] * right + [0] * (samples - right)
        for k in range(1, samples + 1):
            assert pass_at_k(right, samples, k) == pytest.approx(pass_at_k_by_subsets(outcomes, k), abs=1e-12)


def test_pass_at_k_refuses_more_than_there_are():
    for right, samples, k in ((1, 4, 5), (1, 4, 0), (5, 4, 1)):
        with pytest.raises(R1kitError, match="take k from 1 to 4"):
            pass_at_k(right, samples, k)


def test_pass_1_does_not_depend_on_the_number_of_samples():
    rng = np.random.default_rng(1)
    chances = rng.beta(0.7, 0.9, size=3000)
    found = []
    for k in (1, 4, 16, 64):
        counts = [(int(rng.binomial(k, chance)), k) for chance in chances]
        found.append(mean_pass_at_k(counts, 1))
    # The standard error of each is below .0091 (sd of a Bernoulli variable is at most .5, over 3,000).
    assert max(abs(value - chances.mean()) for value in found) < 3 * 0.0091
    # pass@n does: it grows by far more than that.
    assert mean_pass_at_k([(int(rng.binomial(16, chance)), 16) for chance in chances], 16) > found[0] + 0.2


def test_pass_at_4_from_16_samples_is_unbiased():
    rng = np.random.default_rng(2)
    estimates = [pass_at_k(int(rng.binomial(16, 0.3)), 16, 4) for _ in range(20000)]
    assert np.mean(estimates) == pytest.approx(1 - 0.7**4, abs=0.005)


def test_standard_error_over_problems_is_that_of_the_textbook():
    values = [0.0, 0.25, 0.5, 1.0, 1.0]
    mean = sum(values) / 5
    by_hand = math.sqrt(sum((value - mean) ** 2 for value in values) / 4 / 5)
    assert clustered_stderr(values) == pytest.approx(by_hand)
    assert clustered_stderr([0.5]) is None


def test_standard_error_of_clusters_covers_what_problems_have_in_common():
    # Each problem is there four times: the error is that of the single ones, not half of it.
    rng = np.random.default_rng(3)
    single = rng.random(50)
    repeated = np.repeat(single, 4)
    clusters = [f"passage {i // 4}" for i in range(200)]
    assert clustered_stderr(repeated.tolist(), clusters) == pytest.approx(clustered_stderr(single.tolist()))
    assert clustered_stderr(repeated.tolist()) < 0.55 * clustered_stderr(single.tolist())
    assert clustered_stderr([0.1, 0.9], ["one", "one"]) is None


@pytest.mark.parametrize("values", [[0.0, 0.3, 0.9, 1.0], [0.2, 0.4, 0.45, 0.8, 0.85]])
def test_bootstrap_interval_is_that_of_all_resamples(values):
    every = [np.mean(drawn) for drawn in itertools.product(values, repeat=len(values))]
    exact = np.quantile(every, [0.025, 0.975])
    assert bootstrap_interval(values, draws=100_000) == pytest.approx(exact, abs=0.02)


def test_bootstrap_draws_clusters_and_not_problems():
    values, clusters = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    assert bootstrap_interval(values, clusters=clusters) == (0.0, 1.0)  # two clusters: all or nothing
    low, high = bootstrap_interval(values)
    assert 0.2 < low < high < 0.8


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(400):
        values = rng.beta(2, 3, size=60).tolist()  # the mean is .4
        low, high = bootstrap_interval(values, seed=trial, draws=600)
        covered += low <= 0.4 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_no_right_answer_still_has_an_interval():
    low, high = share_interval([0.0] * 24)
    assert low == 0.0 and (1 - high) ** 24 == pytest.approx(0.025)  # so rare is none of 24 at that rate
    assert share_interval([1.0] * 24) == pytest.approx((1 - high, 1.0))
    assert share_interval([0.0] * 24, ["one", "two"] * 12)[1] == pytest.approx(1 - 0.025**0.5)
    assert share_interval([0.0] * 23 + [0.25]) == bootstrap_interval([0.0] * 23 + [0.25])
    assert share_interval([0.5] * 24) == (0.5, 0.5)


def test_paired_test_on_few_problems_is_the_enumeration_of_all_signs():
    first, second = [1.0, 0.75, 0.5, 1.0, 0.25], [0.5, 0.75, 0.25, 0.5, 0.5]
    differences = [a - b for a, b in zip(first, second, strict=True)]
    found = abs(sum(differences))
    sums = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=5)
    ]
    by_hand = sum(one >= found - 1e-12 for one in sums) / 32
    assert paired_test(first, second).p_value == pytest.approx(by_hand)


def test_random_signs_agree_with_all_signs():
    rng = np.random.default_rng(5)
    differences = rng.normal(0.3, 1, size=14)
    sums = np.array(list(itertools.product((-1, 1), repeat=14))) @ differences
    exact = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12)
    assert paired_test(differences, np.zeros(14), draws=40_000).p_value == pytest.approx(exact, abs=0.01)


def test_equal_models_are_called_different_in_five_percent_of_trials():
    rng = np.random.default_rng(6)
    trials, significant = 4000, 0
    for trial in range(trials):
        chances = rng.beta(0.8, 0.8, size=60)
        first, second = (rng.binomial(8, chances) / 8 for _ in range(2))
        significant += paired_test(first, second, seed=trial, draws=400).p_value <= 0.05
    assert 0.04 <= significant / trials <= 0.06


def test_a_better_model_is_found():
    rng = np.random.default_rng(7)
    chances = rng.beta(2, 2, size=120)
    first = rng.binomial(8, np.clip(chances + 0.15, 0, 1)) / 8
    result = paired_test(first, rng.binomial(8, chances) / 8)
    assert result.p_value < 0.001 and result.interval[0] > 0
    assert "over 120 problems" in result.in_words()


def test_identical_outcomes_are_no_difference():
    assert paired_test([1.0, 0.0, 0.5], [1.0, 0.0, 0.5]).p_value == 1.0
    with pytest.raises(R1kitError, match="at least one"):
        paired_test([], [])


def test_crossing_of_two_curves():
    base = [(1, 0.2), (2, 0.4), (4, 0.6), (8, 0.8)]
    trained = [(1, 0.5), (2, 0.55), (4, 0.6), (8, 0.65)]
    assert crossing(base, trained) is not None and 2 < crossing(base, trained) < 8
    # Halfway in log k between 2 and 8 where the gaps are equal and opposite.
    assert crossing([(2, 0.1), (8, 0.3)], [(2, 0.2), (8, 0.2)]) == pytest.approx(4)
    assert crossing(base, [(k, value + 0.01) for k, value in base]) is None
    with pytest.raises(R1kitError, match="other values of k"):
        crossing([(1, 0.1)], [(2, 0.1)])


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 45]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Spearman by 1 - 6 sum d^2 / (n (n^2 - 1)) without ties: d = 0, 1, -1, 0.
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation([1, 1, 2], [5, 5, 9]) == pytest.approx(1)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
