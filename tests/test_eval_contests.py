"""Ratings from contests: those of simulated competitors are recovered, and the paper's figures agree."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from r1kit.config import R1kitError
from r1kit.figures.benchmark_contests import enter_contests, read_contests
from r1kit.figures.benchmarks import ProblemResult, Sample
from r1kit.figures.contests import (
    PAPER_PERCENTILES,
    Standing,
    attempts_until_solved,
    estimate_rating,
    judge_contest,
    percentile,
    points,
    points_of_contest,
    share_below,
)


def chance(rating, opponent):
    return 1 / (1 + 10 ** ((opponent - rating) / 400))


@pytest.mark.parametrize("true", [900, 1200, 1500, 1800, 2100, 2400, 2700])
def test_a_rating_is_recovered_within_30_points_at_200_problems(true):
    rng = np.random.default_rng(true)
    problems = rng.uniform(800, 3000, size=200)
    attempts = 16  # the paper samples 16 programs of each problem
    solved = [rng.binomial(attempts, chance(true, problem)) / attempts for problem in problems]
    found = estimate_rating(problems.tolist(), solved, [attempts] * 200)
    assert abs(found.rating - true) < 30
    assert found.stderr < 15 and not found.bounded


def test_the_standard_error_is_that_of_repeated_contests():
    rng = np.random.default_rng(0)
    problems = rng.uniform(800, 2400, size=200)
    odds = np.array([chance(1600, problem) for problem in problems])
    found = [estimate_rating(problems, (rng.random(200) < odds).astype(float)) for _ in range(400)]
    spread = np.std([one.rating for one in found])
    assert np.mean([one.stderr for one in found]) == pytest.approx(spread, rel=0.15)
    assert np.mean([one.rating for one in found]) == pytest.approx(1600, abs=6)


def test_the_likelihood_is_largest_at_the_estimate():
    opponents, results = [1000, 1400, 1500, 1900], [1, 1, 0, 0.25]

    def log_likelihood(rating):
        odds = [chance(rating, one) for one in opponents]
        return sum(s * math.log(p) + (1 - s) * math.log(1 - p) for s, p in zip(results, odds, strict=True))

    found = estimate_rating(opponents, results).rating
    best = max(np.arange(500, 2500, 0.5), key=log_likelihood)
    assert found == pytest.approx(best, abs=0.5)


def test_only_wins_or_only_losses_are_a_bound():
    for result in (0.0, 1.0):
        found = estimate_rating([1000, 2000], [result] * 2)
        assert found.bounded and found.stderr is None
    with pytest.raises(R1kitError, match="between 0"):
        estimate_rating([1000], [1.5])
    with pytest.raises(R1kitError, match="needs results"):
        estimate_rating([], [])


def test_a_rank_in_standings_gives_the_rating_of_those_around_it():
    rng = np.random.default_rng(8)
    ratings = rng.normal(1500, 300, size=2000)
    # Performances scatter as Elo's model says (a logistic variable of scale 400 / ln 10).
    performance = ratings + rng.logistic(0, 400 / math.log(10) / math.sqrt(2), size=2000)
    standings = [Standing(float(r), float(p)) for r, p in zip(ratings, performance, strict=True)]
    lowest, highest = (judge_contest("1", own, standings) for own in (1300.0, 2100.0))
    assert lowest.rating.rating < 1500 < highest.rating.rating
    beaten = np.mean(performance < 2100.0)
    assert highest.beaten == pytest.approx(beaten)
    expected = sum(chance(highest.rating.rating, one) for one in ratings) / 2000
    assert expected == pytest.approx(beaten, abs=1e-6)
    with pytest.raises(R1kitError, match="no standings"):
        judge_contest("1", 0.0, [])


def test_ties_in_standings_count_half():
    standings = [Standing(1500, 10.0), Standing(1500, 5.0), Standing(1500, 5.0), Standing(1500, 1.0)]
    assert judge_contest("1", 5.0, standings).beaten == pytest.approx((0 + 0.5 + 0.5 + 1) / 4)


def test_points_of_attempts():
    assert points(1000, 0, True) == 1000
    assert points(1000, 3, True) == 850
    assert points(1000, 40, True) == 300
    assert points(1000, 0, False) == 0
    assert attempts_until_solved([False, True, True], 3) == (1, True)
    assert attempts_until_solved([False, False, True], 2) == (2, False)
    outcomes = {"A": [True], "B": [False, True], "C": [False, False]}
    assert points_of_contest({"A": 500, "B": 1000, "C": 1500, "D": 2000}, outcomes, 2) == 500 + 950


def test_percentiles_are_those_of_the_paper():
    for rating, share in PAPER_PERCENTILES:
        assert percentile(rating) == pytest.approx(share)
    for low, high in itertools.pairwise(PAPER_PERCENTILES):
        assert low[1] <= percentile((low[0] + high[0]) / 2) <= high[1]
    assert percentile(100) == 58.7 and percentile(3500) == 96.6
    assert share_below([1000, 1200, 1400, 1600], 1400) == 75.0


def entered(name, outcomes):
    samples = tuple(Sample(float(one), None, "stop", True, None, 5, 5, "") for one in outcomes)
    return ProblemResult(f"codeforces/1{name}", "q", "", 1500.0, name, "1", samples)


def test_a_model_enters_a_contest(tmp_path):
    file = tmp_path / "contests.jsonl"
    rows = [{"rating": 1400 + 10 * i, "points": 100 * i} for i in range(20)]
    file.write_text(json.dumps({"contest": "1", "points": {"A": 500, "B": 1000}, "standings": rows}) + "\n")
    contests = read_contests(file)
    # Two participations of two attempts: A at once and B never; A at the second attempt and B at once.
    results = [entered("A", [1, 0, 0, 1]), entered("B", [0, 0, 1, 1])]
    found = enter_contests(results, contests, attempts=2)
    assert [one.points for one in found.participations] == [500, 450 + 1000]
    assert [one.beaten for one in found.participations] == [5.5 / 20, 15 / 20]
    assert found.beaten == pytest.approx((5.5 + 15) / 40)
    expected = 2 * sum(chance(found.rating.rating, 1400 + 10 * i) for i in range(20))
    assert expected == pytest.approx(5.5 + 15, abs=1e-4)
    assert "2 participations in 1 contests" in found.in_words()
    with pytest.raises(R1kitError, match="no problem is of the contests 1"):
        enter_contests([replace(results[0], cluster="2")], contests, 2)
    file.write_text('{"contest": "1", "points": {}}\n')
    with pytest.raises(R1kitError, match=r"contests.jsonl:1: no contest: standings"):
        read_contests(file)
