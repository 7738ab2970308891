"""A model in the contests that a benchmark's problems are from: its rank among the human competitors.

The samples of a problem are handed in one after the other, ``attempts`` of them, until one passes all hidden
tests; what is left of the k samples are further participations of the same model. A participation's points
are compared with those of the contest's standings, which a file gives, a contest a line:

    {"contest": "1", "points": {"A": 500, "B": 1000}, "standings": [{"rating": 1510, "points": 480}, ...]}

``standings`` are the points of competitors by the rule of ``points``: without the time that they took."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from r1kit.config import R1kitError
from r1kit.figures.benchmarks import ProblemResult
from r1kit.figures.contests import (
    ContestResult,
    Rating,
    Standing,
    estimate_rating,
    judge_contest,
    points_of_contest,
)
from r1kit.figures.evaluation import STRICT


@dataclass(frozen=True, slots=True)
class Contest:
    """A contest: what each problem is worth by its name in the contest, and its human competitors."""

    __pydantic_config__ = STRICT

    contest: str
    points: Mapping[str, float]
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class ContestsResult:
    """A model in several contests: the rating that makes all its results together the likeliest, the mean
    share of competitors beaten, and each participation."""

    rating: Rating
    beaten: float
    participations: tuple[ContestResult, ...]

    def in_words(self) -> str:
        """The result as one sentence."""
        error = "" if self.rating.stderr is None else f" ± {self.rating.stderr:.0f}"
        return (
            f"rating {self.rating.rating:.0f}{error} and {100 * self.beaten:.1f} % of the competitors "
            f"beaten, over {len(self.participations)} participations in "
            f"{len({one.contest for one in self.participations})} contests"
        )


def read_contests(file: Path) -> dict[str, Contest]:
    """The contests of a file by name. Raises R1kitError naming file and line."""
    found = {}
    adapter = TypeAdapter(Contest)
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            contest = adapter.validate_json(line)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            where = ".".join(map(str, wrong["loc"]))
            raise R1kitError(f"{file}:{number}: no contest: {where}: {wrong['msg']}") from None
        found[contest.contest] = contest
    return found


def enter_contests(
    results: Sequence[ProblemResult], contests: Mapping[str, Contest], attempts: int
) -> ContestsResult:
    """The result of a model whose samples are ``results``: ``cluster`` is a problem's contest, ``category``
    its name there. Raises R1kitError where no problem is of these contests."""
    samples: dict[str, dict[str, list[bool]]] = defaultdict(dict)
    for result in results:
        if result.cluster in contests:
            samples[result.cluster][result.category] = [one.score == 1.0 for one in result.samples]
    if not samples:
        raise R1kitError(
            f"no problem is of the contests {', '.join(sorted(contests)[:5])}: their names are in the "
            "benchmark's column cluster"
        )
    found, opponents, wins = [], [], []
    for name, outcomes in samples.items():
        contest = contests[name]
        rounds = max(1, min(map(len, outcomes.values())) // attempts)
        for start in range(0, rounds * attempts, attempts):
            own = {problem: scores[start : start + attempts] for problem, scores in outcomes.items()}
            reached = points_of_contest(contest.points, own, attempts)
            found.append(judge_contest(name, reached, contest.standings))
            opponents += [one.rating for one in contest.standings]
            wins += [
                1.0 if reached > one.points else 0.5 if reached == one.points else 0.0
                for one in contest.standings
            ]
    beaten = float(np.mean([one.beaten for one in found]))
    return ContestsResult(estimate_rating(opponents, wins), beaten, tuple(found))
