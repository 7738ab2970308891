"""Ratings from contests, as on Codeforces: Elo's model, whose rating is estimated by maximum likelihood, and
the share of human competitors that a rating is above.

A competitor of rating r beats an opponent of rating d with probability 1 / (1 + 10^((d - r) / 400)). An
opponent is a human competitor of a contest, or a problem (its rating is that of those who solve it half of
the time). With results s_j in [0, 1] against opponents d_j, each counted w_j times, the likelihood is largest
where

    sum_j w_j s_j = sum_j w_j P(r beats d_j),

which says for a contest's standings that the expected number of competitors beaten is the real one: the
equation by which Codeforces gives a rank its rating. DeepSeek-R1 (Nature version, D.1) names an expected
rating and the share of competitors beaten in ten Div. 2 contests; it does not print its formula."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from r1kit.config import R1kitError

SCALE = 400.0
LOWEST, HIGHEST = -1000.0, 5000.0  # of a rating, also where nothing or everything was solved
ATTEMPT_COST = 50.0  # points that a failed attempt costs on Codeforces
LEAST_SHARE = 0.3  # of a problem's points that is left however many attempts failed

# Rating and percentile of models, as DeepSeek-R1 prints them: Nature version, table 3 (V3, R1-Zero, Dev1 to
# Dev3, R1), and for o1-1217 version 1, table 4. Between two of them the percentile is interpolated.
PAPER_PERCENTILES = (
    (1134.0, 58.7), (1444.0, 80.4), (1534.0, 84.5), (1687.0, 90.5), (1746.0, 92.1), (2029.0, 96.3),
    (2061.0, 96.6),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rating:
    """An estimated rating with its standard error. ``bounded``: every result was a loss, or every one a win,
    so that only a bound is known."""

    rating: float
    stderr: float | None
    bounded: bool


def win_probability(rating: float, opponents: np.ndarray) -> np.ndarray:
    """The probability to beat each opponent, by Elo's model."""
    return 1.0 / (1.0 + 10.0 ** ((opponents - rating) / SCALE))


def estimate_rating(
    opponents: Sequence[float], results: Sequence[float], counts: Sequence[float] | None = None
) -> Rating:
    """The rating with the largest likelihood, from results in [0, 1] (a mean of ``counts`` attempts each)
    against opponents of known rating. Raises R1kitError for no results, or one outside [0, 1]."""
    against, scores = np.asarray(opponents, dtype=float), np.asarray(results, dtype=float)
    weights = np.ones(len(against)) if counts is None else np.asarray(counts, dtype=float)
    if not len(against) or not len(against) == len(scores) == len(weights):
        raise R1kitError("a rating needs results against opponents: one result and rating for each")
    if scores.min() < 0 or scores.max() > 1:
        raise R1kitError(f"a result lies between 0 (lost) and 1 (won), not {scores.min()} or {scores.max()}")
    reached = float(weights @ scores)
    low, high = LOWEST, HIGHEST
    while high - low > 1e-6:  # the expected sum grows with the rating
        middle = (low + high) / 2
        low, high = (middle, high) if weights @ win_probability(middle, against) < reached else (low, middle)
    rating = (low + high) / 2
    bounded = reached in (0.0, float(weights.sum()))
    chance = win_probability(rating, against)
    information = (np.log(10) / SCALE) ** 2 * float(weights @ (chance * (1 - chance)))
    return Rating(rating, None if bounded or information <= 0 else float(information**-0.5), bounded)


def percentile(rating: float, table: Sequence[tuple[float, float]] = PAPER_PERCENTILES) -> float:
    """The share of human competitors, in percent, that a rating is above, by a table of (rating, percent) in
    growing order. Beyond its ends it is that of the end: a bound."""
    return float(np.interp(rating, [row[0] for row in table], [row[1] for row in table]))


def points(worth: float, failed: int, solved: bool) -> float:
    """What a problem earns after ``failed`` attempts: its points less 50 for each, at least 30 % of them; 0
    where it is not solved. How fast it was solved does not count: a model has no clock."""
    return max(LEAST_SHARE * worth, worth - ATTEMPT_COST * failed) if solved else 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A human competitor of a contest: rating before it, and points."""

    rating: float
    points: float


@dataclass(frozen=True, slots=True)
class ContestResult:
    """A model in one contest: its points, the share of competitors beaten (ties count half), and the rating
    that this rank is expected of."""

    contest: str
    points: float
    beaten: float
    rating: Rating


def judge_contest(contest: str, own: float, standings: Sequence[Standing]) -> ContestResult:
    """The result of a model with ``own`` points among a contest's competitors."""
    if not standings:
        raise R1kitError(f"contest {contest}: no standings; give rating and points of its competitors")
    wins = [1.0 if own > one.points else 0.5 if own == one.points else 0.0 for one in standings]
    rating = estimate_rating([one.rating for one in standings], wins)
    return ContestResult(contest, own, float(np.mean(wins)), rating)


def attempts_until_solved(outcomes: Sequence[bool], most: int) -> tuple[int, bool]:
    """(failed attempts, whether it was solved) of samples that are handed in one after the other, at most
    ``most``, until one is accepted."""
    tried = list(outcomes[:most])
    return (tried.index(True), True) if True in tried else (len(tried), False)


def points_of_contest(
    worth: Mapping[str, float], outcomes: Mapping[str, Sequence[bool]], most_attempts: int
) -> float:
    """A model's points in a contest: ``worth`` of each problem, and whether each sample for it passed all
    hidden tests, in the order in which they are handed in."""
    return sum(
        points(value, *attempts_until_solved(outcomes.get(problem, ()), most_attempts))
        for problem, value in worth.items()
    )


def share_below(ratings: Sequence[float], rating: float) -> float:
    """The share of competitors, in percent, whose rating is at most ``rating``."""
    ordered = sorted(ratings)
    return 100.0 * bisect_right(ordered, rating) / len(ordered)
